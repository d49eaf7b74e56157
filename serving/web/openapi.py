"""`/docs.json`: BentoML's OpenAPI document, completed with what `routes` answers beside and instead of BentoML."""

from __future__ import annotations

from typing import Any

from serving.contract import NUMBERS, SIDE, TEXTS
from serving.inference.explain import LEAST_EDGES, MOST_EDGES, SQUARE, STEP, STRONG, STRONG_SHARE, SURE
from serving.settings import Settings
from serving.web import example

Json = dict[str, Any]

ABOUT = """Reads handwritten digits: 28x28 images or pictures in, calibrated probabilities out.

Every error is `{"error": "one sentence"}`. A method that a route does not have is answered with 405 and `Allow`, a path
that does not exist with 404. A body whose `Content-Type` is missing is taken for the route's own."""

HEADERS = {
    "X-Model-Version": "Which model answered: the registry's version, or 12 digits of the file's SHA-256; or none.",
    "X-Request-ID": "The id of the request, its own if it sent one; the log names it.",
    "X-BentoML-Request-ID": "The same, by the name that BentoML has for it.",
}

# What is wrong at each status, and a sentence that a client may get.
ERRORS = {
    400: ("The body is malformed.", "the content type has no boundary; let the client set it (curl -F)."),
    408: (
        "The body did not arrive in time; the connection is closed.",
        "the body did not arrive within 30 seconds (SERVING_CLIENT_SECONDS).",
    ),
    413: (
        "Too many bytes, images or pixels.",
        "1025 images are too many: at most 1024 are taken in a request (SERVING_MAX_IMAGES).",
    ),
    415: (
        "Another content type, a packed body, or not a picture.",
        "picture 1 of 1 is not a picture that can be read; expected a PNG, JPEG, WebP or BMP file.",
    ),
    422: (
        "Another shape or value.",
        "783 bytes are not a whole number of images; expected N times 784 bytes, N at least 1.",
    ),
    500: ("The service failed.", "the service failed; its log says why."),
    501: (
        "The model in service has no feature maps.",
        "the model in service, DenseNet of version 3, has no feature maps; /predict answers, /explain cannot.",
    ),
    503: ("Overloaded, or no model yet.", "no model is in service: the model is being loaded."),
    # BentoML's middlewares are behind the short path, except where they trace it.
    504: ("BentoML's own limit, 60 seconds.", "Not able to process the request in 60 seconds"),
}
OF_BYTES = (408, 413, 415, 422, 500, 503)
OF_TEXTS = (400, *OF_BYTES)

ANSWERS = [{"digit": 7, "confidence": 0.91, "probabilities": [0.01] * 7 + [0.91, 0.01, 0.01]}]
EXPLANATION = {
    **ANSWERS[0],
    "sure": True,
    "image": example.image(),
    "saliency": [[0.0] * 10 + [-0.113, 0.0, 0.251, 4.085] + [0.0] * 14] * SIDE,
    "feature_maps": [{"name": "conv1", "shape": [1, 2, 3], "largest": 2.75, "values": "AAB//4AA"}],
}
MODEL = {
    "ready": True,
    "problem": None,
    "version": "3",
    "source": "registry http://mlflow:5000 digits@champion",
    "loaded_since": "2026-01-31T12:00:00+00:00",
    "recipe": "default",
    "parameters": 421642,
    "validation_accuracy": 0.995,
    "test_accuracy": 0.9957,
}


