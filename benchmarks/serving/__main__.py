"""Our service serves more requests per second than other servers of the same model: `python -m benchmarks.serving`.

How it is measured: each server has one core, one worker and one ONNX Runtime thread; wrk has another core. In each
round, every point (a kind of request, a number of clients) is measured for all servers in turn, so both numbers of a
ratio are neighbours in time. Each round starts with a different server. Idle servers are paused, because several use
the CPU while they wait. Each round ends with a burst: one client, then 64, then one again.

At the end our service is measured alone, with the champion of an MLflow server: seconds from start to ready, memory,
and errors while the champion is swapped under load.

Prints Markdown: a table for each kind of request, then each target as reached or missed. Writes all measurements and
a picture; `--read FILE` prints and draws them again. Needs wrk (apt-get install wrk) and two idle cores.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import command_line
from benchmarks.harness.load import Load, load
from benchmarks.harness.processes import ROOT, BenchmarkError, JsonProcess, on_core, python_with
from benchmarks.serving import deployment, summary
from benchmarks.serving.contenders import (
    BENTOML,
    BODIES,
    CONTENDERS,
    LIMIT,
    LITSERVE,
    OURS,
    Body,
    RunningServer,
    read_digits,
)
from serving.model.onnx_file import Model, ModelError
from serving.model.pruning import keep_outputs

CLIENTS = (1, 16, 64)
IMAGES_PER_CALL = 32  # the largest call of our service, and of the limit
STARTS, SWAPS = 5, 10
# Before a pause, so that a server does not count it as slowness of its last answers; and after it, for late timers.
SETTLE_SECONDS = 0.5
PACKAGES = ("bentoml", "fastapi", "mlflow", "numpy", "onnxruntime", "orjson", "starlette", "uvicorn", "uvloop")


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = command_line.make_parser("benchmarks.serving", __doc__)
    parser.add_argument("--model", type=Path, help="ONNX file; the default exports the champion")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="duration of each point, whole seconds")
    parser.add_argument(
        "--quick", action="store_true", help="a trial: one round, one second a point, few starts and swaps"
    )
    parser.add_argument(
        "--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME", help=", ".join(CONTENDERS)
    )
    parser.add_argument("--cores", type=int, nargs=2, metavar=("SERVER", "CLIENT"), help="the two cores to use")
    parser.add_argument("--results", type=Path, default=ROOT / "var" / "serving.json", help="output: all measurements")
    parser.add_argument("--picture", type=Path, default=ROOT / "var" / "serving.png", help="output: the picture")
    parser.add_argument("--read", type=Path, metavar="FILE", help="print and draw these measurements; measure nothing")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = arguments.seconds = 1
    if min(arguments.rounds, arguments.seconds) < 1:
        parser.error("--rounds and --seconds must be at least 1")
    # SIGTERM must end the servers as well.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    return command_line.exit_code(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> None:
    """Measure, or read earlier measurements; then print and draw them."""
    results = json.loads(arguments.read.read_text()) if arguments.read else measure(arguments)
    print(summary.write(results))
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    summary.draw(results).savefig(arguments.picture)
    print(f"\nPicture: {arguments.picture}")


def measure(arguments: argparse.Namespace) -> Any:
    """Run everything; returns the input of `summary`."""
    cores = server_core, client_core = choose_cores(arguments.cores)
    if LITSERVE in arguments.only:
        python_with("servers")
    os.sched_setaffinity(0, {client_core})
    with tempfile.TemporaryDirectory(prefix="digits-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        exported, model = prepare(arguments.model, folder)
        results: dict[str, Any] = {"about": describe(arguments, cores), "points": [], "bursts": []}
        limit_command = [sys.executable, "-m", "benchmarks.serving.onnxruntime_limit", str(model)]
        limit = stack.enter_context(JsonProcess(LIMIT, on_core(server_core, limit_command)))
        limit.wait_until_ready()
        servers = []
        for name, contender in CONTENDERS.items():
            if name not in arguments.only:
                continue
            print(f"starting {name}", flush=True)
            server = RunningServer(contender, model, server_core, folder)
            stack.enter_context(server.process)
            server.wait_until_ready()
            check(server, model)
            server.process.pause()
            servers.append(server)
        measure_rounds(results, servers, limit, arguments, client_core)
        for server in servers:
            with resumed(server):
                check(server, model)
        stack.close()
        if OURS in arguments.only:
            starts, swaps = (2, 3) if arguments.quick else (STARTS, SWAPS)
            results["deployment"] = deployment.measure(
                exported, folder, cores, arguments.seconds, starts=starts, swaps=swaps
            )
            save(results, arguments.results)
    return results


def measure_rounds(
    results: dict[str, Any],
    servers: Sequence[RunningServer],
    limit: JsonProcess,
    arguments: argparse.Namespace,
    core: int,
) -> None:
    """Measure all points in each round; `results` are saved after each."""
    seconds = arguments.seconds
    bursting = [server for server in servers if server.contender.name in (OURS, BENTOML)]
    steps = arguments.rounds * (len(BODIES) + bool(bursting))
    began, done = time.monotonic(), 0

    def progress(number: int, what: str) -> None:
        nonlocal done
        done += 1
        minutes = (time.monotonic() - began) / done * (steps - done) / 60
        print(f"round {number} of {arguments.rounds}, {what}: done; about {minutes:.0f} minutes left", flush=True)

    for server in servers:
        with resumed(server):
            for body in BODIES:
                if server.contender.accepts(body):
                    load(server.request(body), 1, 1, core)  # warm-up; one client, as many might teach a server to wait
    for number in range(1, arguments.rounds + 1):
        first = number % len(servers)
        for body in BODIES:
            for clients in CLIENTS:
                point = {"round": number, "images": body.images, "raw": body.raw, "clients": clients}
                for server in [*servers[first:], *servers[:first]]:
                    if server.contender.accepts(body):
                        with resumed(server):
                            measured = load(server.request(body), clients, seconds, core)
                        results["points"].append({**point, "server": server.contender.name, **asdict(measured)})
                measured = measure_limit(limit, body, clients, seconds)
                results["points"].append({**point, "server": LIMIT, **asdict(measured)})
            progress(number, body.name)
        for server in bursting:
            with resumed(server):
                request = server.request(BODIES[0])
                before, _, after = (load(request, clients, seconds, core).p50 for clients in (1, CLIENTS[-1], 1))
            results["bursts"].append(
                {"round": number, "server": server.contender.name, "before": before, "after": after}
            )
        if bursting:
            progress(number, "one client after a burst")
        save(results, arguments.results)


@contextmanager
def resumed(server: RunningServer) -> Iterator[None]:
    """Resume one server for the duration of the context; all others stay paused."""
    server.process.resume()
    time.sleep(SETTLE_SECONDS)
    yield
    time.sleep(SETTLE_SECONDS)
    server.process.pause()


def measure_limit(limit: JsonProcess, body: Body, clients: int, seconds: int) -> Load:
    """Rate of ONNX Runtime alone; the images of simultaneous requests share a call, up to IMAGES_PER_CALL."""
    batch = min(body.images * clients, IMAGES_PER_CALL)
    done = limit.work(json.dumps({"batch": batch, "seconds": seconds}))
    return Load(done["calls"] * batch // body.images, done["seconds"], done["p50"], done["p99"])


def check(server: RunningServer, model: Path) -> None:
    """Check that a server recognises the same digits as the model.

    Raises:
        BenchmarkError: the digits differ.
    """
    for body in BODIES:
        expected = Model.load(model).predict(read_digits(body.images)).argmax(1).tolist()
        if server.contender.accepts(body) and (found := server.digits(body)) != expected:
            raise BenchmarkError(f"{server.contender.name} answers {found} instead of the model's {expected}.")


def prepare(model: Path | None, folder: Path) -> tuple[Path, Path]:
    """Returns the exported model's file, and a copy whose only output is the probabilities.

    Our service removes the feature maps itself. All servers get the copy, so no ratio includes that advantage.

    Raises:
        BenchmarkError: there is no model, or it violates the contract.
    """
    if model is None:
        model = folder / "champion.onnx"
        command = [sys.executable, "-m", "pipeline", "export", "--to", str(model)]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            raise BenchmarkError("There is no champion to serve: train one with `make run`, or pass a file as --model.")
    try:
        Model.load(model)
    except ModelError as error:
        raise BenchmarkError(str(error)) from error
    copy = folder / "model.onnx"
    copy.write_bytes(keep_outputs(model.read_bytes(), "probabilities"))
    return model.resolve(), copy


def choose_cores(requested: Sequence[int] | None) -> tuple[int, int]:
    """One core for servers and one for wrk: by default the first and the last usable core.

    Raises:
        BenchmarkError: they are the same core, or not usable.
    """
    usable = sorted(os.sched_getaffinity(0))
    first, last = requested or (usable[0], usable[-1])
    if first == last or not {first, last} <= set(usable):
        raise BenchmarkError(f"Two cores are needed, one for the server and one for wrk; usable are {usable}.")
    return first, last


def describe(arguments: argparse.Namespace, cores: tuple[int, int]) -> dict[str, Any]:
    """Machine, versions and settings of the run."""
    cpu = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in cpu if "model name" in line]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": names[0] if names else platform.machine(),
        "cores": psutil.cpu_count(),
        "server_core": cores[0],
        "client_core": cores[1],
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
    }


def save(results: Any, file: Path) -> None:
    """Write all measurements as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    sys.exit(main())
