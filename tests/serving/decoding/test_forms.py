import numpy as np
import pytest
from python_multipart.multipart import FormParser

from serving.decoding.forms import files_of_form
from serving.decoding.pictures import from_pictures
from serving.errors import RequestError
from tests.serving.decoding.test_pictures import PIXELS, Digits, encoded


def from_form(content: bytes, content_type: bytes, max_images: int, max_pixels: int) -> np.ndarray:
    return from_pictures(files_of_form(content, content_type, max_images), max_pixels)


def form(*parts: tuple[str, bytes], end: str = "--line--\r\n") -> bytes:
    content = b""
    for disposition, value in parts:
        content += f"--line\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + value + b"\r\n"
    return content + end.encode()


FORM = b"multipart/form-data; boundary=line"
FILE = 'name="files"; filename="digit.png"'


def test_a_form_gives_its_files_in_order(test_digits: Digits) -> None:
    sent = test_digits[0][:3]
    decoded = from_form(form(*((FILE, encoded(digit)) for digit in sent)), FORM, 3, PIXELS)
    assert np.array_equal(decoded, sent)


def test_too_many_files_are_refused(test_digits: Digits) -> None:
    content = form(*((FILE, encoded(digit)) for digit in test_digits[0][:4]))
    with pytest.raises(RequestError, match="4 images are too many: at most 3") as refused:
        from_form(content, FORM, 3, PIXELS)
    assert refused.value.status == 413


@pytest.mark.parametrize(
    ("content", "content_type", "status", "said"),
    [
        (form(), FORM, 422, "holds no file"),
        (form(('name="files"', b"text")), FORM, 422, "field files holds text"),
        (form(('name="picture"; filename="a.png"', b"x")), FORM, 422, "has a field picture"),
        (form(('name=\n"two\x1blines"', b"x")), FORM, 422, r'field \?"two\?lines" holds text'),
        (form((FILE, b"text")), FORM, 415, "picture 1 of 1 is not a picture"),
        (form((FILE, b"text"), end=""), FORM, 400, "ends before its last boundary"),
        (b"no form at all", FORM, 400, "the body is not multipart/form-data"),
        (b"", FORM, 400, "the body is not multipart/form-data"),
        (form((FILE, b"text")), b"multipart/form-data", 400, "has no boundary; let the client set it"),
        (form((FILE, b"text")), b"multipart/form-data; boundary=", 400, "has no boundary"),
    ],
)
def test_other_forms_are_refused(
    content: bytes, content_type: bytes, status: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RequestError, match=said) as refused:
        from_form(content, content_type, 10, PIXELS)
    assert refused.value.status == status
    assert caplog.records == []


def test_text_like_boundaries_is_not_parsed_beyond_the_limit_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser takes a second for 16 MiB of such text."""
    parsed: list[int] = []
    write = FormParser.write

    def counted(parser: FormParser, data: bytes) -> int:
        parsed.append(len(data))
        return write(parser, data)

    monkeypatch.setattr(FormParser, "write", counted)
    content = form((FILE, b"\r\n--lineX" * 100_000))
    with pytest.raises(RequestError, match="ends before its last boundary") as refused:
        from_form(content, FORM, 10, PIXELS)
    assert refused.value.status == 400
    assert sum(parsed) < 1000


def test_sentence_about_a_malformed_form_is_short() -> None:
    content = b"--line\r\nContent-Disposition: form-data; " + b"x" * 3000 + b"\r\n\r\n--line--\r\n"
    with pytest.raises(RequestError, match="Field name not found") as refused:
        from_form(content, FORM, 10, PIXELS)
    assert refused.value.status == 400
    assert len(refused.value.sentence) < 600


def test_every_file_within_the_limit_is_read() -> None:
    content = form(*[(FILE, b"%d" % index) for index in range(20)])
    assert files_of_form(content, FORM, 20) == [b"%d" % index for index in range(20)]
    with pytest.raises(RequestError, match="20 images are too many: at most 19"):
        files_of_form(content, FORM, 19)
    assert files_of_form(content + b"\r\n--line" * 100, FORM, 20)[-1] == b"19"