def complete(document: Json, settings: Settings) -> Json:
    """Complete BentoML's document; it is changed and returned.

    Args:
        document: what BentoML generates for the service.
        settings: the limits that it names.
    """
    document["info"].update(description=ABOUT)
    del document["info"]["contact"]  # BentoML's authors, who did not write this service
    parts, paths = document["components"], document["paths"]
    images = parts["schemas"]["predict__Input"]
    parts["headers"] = _headers()
    parts["responses"] = {f"Error{status}": _error_response(status) for status in ERRORS}
    parts["schemas"] = {
        "Images": {**images, "title": "Images", "additionalProperties": False},
        "Digit": parts["schemas"]["Digit"],
        "Error": _object({"error": {"type": "string", "description": "What was wrong, and what is expected."}}),
        "Explanation": _explanation_schema(parts["schemas"]["Digit"]),
        "Model": _model_schema(),
    }
    late = (504,) if settings.tracing else ()
    predict = paths["/predict"]["post"]
    limits = f"At most {settings.max_images} images and {settings.max_body_bytes} bytes in a request."
    predict["summary"] = "Read images, as JSON"
    predict["description"] += f" {limits}"
    predict["requestBody"] = _body("application/json", _schema("Images"), {"images": [example.image()]})
    predict["responses"] = _answers((*OF_TEXTS, *late))
    raw = {"type": "string", "format": "binary", "minLength": 784, "maxLength": 784 * settings.max_images}
    files = _object({"files": {"type": "array", "minItems": 1, "maxItems": settings.max_images, "items": _file()}})
    paths["/predict/raw"] = _post(
        predict["tags"],
        (*OF_BYTES, *late),
        "Read images, as bytes",
        f"784 bytes per image, row by row: 0 = background, 255 = ink. {limits}",
        _body("application/octet-stream", raw, example.raw()),
    )
    paths["/predict/files"] = _post(
        predict["tags"],
        (*OF_TEXTS, *late),
        "Read pictures",
        "PNG, JPEG, WebP or BMP files of any size, one digit each, dark on light or light on dark. "
        f"{limits} At most {settings.max_picture_pixels} pixels in sum.",
        _body("multipart/form-data", files, {"files": [example.picture()]}),
    )
    one = _object({"files": {"type": "array", "minItems": 1, "maxItems": 1, "items": _file()}})
    paths["/explain"] = _post(
        predict["tags"],
        (*OF_TEXTS, 501, *late),
        "Read one image, and show what the model sees in it",
        "One image as /predict takes it, or one picture as /predict/files does; it must have ink. The answer has the "
        "28x28 that the model saw, which pixels speak for the digit, and the feature maps of each convolution layer. "
        "Made apart from predictions, one after the other; not counted among them.",
        _body("application/json", _explained_images(images), {"images": [example.image()]}),
    )
    explain = paths["/explain"]["post"]
    explain["requestBody"]["content"].update(
        _body("multipart/form-data", one, {"files": [example.picture()]})["content"]
    )
    explain["responses"]["200"] = _response(
        "The answer, and why.", "application/json", _schema("Explanation"), EXPLANATION
    )
    _complete_others(paths)
    return document


def _complete_others(paths: Json) -> None:
    plain = {"text/plain": {"schema": {"type": "string"}}}
    some_object = {"application/json": {"schema": {"type": "object"}}}
    tags = paths["/livez"]["get"]["tags"]
    described = paths["/model"] = {"get": {"summary": "The model in service", "tags": tags}}
    described["get"]["description"] = "Which model answers, where it came from, since when, and what was refused."
    described["get"]["responses"] = {
        "200": _response("The model in service, or why there is none.", "application/json", _schema("Model"), MODEL),
        **_errors((500,)),
    }
    for path in ("/livez", "/healthz", "/readyz", "/metrics"):
        paths[path]["get"]["responses"]["200"].update(content=plain, headers=_header_references())
    paths["/readyz"]["get"]["responses"].update(_errors((503,)))
    html = {"text/html": {"schema": {"type": "string"}}}
    for path, does, content in (
        ("/draw", "A page to draw a digit on: the answer and its explanation as one draws.", html),
        ("/", "A page that shows this document and sends requests.", html),
        ("/docs.json", "This document.", some_object),
        ("/schema.json", "What BentoML's own clients read.", some_object),
    ):
        answer = {"description": does, "headers": _header_references(), "content": content}
        paths[path] = {"get": {"description": does, "tags": tags, "responses": {"200": answer}}}


def _post(tags: list[str], errors: tuple[int, ...], summary: str, description: str, body: Json) -> Json:
    operation = {"tags": tags, "summary": summary, "description": description, "requestBody": body}
    return {"post": {**operation, "responses": _answers(errors)}}


