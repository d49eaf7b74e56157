"""Install locked requirements, torch and the project into the virtual environment of the Python that runs this.

    .venv/bin/python .ci/install.py requirements/run.txt --torch-index https://download.pytorch.org/whl/cpu

uv installs in a fraction of pip's time. pip installs uv itself, and everything else if uv fails. Imports only the
standard library, because nothing else is installed yet.
"""

import argparse
import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "requirements"
PIP = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
UV = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable]
# uv ignores pip's configuration; these variables of uv have the same meaning.
UV_VARIABLES = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "cert": ("SSL_CERT_FILE", " "),
}
# An index that does not answer must not end a fresh clone's first command: the configured index has torch as well.
IMPATIENT = {"UV_HTTP_RETRIES": "1", "UV_HTTP_TIMEOUT": "15", "PIP_RETRIES": "1", "PIP_TIMEOUT": "15"}


def uv_environment(pip_configuration: str) -> dict[str, str]:
    """Translate the output of `pip config list` into variables of uv, except those that are set already.

    As in pip, the section `install` wins over `global`, and environment variables (`:env:`) win over both.
    """
    translated = {}
    lines = re.findall(r"^(global|install|:env:)\.([a-z-]+)=(.+)$", pip_configuration, re.MULTILINE)
    for _, option, value in sorted(lines, key=lambda line: ("global", "install", ":env:").index(line[0])):
        if option in UV_VARIABLES:
            variable, separator = UV_VARIABLES[option]
            translated[variable] = separator.join(str(ast.literal_eval(value)).split())
    return {variable: value for variable, value in translated.items() if variable not in os.environ}


def locked_uv() -> str:
    """Return the entry of uv in the lock: its version and hashes."""
    entry = re.search(r"^uv==(?:.*\\\n)*.*\n", (REQUIREMENTS / "dev.txt").read_text(), re.MULTILINE)
    return entry.group() if entry else "uv"


class Installer:
    """uv, or pip once uv has failed."""

    def __init__(self) -> None:
        """Install uv at its locked version and hashes unless it is there, and read pip's configuration for it."""
        command = [*PIP[:3], "config", "list"]
        listed = subprocess.run(command, check=False, capture_output=True, text=True).stdout  # noqa: S603
        # pip takes the best version of all indexes; by default, uv takes that of the first index with the package.
        self.environment = {"UV_INDEX_STRATEGY": "unsafe-best-match", **uv_environment(listed)}
        self.command = UV
        if not find_spec("uv"):
            with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirement:
                requirement.write(locked_uv())
                requirement.flush()
                if not self._run([*PIP, "--require-hashes", "--no-deps", "-r", requirement.name]):
                    print("uv cannot be installed; pip installs everything instead", flush=True)
                    self.command = PIP

    def install(self, *arguments: str) -> None:
        """Install; exit with 1 if neither uv nor pip can."""
        if self.command == UV and not self._run([*UV, *arguments]):
            print("uv failed; pip installs instead", flush=True)
            self.command = PIP
        if self.command == PIP and not self._run([*PIP, *arguments]):
            sys.exit(1)

    def install_torch(self, index: str) -> None:
        """Install torch from `index`, or from the configured index if `index` is empty or unavailable."""
        requirements = REQUIREMENTS / "torch.txt"
        if _satisfied(requirements):
            return
        arguments = ["-r", str(requirements)]
        if index:
            # For uv, UV_DEFAULT_INDEX would win over --index-url.
            option = "--default-index" if self.command == UV else "--index-url"
            if self._run([*self.command, option, index, *arguments], **IMPATIENT):
                return
            print(f"{index} is unavailable; torch comes from the configured package index", flush=True)
        self.install(*arguments)

    def _run(self, command: list[str], **environment: str) -> bool:
        """Run an installer and return whether it succeeded; only a terminal shows its progress."""
        quiet = [] if sys.stdout.isatty() else ["--quiet"]
        environment = {**os.environ, **self.environment, **environment}
        return subprocess.run([*command, *quiet], check=False, cwd=ROOT, env=environment).returncode == 0  # noqa: S603


def _satisfied(requirements: Path) -> bool:
    """Return whether each `name==version` is installed, whatever its local version (`+cpu`)."""
    pairs = re.findall(r"^([a-z]+)==(.+)$", requirements.read_text(), re.MULTILINE)
    installed = {each.name: each.version.split("+")[0] for each in importlib.metadata.distributions()}
    return all(installed.get(name) == version for name, version in pairs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Install locked requirements, torch and the project.")
    parser.add_argument("lock", help="a file of requirements with hashes")
    parser.add_argument("--torch-index", default="", help="package index of torch; empty: the configured one")
    options = parser.parse_args()
    installer = Installer()
    installer.install("--require-hashes", "--no-deps", "-r", options.lock)
    installer.install_torch(options.torch_index)
    # The lock has setuptools, which builds the project without a download.
    installer.install("--no-deps", "--no-build-isolation", "--editable", str(ROOT))
