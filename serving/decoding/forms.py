"""Multipart forms to the files in them."""

import logging

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header

from serving.decoding.arrays import check_count
from serving.errors import RequestError, one_line

# The client receives the error of a malformed form; the log does not.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


def files_of_form(body: bytes, content_type: bytes, max_images: int) -> list[bytes]:
    """Read a multipart form whose field `files` holds one file or several.

    Returns:
        The contents of the files, in order; at least one.

    Raises:
        RequestError: 400 not such a form, 413 too many files, 422 no files or another field.
    """
    files: list[bytes] = []
    complete: list[bool] = []

    def keep(file: File) -> None:
        if file.field_name != b"files":
            raise RequestError(
                422, f"the form has a field {_text(file.field_name)}; expected picture files in the field files."
            )
        check_count(len(files) + 1, max_images)
        file.file_object.seek(0)
        files.append(file.file_object.read())
        file.close()

    def refuse(field: Field) -> None:
        raise RequestError(
            422, f"the form's field {_text(field.field_name)} holds text; expected picture files in the field files."
        )

    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise RequestError(400, "the content type has no boundary; let the client set it (curl -F).")
    parts = f"multipart/form-data; boundary={_text(boundary)}"
    try:
        # A part is as large as the body at most, which is in memory already: no temporary files.
        parser = FormParser(
            "multipart/form-data",
            refuse,
            keep,
            on_end=lambda: complete.append(True),
            boundary=boundary,
            config={"MAX_MEMORY_FILE_SIZE": len(body) + 1},
        )
        parser.write(_until(body, b"\r\n--" + boundary, max_images + 2))
        parser.finalize()
        if not complete:
            raise FormParserError("it ends before its last boundary")
    except FormParserError as error:
        raise RequestError(400, f"the body is not {parts}: {one_line(error)}.") from error
    if not files:
        raise RequestError(422, "the form holds no file; expected picture files in the field files.")
    return files


def _until(body: bytes, boundary: bytes, count: int) -> bytes:
    """Cut a body after `count` boundaries and the rest of their line.

    The parser takes 0.6 µs for text that resembles a boundary: 1.1 s for 16 MiB of it. With the boundaries that remain,
    it still finds one file too many.
    """
    end = -1
    for _ in range(count):
        end = body.find(boundary, end + 1)
        if end < 0:
            return body
    return body[: end + len(boundary) + 2]


def _text(value: bytes | None) -> str:
    text = "" if value is None else value.decode("latin-1")[:80]
    return "".join(char if char.isprintable() else "?" for char in text)
