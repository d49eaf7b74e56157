"""The table of a comparison, one row per recipe, from the metrics of its runs: CSV, Markdown and console."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass
from rich.markup import escape
from rich.table import Table

# names in MLflow; each run has them
METRICS = (
    "parameters",
    "macs",
    "epochs",
    "final_validation_accuracy",
    "test_accuracy",
    "training_seconds",
    "training_images_per_second",
)
HEADINGS = ("recipe", "parameters", "MACs", "epochs", "seeds", "validation %", "test %", "seconds", "images/s")


@dataclass(frozen=True)
class Row:
    """A recipe over its seeds. Accuracies are shares; with one seed the standard deviations are None."""

    recipe: str
    parameters: int
    macs: int  # multiplications with addition, per picture
    epochs: int
    seeds: int
    validation_accuracy_mean: float
    validation_accuracy_sd: float | None
    test_accuracy_mean: float
    test_accuracy_sd: float | None
    seconds_mean: float
    images_per_second_mean: float


COLUMNS = tuple(field.name for field in fields(Row))


def summarise(recipe: str, runs: Sequence[Mapping[str, float]]) -> Row:
    """Summarise the runs of a recipe.

    Args:
        recipe: its name.
        runs: metrics of one run per seed, with at least METRICS.
    """

    def mean(metric: str) -> float:
        return statistics.mean(run[metric] for run in runs)

    def deviation(metric: str) -> float | None:
        return statistics.stdev(run[metric] for run in runs) if len(runs) > 1 else None

    return Row(
        recipe=recipe,
        parameters=int(runs[0]["parameters"]),
        macs=int(runs[0]["macs"]),
        epochs=int(runs[0]["epochs"]),
        seeds=len(runs),
        validation_accuracy_mean=mean("final_validation_accuracy"),
        validation_accuracy_sd=deviation("final_validation_accuracy"),
        test_accuracy_mean=mean("test_accuracy"),
        test_accuracy_sd=deviation("test_accuracy"),
        seconds_mean=mean("training_seconds"),
        images_per_second_mean=mean("training_images_per_second"),
    )


def to_csv(rows: Sequence[Row]) -> str:
    """Write the rows as CSV, one column per field; a missing standard deviation is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def from_csv(text: str) -> list[Row]:
    """Read the rows written by `to_csv`."""
    found = [{name: value or None for name, value in row.items()} for row in csv.DictReader(io.StringIO(text))]
    return TypeAdapter(list[Row]).validate_python(found)


def to_markdown(rows: Sequence[Row], caption: str) -> str:
    """Write the rows as a Markdown table below a caption."""
    lines = [HEADINGS, ["---"] + ["---:"] * (len(HEADINGS) - 1), *(_cells(row) for row in rows)]
    return f"{caption}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(rows: Sequence[Row]) -> Table:
    """Return the rows as a table for a terminal."""
    drawn = Table()
    for heading in HEADINGS:
        drawn.add_column(heading, justify="left" if heading == "recipe" else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*map(escape, _cells(row)))
    return drawn


def _cells(row: Row) -> list[str]:
    return [
        row.recipe, f"{row.parameters:,}", f"{row.macs:,}", f"{row.epochs}", f"{row.seeds}",
        _spread(row.validation_accuracy_mean, row.validation_accuracy_sd),
        _spread(row.test_accuracy_mean, row.test_accuracy_sd),
        f"{row.seconds_mean:,.{0 if row.seconds_mean >= 10 else 1}f}", f"{row.images_per_second_mean:,.0f}",
    ]  # fmt: skip


def _spread(mean: float, deviation: float | None) -> str:
    return f"{100 * mean:.2f}" + (f" ± {100 * deviation:.2f}" if deviation is not None else "")
