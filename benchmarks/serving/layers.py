"""Where the time of one request goes in our service: `python -m benchmarks.serving.layers`.

Each step is measured by itself, in this process on one core, with real bodies; a real service is asked by one client,
and what it computes for a request beyond those steps is uvicorn, the event loop and the kernel's sockets. Prints
microseconds of a request as a Markdown table: of computing, in all threads, so that it counts little what else the
machine does. A step's is the fastest of several tries: what disturbs only ever adds.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness.load import load
from benchmarks.harness.processes import BenchmarkError
from benchmarks.serving.entrants import BODIES, ENTRANTS, OURS, Body, Entrant, read_digits, start

TRIES, SECONDS = 9, 0.1  # of each step
LOAD_SECONDS = 2
# As wrk sends them.
REQUEST = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1:3000\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"


def main() -> int:
    """Measure and print; gives the exit code."""
    from benchmarks.serving.__main__ import choose_cores, prepare

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving.layers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, help="the ONNX file; when not given, the champion is exported")
    parser.add_argument("--cores", type=int, nargs=2, metavar=("SERVER", "CLIENT"), help="which two cores to use")
    arguments = parser.parse_args()
    try:
        cores = choose_cores(arguments.cores)
        with tempfile.TemporaryDirectory(prefix="digits-") as folder:
            model, _ = prepare(arguments.model, Path(folder))
            os.sched_setaffinity(0, {cores[1]})
            served = {body: worker_seconds(model, body, cores, Path(folder)) for body in BODIES}
            os.sched_setaffinity(0, {cores[0]})
            steps = measure_steps(model, Path(folder))
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(table(steps, served))
    return 0


def table(steps: dict[Body, dict[str, float]], served: dict[Body, float]) -> str:
    """Microseconds as Markdown: the steps, what is left, and the whole."""
    rows = [
        "| µs a request, one client | " + " | ".join(body.name for body in BODIES) + " |",
        "|---|" + "---|" * len(BODIES),
    ]
    columns = {
        body: {**steps[body], "uvicorn, event loop, sockets: the rest": served[body] - sum(steps[body].values())}
        for body in BODIES
    }
    for step in columns[BODIES[0]]:
        rows.append(f"| {step} | " + " | ".join(f"{1e6 * columns[body][step]:,.0f}" for body in BODIES) + " |")
    rows.append(
        "| all that the worker computes | " + " | ".join(f"{1e6 * served[body]:,.0f}" for body in BODIES) + " |"
    )
    return "\n".join(rows)


def worker_seconds(model: Path, body: Body, cores: tuple[int, int], folder: Path) -> float:
    """Seconds that the processes of a real service compute for a request of one client."""
    (entrant,) = (entrant for entrant in ENTRANTS if entrant.name == OURS)
    running = start(entrant, model, cores[0], folder / body.name)
    with running.server as server:
        running.wait_until_ready()
        url = running.url(entrant.path(body))
        load(url, running.body(body), body.content_type, 1, 1, cores[1])
        before = computed(server.family())
        measured = load(url, running.body(body), body.content_type, 1, LOAD_SECONDS, cores[1])
        return (computed(server.family()) - before) / measured.requests


def computed(processes: list[Any]) -> float:
    """Seconds that processes computed so far, in the kernel too."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def measure_steps(model: Path, folder: Path) -> dict[Body, dict[str, float]]:
    """Seconds of each step of a request, for each kind of body."""
    os.environ.update(
        {"SERVING_MODEL": str(model), "BENTOML_HOME": str(folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    )
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(folder))
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure_steps())


async def _measure_steps() -> dict[Body, dict[str, float]]:
    # Imported late: the service reads its settings when it is imported.
    import bentoml

    from serving.model.onnx_file import Model
    from serving.service import SETTINGS, Digits
    from serving.web.routes import ShortPath

    assert SETTINGS.model
    model = Model.load(SETTINGS.model)
    app = Digits.to_asgi()
    async with _started(app):
        while bentoml.get_current_service().store.current is None:
            await asyncio.sleep(0.01)
        return {body: await _steps_of(body, model, app, ShortPath(app, SETTINGS)) for body in BODIES}


