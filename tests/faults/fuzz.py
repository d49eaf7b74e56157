"""Fuzz the decoders: `python -m tests.faults.fuzz [--seconds 60] [--cases 20000] [--seed 1]`.

With atheris installed, coverage guides the mutations; each decoder runs in a process of its
own for its share of the time. Then, and without atheris, `tests/serving/decoding/test_fuzz.py` runs with hypothesis.
Prints the number of cases. A failing body stays in build/fuzz, and the exit code is 1.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
KINDS = ("json", "raw", "form", "picture")
FAILURES = ROOT / "build" / "fuzz"
SECONDS_PER_CASE = 10  # a body that takes longer fails
MEBIBYTES = 1024


def guided(kind: str, seconds: int, seed: int) -> int:
    """Run atheris on one decoder in a process of its own; returns the number of cases, raises if a body fails."""
    from tests.serving.decoding.promises import corpus

    FAILURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for index, content in enumerate(corpus(kind)):
            (Path(folder) / str(index)).write_bytes(content)
        limits = [f"-max_total_time={seconds}", f"-timeout={SECONDS_PER_CASE}", f"-rss_limit_mb={MEBIBYTES}"]
        command = [sys.executable, "-m", "tests.faults.fuzz", "--inside", kind, folder, *limits, f"-seed={seed}"]
        command += ["-max_len=8192", f"-artifact_prefix={FAILURES}/{kind}-"]
        done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    found = re.search(r"Done (\d+) runs", done.stderr)
    if done.returncode or not found:
        raise SystemExit(f"{done.stdout}{done.stderr}\na body of kind {kind} failed; it is in {FAILURES}")
    return int(found[1])


def inside(kind: str, arguments: list[str]) -> None:
    """Run libFuzzer in this process; it ends the process."""
    import atheris

    with atheris.instrument_imports(include=["serving.decoding", "python_multipart"]):
        from tests.serving.decoding.promises import check, with_checksums

    def one(content: bytes) -> None:
        check(kind, content)
        check(kind, with_checksums(content))

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def main() -> None:
    """Fuzz every decoder and print the number of cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="time of the coverage-guided part")
    parser.add_argument("--cases", type=int, default=20_000, help="mutated bodies of the other part")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    if find_spec("atheris"):
        cases = {kind: guided(kind, max(1, chosen.seconds // len(KINDS)), chosen.seed) for kind in KINDS}
        shown = ", ".join(f"{number} {kind}" for kind, number in cases.items())
        print(f"coverage-guided cases: {sum(cases.values())} ({shown})", flush=True)
    else:
        print("atheris is not installed: only hypothesis mutates bodies", flush=True)
    each = max(1, chosen.cases // len(KINDS))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "--timeout", "1200"]
    command += [f"--hypothesis-seed={chosen.seed}", "tests/serving/decoding/test_fuzz.py"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "FUZZ_CASES": str(each)}, check=False)
    print(f"mutated cases: {len(KINDS) * each}", flush=True)
    raise SystemExit(done.returncode)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], sys.argv[3:])
    else:
        main()
