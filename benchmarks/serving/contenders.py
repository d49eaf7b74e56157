"""The servers that `benchmarks.serving` compares: the command of each, and the requests that it accepts."""

import gzip
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.load import Request
from benchmarks.harness.processes import ROOT, BenchmarkError, Server, free_port, python_with

OURS, BARE, BATCHED = "ours", "bare Starlette", "Starlette, our decoder and batching"
FASTAPI, BENTOML = "FastAPI, the usual way", "BentoML, as documented"
LITSERVE, MLFLOW = "LitServe", "mlflow models serve"
LIMIT = "ONNX Runtime in-process"
JSON, RAW = "application/json", "application/octet-stream"
DIGITS = ROOT / "pipeline" / "data" / "tenth" / "t10k-images-idx3-ubyte.gz"


@dataclass(frozen=True)
class Body:
    """A kind of request body: the number of images, and raw bytes or JSON."""

    images: int
    raw: bool

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"{'one image' if self.images == 1 else f'{self.images} images'}, {'raw' if self.raw else 'JSON'}"

    @property
    def title(self) -> str:
        """Name in headings."""
        return self.name[0].upper() + self.name[1:]

    @property
    def content_type(self) -> str:
        """The Content-Type header."""
        return RAW if self.raw else JSON


BODIES = tuple(Body(images, raw) for images in (1, 32) for raw in (False, True))


@dataclass(frozen=True)
class Contender:
    """A server to compare.

    Attributes:
        name: name in tables.
        command: from a port of 127.0.0.1 and a folder for temporary files to the server's command.
        json_path: path that accepts JSON.
        raw_path: path that accepts raw bodies; None if unsupported.
        field: name of the images in JSON.
    """

    name: str
    command: Callable[[int, Path], Sequence[str]]
    json_path: str = "/predict"
    raw_path: str | None = "/predict/raw"
    field: str = "images"

    def accepts(self, body: Body) -> bool:
        """Whether it supports this kind of body."""
        return not body.raw or self.raw_path is not None

    def path(self, body: Body) -> str:
        """The path that accepts this kind of body."""
        return self.raw_path if body.raw and self.raw_path else self.json_path

    def content(self, body: Body) -> bytes:
        """A request body with the first test digits."""
        images = read_digits(body.images)
        return images.tobytes() if body.raw else json.dumps({self.field: images.tolist()}).encode()


class RunningServer:
    """The process of a contender on one core, with files for its request bodies.

    Args:
        contender: the server to start.
        model: ONNX file.
        core: CPU core that only the server uses.
        parent: the server's folder is created in it.
        settings: environment variables to add; the default serves `model` from its file.
    """

    def __init__(
        self, contender: Contender, model: Path, core: int, parent: Path, settings: dict[str, str] | None = None
    ) -> None:
        self.contender, self.port = contender, free_port()
        self._folder = parent / contender.name.replace(" ", "-").replace(",", "")
        self._folder.mkdir(parents=True)
        environment = {
            "BENCHMARK_MODEL": str(model),
            "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_HOME": str(self._folder / "bentoml"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(ROOT),
            **(settings or {"SERVING_MODEL": str(model)}),
        }
        command = contender.command(self.port, self._folder)
        self.process = Server(contender.name, command, core, self._folder / "log", environment)

    def url(self, path: str) -> str:
        """The address of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def request(self, body: Body) -> Request:
        """A request for the load generator."""
        file = self._folder / body.name.replace(" ", "-")
        if not file.exists():
            file.write_bytes(self.contender.content(body))
        return Request(self.url(self.contender.path(body)), file, body.content_type)

    def digits(self, body: Body) -> list[int]:
        """The digits that the server recognises in a request.

        Raises:
            httpx.HTTPError: there is no answer, or an error status.
        """
        request = self.request(body)
        headers = {"Content-Type": request.content_type}
        answer = httpx.post(request.url, content=request.body.read_bytes(), headers=headers, timeout=30)
        return digits_in(answer.raise_for_status().json())

    def wait_until_ready(self) -> None:
        """Wait for the first answer.

        Raises:
            BenchmarkError: a timeout, or a status other than 500 and 503, which a retry would not change.
        """

        def ready() -> bool:
            try:
                self.digits(BODIES[0])
            except httpx.HTTPStatusError as error:
                if error.response.status_code in (500, 503):
                    return False
                raise BenchmarkError(f"{self.contender.name}: {error}: {error.response.text[:500]}") from error
            except httpx.TransportError:
                return False
            return True

        self.process.wait_until(ready)


def digits_in(answer: Any) -> list[int]:
    """The digits in any contender's answer: objects with a digit, or rows of probabilities."""
    while isinstance(answer, dict):
        (answer,) = answer.values()
    return [one["digit"] if isinstance(one, dict) else int(np.argmax(one)) for one in answer]


def read_digits(count: int) -> NDArray[np.uint8]:
    """The first bundled test digits, uint8 [count, 28, 28]."""
    with gzip.open(DIGITS) as file:
        return np.frombuffer(file.read(16 + 784 * count)[16:], np.uint8).reshape(-1, 28, 28)


def _bentoml(service: str) -> Callable[[int, Path], Sequence[str]]:
    return lambda port, folder: [
        *(sys.executable, "-m", "bentoml", "serve", service, "--host", "127.0.0.1", "--port", str(port))
    ]


def _uvicorn(module: str) -> Callable[[int, Path], Sequence[str]]:
    # uvloop and httptools as in BentoML; no access log, as in our service.
    return lambda port, folder: [
        *(sys.executable, "-m", "uvicorn", f"benchmarks.servers.{module}:app", "--host", "127.0.0.1"),
        *("--port", str(port), "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
    ]


def _litserve(port: int, folder: Path) -> Sequence[str]:
    return [str(python_with("servers")), "-m", "benchmarks.servers.usual_litserve", str(port)]


def _mlflow(port: int, folder: Path) -> Sequence[str]:
    return [sys.executable, "-m", "benchmarks.servers.documented_mlflow", str(folder / "model"), str(port)]


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(OURS, _bentoml("serving.service:Digits")),
        Contender(BARE, _uvicorn("bare_starlette")),
        Contender(BATCHED, _uvicorn("batched_starlette")),
        Contender(FASTAPI, _uvicorn("usual_fastapi")),
        Contender(BENTOML, _bentoml("benchmarks.servers.documented_bentoml:Documented")),
        Contender(LITSERVE, _litserve, raw_path=None),
        Contender(MLFLOW, _mlflow, json_path="/invocations", raw_path=None, field="inputs"),
    )
}
