"""Who takes part in `benchmarks.serving`: how each server is started, and what it is asked."""

import gzip
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.processes import ROOT, BenchmarkError, Server, free_port, python_with

OURS, BARE, BATCHED = "ours", "bare Starlette", "Starlette, our decoder and batching"
FASTAPI, BENTOML = "FastAPI, the usual way", "BentoML, as documented"
LITSERVE, MLFLOW = "LitServe", "mlflow models serve"
LIMIT = "ONNX Runtime in-process"
JSON, RAW = "application/json", "application/octet-stream"
DIGITS = ROOT / "pipeline" / "data" / "tenth" / "t10k-images-idx3-ubyte.gz"


@dataclass(frozen=True)
class Body:
    """A kind of request."""

    images: int
    raw: bool

    @property
    def name(self) -> str:
        """For people."""
        return f"{'one image' if self.images == 1 else f'{self.images} images'}, {'raw' if self.raw else 'JSON'}"

    @property
    def content_type(self) -> str:
        """As HTTP has it."""
        return RAW if self.raw else JSON


BODIES = tuple(Body(images, raw) for images in (1, 32) for raw in (False, True))


@dataclass(frozen=True)
class Entrant:
    """A server that takes part.

    Attributes:
        name: for people.
        command: what starts it on a port of 127.0.0.1, in a folder of its own that it may write to.
        json_path: where it takes JSON.
        raw_path: where it takes raw bodies; None if it takes none.
        field: the name of the images in JSON.
    """

    name: str
    command: Callable[[int, Path], Sequence[str]]
    json_path: str = "/predict"
    raw_path: str | None = "/predict/raw"
    field: str = "images"

    def takes(self, body: Body) -> bool:
        """Whether it takes that kind of request."""
        return not body.raw or self.raw_path is not None

    def path(self, body: Body) -> str:
        """Where it does."""
        return self.raw_path if body.raw and self.raw_path else self.json_path

    def content(self, body: Body) -> bytes:
        """A request's body: the first test digits."""
        images = read_digits(body.images)
        return images.tobytes() if body.raw else json.dumps({self.field: images.tolist()}).encode()


class Running:
    """An entrant's server on one core, and a folder with its bodies.

    Args:
        entrant: which.
        model: the ONNX file.
        core: for the server alone.
        folder: to write to; must not exist.
        settings: further variables of its environment.
    """

    def __init__(
        self, entrant: Entrant, model: Path, core: int, folder: Path, settings: dict[str, str] | None = None
    ) -> None:
        self.entrant, self.port = entrant, free_port()
        folder.mkdir(parents=True)
        self._folder = folder
        environment = {
            "BENCHMARK_MODEL": str(model),
            "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_HOME": str(folder / "bentoml"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(ROOT),
            **(settings or {"SERVING_MODEL": str(model)}),
        }
        command = entrant.command(self.port, folder)
        self.server = Server(entrant.name, command, core, folder / "log", environment)

    def url(self, path: str) -> str:
        """Where a path of it is."""
        return f"http://127.0.0.1:{self.port}{path}"

    def body(self, body: Body) -> Path:
        """The file with a request's body."""
        file = self._folder / body.name.replace(" ", "-")
        if not file.exists():
            file.write_bytes(self.entrant.content(body))
        return file

    def answers(self, path: str) -> bool:
        """Whether a GET of a path answers with a success."""
        try:
            with urllib.request.urlopen(self.url(path), timeout=5) as answer:  # noqa: S310
                return bool(answer.status < 300)
        except OSError:
            return False

    def digits(self, body: Body) -> list[int]:
        """What it reads in a request's images.

        Raises:
            OSError: it does not answer, or not with success.
        """
        return digits_in(post(self.url(self.entrant.path(body)), self.entrant.content(body), body.content_type))

    def wait_until_ready(self) -> None:
        """Wait for the first answer.

        Raises:
            BenchmarkError: there is none in time, or a refusal that time does not heal.
        """

        def ready() -> bool:
            try:
                self.digits(BODIES[0])
            except urllib.error.HTTPError as refusal:
                if refusal.code in (500, 503):
                    return False
                raise BenchmarkError(f"{self.entrant.name}: {refusal}: {refusal.read()[:500]!r}") from refusal
            except OSError:
                return False
            return True

        self.server.wait_until(ready)


def post(url: str, content: bytes, content_type: str) -> Any:
    """POST and read the JSON of the answer; raises OSError."""
    request = urllib.request.Request(url, content, {"Content-Type": content_type})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return json.load(answer)


def digits_in(answer: Any) -> list[int]:
    """The digits in an answer of any entrant: objects with a digit, or rows of probabilities."""
    while isinstance(answer, dict):
        (answer,) = answer.values()
    return [one["digit"] if isinstance(one, dict) else int(np.argmax(one)) for one in answer]


def read_digits(count: int) -> NDArray[np.uint8]:
    """The first of the bundled test digits, uint8 [count, 28, 28]."""
    with gzip.open(DIGITS) as file:
        return np.frombuffer(file.read(16 + 784 * count)[16:], np.uint8).reshape(-1, 28, 28)


def _bentoml(service: str) -> Callable[[int, Path], Sequence[str]]:
    return lambda port, folder: [
        *(sys.executable, "-m", "bentoml", "serve", service, "--host", "127.0.0.1", "--port", str(port))
    ]


def _uvicorn(module: str) -> Callable[[int, Path], Sequence[str]]:
    # uvloop and httptools, as BentoML has them; no log of requests, as ours has none.
    return lambda port, folder: [
        *(sys.executable, "-m", "uvicorn", f"benchmarks.servers.{module}:app", "--host", "127.0.0.1"),
        *("--port", str(port), "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
    ]


def _litserve(port: int, folder: Path) -> Sequence[str]:
    return [str(python_with("servers")), "-m", "benchmarks.servers.usual_litserve", str(port)]


def _mlflow(port: int, folder: Path) -> Sequence[str]:
    serve = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(folder.with_suffix(".model"))]
    return [*serve, "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]


ENTRANTS = (
    Entrant(OURS, _bentoml("serving.service:Digits")),
    Entrant(BARE, _uvicorn("bare_starlette")),
    Entrant(BATCHED, _uvicorn("batched_starlette")),
    Entrant(FASTAPI, _uvicorn("usual_fastapi")),
    Entrant(BENTOML, _bentoml("benchmarks.servers.documented_bentoml:Documented")),
    Entrant(LITSERVE, _litserve, raw_path=None),
    Entrant(MLFLOW, _mlflow, json_path="/invocations", raw_path=None, field="inputs"),
)
NAMES = tuple(entrant.name for entrant in ENTRANTS)


def start(entrant: Entrant, model: Path, core: int, folder: Path, settings: dict[str, str] | None = None) -> Running:
    """Start an entrant; the arguments are those of `Running`, the folder is its parent.

    Raises:
        BenchmarkError: what it needs cannot be had.
    """
    folder = folder / entrant.name.replace(" ", "-").replace(",", "")
    if entrant.name == MLFLOW:
        write = [sys.executable, "-m", "benchmarks.servers.mlflow_model", str(folder.with_suffix(".model"))]
        done = subprocess.run(
            write,
            cwd=ROOT,
            env={**os.environ, "BENCHMARK_MODEL": str(model)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BenchmarkError(f"MLflow could not write its model:\n{done.stderr[-1000:]}")
    return Running(entrant, model, core, folder, settings)
