import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.decoding.pictures import from_pictures
from serving.errors import RequestError
from serving.model.onnx_file import Model

Digits = tuple[np.ndarray, np.ndarray]
PIXELS = 25_000_000


def encoded(picture: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def enlarged(digit: np.ndarray, factor: int = 10) -> np.ndarray:
    size = (28 * factor, 28 * factor)
    return np.asarray(Image.fromarray(digit).resize(size, Image.Resampling.BICUBIC))


def decode(content: bytes) -> np.ndarray:
    images = from_pictures([content], PIXELS)
    assert images.dtype == np.uint8
    assert images.shape == (1, 28, 28)
    image: np.ndarray = images[0]
    return image


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference as a share of the mean ink."""
    return float(np.abs(one.astype(float) - other).sum() / other.sum())


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
@pytest.mark.parametrize("inverted", [False, True])
def test_mnist_digit_is_unchanged(test_digits: Digits, kind: str, inverted: bool) -> None:
    for digit in test_digits[0][:50]:
        picture = 255 - digit if inverted else digit
        assert np.array_equal(decode(encoded(picture, kind)), digit)


def test_off_centre_digit_is_centred(test_digits: Digits) -> None:
    for digit in test_digits[0][:50]:
        page = np.pad(digit, ((0, 40), (25, 3)))
        assert difference(decode(encoded(page)), digit) < 0.02


def as_modes(digit: np.ndarray) -> dict[str, Image.Image]:
    """One digit as a picture in each colour mode and colouring that people upload."""
    large = enlarged(digit)
    ink, paper = Image.fromarray(large), Image.fromarray(255 - large)
    clear = Image.new("L", ink.size, 0)
    coloured = Image.merge("RGB", (ink, ink.point(lambda value: value // 2), clear))
    return {
        "light on dark": ink,
        "dark on light": paper,
        "colour": coloured,
        "palette": coloured.quantize(64),
        "black on transparent": Image.merge("LA", (clear, ink)),
        "white on transparent": Image.merge("RGBA", (*[Image.new("L", ink.size, 255)] * 3, ink)),
        "dark on light, opaque alpha": paper.convert("RGBA"),
        "16 bit": Image.fromarray(large.astype(np.uint16) * 257),
        "16 bit dark on light": Image.fromarray((255 - large).astype(np.uint16) * 257),
        "one bit": paper.convert("1"),
        "wide": Image.fromarray(np.pad(255 - large, ((0, 0), (300, 700)), constant_values=255)),
        "small": Image.fromarray(digit).resize((17, 17), Image.Resampling.BOX),
        "grey on grey": Image.fromarray((100 + large // 4).astype(np.uint8)),
    }


@pytest.mark.parametrize("mode", list(as_modes(np.zeros((28, 28), np.uint8))))
def test_every_picture_mode_keeps_the_prediction(model_file: Path, test_digits: Digits, mode: str) -> None:
    model = Model.load(model_file)
    images = test_digits[0][:100]
    decoded = np.concatenate([decode(encoded(as_modes(digit)[mode]))[None] for digit in images])
    same = model.predict(decoded).argmax(1) == model.predict(images).argmax(1)
    assert same.mean() >= (0.85 if mode == "small" else 0.93)


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 60}), ("WEBP", {}), ("WEBP", {"lossless": True})])
def test_lossy_formats_keep_the_prediction(
    model_file: Path, test_digits: Digits, kind: str, options: dict[str, object]
) -> None:
    model = Model.load(model_file)
    images = test_digits[0][:100]
    decoded = from_pictures([encoded(255 - enlarged(digit), kind, **options) for digit in images], PIXELS)
    same = model.predict(decoded).argmax(1) == model.predict(images).argmax(1)
    assert same.mean() >= 0.93


def test_noisy_paper_keeps_the_prediction(model_file: Path, test_digits: Digits) -> None:
    model = Model.load(model_file)
    random = np.random.default_rng(0)
    images = test_digits[0][:100]
    photographs = []
    for digit in images:
        page = np.pad(enlarged(digit, 8).astype(float), 40)
        grey = 200 - 0.6 * page + random.normal(0, 5, page.shape)
        photographs.append(encoded(np.clip(grey, 0, 255).astype(np.uint8), "JPEG", quality=80))
    same = model.predict(from_pictures(photographs, PIXELS)).argmax(1) == model.predict(images).argmax(1)
    assert same.mean() >= 0.9


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_is_applied(test_digits: Digits, kind: str) -> None:
    large = Image.fromarray(enlarged(test_digits[0][0]))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate clockwise by 90 degrees for display
    sideways = encoded(large.rotate(90), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert difference(decode(sideways), decode(encoded(large))) < 0.15


def test_digit_is_scaled_to_20_pixels_with_proportions_kept() -> None:
    picture = np.zeros((300, 500), np.uint8)
    picture[50:250, 100:150] = 255
    decoded = decode(encoded(picture))
    rows, columns = np.flatnonzero(decoded.any(1)), np.flatnonzero(decoded.any(0))
    assert len(rows) == 20
    assert len(columns) in (5, 6)
    assert decoded.max() == 255


def test_uniform_picture_is_blank() -> None:
    for picture in (np.zeros((28, 28), np.uint8), np.full((300, 200), 255, np.uint8)):
        with pytest.raises(RequestError, match="picture 1 of 1 is blank") as refused:
            decode(encoded(picture))
        assert refused.value.status == 422


def test_oversized_picture_is_refused_before_decoding(test_digits: Digits) -> None:
    bomb = bytearray(encoded(test_digits[0][0]))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # PNG's header, width and height
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    with pytest.raises(RequestError, match=r"picture 2 of 2 has 60000x60000 pixels, .*at most 784 ") as refused:
        from_pictures([encoded(test_digits[0][0]), bytes(bomb)], 784)
    assert refused.value.status == 413


def test_pixel_limit_covers_all_pictures_of_a_request(test_digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [encoded(digit) for digit in test_digits[0][:3]]
    assert len(from_pictures(files, 3 * 784)) == 3
    decoded = list[str]()
    monkeypatch.setattr("serving.decoding.pictures._prepared", lambda _header, _form, which: decoded.append(which))
    with pytest.raises(
        RequestError, match=r"picture 3 of 3 has 28x28 pixels, .* 2352; expected at most 2351 "
    ) as refused:
        from_pictures(files, 3 * 784 - 1)
    assert refused.value.status == 413
    assert decoded == []


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PPM", "ICO"])
def test_unsupported_picture_formats_are_refused(test_digits: Digits, kind: str) -> None:
    with pytest.raises(RequestError, match="expected a PNG, JPEG, WebP or BMP file") as refused:
        decode(encoded(test_digits[0][0], kind))
    assert refused.value.status == 415


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_damaged_picture_is_refused(test_digits: Digits, kind: str) -> None:
    content = encoded(enlarged(test_digits[0][0]), kind)
    for damaged in (content[:20], content[: len(content) // 2], b"", b"a text file\n"):
        with pytest.raises(RequestError, match="is not a picture that can be read") as refused:
            decode(damaged)
        assert refused.value.status == 415
