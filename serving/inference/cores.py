"""Number of cores that CPU affinity and a container's quota leave to this process."""

import os
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of whole cores within CPU affinity and the control group's quota (version 1 or 2), at least 1.

    BentoML's own count ignores affinity.

    Args:
        root: folder that holds `proc` and `sys`.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    quotas = [quota for folder in _groups(root) if (quota := _quota(folder)) is not None]
    return max(1, int(min([cores, *quotas])))


def _groups(root: Path) -> list[Path]:
    """Return the folders of the process's control groups and their parents; the smallest quota among them applies."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        group = mount / path.lstrip("/")
        # In a container this may be the host's path, of which the container sees only the last folder, as its root.
        folders += [folder for folder in (group, *group.parents) if folder.is_relative_to(mount)]
    return folders


def _quota(folder: Path) -> float | None:
    """Return the group's quota in cores, None if it has none."""
    try:
        if (file := folder / "cpu.max").exists():
            quota, period = file.read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{part}_us").read_text() for part in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no such file, or the word max
        return None
