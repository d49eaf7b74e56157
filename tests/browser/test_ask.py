"""How often the page asks: `ask.js` in a real browser, with answers and a clock that the tests set."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

pytestmark = pytest.mark.browser

ASKER = """async (steps) => {
    const { Asker } = await import(new URL("draw/ask.js", document.baseURI));
    window.sent = [];
    window.shown = [];
    window.lost = 0;
    const send = (picture) => new Promise((answer, fail) => {
        sent.push({ picture, answer, fail, at: performance.now() });
    });
    window.asker = new Asker(send, (answer, isSettled) => shown.push([answer.picture, isSettled]), () => (lost += 1));
    window.answer = (index, status = 200) => sent[index].answer({ status, picture: sent[index].picture, retry: 3000 });
}"""


@pytest.fixture
def asker(chromium: Any, page: Page) -> Iterator[Page]:
    """A page with an `Asker` whose requests the test answers, and with a clock that the test sets forward."""
    page.clock.install(time=1000)
    page.clock.pause_at(1060)
    page.evaluate(ASKER)
    yield page


def pictures(page: Page) -> list[str]:
    """What was sent so far; promises that wait are let on first."""
    page.evaluate(
        "new Promise((done) => { const { port1, port2 } = new MessageChannel(); port1.onmessage = done; "
        "port2.postMessage(0); })"
    )
    sent: list[str] = page.evaluate("sent.map((each) => each.picture)")
    return sent


def ask(page: Page, picture: str, final: bool = False) -> None:
    page.evaluate("([picture, final]) => void asker.ask(() => picture, final)", [picture, final])
    pictures(page)


def test_ten_requests_a_second_are_made_and_the_last_state_is_among_them(asker: Page) -> None:
    for step in range(100):  # a second of strokes, a change each 10 ms
        ask(asker, str(step), final=step % 25 == 24)
        sent = pictures(asker)
        asker.evaluate("sent.forEach((_, index) => answer(index))")
        pictures(asker)
        asker.clock.run_for(10)
    asker.clock.run_for(300)
    sent = pictures(asker)
    assert 8 <= len(sent) <= 12
    assert sent[-1] == "99"
    assert {"24", "49", "74"} <= set(sent)  # the ends of the strokes are not left out
    moves = [at for at, picture in zip(asker.evaluate("sent.map((each) => each.at)"), sent, strict=True)]
    for begin in moves:
        assert sum(begin <= at < begin + 500 for at in moves) <= 6


def test_an_answer_that_comes_late_is_dropped(asker: Page) -> None:
    ask(asker, "first")
    asker.clock.run_for(100)
    ask(asker, "second", final=True)
    assert pictures(asker) == ["first", "second"]
    asker.evaluate("answer(1)")
    pictures(asker)
    asker.evaluate("answer(0)")
    pictures(asker)
    assert asker.evaluate("shown") == [["second", True]]


def test_nothing_is_shown_of_what_was_cleared(asker: Page) -> None:
    ask(asker, "first", final=True)
    asker.evaluate("asker.forget(); answer(0)")
    asker.clock.run_for(5000)
    assert pictures(asker) == ["first"]
    assert asker.evaluate("shown") == []


def test_a_slow_service_has_two_requests_at_most_and_then_the_newest(asker: Page) -> None:
    for step in range(20):
        ask(asker, str(step))
        asker.clock.run_for(100)
    assert pictures(asker) == ["0", "1"]
    asker.evaluate("answer(0)")
    assert pictures(asker) == ["0", "1", "19"]


def test_what_got_no_answer_is_asked_again(asker: Page) -> None:
    ask(asker, "lost", final=True)
    asker.evaluate("sent[0].fail(new TypeError('no route'))")
    assert pictures(asker) == ["lost"]
    assert asker.evaluate("lost") == 1
    asker.clock.run_for(1100)
    assert pictures(asker) == ["lost", "lost"]
    asker.evaluate("answer(1, 503)")
    pictures(asker)
    asker.clock.run_for(2500)  # the service said 3 seconds
    assert pictures(asker) == ["lost", "lost"]
    asker.clock.run_for(700)
    assert pictures(asker) == ["lost"] * 3


def test_of_two_that_were_refused_the_later_one_is_asked_again(asker: Page) -> None:
    ask(asker, "moving")
    asker.clock.run_for(100)
    ask(asker, "lifted", final=True)
    asker.evaluate("answer(0, 503)")
    pictures(asker)
    asker.evaluate("answer(1, 503)")
    pictures(asker)
    asker.clock.run_for(3300)
    assert pictures(asker) == ["moving", "lifted", "lifted"]
    asker.evaluate("answer(2)")
    pictures(asker)
    assert asker.evaluate("shown.at(-1)") == ["lifted", True]
