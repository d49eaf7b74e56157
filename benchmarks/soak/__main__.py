"""The service holds a long load and survives an overload: `python -m benchmarks.soak`.

1. The capacity for a mix of requests is measured: the rate of answers with 32 requests always in progress. It is
   measured eight times within four minutes, and the lowest rate counts, since other work slows a shared machine down.
2. For 30 minutes, 80 % of that rate is sent, whatever the service answers, together with slow clients, clients that
   disconnect, and a scrape of the metrics. Memory is that of all processes of the service, shared pages included.
3. For a minute, five times the capacity is sent. Then one client measures how fast the service recovers.

The service has one core, the clients have another. Times count from the moment at which a request was due.
Prints Markdown: a table of the mix, then each target as reached or missed. Needs two idle cores.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import command_line
from benchmarks.harness.processes import ROOT, BenchmarkError, Server
from benchmarks.serving.__main__ import choose_cores, prepare
from benchmarks.serving.contenders import CONTENDERS, OURS, RunningServer
from benchmarks.soak import summary
from benchmarks.soak.client import Counters, OpenLoop
from benchmarks.soak.mix import make_mix, misbehave

IN_PROGRESS = 32  # requests, while the capacity is measured
CAPACITIES, CAPACITY_SECONDS = 8, 15  # measurements, and the duration of each and of the pause after it
SAMPLE_SECONDS = 5.0
RECOVERY_SECONDS = 10


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = command_line.make_parser("benchmarks.soak", __doc__)
    parser.add_argument("--model", type=Path, help="ONNX file; the default exports the champion")
    parser.add_argument("--minutes", type=float, default=30.0, help="duration of the long load")
    parser.add_argument("--share", type=float, default=0.8, help="of the capacity, during the long load")
    parser.add_argument("--overload", type=float, default=5.0, help="times the capacity, during the overload")
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    parser.add_argument("--cores", type=int, nargs=2, metavar=("SERVER", "CLIENT"), help="the two cores to use")
    parser.add_argument("--results", type=Path, default=ROOT / "var" / "soak.json", help="output: all measurements")
    arguments = parser.parse_args()
    # SIGTERM must end the service as well.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    return command_line.exit_code(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> None:
    """Measure, write all measurements, and print them."""
    cores = choose_cores(arguments.cores)
    with tempfile.TemporaryDirectory(prefix="digits-") as temporary:
        exported, _ = prepare(arguments.model, Path(temporary))
        server = RunningServer(CONTENDERS[OURS], exported, cores[0], Path(temporary))
        with server.process:
            server.wait_until_ready()
            os.sched_setaffinity(0, {cores[1]})
            results = asyncio.run(measure(server, arguments))
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(json.dumps(results, indent=1))
    print(summary.write(results))


async def measure(server: RunningServer, arguments: argparse.Namespace) -> dict[str, Any]:
    """Carry out the three parts; returns the input of `summary.write`."""
    mix = make_mix()
    clients = OpenLoop(server.port, mix)
    at_rest = memory_of(server.process)
    await clients.run_closed(IN_PROGRESS, 3)  # warm up
    capacities = [await measure_capacity(clients) for _ in range(CAPACITIES)]
    capacity = min(capacities)
    alone = await lone_client(server.port, 3)
    seconds = 60 * arguments.minutes
    watching = asyncio.create_task(watch(server.process, clients, seconds))
    misbehaving = asyncio.create_task(misbehave(server.port, seconds, per_second=2))
    soak = await clients.run(arguments.share * capacity, seconds)
    misbehaved = await misbehaving
    samples = await watching
    print(f"long load: {soak.answered:,} answers, {soak.errors} errors", flush=True)
    overload = await clients.run(arguments.overload * capacity, arguments.overload_seconds)
    clients.close()
    print(f"overload: {overload.answered:,} answers, statuses {dict(overload.statuses)}", flush=True)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "capacity": capacity,
        "capacities": capacities,
        "minutes": arguments.minutes,
        "share": arguments.share,
        "overload_factor": arguments.overload,
        "overload_seconds": arguments.overload_seconds,
        "memory_at_rest": at_rest,
        "memory": [(sample.seconds, sample.memory) for sample in samples],
        "samples": [asdict(sample) for sample in samples],
        "soak": described(soak, {kind.name: kind.share for kind in mix}),
        "misbehaved": misbehaved,
        "overload": described(overload, {}),
        "alone": alone,
        "recovery": await lone_client(server.port, RECOVERY_SECONDS),
        "memory_after": memory_of(server.process),
    }


async def measure_capacity(clients: OpenLoop) -> float:
    """Answers a second with IN_PROGRESS requests always in progress, followed by a pause."""
    capacity = (await clients.run_closed(IN_PROGRESS, CAPACITY_SECONDS)).answered / CAPACITY_SECONDS
    print(f"capacity: {capacity:.0f} requests/s", flush=True)
    await asyncio.sleep(CAPACITY_SECONDS)
    return capacity


def described(counters: Counters, shares: dict[str, float]) -> dict[str, Any]:
    """Counters as JSON, with quantiles in place of all times."""
    times = {
        name: {"n": len(values), "p50": statistics.median(values), "p99": quantile(values, 0.99), "max": max(values)}
        for name, values in counters.milliseconds.items()
    }
    everything = [value for values in counters.milliseconds.values() for value in values]
    return {
        **{name: value for name, value in asdict(counters).items() if name in ("due", "unsent", "lost")},
        "statuses": {str(status): number for status, number in counters.statuses.items()},
        "errors": counters.errors,
        "p50": statistics.median(everything) if everything else None,
        "p99": quantile(everything, 0.99) if everything else None,
        "kinds": times,
        "shares": shares,
    }


def quantile(values: list[float], share: float) -> float:
    """The smallest value that is not below this share of all values."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def lone_client(port: int, seconds: int) -> list[float | None]:
    """Send one request after another; returns the median time to an answer in each second, in milliseconds."""
    client = OpenLoop(port, make_mix()[1:2])
    medians: list[float | None] = []
    for _ in range(seconds):
        counters = await client.run_closed(1, 1)
        times = [value for values in counters.milliseconds.values() for value in values]
        medians.append(statistics.median(times) if times else None)
    client.close()
    return medians


