"""Time and memory of decoding large picture files: `python -m benchmarks.serving.picture_costs [--megapixels 24]`.

How it is measured: each kind of file is decoded once in a process of its own, on a page with one stroke and on noise,
which compresses badly. Prints a Markdown table: nanoseconds a pixel, measured and as `serving.decoding.headers`
estimates them, and the memory above that before decoding. Time is that of the process on its core.
"""

import argparse
import io
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness.tables import markdown
from serving.contract import MNIST
from serving.decoding import headers, pictures
from serving.errors import RequestError

MEBIBYTE = 2**20
FAST: dict[str, Any] = {"compress_level": 1}
KINDS: list[tuple[str, str, dict[str, Any]]] = [
    *[(mode, "PNG", FAST) for mode in ("1", "P", "L", "LA", "RGB", "RGBA", "I;16")],
    ("L", "JPEG", {}),
    ("RGB", "JPEG", {}),
    ("RGB", "JPEG", {"progressive": True}),
    ("RGB", "JPEG", {"quality": 100, "subsampling": 0}),
    ("CMYK", "JPEG", {}),
    *[(mode, "WEBP", {"method": 0, "lossless": exact}) for exact in (False, True) for mode in ("RGB", "RGBA")],
    *[(mode, "BMP", {}) for mode in ("1", "L", "RGB", "RGBA")],
]


def _page(width: int, height: int, noisy: bool) -> Image.Image:
    if noisy:
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), np.uint8)
        pixels[:, : width // 8] = 255
        return Image.fromarray(pixels)
    page = Image.new("L", (width, height), 255)
    page.paste(0, (width // 3, height // 3, width // 2, height * 2 // 3))
    return page


def _as_mode(page: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(page.convert("L")).astype(np.uint16) * 257)
    return (page.convert("RGB") if mode in ("CMYK", "P") else page).convert(mode)


def _files(pixels: int) -> Iterator[tuple[str, bytes]]:
    side = round((pixels / 1.5) ** 0.5)
    for about, noisy in (("page", False), ("noise", True)):
        page = _page(side * 3 // 2, side, noisy)
        for mode, kind, options in KINDS:
            content = io.BytesIO()
            _as_mode(page, mode).save(content, kind, **options)
            named = " ".join(name for name in ("progressive", "lossless", "quality") if options.get(name))
            yield f"{kind} {mode} {named} {about}", content.getvalue()
    for mode in ("L", "RGBA"):
        content = io.BytesIO()
        _as_mode(_page(1, pixels // 4, False), mode).save(content, "PNG", **FAST)
        yield f"PNG {mode} one column", content.getvalue()


def _decode(content: bytes, results: Connection) -> None:
    digit = io.BytesIO()
    _page(28, 28, False).save(digit, "PNG")
    pictures.from_pictures([digit.getvalue()], 784)  # imports and first allocations
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _memory("VmRSS")
    header = headers.read_header(content)
    began = time.process_time()
    try:
        pictures.Pictures([header], header.seconds).decode(MNIST)
    except RequestError as refused:
        assert refused.status == 422, refused
    seconds = time.process_time() - began
    results.send((header, seconds, _memory("VmHWM") - before))


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main() -> None:
    """Measure all kinds of files and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megapixels", type=float, default=24, help="pixels of each picture, in millions")
    pixels = round(parser.parse_args().megapixels * 1e6)
    rows = []
    for name, content in _files(pixels):
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=_decode, args=(content, theirs))
        process.start()
        header, seconds, memory = ours.recv()
        process.join()
        each = 1e9 / (header.width * header.height)
        cells = (f"{len(content) / MEBIBYTE:.1f}", f"{seconds * each:.1f}", f"{header.seconds * each:.1f}")
        rows.append((name, *cells, f"{header.seconds / seconds:.1f}", f"{memory / MEBIBYTE:.0f}"))
    print(markdown(("file", "MiB", "ns/pixel", "estimate", "estimate / measured", "memory, MiB"), rows))


if __name__ == "__main__":
    main()
