"""Compare the locked versions with the advisories of OSV (osv.dev), by pip-audit.

    .venv/bin/python .ci/audit.py [--ignore-vuln ID] [other options of pip-audit]

Exits with 0 if no version has an advisory, 1 after a list of them, 3 if the database cannot be reached: then nothing is
known. pip-audit itself would end with a traceback and 1, or with its default database, PyPI, report a mirror without
advisories as a clean result.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).parents[1] / "requirements"
LOCKS = ("dev", "torch", "servers", "tensorflow", "scale")  # those of the images are subsets of dev.txt
COMMAND = [sys.executable, "-m", "pip_audit", "--vulnerability-service", "osv", "--disable-pip", "--no-deps"]
OUTPUT = ["--progress-spinner", "off", "--format", "json", "--desc", "off"]
FOUND, USAGE, UNKNOWN = 1, 2, 3


def main() -> int:
    """Print one line per advisory and return the exit code."""
    advisories, compared = set(), 0
    for lock in LOCKS:  # one by one: pip-audit refuses files with hashes next to files without
        requirements = ["-r", str(REQUIREMENTS / f"{lock}.txt")]
        command = [*COMMAND, *OUTPUT, *requirements, *sys.argv[1:]]
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
        if done.returncode == USAGE:
            print(done.stderr, file=sys.stderr)
            return USAGE
        try:
            dependencies = json.loads(done.stdout)["dependencies"]
        except ValueError:
            cause = (done.stderr.strip().splitlines() or ["no message"])[-1]
            print(f"No advisory was read, so nothing is known about {lock}.txt: {cause}", file=sys.stderr)
            return UNKNOWN
        compared += len(dependencies)
        advisories |= {line(each, advisory) for each in dependencies for advisory in each["vulns"]}
    print(*sorted(advisories), f"{compared} packages compared with the advisories of OSV", sep="\n")
    return FOUND if advisories else 0


def line(package: dict[str, Any], advisory: dict[str, Any]) -> str:
    """Name a package, one of its advisories and the versions without it."""
    names = " ".join([advisory["id"], *advisory["aliases"]])
    return f"{package['name']} {package['version']}: {names}, fixed in {', '.join(advisory['fix_versions']) or 'none'}"


if __name__ == "__main__":
    sys.exit(main())
