"""Request rate of the page: `ask.js` in a real browser, with answers and a clock set by the tests."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

pytestmark = pytest.mark.browser

ASKER = """async (steps) => {
    const { Asker } = await import(new URL("static/ask.js", document.baseURI));
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
    """A page with an `Asker` whose requests the test answers, and with a clock that the test advances."""
    page.clock.install(time=1000)
    page.clock.pause_at(1060)
    page.evaluate(ASKER)
    yield page


def pictures(page: Page) -> list[str]:
    """Let pending promises continue, then return the pictures that were sent."""
    page.evaluate(
        "new Promise((done) => { const { port1, port2 } = new MessageChannel(); port1.onmessage = done; "
        "port2.postMessage(0); })"
    )
    sent: list[str] = page.evaluate("sent.map((each) => each.picture)")
    return sent


def ask(page: Page, picture: str, final: bool = False) -> None:
    page.evaluate("([picture, final]) => void asker.ask(() => picture, final)", [picture, final])
    pictures(page)


def test_at_most_ten_requests_per_second_and_last_state_is_sent(asker: Page) -> None:
    for step in range(100):  # a second of strokes, one change every 10 ms
        ask(asker, str(step), final=step % 25 == 24)
        sent = pictures(asker)
        asker.evaluate("sent.forEach((_, index) => answer(index))")
        pictures(asker)
        asker.clock.run_for(10)
    asker.clock.run_for(300)
    sent = pictures(asker)
    assert 8 <= len(sent) <= 12
    assert sent[-1] == "99"
    assert {"24", "49", "74"} <= set(sent)  # the end of each stroke is sent
    times = asker.evaluate("sent.map((each) => each.at)")
    assert len(times) == len(sent)
    for begin in times:
        assert sum(begin <= at < begin + 500 for at in times) <= 6


def test_late_answer_is_dropped(asker: Page) -> None:
    ask(asker, "first")
    asker.clock.run_for(100)
    ask(asker, "second", final=True)
    assert pictures(asker) == ["first", "second"]
    asker.evaluate("answer(1)")
    pictures(asker)
    asker.evaluate("answer(0)")
    pictures(asker)
    assert asker.evaluate("shown") == [["second", True]]


def test_cleared_drawing_shows_no_answer(asker: Page) -> None:
    ask(asker, "first", final=True)
    asker.evaluate("asker.forget(); answer(0)")
    asker.clock.run_for(5000)
    assert pictures(asker) == ["first"]
    assert asker.evaluate("shown") == []


def test_slow_service_gets_two_requests_then_the_newest(asker: Page) -> None:
    for step in range(20):
        ask(asker, str(step))
        asker.clock.run_for(100)
    assert pictures(asker) == ["0", "1"]
    asker.evaluate("answer(0)")
    assert pictures(asker) == ["0", "1", "19"]


def test_unanswered_request_is_retried(asker: Page) -> None:
    ask(asker, "lost", final=True)
    asker.evaluate("sent[0].fail(new TypeError('no route'))")
    assert pictures(asker) == ["lost"]
    assert asker.evaluate("lost") == 1
    asker.clock.run_for(1100)
    assert pictures(asker) == ["lost", "lost"]
    asker.evaluate("answer(1, 503)")
    pictures(asker)
    asker.clock.run_for(2500)  # Retry-After is 3 seconds
    assert pictures(asker) == ["lost", "lost"]
    asker.clock.run_for(700)
    assert pictures(asker) == ["lost"] * 3


def test_only_latest_refused_request_is_retried(asker: Page) -> None:
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
