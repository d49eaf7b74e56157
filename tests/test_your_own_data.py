"""The page on own pictures: its commands run as they stand, on a folder that is made here."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from pipeline.__main__ import COMMANDS
from pipeline.arguments import read
from pipeline.data.catalogue import CATALOGUE
from pipeline.data.pictures import folder as folder_of_pictures
from tests.processes import ROOT, answers, free_port, wait_until
from tests.served import assert_equals_torch, predict
from tests.symbols import SYMBOLS, make_folder

PAGE = (ROOT / "docs" / "your-own-data.md").read_text()
COMMAND_LINES = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
NAME = "symbols"  # the page's folder


def test_pipeline_commands_of_the_page_are_valid() -> None:
    lines = [line.removeprefix(".venv/bin/python -m pipeline ") for line in COMMAND_LINES if "-m pipeline" in line]
    assert len(lines) >= 3
    for line in lines:
        command, *arguments = shlex.split(line)
        read(COMMANDS[command][0], arguments, command)


def test_table_of_data_sets_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (\d+) [^|]+\|[^|]+\|[^|]+\| ([^|]+) \|", PAGE, re.MULTILINE)
    assert rows == [(name, str(len(entry.classes)), entry.licence) for name, entry in CATALOGUE.items()]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("own") / NAME)


@pytest.fixture(scope="module")
def served(pictures: Path) -> Iterator[str]:
    """The page's first command, until the service is ready; gives its address."""
    assert f"make run DATASET=folder:{NAME}" in COMMAND_LINES
    port, log = free_port(), pictures.with_name("log")
    state = {"PIPELINE_STATE_DIR": str(pictures.with_name("var")), "BENTOML_DO_NOT_TRACK": "True"}
    own = {name: text for name, text in os.environ.items() if not name.startswith(("PIPELINE_", "SERVING_", "MLFLOW_"))}
    command = ["make", "run", f"DATASET=folder:{pictures}", f"SERVE_PORT={port}", f"PYTHON={sys.executable}"]
    with log.open("wb") as output:
        process = psutil.Popen(
            command, cwd=ROOT, env=own | state, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = 5  # times the patience of one wait
        for _ in range(deadline):
            try:
                wait_until(lambda: process.poll() is not None or answers(f"http://127.0.0.1:{port}/readyz"), "ready")
                break
            except AssertionError:
                continue
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_folder_becomes_a_service_that_reads_its_test_pictures(served: str, pictures: Path) -> None:
    dataset = folder_of_pictures.load(
        pictures, 28, {"name": "fit", "background": "edge"}, pictures.with_name("var") / "data", False
    )
    test = dataset.read_test()
    answers = predict(served, test.images.numpy())
    (predictions,) = pictures.with_name("var").rglob("predictions/test.npz")
    assert_equals_torch(answers, predictions.read_bytes(), len(test), len(SYMBOLS))
    assert np.mean([answer["class"] for answer in answers] == test.labels.numpy()) >= 0.98
    model = httpx.get(f"{served}/model").json()
    assert (model["dataset"], model["classes"]) == (NAME, sorted(SYMBOLS))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_curl_of_the_page_gets_a_label(served: str, pictures: Path) -> None:
    (line,) = [line for line in COMMAND_LINES if line.startswith("curl")]
    picture = sorted((pictures / "star").glob("*.webp"))[0]
    line = line.replace(f"{NAME}/star/a.webp", str(picture)).replace("http://localhost:3000", served)
    done = subprocess.run(shlex.split(line), capture_output=True, text=True, check=True)
    (answer,) = json.loads(done.stdout)
    shown = json.loads(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1])[0]  # type: ignore[index]
    assert answer["label"] == shown["label"] == "star"
    assert answer.keys() == shown.keys()
