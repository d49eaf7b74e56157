"""One file has the same pixels in training and in service."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.pictures.listing import scan
from pipeline.data.pictures.prepared import Prepared, prepare
from serving.contract import Form
from serving.decoding.pictures import from_pictures
from tests.preparation.pictures import symbol

EDGE: dict[str, Any] = {"name": "fit", "background": "edge"}
STROKE: dict[str, Any] = {"name": "stroke"}
PIXELS = 25_000_000
RED, GREEN = (170, 40, 40), (190, 220, 190)


def save_all(folder: Path, colour: bool) -> Path:
    """Save a symbol in each format that the service reads, in several sizes and with EXIF's orientation."""
    colours = (RED, GREEN) if colour else ((30, 30, 30), (220, 220, 220))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number, size in enumerate([(28, 28), (90, 70), (500, 900), (1500, 1300)]):
            picture = symbol("R", size, *colours)
            picture.save(folder / name / f"{number}.png")
            picture.save(folder / name / f"{number}.bmp")
            picture.save(folder / name / f"{number}.jpg", quality=70)
            picture.save(folder / name / f"{number}-turned.jpg", exif=exif)
            picture.save(folder / name / f"{number}-turned.png", exif=exif)
            picture.save(folder / name / f"{number}-turned.webp", exif=exif, lossless=True)
            picture.quantize(64).save(folder / name / f"{number}-palette.png")
            clear = picture.copy()
            clear.putalpha(picture.convert("L").point(lambda value: 255 * (value < 128)))
            clear.save(folder / name / f"{number}-clear.png")
            Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * 257).save(folder / name / f"{number}-16.png")
    return folder


@pytest.mark.parametrize(("preparation", "colour"), [(STROKE, True), (STROKE, False), (EDGE, True), (EDGE, False)])
def test_picture_is_prepared_alike_in_training_and_in_service(
    preparation: dict[str, Any], colour: bool, tmp_path: Path
) -> None:
    folder = save_all(tmp_path / "set", colour)
    prepared: Prepared = prepare(scan(folder), 32, preparation, tmp_path / "cache")
    channels = 3 if colour and preparation == EDGE else 1
    assert (len(prepared.files), prepared.images.ndim) == (72, 4 if channels == 3 else 3)
    files = [(folder / file.path).read_bytes() for file in prepared.files]
    served = [
        from_pictures([file], PIXELS, Form("set", ("a", "b"), 32, 32, channels, preparation))[0] for file in files
    ]
    for image, file, answer in zip(prepared.images, prepared.files, served, strict=True):
        assert np.array_equal(image, answer), file.path
