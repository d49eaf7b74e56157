"""Mutations of real bodies: each is decoded or refused, whatever it holds. `FUZZ_CASES` sets the cases of each kind.

With `FUZZ_CASES`, each run takes other cases; `--hypothesis-seed` repeats one. Without it, the cases are fixed.
"""

import os
import resource
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from .promises import DECODERS, check, corpus, with_checksums

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("FUZZ_CASES", "150"))
# Pillow's largest working memory for MAX_PIXELS is 16 bytes a pixel; this leaves room for caches and fragmentation.
MOST_MEMORY = 200 * 2**20
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 28, 500, 60_000)
WORDS = (
    *(b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"zTXt", b"acTL", b"fdAT"),
    *(bytes((0xFF, marker)) for marker in (0xD8, 0xD9, 0xDA, 0xC0, 0xC2, 0xC4, 0xDB, 0xE1, 0xEE, 0xFE)),
    *(b"Exif\0\0", b"II*\0", b"MM\0*", b"JFIF\0", b"Adobe", b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANMF", b"BM"),
    *(b'"', b":", b",", b"[", b"]", b"{}", b"[]", b"null", b"true", b"-1", b"256", b"1e400", b"\\u0061", b"images"),
    *(b"\r\n", b"\r\n--line", b"--", b"--line--", b'name="files"', b"Content-Disposition: form-data;", b'filename="a"'),
)


def flip(draw: st.DrawFn, content: bytearray, _kind: str) -> None:
    if content:
        content[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))


def cut(draw: st.DrawFn, content: bytearray, _kind: str) -> None:
    begin, length = draw(st.integers(0, len(content))), draw(st.integers(1, 600))
    del content[begin : begin + length]


def splice(draw: st.DrawFn, content: bytearray, kind: str) -> None:
    other = draw(st.sampled_from(corpus(kind)))
    begin, length = draw(st.integers(0, len(other))), draw(st.integers(1, 600))
    at = draw(st.integers(0, len(content)))
    content[at:at] = other[begin : begin + length]


def repeat(draw: st.DrawFn, content: bytearray, _kind: str) -> None:
    begin, length = draw(st.integers(0, len(content))), draw(st.integers(1, 100))
    content[begin:begin] = content[begin : begin + length] * draw(st.integers(1, 200))


def number(draw: st.DrawFn, content: bytearray, _kind: str) -> None:
    """Overwrite a number, mostly in the header."""
    most = draw(st.sampled_from((32, 64, len(content))))
    size = draw(st.sampled_from((1, 2, 4)))
    value = draw(st.sampled_from(NUMBERS)) % 256**size
    at = draw(st.integers(0, most))
    content[at : at + size] = value.to_bytes(size, draw(st.sampled_from(("little", "big"))))


def word(draw: st.DrawFn, content: bytearray, _kind: str) -> None:
    at, text = draw(st.integers(0, len(content))), draw(st.sampled_from(WORDS))
    content[at : at + draw(st.sampled_from((0, len(text))))] = text


MUTATIONS = (flip, cut, splice, repeat, number, word)


@st.composite
def bodies(draw: st.DrawFn, kind: str) -> bytes:
    content = bytearray(draw(st.sampled_from(corpus(kind))))
    for mutation in draw(st.lists(st.sampled_from(MUTATIONS), max_size=6)):
        mutation(draw, content, kind)
    return with_checksums(bytes(content)) if draw(st.booleans()) else bytes(content)


@pytest.fixture(scope="module")
def counts(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Count the cases, and print the counts at the end."""
    counted: Counter[str] = Counter()
    yield counted
    shown = ", ".join(f"{number} {kind}" for kind, number in counted.items())
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        print(f"\nfuzz cases: {sum(counted.values())} ({shown})")


@pytest.mark.parametrize("kind", DECODERS)
def test_any_body_is_decoded_or_refused(kind: str, counts: Counter[str]) -> None:
    before = _most_memory()

    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        derandomize="FUZZ_CASES" not in os.environ,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(bodies(kind))
    def decode(content: bytes) -> None:
        counts[f"{kind} {'decoded' if check(kind, content) else 'refused'}"] += 1

    decode()
    assert counts[f"{kind} decoded"] > 0
    assert counts[f"{kind} refused"] > 0
    assert _most_memory() < before + MOST_MEMORY


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