async def _steps_of(body: Body, model: Any, app: Any, short_path: Any) -> dict[str, float]:
    import httptools
    import orjson

    from serving.decoding import arrays as images
    from serving.inference.batching import Batcher
    from serving.model.store import Served
    from serving.monitoring.metrics import Metrics
    from serving.web.routes import encode

    (entrant,) = (entrant for entrant in ENTRANTS if entrant.name == OURS)
    content, digits = entrant.content(body), read_digits(body.images)
    request = REQUEST % (entrant.path(body).encode(), body.content_type.encode(), len(content), content)
    probabilities = model.predict(digits)
    served = Served(_Constant(probabilities), "1", "", "")
    queue = Batcher(lambda: served, 4096, Metrics())
    decode = images.from_raw if body.raw else images.from_json

    parsed = _fastest(lambda: httptools.HttpRequestParser(_Ignored()).feed_data(request))
    loaded = 0.0 if body.raw else _fastest(lambda: orjson.loads(content))
    decoded = _fastest(lambda: decode(content, 1024))
    (queued,) = await _fastest_of(lambda: queue.submit(digits))
    inferred = _fastest(lambda: model.predict(digits))
    encoded = _fastest(lambda: encode(probabilities))
    short, whole = await _fastest_of(
        lambda: _call(short_path, entrant, body, content), lambda: _call(app, entrant, body, content)
    )
    queue.close()
    return {
        "HTTP parsed (httptools)": parsed,
        "request id, metrics": whole - short,
        "headers, routes, tasks; for much at once threads": short - decoded - queued - inferred - encoded,
        "JSON decoded (orjson)": loaded,
        "every value checked, uint8 array made": decoded - loaded,
        "queue (for whoever else is there)": queued,
        "ONNX Runtime": inferred,
        "answer encoded": encoded,
    }


@asynccontextmanager
async def _started(app: Any) -> AsyncIterator[None]:
    """The application between its start and its end, told of both as by a server: its middlewares hear it too."""
    told: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    said: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    life = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, told.get, said.put))
    for event in ("startup", "shutdown"):
        await told.put({"type": f"lifespan.{event}"})
        if (answer := await said.get())["type"] != f"lifespan.{event}.complete":
            raise BenchmarkError(f"The service says {answer} at its {event}.")
        if event == "startup":
            yield
    await life


class _Constant:
    """A model that takes no time."""

    seconds_per_image = 0.0

    def __init__(self, probabilities: Any) -> None:
        self._probabilities = probabilities

    def predict(self, images: Any) -> Any:
        return self._probabilities


class _Ignored:
    """What httptools calls, as uvicorn's protocol has it."""

    def on_url(self, url: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_body(self, body: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


async def _call(app: Any, entrant: Entrant, body: Body, content: bytes) -> None:
    path = entrant.path(body)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 3000),
        "client": ("127.0.0.1", 40000),
        "scheme": "http",
        "method": "POST",
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [
            (b"host", b"127.0.0.1:3000"),
            (b"content-type", body.content_type.encode()),
            (b"content-length", str(len(content)).encode()),
        ],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            raise BenchmarkError(f"The service answers {message['status']}.")

    await app(scope, receive, send)


def _fastest(step: Callable[[], object]) -> float:
    """Seconds that a step computes, in the fastest try."""
    fastest = float("inf")
    for _ in range(TRIES):
        count, began = 0, time.process_time()
        while time.process_time() - began < SECONDS:
            step()
            count += 1
        fastest = min(fastest, (time.process_time() - began) / count)
    return fastest


async def _fastest_of(*steps: Callable[[], Awaitable[object]]) -> list[float]:
    """The same for steps that are awaited, in turns."""
    fastest = [float("inf")] * len(steps)
    for _ in range(TRIES):
        for k, step in enumerate(steps):
            count, began = 0, time.process_time()
            while time.process_time() - began < SECONDS:
                await step()
                count += 1
            fastest[k] = min(fastest[k], (time.process_time() - began) / count)
    return fastest


if __name__ == "__main__":
    sys.exit(main())
