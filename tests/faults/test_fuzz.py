"""The decoders get mutated bodies: other ones each day."""

import random
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.processes import ROOT

from .conftest import SIZE

pytestmark = pytest.mark.faults
SECONDS, CASES = (60, 20_000) if SIZE == "full" else (20, 4_000)


def test_mutated_bodies_are_decoded_or_refused(chance: random.Random, count: Callable[..., None]) -> None:
    command = [sys.executable, "-m", "tests.faults.fuzz", "--seconds", str(SECONDS), "--cases", str(CASES)]
    command += ["--seed", str(chance.randrange(1, 2**31))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = sum(int(number) for number in re.findall(r" cases: (\d+)", done.stdout))
    assert cases >= CASES
    count("mutated bodies for the decoders", cases, cases)
