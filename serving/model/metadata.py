"""Metadata of an ONNX file: complete, within its ranges and printable, because `/model` and the log show it."""

import re
from typing import Any

import orjson

from preparation import check
from serving.contract import CONTRACTS, MNIST, NUMBERS, TEXTS, TEXTS_OF, Form, number
from serving.model.onnx_proto import parse

GOLDEN = "golden_"  # starts the names of the golden batch, which is neither shown nor short
MOST_ENTRIES = 64
LONGEST = 1000  # characters of a value; a path of the data can be long
# Inclusive.
RANGES: dict[str, tuple[float, float]] = {
    "parameters": (1, 10**12),
    "mean": (-1e6, 1e6),
    "std": (1e-6, 1e6),
    "temperature": (1e-6, 1e6),
    "validation_accuracy": (0, 1),
    "test_accuracy": (0, 1),
}
PER_CHANNEL = ("mean", "std")
SIDES = (8, 64)  # pixels
CHANNELS = (1, 3)
CLASSES = (2, 100)
LONGEST_CLASS = 100  # characters
LONGEST_CLASSES = 2**17  # characters of JSON, in which one may be written as twelve


def read_metadata(content: bytes) -> dict[str, str]:
    """Return the metadata of the ONNX file `content`.

    Raises:
        ValueError: an entry is not UTF-8 or has the name of another one; the message continues "FILE …".
    """
    metadata: dict[str, str] = {}
    for entry in parse(content).metadata_props:
        try:
            name, text = entry.key.decode(), entry.value.decode()
        except UnicodeDecodeError:
            raise ValueError(f"has the metadata {entry.key[:LONGEST]!r} that is not UTF-8") from None
        if name in metadata:
            raise ValueError(f"has the metadata {name!r} twice")
        metadata[name] = text
    return metadata


def check_metadata(metadata: dict[str, str]) -> Form:
    """Check that the metadata has all entries of the contract and can be shown, and return the form in it.

    Raises:
        ValueError: another version of the contract, or an entry that is missing, too long, not printable or out of
            range; the message continues "FILE …".
    """
    contract = metadata.get("contract")
    if contract not in CONTRACTS:
        needed = " or ".join(map(repr, CONTRACTS))
        raise ValueError(f"has contract version {contract!r}, but this service needs {needed}")
    if len(metadata) > MOST_ENTRIES:
        raise ValueError(f"has {len(metadata)} entries of metadata, but at most {MOST_ENTRIES} are allowed")
    for name in (*TEXTS, *TEXTS_OF[contract], *NUMBERS):
        _require(metadata, name)
    for name, text in metadata.items():
        if not name.isprintable() or len(name) > LONGEST:
            raise ValueError(f"has metadata with the name {name[:LONGEST]!r}, too long or not printable")
        if name.startswith(GOLDEN):
            continue
        longest = LONGEST_CLASSES if name == "classes" else LONGEST
        if len(text) > longest:
            raise ValueError(f"has the metadata {name} of {len(text)} characters, but at most {longest} are allowed")
        if not text.isprintable():
            raise ValueError(f"has the metadata {name}={text!r}, not printable on one line")
    form = MNIST if contract == "1" else _read_form(metadata)
    for name in NUMBERS:
        _check_number(name, metadata[name], form.channels)
    return form


def _require(metadata: dict[str, str], name: str) -> str:
    if not (text := metadata.get(name)):
        raise ValueError(f"lacks the metadata {name!r} that the contract requires")
    return text


def _read_form(metadata: dict[str, str]) -> Form:
    height, width = (_whole(metadata, name, range(SIDES[0], SIDES[1] + 1)) for name in ("height", "width"))
    channels = _whole(metadata, "channels", CHANNELS)
    preparation = _json("preparation", _require(metadata, "preparation"))
    try:
        check(preparation, channels)
    except ValueError as error:
        raise ValueError(f"has pictures that cannot be prepared: {error}") from None
    return Form(metadata["dataset"], _read_classes(metadata), height, width, channels, preparation)


def _read_classes(metadata: dict[str, str]) -> tuple[str, ...]:
    names = _json("classes", _require(metadata, "classes"))
    if type(names) is not list or not all(type(name) is str for name in names):
        raise ValueError("has the metadata classes that is not a JSON list of names")
    if not CLASSES[0] <= len(names) <= CLASSES[1]:
        raise ValueError(f"has {len(names)} classes, but {CLASSES[0]} to {CLASSES[1]} are allowed")
    for name in names:
        if not name or len(name) > LONGEST_CLASS or not name.isprintable():
            raise ValueError(
                f"has the class {name[:LONGEST_CLASS]!r}, but a name has 1 to {LONGEST_CLASS} printable characters"
            )
        if names.count(name) > 1:
            raise ValueError(f"has the class {name!r} twice")
    return tuple(names)


def _json(name: str, text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise ValueError(f"has the metadata {name}={text[:40]!r} that is not JSON") from None


def _whole(metadata: dict[str, str], name: str, allowed: range | tuple[int, ...]) -> int:
    text = _require(metadata, name)
    if re.fullmatch("[0-9]{1,4}", text) and int(text) in allowed:
        return int(text)
    numbers = f"from {allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else " or ".join(map(str, allowed))
    raise ValueError(f"has the metadata {name}={text[:40]!r}, not a whole number {numbers}")


def _check_number(name: str, text: str, channels: int) -> None:
    kind = "whole number" if name == "parameters" else "number"
    lists = name in PER_CHANNEL and channels > 1
    try:
        found = number(name, text)
        values = found if isinstance(found, list) else [found]
        if lists is not isinstance(found, list) or len(values) != (channels if lists else 1):
            raise ValueError
    except ValueError:
        what = f"a JSON list of {channels} numbers" if lists else f"a {kind}"
        raise ValueError(f"has the metadata {name}={text[:40]!r}, not {what}") from None
    lowest, highest = RANGES[name]
    # In this form, NaN is out of range.
    if not all(lowest <= value <= highest for value in values):
        raise ValueError(f"has the metadata {name}={text[:40]!r}, not a {kind} from {lowest:g} to {highest:g}")
