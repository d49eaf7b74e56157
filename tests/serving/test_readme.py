"""The requests of README and API page, pasted into a shell or into Python as they stand."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from tests.processes import ROOT
from tests.serving.conftest import Service

README = (ROOT / "README.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()


def blocks(language: str, page: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def run(service: Service, *command: str) -> str:
    *program, text = command
    pasted = text.replace("http://localhost:3000", service.url.rstrip("/"))
    assert pasted != text
    done = subprocess.run([*program, pasted], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def curl(service: Service, page: str) -> list[Any]:
    return [json.loads(run(service, "bash", "-euc", block)) for block in blocks("bash", page) if "curl" in block]


def test_curl_in_readme_reads_the_bundled_picture(service: Service) -> None:
    (answers,) = curl(service, README)
    assert "This one holds a 7" in README
    assert [answer["digit"] for answer in answers] == [7]


def test_requests_in_readme_need_no_pipe() -> None:
    (block,) = [block for block in blocks("bash", README) if "curl" in block]
    assert "|" not in block and "\\" not in block and block.count("\n") == 1


def test_curl_on_api_page_sends_two_pictures_and_explains_one(service: Service) -> None:
    answers, explanation = curl(service, API)
    assert [answer["digit"] for answer in answers] == [7, 7]
    assert explanation["digit"] == 7
    table = API[API.index("## Explanations") :]
    for field in explanation:
        assert f"`{field}`" in table, field


@pytest.mark.parametrize("page", [README, API], ids=["readme", "api"])
def test_python_clients_print_the_three_digits(service: Service, page: str) -> None:
    digits = re.search(r"(\d),\s+(\d)\s+and\s+(\d)", page)
    assert digits
    (block,) = blocks("python", page)
    printed = run(service, sys.executable, "-c", block)
    assert [line.split()[0] for line in printed.splitlines()] == list(digits.groups())
