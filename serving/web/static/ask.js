// Request rate: at most ten per second, the last state is always sent, and answers are never shown out of order.

const INTERVAL = 100; // milliseconds from one request to the next
const TIMEOUT = 5000; // milliseconds until a request counts as unanswered
const RETRY = 1000; // milliseconds from an unanswered request to the next attempt
const CONCURRENT = 2; // maximum requests in progress, so that a slow service is not flooded

export class Asker {
  // `send(picture, signal)` resolves to {status, ...} and throws if nothing answers. `answered(answer, isSettled)` receives
  // its result, settled if it belongs to the latest picture; `unreachable()` is called when it throws.
  constructor(send, answered, unreachable) {
    Object.assign(this, { send, answered, unreachable });
    this.waiting = null; // the latest picture that was not sent yet
    this.free = 0; // earliest time of the next request
    this.inProgress = 0;
    this.sent = 0;
    this.shown = 0;
  }

  // Send a picture, which `content()` returns at its turn; it replaces a picture that is still waiting.
  ask(content, isFinal) {
    this.waiting = { content, isFinal };
    this.go();
  }

  // Drop the waiting picture and all outstanding answers.
  forget() {
    this.waiting = null;
    this.shown = this.sent;
  }

  async go() {
    clearTimeout(this.timer);
    if (!this.waiting || this.inProgress >= CONCURRENT) return;
    // While the pen moves, send one request per interval. When it is lifted, send immediately and pause twice as long
    // afterwards: the rate stays the same and the final answer is not delayed.
    const begin = this.free - (this.waiting.isFinal ? INTERVAL : 0);
    const now = performance.now();
    if (now < begin) {
      this.timer = setTimeout(() => this.go(), begin - now);
      return;
    }
    const { waiting } = this;
    this.waiting = null;
    this.free = Math.max(this.free, now) + INTERVAL;
    const number = ++this.sent;
    this.inProgress += 1;
    let retry = null; // milliseconds until the next attempt
    try {
      const answer = await this.send(await waiting.content(), AbortSignal.timeout(TIMEOUT));
      if (number > this.shown) {
        this.shown = number;
        this.answered(answer, waiting.isFinal && !this.waiting && number === this.sent);
        if (answer.status === 503 || answer.status === 429) retry = answer.retry;
      }
    } catch {
      if (number > this.shown) {
        this.unreachable();
        retry = RETRY;
      }
    }
    this.inProgress -= 1;
    if (retry !== null && !this.waiting && number === this.sent) {
      this.waiting = waiting;
      this.free = performance.now() + retry + (waiting.isFinal ? INTERVAL : 0);
    }
    this.go();
  }
}
