"""CPU time of one request to our service, step by step: `python -m benchmarks.serving.request_cost --model model.onnx`.

How it is measured: each step runs alone, in this process on one core, with real request bodies; its time is the
fastest of several tries, since disturbances only add time. A real service answers one client, and the CPU time per
request that the steps do not explain belongs to uvicorn, the event loop and the kernel's sockets. Times are CPU time
of all threads, so other processes hardly influence them. Prints microseconds per request as a Markdown table.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import psutil

from benchmarks.harness import command_line
from benchmarks.harness.load import load
from benchmarks.harness.processes import BenchmarkError
from benchmarks.harness.tables import markdown
from benchmarks.serving.__main__ import choose_cores, prepare
from benchmarks.serving.contenders import BODIES, CONTENDERS, OURS, Body, RunningServer, read_digits

TRIES, SECONDS = 9, 0.1  # for each step
LOAD_SECONDS = 2
# The form of wrk's requests.
REQUEST = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1:3000\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = command_line.make_parser("benchmarks.serving.request_cost", __doc__)
    parser.add_argument("--model", type=Path, help="ONNX file; the default exports the champion")
    parser.add_argument("--cores", type=int, nargs=2, metavar=("SERVER", "CLIENT"), help="the two cores to use")
    arguments = parser.parse_args()
    return command_line.exit_code(lambda: run(arguments.model, arguments.cores))


def run(model: Path | None, requested_cores: list[int] | None) -> None:
    """Measure all kinds of request and print the table."""
    cores = choose_cores(requested_cores)
    with tempfile.TemporaryDirectory(prefix="digits-") as temporary:
        folder = Path(temporary)
        exported, _ = prepare(model, folder)
        os.sched_setaffinity(0, {cores[1]})
        served = {body: worker_seconds(exported, body, cores, folder) for body in BODIES}
        os.sched_setaffinity(0, {cores[0]})
        steps = measure_steps(exported, folder)
    print(table(steps, served))


def table(steps: dict[Body, dict[str, float]], served: dict[Body, float]) -> str:
    """Microseconds as Markdown: the steps, the unexplained rest, and the total."""
    columns = [
        {
            **steps[body],
            "uvicorn, event loop, sockets: the rest": served[body] - sum(steps[body].values()),
            "total of the worker": served[body],
        }
        for body in BODIES
    ]
    rows = [(step, *(f"{1e6 * column[step]:,.0f}" for column in columns)) for step in columns[0]]
    return markdown(("µs per request, one client", *(body.name for body in BODIES)), rows)


def worker_seconds(model: Path, body: Body, cores: tuple[int, int], folder: Path) -> float:
    """CPU seconds per request of a real service with one client."""
    ours = RunningServer(CONTENDERS[OURS], model, cores[0], folder / body.name)
    with ours.process as process:
        ours.wait_until_ready()
        load(ours.request(body), 1, 1, cores[1])
        before = cpu_seconds(process.family())
        measured = load(ours.request(body), 1, LOAD_SECONDS, cores[1])
        return (cpu_seconds(process.family()) - before) / measured.requests


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """CPU seconds of the processes, in user and kernel mode."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def measure_steps(model: Path, folder: Path) -> dict[Body, dict[str, float]]:
    """CPU seconds of each step of a request, for each kind of body."""
    os.environ.update(
        {"SERVING_MODEL": str(model), "BENTOML_HOME": str(folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    )
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(folder))
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure_steps())


async def _measure_steps() -> dict[Body, dict[str, float]]:
    # Imported late: the service reads its settings on import.
    import bentoml

    from serving.model.onnx_file import Model
    from serving.service import SETTINGS, Digits
    from serving.web.routes import ShortPath

    assert SETTINGS.model
    model = Model.load(SETTINGS.model)
    app: Any = cast(Any, Digits).to_asgi()
    async with _started(app):
        parts = bentoml.get_current_service()
        while parts.store.current is None:
            await asyncio.sleep(0.01)
        return {body: await _steps_of(body, model, app, ShortPath(app, SETTINGS, parts)) for body in BODIES}


async def _steps_of(body: Body, model: Any, app: Any, short_path: Any) -> dict[str, float]:
    import httptools
    import orjson

    from serving.decoding import arrays as images
    from serving.inference.batching import Batcher
    from serving.model.store import Served
    from serving.monitoring.metrics import Metrics
    from serving.web.answers import encode

    ours = CONTENDERS[OURS]
    content, digits = ours.content(body), read_digits(body.images)
    request = REQUEST % (ours.path(body).encode(), body.content_type.encode(), len(content), content)
    probabilities = model.predict(digits)
    served = Served(cast(Any, _Constant(probabilities, model.form)), "1", "", "")
    queue = Batcher(lambda: served, 4096, Metrics())
    decode = images.from_raw if body.raw else images.from_json

    parsed = _fastest(lambda: httptools.HttpRequestParser(_Ignored()).feed_data(request))
    loaded = 0.0 if body.raw else _fastest(lambda: orjson.loads(content))
    decoded = _fastest(lambda: decode(content, 1024))
    (queued,) = await _fastest_of(lambda: queue.submit(digits))
    inferred = _fastest(lambda: model.predict(digits))
    encoded = _fastest(lambda: encode(probabilities))
    short, whole = await _fastest_of(lambda: _call(short_path, body, content), lambda: _call(app, body, content))
    queue.close()
    return {
        "HTTP parsed (httptools)": parsed,
        "request id, metrics": whole - short,
        "headers, routes, tasks; threads for large batches": short - decoded - queued - inferred - encoded,
        "JSON decoded (orjson)": loaded,
        "every value checked, uint8 array made": decoded - loaded,
        "queue (for batching with other requests)": queued,
        "ONNX Runtime": inferred,
        "answer encoded": encoded,
    }


@asynccontextmanager
async def _started(app: Any) -> AsyncIterator[None]:
    """Run the lifespan protocol of ASGI as a server does: startup on entry, shutdown on exit."""
    received: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    sent: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    life = asyncio.create_task(
        app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, received.get, sent.put)
    )
    for event in ("startup", "shutdown"):
        await received.put({"type": f"lifespan.{event}"})
        if (answer := await sent.get())["type"] != f"lifespan.{event}.complete":
            raise BenchmarkError(f"The service answered {event} with {answer}.")
        if event == "startup":
            yield
    await life


class _Constant:
    """A model that answers without computing."""

    seconds_per_image = 0.0

    def __init__(self, probabilities: Any, form: Any) -> None:
        self._probabilities = probabilities
        self.form = form

    def predict(self, images: Any) -> Any:
        return self._probabilities


class _Ignored:
    """The callbacks that httptools expects, without effect."""

    def on_url(self, url: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_body(self, body: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


async def _call(app: Any, body: Body, content: bytes) -> None:
    path = CONTENDERS[OURS].path(body)
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
            raise BenchmarkError(f"The service answered with status {message['status']}.")

    await app(scope, receive, send)


def _fastest(step: Callable[[], object]) -> float:
    """CPU seconds of a step in the fastest try."""
    fastest = float("inf")
    for _ in range(TRIES):
        count, began = 0, time.process_time()
        while time.process_time() - began < SECONDS:
            step()
            count += 1
        fastest = min(fastest, (time.process_time() - began) / count)
    return fastest


async def _fastest_of(*steps: Callable[[], Awaitable[object]]) -> list[float]:
    """The same for coroutines; all steps take turns in each try."""
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
