"""The page `/draw` answers within 100 ms of pen up: `python -m benchmarks.drawing [--url http://127.0.0.1:3000]`.

How it is measured: the mouse draws digits of MNIST's test set in Chromium, stroke by stroke, at the speed of a hand.
The page measures the time from the pointerup event to the frame after the answer was written; the 95th percentile
counts. Prints milliseconds as a Markdown table. Needs a running service with a model on this machine, and Debian's
chromium.
"""

import gzip
import os
import shutil
import statistics
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from benchmarks.drawing.strokes import Point, strokes
from benchmarks.harness.command_line import make_parser
from benchmarks.harness.tables import markdown

BAR = 100  # ms, p95
STROKES = 200
EVENT_SECONDS = 1 / 60  # between two mouse events
IMAGES = Path(__file__).parents[2] / "pipeline" / "data" / "tenth" / "t10k-images-idx3-ubyte.gz"
WATCH = """() => {
    window.times = [];
    const answer = document.getElementById("answer");
    let lifted = null;
    document.addEventListener("pointerup", (event) => (lifted = event.timeStamp), true);
    new MutationObserver(() => {
        if (answer.getAttribute("aria-busy") !== "false" || lifted === null) return;
        const begin = lifted;
        lifted = null;
        requestAnimationFrame(() => setTimeout(() => times.push(performance.now() - begin)));
    }).observe(answer, { attributeFilter: ["aria-busy"] });
}"""


def draw(page: Page, line: list[Point]) -> None:
    """Draw one stroke at the speed of a hand; `line` has (x, y) from 0 to 1."""
    box = page.locator("#paper").bounding_box()
    assert box
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in line]
    page.mouse.move(*places[0])
    page.mouse.down()
    following = time.perf_counter()
    for place in places[1:]:
        following += EVENT_SECONDS
        time.sleep(max(0.0, following - time.perf_counter()))
        page.mouse.move(*place)
    page.mouse.up()


def main() -> None:
    """Measure and print."""
    parser = make_parser("benchmarks.drawing", __doc__)
    parser.add_argument("--url", default="http://127.0.0.1:3000")
    parser.add_argument("--strokes", type=int, default=STROKES)
    arguments = parser.parse_args()
    digits = np.frombuffer(gzip.decompress(IMAGES.read_bytes()), np.uint8, offset=16).reshape(-1, 28, 28)
    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        page = browser.new_page()
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"{arguments.url}/draw")
        page.evaluate(WATCH)
        began, drawn = time.perf_counter(), 0
        for digit in digits:
            for line in strokes(digit):
                draw(page, line)
                drawn += 1
                while page.evaluate("times.length") < drawn:
                    time.sleep(0.02)
            page.keyboard.press("Delete")
            if drawn >= arguments.strokes:
                break
        seconds = time.perf_counter() - began
        times = page.evaluate("times")
        browser.close()
    explained = sum(url.endswith("/explain") for url in requests)
    p95 = statistics.quantiles(times, n=20)[-1]
    header = ("pen up to answer, ms", "median", "p95", "longest", "strokes", "requests/s")
    milliseconds = (f"{number:.0f}" for number in (statistics.median(times), p95, max(times)))
    verdict = f"bar {BAR} at p95: {'reached' if p95 <= BAR else 'missed'}"
    print(markdown(header, [(verdict, *milliseconds, len(times), f"{explained / seconds:.1f}")]))


if __name__ == "__main__":
    main()
