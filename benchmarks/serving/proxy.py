"""The proxy of docker-compose.replicas.yml against a replica without it: `python -m benchmarks.serving.proxy`.

How it is measured: one replica has one core; the proxy and wrk share the other one. Each point (a kind of request, a
number of clients) is measured at the replica and at the proxy in turn, by their addresses in Docker's network, and the
order changes with each round. Prints a Markdown table: answers a second at both and their ratio, medians with the
smallest and largest, the 99th percentiles, and the memory of both containers.

Needs wrk, two idle cores, Linux, and the overlay with one replica:

    export COMPOSE_FILE=docker-compose.yml:docker-compose.replicas.yml SERVING_ALLOWED_HOSTS='*'
    docker compose up --build --detach --scale serve=1
"""

import argparse
import itertools
import json
import subprocess
import tempfile
from pathlib import Path

import httpx

from benchmarks.harness import command_line
from benchmarks.harness.load import Load, Request, load
from benchmarks.harness.processes import ROOT, BenchmarkError
from benchmarks.harness.tables import markdown, spread
from benchmarks.serving.__main__ import choose_cores
from benchmarks.serving.contenders import BODIES, CONTENDERS, OURS, Body

CLIENTS = (1, 16, 64)
PLACES = ("serve", "proxy")
PORT = 3000


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = command_line.make_parser("benchmarks.serving.proxy", __doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3, help="duration of each point, whole seconds")
    parser.add_argument("--cores", type=int, nargs=2, metavar=("SERVER", "CLIENT"), help="the two cores to use")
    arguments = parser.parse_args()
    return command_line.exit_code(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> None:
    """Measure at the containers that run, and print."""
    server, client = choose_cores(arguments.cores)
    containers = {place: _docker("compose", "ps", "--quiet", place).split() for place in PLACES}
    if [len(each) for each in containers.values()] != [1, 1]:
        raise BenchmarkError("The benchmark needs one replica and its proxy: start them as --help says.")
    for place, core in zip(PLACES, (server, client), strict=True):
        _docker("update", "--cpuset-cpus", str(core), *containers[place])
    addresses = {place: _address(ids[0]) for place, ids in containers.items()}
    with tempfile.TemporaryDirectory() as folder:
        requests = {
            (place, body): _request(addresses[place], body, Path(folder)) for place in PLACES for body in BODIES
        }
        points = [(body, clients) for body in BODIES for clients in CLIENTS]
        measured: dict[tuple[str, Body, int], list[Load]] = {}
        for number, (body, clients) in itertools.product(range(arguments.rounds), points):
            for place in PLACES if number % 2 else reversed(PLACES):
                result = load(requests[place, body], clients, arguments.seconds, client)
                if result.errors:
                    raise BenchmarkError(f"{result.errors} requests to {place} failed: repeat with idle cores.")
                measured.setdefault((place, body, clients), []).append(result)
    print(table(measured))
    for place, ids in containers.items():
        used = _docker("stats", "--no-stream", "--format", "{{.MemUsage}}", *ids).split("/")[0].strip()
        print(f"Memory of {place}: {used}.")


def table(measured: dict[tuple[str, Body, int], list[Load]]) -> str:
    """A Markdown table of the points; rounds with the same number are neighbours in time."""
    rows = []
    for body, clients in dict.fromkeys((body, clients) for _, body, clients in measured):
        direct, behind = (measured[place, body, clients] for place in PLACES)
        ratios = [each.rate / other.rate for each, other in zip(behind, direct, strict=True)]
        p99 = (f"{sorted(each.p99 for each in loads)[len(loads) // 2]:.1f}" for loads in (direct, behind))
        rates = (spread([each.rate for each in loads], ",.0f") for loads in (direct, behind))
        rows.append([body.name, clients, *rates, spread(ratios, ".2f"), *p99])
    return markdown(
        ["request", "clients", "replica, answers/s", "proxy, answers/s", "ratio", "p99, ms", "p99 behind, ms"], rows
    )


def _request(address: str, body: Body, folder: Path) -> Request:
    ours = CONTENDERS[OURS]
    file = folder / body.name.replace(" ", "-")
    file.write_bytes(ours.content(body))
    url = f"http://{address}:{PORT}{ours.path(body)}"
    httpx.post(url, content=file.read_bytes(), headers={"Content-Type": body.content_type}).raise_for_status()
    return Request(url, file, body.content_type)


def _address(container: str) -> str:
    (network,) = json.loads(_docker("inspect", container))[0]["NetworkSettings"]["Networks"].values()
    address: str = network["IPAddress"]
    return address


def _docker(*arguments: str) -> str:
    command = ["docker", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"docker {arguments[0]} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


if __name__ == "__main__":
    raise SystemExit(main())
