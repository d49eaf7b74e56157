import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.inference.cores import usable_cores
from tests.processes import ROOT

AFFINITY = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("workers", "threads", "started"),
    [("auto", 1, usable_cores()), ("auto", usable_cores(), 1), ("auto", 256, 1), ("3", 256, 3)],
)
def test_auto_starts_one_worker_per_group_of_cores(workers: str, threads: int, started: int) -> None:
    environment = {**os.environ, "SERVING_WORKERS": workers, "SERVING_THREADS": str(threads)}
    program = "from serving.service import Digits; print(Digits.config['workers'])"
    assert int(subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, env=environment)) == started


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def test_affinity_limits_cores_without_a_quota(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == AFFINITY
    one = next(iter(os.sched_getaffinity(0)))
    program = (
        f"import os; os.sched_setaffinity(0, [{one}]); from serving.inference.cores import *; print(usable_cores())"
    )
    assert int(subprocess.check_output([sys.executable, "-c", program], cwd=ROOT)) == 1


@pytest.mark.skipif(AFFINITY < 2, reason="a quota below one core is no quota here")
@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, AFFINITY),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "99900000 100000\n"}, AFFINITY),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "100000 100000\n"}, 1),
        ("0::/of/the/host\n", {"cpu.max": "100000 100000\n"}, 1),
        ("3:cpu,cpuacct:/a\n", {f"cpu,cpuacct/a/cpu.cfs_{p}_us": "100000\n" for p in ("quota", "period")}, 1),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, AFFINITY),
        ("3:memory:/\n", {"memory/cpu.cfs_quota_us": "100\n", "memory/cpu.cfs_period_us": "100\n"}, AFFINITY),
    ],
)
def test_quota_is_rounded_down_to_whole_cores(tmp_path: Path, groups: str, files: dict[str, str], cores: int) -> None:
    write(tmp_path, {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}})
    assert usable_cores(tmp_path) == cores
