"""Tables, targets and the picture of `benchmarks.serving`, from its measurements.

A ratio divides our number by another server's number from the same round and the same point (a kind of request, a
number of clients). All tables show medians over the rounds; spreads are (smallest-largest).
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.harness.load import Load
from benchmarks.harness.tables import markdown, spread
from benchmarks.serving.contenders import BARE, BATCHED, BENTOML, BODIES, CONTENDERS, FASTAPI, LIMIT, OURS, Body
from pipeline.report.style import COLOURS, MARKERS, blank

ONE_JSON, ONE_RAW, MANY_JSON, MANY_RAW = BODIES
HEADER = ("server", "clients", "requests/s", "images/s", "p50, ms", "p99, ms", "errors", "ours / server, requests/s")
# Targets for our requests/s: other server, kinds of request, numbers of clients, bar, aim.
MANY_CLIENTS = (
    (BARE, (ONE_JSON, ONE_RAW), (16, 64), 1.05, 1.3),
    (BATCHED, (ONE_JSON, ONE_RAW), (16, 64), 0.65, 0.8),
    (FASTAPI, (ONE_JSON, ONE_RAW), (16, 64), 2, 3),
    (BENTOML, (ONE_JSON, ONE_RAW), (16, 64), 5, 6),
)
ONE_CLIENT = ((BARE, (ONE_JSON, ONE_RAW), (1,), 0.8, 0.95),)
MANY_IMAGES = ((BARE, (MANY_JSON,), (1, 16, 64), 1.0, 1.1), (BARE, (MANY_RAW,), (1, 16, 64), 0.95, 1.0))


@dataclass(frozen=True)
class Target:
    """A number of each round against two thresholds: the bar must be reached, the aim may be missed."""

    what: str
    found: Sequence[float]
    bar: float
    aim: float | None = None
    at_least: bool = False  # otherwise: at most
    form: str = ".3f"

    @property
    def verdict(self) -> str:
        """Whether the median reaches the bar and the aim."""
        if self.aim is not None and self._reaches(self.aim):
            return "reached, and the aim"
        return "reached" if self._reaches(self.bar) else "missed"

    def row(self) -> tuple[str, ...]:
        """The cells of its row."""
        aim = "" if self.aim is None else f"{self.aim:g}"
        bar = f"{'≥' if self.at_least else '≤'} {self.bar:g}"
        return self.what, spread(self.found, self.form), bar, aim, self.verdict

    def _reaches(self, threshold: float) -> bool:
        median = statistics.median(self.found)
        return median >= threshold if self.at_least else median <= threshold


class Measurements:
    """All measurements of a run.

    Attributes:
        points: one row for each `Load`, with round, server, body (its name), clients, rate and errors.
        servers: the measured servers in the order of tables, the limit first.
        clients: the measured numbers of clients, ascending.
    """

    def __init__(self, results: Any) -> None:
        loads = [Load(**{field.name: point[field.name] for field in fields(Load)}) for point in results["points"]]
        self.points = pd.DataFrame(results["points"]).assign(
            body=[Body(point["images"], point["raw"]).name for point in results["points"]],
            rate=[load.rate for load in loads],
            errors=[load.errors for load in loads],
        )
        self.servers = [server for server in (LIMIT, *CONTENDERS) if server in set(self.points["server"])]
        self.clients = sorted(set(self.points["clients"]))

    def of(self, body: Body) -> pd.DataFrame:
        """The points of one kind of request."""
        return self.points[self.points["body"] == body.name]

    def ratios(self, other: str, body: Body, clients: int, column: str = "rate") -> list[float]:
        """Our number divided by the other server's, for each round in which both were measured."""
        points = self.of(body)
        numbers = points[points["clients"] == clients].pivot(index="round", columns="server", values=column)
        if not {OURS, other} <= set(numbers):
            return []
        return (numbers[OURS] / numbers[other]).dropna().tolist()


def write(results: Any) -> str:
    """All tables as Markdown."""
    measurements, about = Measurements(results), results["about"]
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    parts = [
        f"{about['date']}, {about['processor']}, {about['cores']} cores; server on core {about['server_core']}, wrk on "
        f"core {about['client_core']}; {about['rounds']} round(s), {about['seconds']} s a point; "
        f"Python {about['python']}, {packages}.",
        f"wrk kept its core at most {100 * measurements.points['busy'].max():.0f} % busy.",
    ]
    parts += [f"### {body.title}\n\n{table(measurements, body)}" for body in BODIES]
    parts.append("\n".join(filter(None, (burst(results, server) for server in (OURS, BENTOML)))))
    if found := targets(measurements, results):
        header = ("what", "median (smallest-largest)", "bar", "aim", "")
        parts.append("### Targets\n\n" + markdown(header, (target.row() for target in found)))
    return "\n\n".join(filter(None, parts))


