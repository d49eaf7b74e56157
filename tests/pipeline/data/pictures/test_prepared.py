import logging
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from rich.logging import RichHandler

from pipeline.data.pictures import prepared
from pipeline.data.pictures.listing import File, scan
from pipeline.data.pictures.prepared import Prepared
from preparation import Form
from tests.pipeline.data.pictures.folders import COLOUR, EDGE, STROKE, draw, make
from tests.preparation.pictures import symbol


def prepare(folder: Path, size: int = 28, preparation: dict[str, str] = EDGE) -> Prepared:
    return prepared.prepare(scan(folder), size, preparation, folder.parent / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "set", {"club": 3, "star": 2})


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read."""
    files = list[str]()
    read = prepared._read

    def listed(folder: Path, form: Form, file: File) -> object:
        files.append(file.path)
        return read(folder, form, file)

    monkeypatch.setattr(prepared, "_read", listed)
    return files


def test_pictures_are_in_the_order_of_their_files(folder: Path) -> None:
    done = prepare(folder, 20)
    assert [file.path for file in done.files] == ["club/0.png", "club/1.png", "club/2.png", "star/0.png", "star/1.png"]
    assert done.images.shape == (5, 20, 20)
    assert done.images.dtype == np.uint8
    for file, size in zip(done.files, done.sizes, strict=True):
        with Image.open(folder / file.path) as picture:
            assert picture.size == size


def test_one_picture_with_colour_makes_all_colour(folder: Path) -> None:
    grey = prepare(folder).images
    draw(folder / "star" / "9.png", "S", 9, COLOUR)
    colour = prepare(folder).images
    assert colour.shape == (6, 28, 28, 3)
    assert np.array_equal(colour[:5], np.repeat(grey[..., None], 3, 3))
    assert prepare(folder, preparation=STROKE).images.shape == (6, 28, 28)


def as_text(file: Path) -> None:
    file.write_text("not a picture\n")


def cut(file: Path) -> None:
    symbol("A", (400, 400)).save(file, "JPEG")
    file.write_bytes(file.read_bytes()[:2000])


def as_bomb(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    file.write_bytes(content)


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (as_text, "is not a picture that Pillow can read"),
    "empty": (lambda file: file.write_bytes(b""), "is not a picture that Pillow can read"),
    "cut": (cut, "is damaged (image file is truncated"),
    "bomb": (as_bomb, "has 60000x60000 pixels, more than 50 million"),
    "eps": (lambda file: symbol("A").save(file, "EPS"), "is not a picture that Pillow can read"),
    "gone": (lambda file: file.unlink(), "cannot be read (No such file"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_file_is_left_out_with_the_reason(kind: str, folder: Path) -> None:
    damage, reason = UNREADABLE[kind]
    listing = scan(folder)
    damage(folder / "club" / "1.png")
    done = prepared.prepare(listing, 28, EDGE, folder.parent / "cache")
    assert [file.path for file in done.files] == ["club/0.png", "club/2.png", "star/0.png", "star/1.png"]
    [(path, problem)] = done.unreadable
    assert path == "club/1.png"
    assert problem.startswith(reason)
    assert "\n" not in problem


def test_picture_of_too_many_pixels_is_not_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_bomb(folder / "club" / "1.png")
    decoded = list[tuple[int, int]]()
    monkeypatch.setattr(Image.Image, "draft", lambda self, _mode, _size: decoded.append(self.size))
    prepare(folder)
    assert len(decoded) == 4
    assert (60_000, 60_000) not in decoded


def test_blank_picture_is_unreadable_for_stroke_alone(folder: Path) -> None:
    Image.new("L", (50, 50), 255).save(folder / "club" / "1.png")
    assert prepare(folder, preparation=STROKE).unreadable == (("club/1.png", "is blank"),)
    assert prepare(folder).unreadable == ()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation_is_applied(kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate clockwise by 90 degrees for display
    upright = symbol("7", (80, 60))
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
    upright.save(tmp_path / "set" / "a" / "1.png")
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "set" / "b" / "1", kind, exif=exif, **options)
    one, other = prepare(tmp_path / "set").images.astype(int)
    assert np.abs(one - other).mean() < 2


def test_formats_of_pillow_are_read(tmp_path: Path) -> None:
    kinds = ("GIF", "TIFF", "PPM", "ICO", "TGA", "BMP", "PNG", "WEBP")
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for kind in kinds:
            symbol("7", (64, 64)).save(tmp_path / "set" / name / kind, kind)
    done = prepare(tmp_path / "set")
    assert done.unreadable == ()
    assert len(done.images) == 2 * len(kinds)


def test_second_run_reads_nothing(folder: Path, reads: list[str]) -> None:
    as_text(folder / "club" / "1.png")
    first = prepare(folder)
    assert len(reads) == 5
    again = prepare(folder)
    assert len(reads) == 5
    assert np.array_equal(again.images, first.images)
    assert (again.files, again.sizes, again.unreadable) == (first.files, first.sizes, first.unreadable)


def test_reason_outside_the_file_is_not_kept(folder: Path, reads: list[str]) -> None:
    listing = scan(folder)
    moved = (folder / "club" / "1.png").rename(folder.parent / "elsewhere.png")
    assert len(prepared.prepare(listing, 28, EDGE, folder.parent / "cache").unreadable) == 1
    moved.rename(folder / "club" / "1.png")
    assert prepare(folder).unreadable == ()


CHANGES: dict[str, Callable[[Path], object]] = {
    "added": lambda folder: draw(folder / "star" / "9.png", "S", 9),
    "changed": lambda folder: draw(folder / "star" / "1.png", "S", 9),
    "removed": lambda folder: (folder / "star" / "1.png").unlink(),
    "renamed": lambda folder: (folder / "star" / "1.png").rename(folder / "star" / "0a.png"),
    "moved": lambda folder: shutil.move(folder / "star" / "1.png", folder / "club" / "7.png"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_folder_is_read_again(change: str, folder: Path, reads: list[str]) -> None:
    prepare(folder)
    before = len(reads)
    CHANGES[change](folder)
    changed = prepare(folder)
    assert len(reads) > before
    shutil.rmtree(folder.parent / "cache")
    assert np.array_equal(prepare(folder).images, changed.images)


def test_each_form_has_a_cache_of_its_own(folder: Path, reads: list[str]) -> None:
    forms = [(28, EDGE), (20, EDGE), (28, {"name": "fit", "background": "black"}), (28, STROKE)]
    shapes = [prepare(folder, *form).images.tobytes() for form in forms]
    assert len(reads) == 20
    assert [prepare(folder, *form).images.tobytes() for form in forms] == shapes
    assert len(reads) == 20
    assert len(set(shapes)) == 4


def test_other_code_reads_again(folder: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(folder)
    monkeypatch.setattr("PIL.__version__", "0")
    prepare(folder)
    assert len(reads) == 10


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "text"])
def test_damaged_cache_is_rebuilt(
    damage: str, folder: Path, reads: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = prepare(folder)
    [file] = (folder.parent / "cache").iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"flipped": bytes(content), "cut": bytes(content[:-100]), "empty": b"", "text": b"not an archive"}
    file.write_bytes(damaged[damage])
    assert np.array_equal(prepare(folder).images, first.images)
    assert len(reads) == 10
    assert f"{file} is damaged" in caplog.text
    prepare(folder)
    assert len(reads) == 10
    assert list((folder.parent / "cache").iterdir()) == [file]


def test_cache_that_cannot_be_written_is_reported(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder.parent / "cache").write_text("a file in its place")
    assert len(prepare(folder).images) == 5
    assert "The prepared pictures cannot be kept" in caplog.text


def test_progress_is_in_the_log_without_a_terminal(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "SECONDS_BETWEEN_LINES", 0)
    with caplog.at_level(logging.INFO, "pipeline"):
        prepare(folder)
    assert [line for line in caplog.messages if line.startswith("Read ")] == [
        f"Read {number} of 5 pictures." for number in range(1, 5)
    ]


def test_progress_is_a_bar_on_the_terminal_of_the_log(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    console = Console(force_terminal=True, record=True, width=80)
    handler = RichHandler(console=console)
    logging.getLogger().addHandler(handler)
    try:
        prepare(folder)
    finally:
        logging.getLogger().removeHandler(handler)
    assert "reading pictures" in console.export_text()
    assert "Read " not in caplog.text
