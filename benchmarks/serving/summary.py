"""What `benchmarks.serving` makes of its measurements: tables, bars, and a picture.

A ratio is one of neighbours: ours divided by the other's, in the same round at the same point. Of ratios and of
everything else the median over the rounds counts; the smallest and the largest stand beside it.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.harness.load import Load
from benchmarks.harness.ratios import spread
from benchmarks.serving.entrants import BARE, BATCHED, BENTOML, BODIES, FASTAPI, LIMIT, NAMES, OURS, Body

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ONE_JSON, ONE_RAW, MANY_JSON, MANY_RAW = BODIES
MEMORY_BAR, START_BAR, START_AIM, BURST_BAR, BURST_AIM = 300.0, 5.0, 3.0, 1.2, 1.05


@dataclass(frozen=True)
class Bar:
    """Something that is demanded, with what was found in each round."""

    what: str
    found: Sequence[float]
    bar: float
    aim: float | None
    at_least: bool  # or at most
    form: str = ".3f"

    @property
    def verdict(self) -> str:
        """Whether the median reaches the bar, or even the aim."""
        if self.aim is not None and self._reaches(self.aim):
            return "reached, and the aim"
        return "reached" if self._reaches(self.bar) else "missed"

    def row(self) -> str:
        """A row of the Markdown table."""
        sign = "≥" if self.at_least else "≤"
        aim = "" if self.aim is None else f"{self.aim:g}"
        return f"| {self.what} | {spread(self.found, self.form)} | {sign} {self.bar:g} | {aim} | {self.verdict} |"

    def _reaches(self, mark: float) -> bool:
        median = statistics.median(self.found)
        return median >= mark if self.at_least else median <= mark


class Measurements:
    """The points, by server, kind of request and clients."""

    def __init__(self, results: Any) -> None:
        self._points: dict[tuple[str, Body, int], list[Load]] = {}
        for point in sorted(results["points"], key=lambda point: point["round"]):
            numbers = {name: point[name] for name in Load.__dataclass_fields__}
            key = point["server"], Body(point["images"], point["raw"]), point["clients"]
            self._points.setdefault(key, []).append(Load(**numbers))
        self.clients = sorted({clients for _, _, clients in self._points})

    def of(self, server: str, body: Body, clients: int) -> list[Load]:
        """One for each round; none where the server does not take such requests."""
        return self._points.get((server, body, clients), [])

    def rates(self, server: str, body: Body, clients: int) -> list[float]:
        """Requests/s in each round."""
        return [load.rate for load in self.of(server, body, clients)]

    def ratios(self, other: str, body: Body, clients: int, name: str = "rate") -> list[float]:
        """Ours divided by the other's, in each round that was measured to its end.

        Args:
            other: a server.
            body: the kind of request.
            clients: how many.
            name: the number of `Load` that is compared.
        """
        pairs = zip(self.of(OURS, body, clients), self.of(other, body, clients), strict=False)
        numbers = ((getattr(ours, name), getattr(theirs, name)) for ours, theirs in pairs)
        return [ours / theirs if theirs else math.inf for ours, theirs in numbers if not ours == theirs == math.inf]

    def reach(self, images: int) -> tuple[float, float]:
        """The smallest and the largest rate, other than none, of all requests with that many images."""
        rates = [load.rate for (_, body, _), loads in self._points.items() for load in loads if body.images == images]
        return min(filter(None, rates)), max(rates)

    @property
    def servers(self) -> list[str]:
        """Those that were measured, in their order, with the limit first."""
        measured = {server for server, _, _ in self._points}
        return [server for server in (LIMIT, *NAMES) if server in measured]

    @property
    def busiest_client(self) -> float:
        """The largest share of the time that wrk computed, at any point."""
        return max(load.busy for loads in self._points.values() for load in loads)


def write(results: Any) -> str:
    """Everything as Markdown."""
    measurements, about = Measurements(results), results["about"]
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    parts = [
        f"{about['date']}, {about['processor']}, {about['cores']} cores; server on core {about['server_core']}, wrk on "
        f"core {about['client_core']}; {about['rounds']} round(s), {about['seconds']} s a point; "
        f"Python {about['python']}, {packages}.",
        f"wrk kept its core {100 * measurements.busiest_client:.0f} % busy at most.",
    ]
    parts += [table(measurements, body) for body in BODIES]
    header = "| what | median (smallest-largest) | bar | aim | |\n|---|---|---|---|---|\n"
    parts.append("\n".join(burst(results, server) for server in (OURS, BENTOML)).strip())
    if found := bars(measurements, results):
        parts.append("### The bars\n\n" + header + "\n".join(bar.row() for bar in found))
    return "\n\n".join(filter(None, parts))


def table(measurements: Measurements, body: Body) -> str:
    """All servers for one kind of request."""
    lines = [
        f"### {body.name[0].upper()}{body.name[1:]}",
        "",
        "| server | clients | requests/s | images/s | p50, ms | p99, ms | errors | ours is … times as fast |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for server in measurements.servers:
        for clients in measurements.clients:
            if not (loads := measurements.of(server, body, clients)):
                continue
            rate = statistics.median(load.rate for load in loads)
            p50, p99 = (statistics.median(getattr(load, name) for load in loads) for name in ("p50", "p99"))
            ratios = measurements.ratios(server, body, clients) if server != OURS else []
            lines.append(
                f"| {server} | {clients} | {rate:,.0f} | {rate * body.images:,.0f} | {_milliseconds(p50)} | "
                f"{_milliseconds(p99)} | "
                f"{sum(load.errors for load in loads)} | {spread(ratios, '.2f') if ratios else ''} |"
            )
    return "\n".join(lines)


def burst(results: Any, server: str) -> str:
    """How one client fares before and after a burst, as an item of a list; empty if that was not measured."""
    measured = [each for each in results["bursts"] if each["server"] == server]
    if not measured:
        return ""
    before, after = (statistics.median(each[when] for each in measured) for when in ("before", "after"))
    return f"- {server}: p50 of one client {before:.2f} ms, and {after:.2f} ms right after a burst of 64 clients"


def bars(measurements: Measurements, results: Any) -> list[Bar]:
    """All that is demanded and was measured."""

    def faster(other: str, bodies: Sequence[Body], clients: Sequence[int], bar: float, aim: float | None) -> list[Bar]:
        return [
            Bar(f"{body.name}, {_clients(count)}: requests/s against {other}", ratios, bar, aim, at_least=True)
            for body in bodies
            for count in clients
            if (ratios := measurements.ratios(other, body, count))
        ]

    one = (ONE_JSON, ONE_RAW)
    found = [
        *faster(BARE, one, (16, 64), 1.05, 1.3),
        *faster(BATCHED, one, (16, 64), 0.65, 0.8),
        *faster(FASTAPI, one, (16, 64), 2, 3),
        *faster(BENTOML, one, (16, 64), 5, 6),
        *faster(BARE, one, (1,), 0.8, 0.95),
    ]
    if bursts := [each["after"] / each["before"] for each in results["bursts"] if each["server"] == OURS]:
        what = "one client, p50: right after 64 clients against before them"
        found.append(Bar(what, bursts, BURST_BAR, BURST_AIM, at_least=False))
    found += [
        *faster(BARE, (MANY_JSON,), (1, 16, 64), 1.0, 1.1),
        *faster(BARE, (MANY_RAW,), (1, 16, 64), 0.95, 1.0),
        *(
            Bar(f"{body.name}, 16 clients: p99 against {BARE}", ratios, 1.5, 1.0, at_least=False)
            for body in BODIES
            if (ratios := measurements.ratios(BARE, body, 16, "p99"))
        ),
    ]
    if deployment := results.get("deployment"):
        swaps = deployment["swaps"]
        what = (
            f"errors and lost requests of {swaps['requests']:,}, while the champion was swapped {swaps['swaps']} times"
        )
        found += [
            Bar(what, [swaps["errors"]], 0, None, at_least=False, form=".0f"),
            Bar(
                "seconds from start to ready, model in the cache",
                deployment["starts"],
                START_BAR,
                START_AIM,
                False,
                ".1f",
            ),
            Bar(
                "memory of one worker after 64 clients, MB",
                [deployment["memory"] / 1e6],
                MEMORY_BAR,
                None,
                False,
                ".0f",
            ),
        ]
    return found


def draw(results: Any) -> "Figure":
    """Requests/s of all servers: a panel for each kind of request, a mark for each number of clients."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    from pipeline.report.style import COLOURS, GREY, WIDTH

    measurements = Measurements(results)
    servers = measurements.servers[::-1]
    height = 2.8 + 0.52 * len(servers)
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - 0.85 / height)))
    figure.text(0.01, 1 - 0.12 / height, title(measurements), va="top", fontsize=14, fontweight="bold")
    caption = "Requests/s on one core; lines: slowest to fastest round. In the title: one image, JSON, 16 clients."
    figure.text(0.01, 1 - 0.48 / height, caption, va="top", color=GREY)
    panels = figure.subplots(2, 2, sharex="row", sharey=True)
    for axes, body in zip(panels.flat, BODIES, strict=True):
        axes.set(xscale="log", ylim=(-0.6, len(servers) - 0.4))
        axes.set_title(f"{body.name[0].upper()}{body.name[1:]} (requests/s)")
        axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:,.10g}")
        axes.tick_params(axis="y", length=0)
        axes.set_yticks(range(len(servers)), [server.replace("decoder and", "decoder\nand") for server in servers])
        low, high = measurements.reach(body.images)
        axes.set_xlim(low / 1.4, high * 1.4)
        for row, server in enumerate(servers):
            if server == OURS:
                axes.axhspan(row - 0.5, row + 0.5, color="#EEEEEE", zorder=0)
            for k, clients in enumerate(measurements.clients):
                if not (rates := measurements.rates(server, body, clients)):
                    continue
                if not (median := statistics.median(rates)):  # has no place on this axis
                    continue
                reach = [[median - min(rates)], [max(rates) - median]]
                axes.errorbar(
                    median, row + 0.24 * (1 - k), xerr=reach, color=COLOURS[k], marker="os^D"[k % 4], markersize=7,
                    linestyle="none",
                )  # fmt: skip
        for tick, server in zip(axes.get_yticklabels(), servers, strict=False):  # the panels on the right have none
            tick.set_fontweight("bold" if server == OURS else "normal")
    marks = [
        Line2D([], [], color=COLOURS[k], marker="os^D"[k % 4], markersize=7, linestyle="none", label=_clients(clients))
        for k, clients in enumerate(measurements.clients)
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=4, frameon=False)
    return figure


def title(measurements: Measurements) -> str:
    """What the picture shows, as a sentence."""
    said = []
    for other in (BENTOML, FASTAPI, BARE):
        if ratios := measurements.ratios(other, ONE_JSON, 16):
            said.append(f"{statistics.median(ratios):.1f} times {other.partition(',')[0]}")
    return f"How much ours answers: {', '.join(said)}" if said else "Requests a second, by server and kind of request"


def _milliseconds(time: float) -> str:
    return "never" if math.isinf(time) else f"{time:.2f}"


def _clients(count: int) -> str:
    return "one client" if count == 1 else f"{count} clients"
