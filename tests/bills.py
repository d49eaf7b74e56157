"""Bills of materials: the schema of CycloneDX, from the package of its makers."""

import json
from pathlib import Path
from typing import Any

import cyclonedx.schema
import jsonschema_rs

SCHEMAS = Path(cyclonedx.schema.__file__).parent / "_res"


def assert_valid(bill: dict[str, Any]) -> None:
    """Raise if `bill` breaks the schema of CycloneDX 1.6, which includes the list of licences."""
    parts = ("spdx.SNAPSHOT.schema.json", "jsf-0.82.SNAPSHOT.schema.json")
    registry = jsonschema_rs.Registry([(f"http://cyclonedx.org/schema/{part}", schema(part)) for part in parts])
    jsonschema_rs.validator_for(schema("bom-1.6.SNAPSHOT.schema.json"), registry=registry).validate(bill)


def schema(name: str) -> dict[str, Any]:
    """Return a file of the schema."""
    parsed: dict[str, Any] = json.loads((SCHEMAS / name).read_text())
    return parsed


def listed(bill: dict[str, Any], kind: str) -> set[tuple[str, str]]:
    """Return names and versions of the components of `kind`: `pypi`, `deb` or `generic`."""
    return {(each["name"], each["version"]) for each in bill["components"] if each["purl"].startswith(f"pkg:{kind}/")}
