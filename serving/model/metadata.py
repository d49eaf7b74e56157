"""Metadata of an ONNX file: complete, within its ranges and printable, because `/model` and the log show it."""

from serving.contract import NUMBERS, TEXTS, number
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


def check_metadata(metadata: dict[str, str]) -> None:
    """Check that the metadata has all entries of the contract and can be shown.

    Raises:
        ValueError: it lacks an entry, or has one that is too long, not printable or out of range; the message
            continues "FILE …".
    """
    if len(metadata) > MOST_ENTRIES:
        raise ValueError(f"has {len(metadata)} entries of metadata, but at most {MOST_ENTRIES} are allowed")
    for name in (*TEXTS, *NUMBERS):
        if not metadata.get(name):
            raise ValueError(f"lacks the metadata {name!r} that the contract requires")
    for name, text in metadata.items():
        if not name.isprintable() or len(name) > LONGEST:
            raise ValueError(f"has metadata with the name {name[:LONGEST]!r}, too long or not printable")
        if name.startswith(GOLDEN):
            continue
        if len(text) > LONGEST:
            raise ValueError(f"has the metadata {name} of {len(text)} characters, but at most {LONGEST} are allowed")
        if not text.isprintable():
            raise ValueError(f"has the metadata {name}={text!r}, not printable on one line")
    for name in NUMBERS:
        _check_number(name, metadata[name])


def _check_number(name: str, text: str) -> None:
    kind = "whole number" if name == "parameters" else "number"
    try:
        value = number(name, text)
    except ValueError:
        raise ValueError(f"has the metadata {name}={text[:40]!r}, not a {kind}") from None
    lowest, highest = RANGES[name]
    # In this form, NaN is out of range.
    if not lowest <= value <= highest:
        raise ValueError(f"has the metadata {name}={text[:40]!r}, not a {kind} from {lowest:g} to {highest:g}")