def _answers(errors: tuple[int, ...]) -> Json:
    digits = {"type": "array", "items": _schema("Digit")}
    return {
        "200": _response("One answer per image, in order.", "application/json", digits, ANSWERS),
        **_errors(errors),
    }


def _errors(statuses: tuple[int, ...]) -> Json:
    return {str(status): {"$ref": f"#/components/responses/Error{status}"} for status in statuses}


def _error_response(status: int) -> Json:
    description, sentence = ERRORS[status]
    response = _response(description, "application/json", _schema("Error"), {"error": sentence})
    if status == 503:
        response["headers"]["Retry-After"] = {"$ref": "#/components/headers/Retry-After"}
    if status == 504:
        del response["headers"]  # it comes from outside of the service
    return response


def _response(description: str, media_type: str, schema: Json, shown: Any) -> Json:
    content = {media_type: {"schema": schema, "example": shown}}
    return {"description": description, "headers": _header_references(), "content": content}


def _headers() -> Json:
    texts = {name: {"description": about, "schema": {"type": "string"}} for name, about in HEADERS.items()}
    retry = {"description": "Seconds after which to ask again.", "schema": {"type": "integer", "minimum": 1}}
    return {name: {"required": True, **header} for name, header in {**texts, "Retry-After": retry}.items()}


def _header_references() -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS}


def _model_schema() -> Json:
    names = ("version", "source", "loaded_since", "warning", *TEXTS)
    texts = {name: {"type": "string"} for name in names}
    numbers = {name: {"type": "integer" if name == "parameters" else "number"} for name in NUMBERS}
    known = {"ready": {"type": "boolean"}, "problem": {"type": "string", "nullable": True}}
    return {"type": "object", "required": list(known), "properties": {**known, **texts, **numbers}}


def _explained_images(images: Json) -> Json:
    """The schema of JSON with images, for exactly one."""
    listed = {**images["properties"]["images"], "maxItems": 1}
    return {**images, "title": "OneImage", "properties": {"images": listed}, "additionalProperties": False}


def _explanation_schema(digit: Json) -> Json:
    def rows(value: Json) -> Json:
        row = {"type": "array", "items": value, "minItems": SIDE, "maxItems": SIDE}
        return {"type": "array", "items": row, "minItems": SIDE, "maxItems": SIDE}

    maps = {
        "name": {"type": "string", "description": "The model's output: conv1, conv2 and so on."},
        "shape": {
            "type": "array",
            "items": {"type": "integer", "minimum": 1},
            "minItems": 3,
            "maxItems": 3,
            "description": "Channels, height, width.",
        },
        "largest": {"type": "number", "description": "The activation that 255 stands for; the smallest is 0."},
        "values": {
            "type": "string",
            "format": "byte",
            "description": "Base64 of one byte per activation: channel after channel, each row by row.",
        },
    }
    return _object(
        {
            **digit["properties"],
            "sure": {
                "type": "boolean",
                "description": f"Whether the confidence is at least {SURE} and the image has strokes like a digit's: "
                f"{STRONG_SHARE:.0%} of the ink in pixels above {STRONG}, and differences between neighbouring pixels "
                f"of {LEAST_EDGES} to {MOST_EDGES} times the ink.",
            },
            "image": {
                **rows({"type": "integer", "minimum": 0, "maximum": 255}),
                "description": "What the model saw: 0 = background, 255 = ink.",
            },
            "saliency": {
                **rows({"type": "number"}),
                "description": "By how much the log-odds of the digit drop when background covers the pixel: the "
                f"mean over squares of {SQUARE}x{SQUARE} pixels, {STEP} apart. Negative: without it, the answer is "
                "surer. Zeiler and Fergus, Visualizing and Understanding Convolutional Networks (2014).",
            },
            "feature_maps": {"type": "array", "minItems": 1, "items": _object(maps)},
        }
    )


def _object(properties: Json) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}


def _file() -> Json:
    return {"type": "string", "format": "binary"}


def _body(media_type: str, schema: Json, shown: Any) -> Json:
    return {"required": True, "content": {media_type: {"schema": schema, "example": shown}}}


def _schema(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
