// Requests and their rate: ten a second at most, the last state always answered, and never an old answer after a new one.

const INTERVAL = 100; // milliseconds from one request to the next
const PATIENCE = 5000; // after which a request counts as unanswered
const RETRY = 1000; // from a request that got no answer to the next attempt
const AT_ONCE = 2; // requests on their way: a slow service is not asked faster than it answers

export class Asker {
  // `send(picture, signal)` gives {status, ...}, and throws where nothing answers; `answered(answer, isSettled)` gets what
  // it gave, settled when it is about the last of all pictures; `unreachable()` is called where it threw.
  constructor(send, answered, unreachable) {
    Object.assign(this, { send, answered, unreachable });
    this.wanted = null; // the latest that was not asked for yet
    this.free = 0; // when the next request may go
    this.underWay = 0;
    this.asked = 0;
    this.shown = 0;
  }

  // Ask about a picture, `content()` gives it when its turn comes; it takes the place of one that still waits.
  ask(content, isFinal) {
    this.wanted = { content, isFinal };
    this.go();
  }

  // Drop what waits, and every answer that is still to come.
  forget() {
    this.wanted = null;
    this.shown = this.asked;
  }

  async go() {
    clearTimeout(this.timer);
    if (!this.wanted || this.underWay >= AT_ONCE) return;
    // While the pen moves there is one request each interval. When it is lifted, the next one goes at once and the pause
    // comes after it, twice as long: as many requests in all, and the answer that counts is not held up.
    const begin = this.free - (this.wanted.isFinal ? INTERVAL : 0);
    const now = performance.now();
    if (now < begin) {
      this.timer = setTimeout(() => this.go(), begin - now);
      return;
    }
    const { wanted } = this;
    this.wanted = null;
    this.free = Math.max(this.free, now) + INTERVAL;
    const number = ++this.asked;
    this.underWay += 1;
    let again = null; // milliseconds after which to ask once more
    try {
      const answer = await this.send(await wanted.content(), AbortSignal.timeout(PATIENCE));
      if (number > this.shown) {
        this.shown = number;
        this.answered(answer, wanted.isFinal && !this.wanted && number === this.asked);
        if (answer.status === 503) again = answer.retry;
      }
    } catch {
      if (number > this.shown) {
        this.unreachable();
        again = RETRY;
      }
    }
    this.underWay -= 1;
    if (again !== null && !this.wanted && number === this.asked) {
      this.wanted = wanted;
      this.free = performance.now() + again + (wanted.isFinal ? INTERVAL : 0);
    }
    this.go();
  }
}
