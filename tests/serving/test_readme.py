"""The requests in the README work as written."""

import json
import re
import subprocess
import sys

from tests.processes import ROOT
from tests.serving.conftest import Service

README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    blocks: list[str] = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    return [block for block in blocks if "curl" in block]


def run(command: str, service: Service, cwd: str) -> list[dict[str, float]]:
    pasted = command.replace("http://localhost:3000", service.url.rstrip("/"))
    assert pasted != command
    done = subprocess.run(["bash", "-euc", pasted], cwd=cwd, capture_output=True, text=True, check=True)
    answers: list[dict[str, float]] = json.loads(done.stdout)
    return answers


def test_raw_digits_of_the_bundled_file(service: Service) -> None:
    answers = run(commands()[0], service, str(ROOT))
    expected = re.search(r"they are (\d), (\d) and (\d)", README)
    assert expected
    assert [answer["digit"] for answer in answers] == [int(digit) for digit in expected.groups()]


def test_picture_file(service: Service, tmp_path, test_digits) -> None:
    from PIL import Image

    Image.fromarray(255 - test_digits[0][0]).resize((300, 300)).save(tmp_path / "digit.png")
    (answer,) = run(commands()[1], service, str(tmp_path))
    assert answer["digit"] == test_digits[1][0]


def test_python_client(service: Service) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = block.replace("http://localhost:3000", service.url) + "print(len(answers))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