@dataclass(frozen=True)
class Sample:
    """The service at one moment of the long load, to find slow minutes of the machine.

    Attributes:
        seconds: since its start.
        memory: of the service, in bytes.
        processor: seconds of its core that it has used since it was started.
        answered: answers with status 200 until now.
        refused: answers with status 503 until now.
        milliseconds: median time to an answer since the last sample, or None without an answer.
    """

    seconds: float
    memory: int
    processor: float
    answered: int
    refused: int
    milliseconds: float | None


async def watch(process: Server, clients: OpenLoop, seconds: float) -> list[Sample]:
    """Take a sample every SAMPLE_SECONDS."""
    began = time.monotonic()
    samples: list[Sample] = []
    seen: dict[str, int] = {}
    while (passed := time.monotonic() - began) < seconds:
        counters = clients.counters
        new = [value for kind, values in counters.milliseconds.items() for value in values[seen.get(kind, 0) :]]
        seen = {kind: len(values) for kind, values in counters.milliseconds.items()}
        times = [each.cpu_times() for each in process.family()]
        used = sum(one.user + one.system for one in times)
        median = statistics.median(new) if new else None
        samples.append(Sample(passed, memory_of(process), used, counters.answered, counters.statuses[503], median))
        await asyncio.sleep(SAMPLE_SECONDS)
    return samples


def memory_of(process: Server) -> int:
    """Resident memory of all processes of a server, in bytes.

    Raises:
        BenchmarkError: the server has ended.
    """
    family = process.family()
    if not family:
        raise BenchmarkError("The service has ended; its log is above.")
    total = 0
    for each in family:
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


if __name__ == "__main__":
    sys.exit(main())
