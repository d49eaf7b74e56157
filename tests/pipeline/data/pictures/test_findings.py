import logging
from pathlib import Path

import pytest

from pipeline.data.pictures.findings import FolderReport

CLEAN = FolderReport(Path("set"), {"a": 1200, "b": 20}, (8, 9), (640, 480), (), (), ())


def lines(report: FolderReport, caplog: pytest.LogCaptureFixture) -> dict[str, str]:
    """The lines of the log with their levels."""
    with caplog.at_level(logging.INFO, "pipeline"):
        report.log()
    return {record.getMessage(): record.levelname for record in caplog.records}


def test_clean_folder_has_no_warnings(caplog: pytest.LogCaptureFixture) -> None:
    assert lines(CLEAN, caplog) == {
        "set: 1,220 pictures of 2 classes, 8x9 to 640x480 pixels.": "INFO",
        "Pictures per class: a 1,200, b 20.": "INFO",
    }


def test_ten_unreadable_files_are_listed(caplog: pytest.LogCaptureFixture) -> None:
    unreadable = tuple((f"a/{number}.png", "is blank") for number in range(12))
    report = FolderReport(Path("set"), CLEAN.counts, (8, 9), (640, 480), unreadable, (), ())
    [line] = [line for line, level in lines(report, caplog).items() if level == "WARNING"]
    assert line.startswith("Left out, because they cannot be read: 12 files (a/0.png is blank, a/1.png is blank,")
    assert line.endswith("a/9.png is blank and 2 more).")


def test_what_may_spoil_the_result_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    shared = (("a/1.png", "b/2.png"), ("a/3.png", "b/3.png"))
    report = FolderReport(Path("set"), {"a": 19, "b": 20, "c": 3}, (8, 9), (640, 480), (), shared, ("x.png", "y.png"))
    assert report.few == ("a", "c")
    assert [line for line, level in lines(report, caplog).items() if level == "WARNING"] == [
        "Left out: pictures outside the classes (x.png, y.png); move each to the folder of its class.",
        "Equal pictures in two classes (a/1.png = b/2.png, a/3.png = b/3.png): remove the one with the wrong class.",
        "Classes with fewer than 20 pictures: a, c; add some.",
    ]
