"""The service against others that serve the same model, on this machine: `python -m benchmarks.serving`.

One core for the server that is asked, another for wrk; one worker and one ONNX Runtime thread for everyone. In each
round every point (a kind of request, a number of clients) is measured for all servers in turn, each round with another
one first, so a ratio is always one of neighbouring times; whoever is not asked is stopped, for several are busy even
while they wait. After the points of a round: one client, then 64, then one again. At the end, for our service alone and
as it is deployed, with the champion of an MLflow server: seconds from start to ready, memory, and errors while the
champion is swapped under load.

Prints Markdown: a table for each kind of request, and each bar with reached or missed; writes all measurements and a
picture. `--read FILE` prints and draws them again. Needs wrk (apt-get install wrk), and two cores that are otherwise
idle.
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

from benchmarks.harness.load import Load, load
from benchmarks.harness.processes import ROOT, BenchmarkError, Competitor, on_core, python_with
from benchmarks.serving import deployment
from benchmarks.serving import summary as report
from benchmarks.serving.entrants import (
    BENTOML,
    BODIES,
    ENTRANTS,
    LIMIT,
    LITSERVE,
    NAMES,
    OURS,
    Body,
    Running,
    read_digits,
    start,
)
from serving.model.onnx_file import Model, ModelError
from serving.model.pruning import keep_outputs

CLIENTS = (1, 16, 64)
IMAGES_PER_CALL = 32  # at most, as in our service: the limit is asked for no more at once
STARTS, SWAPS = 5, 10
# Before a server is stopped, so that it does not take the pause for a slow answer to what the last clients left behind;
# and after it goes on: its timers are late.
SETTLE_SECONDS = 0.5
PACKAGES = ("bentoml", "fastapi", "mlflow", "numpy", "onnxruntime", "orjson", "starlette", "uvicorn", "uvloop")


def main() -> int:
    """Measure and print; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="the ONNX file; when not given, the champion is exported")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each point, in whole seconds")
    parser.add_argument(
        "--quick", action="store_true", help="a trial: one round, one second a point, few starts and swaps"
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--cores", type=int, nargs=2, metavar=("SERVER", "CLIENT"), help="which two cores to use")
    parser.add_argument("--results", type=Path, default=ROOT / "var" / "serving.json", help="all measurements go here")
    parser.add_argument("--picture", type=Path, default=ROOT / "var" / "serving.png", help="the picture goes here")
    parser.add_argument(
        "--read", type=Path, metavar="FILE", help="measure nothing, but print and draw such measurements"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = arguments.seconds = 1
    if min(arguments.rounds, arguments.seconds) < 1:
        parser.error("--rounds and --seconds are at least 1")
    # A plain kill ends the servers too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        results = json.loads(arguments.read.read_text()) if arguments.read else measure(arguments)
        print(report.write(results))
        arguments.picture.parent.mkdir(parents=True, exist_ok=True)
        report.draw(results).savefig(arguments.picture)
        print(f"\nThe picture: {arguments.picture}")
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def measure(arguments: argparse.Namespace) -> Any:
    """Run everything; gives what `report` reads."""
    server_core, client_core = choose_cores(arguments.cores)
    entrants = [entrant for entrant in ENTRANTS if entrant.name in arguments.only]
    if LITSERVE in arguments.only:
        python_with("servers")
    os.sched_setaffinity(0, {client_core})
    with tempfile.TemporaryDirectory(prefix="digits-") as temporary:
        folder = Path(temporary)
        exported, model = prepare(arguments.model, folder)
        results: dict[str, Any] = {
            "about": describe(arguments, server_core, client_core),
            "points": [],
            "bursts": [],
        }
        with ExitStack() as stack:
            limit_command = on_core(server_core, [sys.executable, "-m", "benchmarks.serving.limit", str(model)])
            limit = stack.enter_context(Competitor(LIMIT, limit_command))
            limit.introduce()
            servers = []
            for entrant in entrants:
                print(f"starting {entrant.name}", flush=True)
                running = start(entrant, model, server_core, folder)
                stack.enter_context(running.server)
                running.wait_until_ready()
                check(running, model)
                running.server.stop()
                servers.append(running)
            rounds(results, servers, limit, arguments, client_core)
            for running in servers:
                with at_work(running):
                    check(running, model)  # still
        if OURS in arguments.only:
            starts, swaps = (2, 3) if arguments.quick else (STARTS, SWAPS)
            cores = server_core, client_core
            results["deployment"] = deployment.measure(
                exported, folder, cores, arguments.seconds, starts=starts, swaps=swaps
            )
            save(results, arguments.results)
    return results


def rounds(
    results: dict[str, Any], servers: Sequence[Running], limit: Competitor, arguments: argparse.Namespace, core: int
) -> None:
    """Measure all points, round after round, into `results`, which are saved after each."""
    seconds = arguments.seconds
    points = [(body, clients) for body in BODIES for clients in CLIENTS]
    burst = [running for running in servers if running.entrant.name in (OURS, BENTOML)]
    total = arguments.rounds * (
        sum(1 + sum(running.entrant.takes(body) for running in servers) for body, _ in points) + 3 * len(burst)
    )
    began, done = time.monotonic(), 0

    def progress(number: int, what: str) -> None:
        left = (time.monotonic() - began) / done * (total - done)
        print(f"round {number} of {arguments.rounds}, {what}: done; {left / 60:.1f} minutes left", flush=True)

    for running in servers:
        with at_work(running):
            for body in BODIES:
                if running.entrant.takes(body):
                    ask(running, body, 1, 1, core)  # to warm up; many clients might teach a server to wait
    for number in range(1, arguments.rounds + 1):
        first = number % len(servers)
        for body, clients in points:
            for running in [*servers[first:], *servers[:first]]:
                if running.entrant.takes(body):
                    with at_work(running):
                        measured = ask(running, body, clients, seconds, core)
                    add(results, number, running.entrant.name, body, clients, measured)
                    done += 1
            add(results, number, LIMIT, body, clients, ask_limit(limit, body, clients, seconds))
            done += 1
            if clients == CLIENTS[-1]:
                progress(number, body.name)
        for running in burst:
            with at_work(running):
                before, _, after = (ask(running, BODIES[0], clients, seconds, core) for clients in (1, CLIENTS[-1], 1))
            results["bursts"].append(
                {"round": number, "server": running.entrant.name, "before": before.p50, "after": after.p50}
            )
            done += 3
        if burst:
            progress(number, "one client after a burst")
        save(results, arguments.results)


@contextmanager
def at_work(running: Running) -> Iterator[None]:
    """Let one server compute, while all others are stopped."""
    running.server.go_on()
    time.sleep(SETTLE_SECONDS)
    yield
    time.sleep(SETTLE_SECONDS)
    running.server.stop()


def ask(running: Running, body: Body, clients: int, seconds: int, core: int) -> Load:
    """Put load on one server."""
    url = running.url(running.entrant.path(body))
    return load(url, running.body(body), body.content_type, clients, seconds, core)


def ask_limit(limit: Competitor, body: Body, clients: int, seconds: int) -> Load:
    """What ONNX Runtime alone would answer to as many clients: what they send at once is one call, up to a limit."""
    batch = min(body.images * clients, IMAGES_PER_CALL)
    done = limit.turn(json.dumps({"batch": batch, "seconds": seconds}))
    return Load(done["calls"] * batch // body.images, done["seconds"], done["p50"], done["p99"])


def add(results: dict[str, Any], number: int, server: str, body: Body, clients: int, measured: Load) -> None:
    """Note one measurement."""
    point = {"round": number, "server": server, "images": body.images, "raw": body.raw, "clients": clients}
    results["points"].append({**point, **asdict(measured)})


def check(running: Running, model: Path) -> None:
    """See that a server reads the digits that the model reads, one image or many.

    Raises:
        BenchmarkError: it does not.
    """
    for body in BODIES:
        expected = Model.load(model).predict(read_digits(body.images)).argmax(1).tolist()
        if running.entrant.takes(body) and (found := running.digits(body)) != expected:
            raise BenchmarkError(f"{running.entrant.name} reads {found} where the model reads {expected}.")


def prepare(model: Path | None, folder: Path) -> tuple[Path, Path]:
    """The model's file as it was exported, and another with its probabilities alone.

    Our service cuts the feature maps off by itself; everyone gets the file without them, so no ratio has that in it.

    Raises:
        BenchmarkError: there is no model, or it does not keep the contract.
    """
    if model is None:
        model = folder / "champion.onnx"
        command = [sys.executable, "-m", "pipeline", "export", "--to", str(model)]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            raise BenchmarkError(
                "There is no champion to serve: train one with `make run`, or name a file with --model."
            )
    try:
        Model.load(model)
    except ModelError as refusal:
        raise BenchmarkError(str(refusal)) from refusal
    alone = folder / "model.onnx"
    alone.write_bytes(keep_outputs(model.read_bytes(), "probabilities"))
    return model.resolve(), alone


def choose_cores(wanted: Sequence[int] | None) -> tuple[int, int]:
    """One core for servers, one for the client: the first and the last that this process may use.

    Raises:
        BenchmarkError: there are no two.
    """
    usable = sorted(os.sched_getaffinity(0))
    first, last = wanted or (usable[0], usable[-1])
    if first == last or not {first, last} <= set(usable):
        raise BenchmarkError(f"Two cores are needed, one for the server and one for the client; usable are {usable}.")
    return first, last


def describe(arguments: argparse.Namespace, server_core: int, client_core: int) -> dict[str, Any]:
    """Where and with what it is measured."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": names[0] if names else platform.machine(),
        "cores": psutil.cpu_count(),
        "server_core": server_core,
        "client_core": client_core,
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
    }


def save(results: Any, file: Path) -> None:
    """Write all measurements so far."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    sys.exit(main())
