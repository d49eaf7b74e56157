"""Print the bill of materials of an image in CycloneDX 1.6 (JSON), from the packages that are installed in it.

    python .ci/sbom.py serve --version 0.1.0

The Dockerfiles mount this file for one instruction, so it needs only the standard library. It lists the Python that
runs it, the distributions of its virtual environment and of the base image, and Debian's packages. Equal packages give
equal bytes: there is no time in it, and the serial number is a digest of the content.
"""

import argparse
import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import uuid
from typing import Any
from urllib.parse import quote

Component = dict[str, Any]
DPKG = "${Package}\t${Version}\t${Architecture}\t${db:Status-Abbrev}\n"


def python_components() -> list[Component]:
    """Return this Python and its distributions, with the licence that each one states."""
    python = {"type": "platform", "name": "python", "version": platform.python_version()}
    found = [identified(python, f"pkg:generic/python@{platform.python_version()}")]
    base = sysconfig.get_path("purelib", vars={"base": sys.base_prefix})
    for distribution in importlib.metadata.distributions(path=[*sys.path[1:], base]):
        name = re.sub(r"[-_.]+", "-", distribution.name).lower()
        component = {"type": "library", "name": name, "version": distribution.version}
        expression = distribution.metadata.get("License-Expression")
        stated = distribution.metadata.get("License", "").strip()
        if expression:
            component["licenses"] = [{"expression": expression}]
        elif stated and "\n" not in stated:  # older packages put the whole text there
            component["licenses"] = [{"license": {"name": stated}}]
        found.append(identified(component, f"pkg:pypi/{name}@{quote(distribution.version, safe='')}"))
    once = {component["purl"]: component for component in found}
    return [once[purl] for purl in sorted(once)]


def debian_components() -> list[Component]:
    """Return the installed packages of Debian; none on a system without them."""
    dpkg = shutil.which("dpkg-query")
    if not dpkg:
        return []
    command = [dpkg, "--show", f"--showformat={DPKG}"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    components = []
    for name, version, architecture, status in sorted(line.split("\t") for line in listed.splitlines()):
        if status.startswith("ii"):
            component = {"type": "library", "name": name, "version": version}
            purl = f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='')}?arch={architecture}"
            components.append(identified(component, purl))
    return components


def identified(component: Component, purl: str) -> Component:
    """Return `component` with its package address, which is also its reference within the document."""
    return {**component, "purl": purl, "bom-ref": purl}


def bill(image: str, version: str) -> dict[str, Any]:
    """Return the whole document for the image `digits-{image}`."""
    content = {
        "metadata": {"component": {"type": "container", "name": f"digits-{image}", "version": version}},
        "components": python_components() + debian_components(),
    }
    serial = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(content, sort_keys=True))
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{serial}", "version": 1}
    return head | content


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print the bill of materials of an image in CycloneDX 1.6 (JSON).")
    parser.add_argument("image", help="its name without digits-")
    parser.add_argument("--version", required=True, help="version of the project")
    options = parser.parse_args()
    print(json.dumps(bill(options.image, options.version), indent=1))
