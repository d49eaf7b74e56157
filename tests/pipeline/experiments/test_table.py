import io

import pytest
from rich.console import Console

from pipeline.experiments import table

RUNS = [
    {
        "parameters": 421_642.0,
        "macs": 4_241_152.0,
        "epochs": 8.0,
        "final_validation_accuracy": 0.99,
        "test_accuracy": accuracy,
        "training_seconds": seconds,
        "training_images_per_second": 4000.0,
    }
    for accuracy, seconds in ((0.990, 100.0), (0.992, 120.0), (0.994, 110.0))
]


def test_row_holds_mean_and_sample_deviation_over_the_runs() -> None:
    row = table.summarise("mine", RUNS)
    assert (row.parameters, row.macs, row.epochs, row.seeds) == (421_642, 4_241_152, 8, 3)
    assert [row.test_accuracy_mean, row.test_accuracy_sd] == pytest.approx([0.992, 0.002])
    assert [row.validation_accuracy_mean, row.validation_accuracy_sd] == pytest.approx([0.99, 0])
    assert (row.seconds_mean, row.images_per_second_mean) == (110, 4000)


def test_rows_survive_a_round_trip_through_csv() -> None:
    rows = [table.summarise("mine, and more", RUNS), table.summarise("one", RUNS[:1])]
    text = table.to_csv(rows)
    assert text.splitlines()[0] == ",".join(table.COLUMNS)
    assert table.from_csv(text) == rows
    assert rows[1].test_accuracy_sd is None


def test_tables_for_people_show_percent_and_thousands() -> None:
    rows = [table.summarise("mine", RUNS), table.summarise("one", RUNS[:1])]
    assert table.to_markdown(rows, "What it is.").splitlines() == [
        "What it is.",
        "",
        "| recipe | parameters | MACs | epochs | seeds | validation % | test % | seconds | images/s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| mine | 421,642 | 4,241,152 | 8 | 3 | 99.00 ± 0.00 | 99.20 ± 0.20 | 110 | 4,000 |",
        "| one | 421,642 | 4,241,152 | 8 | 1 | 99.00 | 99.00 | 100 | 4,000 |",
    ]
    console = Console(file=io.StringIO(), width=120)
    with console.capture() as capture:
        console.print(table.draw(rows))
    assert "99.20 ± 0.20" in capture.get()


def test_seconds_of_short_runs_have_a_decimal() -> None:
    row = table.summarise("mine", [RUNS[0] | {"training_seconds": 0.24}])
    assert "| 0.2 |" in table.to_markdown([row], "")