def table(measurements: Measurements, body: Body) -> str:
    """All servers for one kind of request."""
    rows = []
    groups = dict(iter(measurements.of(body).groupby(["server", "clients"])))
    for server in measurements.servers:
        for clients in measurements.clients:
            if (points := groups.get((server, clients))) is None:
                continue
            rate, p50, p99 = points[["rate", "p50", "p99"]].median()
            ratios = measurements.ratios(server, body, clients) if server != OURS else []
            times = ("never" if math.isinf(time) else f"{time:.2f}" for time in (p50, p99))
            speed = f"{rate:,.0f}", f"{rate * body.images:,.0f}"
            rows.append(
                (server, clients, *speed, *times, points["errors"].sum(), spread(ratios, ".2f") if ratios else "")
            )
    return markdown(HEADER, rows)


def burst(results: Any, server: str) -> str:
    """p50 of one client before and after a burst, as a list item; empty if it was not measured."""
    bursts = [each for each in results["bursts"] if each["server"] == server]
    if not bursts:
        return ""
    before, after = (statistics.median(each[when] for each in bursts) for when in ("before", "after"))
    return f"- {server}: p50 of one client {before:.2f} ms, and {after:.2f} ms right after a burst of 64 clients"


def targets(measurements: Measurements, results: Any) -> list[Target]:
    """All targets for which there are measurements."""
    rates = [
        [
            Target(f"{body.name}, {_clients(clients)}: requests/s against {other}", ratios, bar, aim, at_least=True)
            for other, bodies, counts, bar, aim in group
            for body in bodies
            for clients in counts
            if (ratios := measurements.ratios(other, body, clients))
        ]
        for group in (MANY_CLIENTS + ONE_CLIENT, MANY_IMAGES)
    ]
    bursts = [each["after"] / each["before"] for each in results["bursts"] if each["server"] == OURS]
    found = rates[0]
    if bursts:
        found.append(Target("one client, p50: right after 64 clients against before them", bursts, 1.2, 1.05))
    found += rates[1]
    found += [
        Target(f"{body.name}, 16 clients: p99 against {BARE}", ratios, 1.5, 1.0)
        for body in BODIES
        if (ratios := measurements.ratios(BARE, body, 16, "p99"))
    ]
    if deployment := results.get("deployment"):
        swaps = deployment["swaps"]
        swapped = f"errors and lost requests of {swaps['requests']:,}, during {swaps['swaps']} swaps of the champion"
        memory = [deployment["memory"] / 1e6]
        found += [
            Target(swapped, [swaps["errors"]], 0, form=".0f"),
            Target("seconds from start to ready, model in the cache", deployment["starts"], 5.0, 3.0, form=".1f"),
            Target("memory of one worker after 64 clients, MB", memory, 300.0, form=".0f"),
        ]
    return found


def draw(results: Any) -> Figure:
    """Requests/s of all servers: a panel for each kind of request, a marker for each number of clients."""
    measurements = Measurements(results)
    servers = measurements.servers[::-1]
    caption = "Requests/s on one core; lines: slowest to fastest round. In the title: one image, JSON, 16 clients."
    figure = blank(2.8 + 0.52 * len(servers), title(measurements), caption)
    panels = figure.subplots(2, 2, sharex="row", sharey=True)
    for row in range(2):  # the two panels of a row share their range, which excludes rates of 0
        of_row = measurements.points[measurements.points["images"] == BODIES[2 * row].images]["rate"]
        positive = of_row[of_row > 0]
        panels[row, 0].set(xscale="log", xlim=(positive.min() / 1.4, positive.max() * 1.4))
    for axes, body in zip(panels.flat, BODIES, strict=True):
        axes.set_title(f"{body.title} (requests/s)")
        axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:,.10g}")
        axes.xaxis.set_minor_formatter("")  # within one decade, minor labels would overlap
        axes.tick_params(axis="y", length=0)
        axes.set_yticks(range(len(servers)), [server.replace("decoder and", "decoder\nand") for server in servers])
        axes.set_ylim(-0.6, len(servers) - 0.4)
        if OURS in servers:
            place = servers.index(OURS)
            axes.axhspan(place - 0.5, place + 0.5, color="#EEEEEE", zorder=0)
        for label, server in zip(axes.get_yticklabels(), servers, strict=False):  # panels on the right have none
            label.set_fontweight("bold" if server == OURS else "normal")
        for k, (_, points) in enumerate(measurements.of(body).groupby("clients")):
            rates = points.groupby("server")["rate"].agg(["min", "median", "max"]).reindex(servers)
            rates = rates[rates["median"] > 0]  # 0 has no place on a logarithmic axis
            reach = [rates["median"] - rates["min"], rates["max"] - rates["median"]]
            axes.errorbar(
                rates["median"], [servers.index(server) + 0.24 * (1 - k) for server in rates.index], xerr=reach,
                color=COLOURS[k], marker=MARKERS[k % 4], markersize=7, linestyle="none",
                label=_clients(measurements.clients[k]),
            )  # fmt: skip
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def title(measurements: Measurements) -> str:
    """The title of the picture: our speed-up over three servers."""
    speedups = [
        f"{statistics.median(ratios):.1f} times {other.partition(',')[0]}"
        for other in (BENTOML, FASTAPI, BARE)
        if (ratios := measurements.ratios(other, ONE_JSON, 16))
    ]
    return f"Throughput of ours: {', '.join(speedups)}" if speedups else "Throughput by server and kind of request"


def _clients(count: int) -> str:
    return "one client" if count == 1 else f"{count} clients"
