"""Request bodies and answers of the servers that are compared."""

import re

from benchmarks.harness.processes import ROOT
from benchmarks.serving.contenders import CONTENDERS, MLFLOW, OURS, Body, digits_in, read_digits

FILES = ("dev.txt", "servers.txt")


def test_digits_are_found_in_answers_of_all_forms() -> None:
    assert digits_in([{"digit": 3, "confidence": 1.0}, {"digit": 0, "confidence": 1.0}]) == [3, 0]
    assert digits_in({"predictions": {"probabilities": [[0.1, 0.9], [0.8, 0.2]]}}) == [1, 0]


def test_bodies_have_the_form_that_each_server_accepts() -> None:
    mlflow = CONTENDERS[MLFLOW]
    assert mlflow.accepts(Body(1, raw=False)) and not mlflow.accepts(Body(1, raw=True))
    assert mlflow.content(Body(1, raw=False)).startswith(b'{"inputs": [[[0, ')
    assert CONTENDERS[OURS].content(Body(32, raw=True)) == read_digits(32).tobytes()


def test_environment_of_other_servers_has_our_versions() -> None:
    pins = [
        re.findall(r"^([a-z-]+)==([\w.]+)", (ROOT / "requirements" / file).read_text(), re.MULTILINE) for file in FILES
    ]
    locked, pinned = set(pins[0]), set(pins[1])
    assert {name for name, _ in pinned - locked} == {"litserve"}
