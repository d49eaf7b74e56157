"""`/docs.json`: the OpenAPI document of openapi.json, with settings and the form of the model in service filled in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson

from serving import __version__
from serving.contract import MNIST, Form
from serving.settings import Settings
from serving.web.hosts import EXEMPT
from serving.web.openapi_form import answer_properties, values_of
from serving.web.tokens import opened

FILE = Path(__file__).with_name("openapi.json")
LIMITS = ("max_images", "max_body_bytes", "max_picture_pixels")
PLACE = re.compile(r"\{(\w+)\}")


def read(settings: Settings, form: Form = MNIST) -> bytes:
    """Return the document as JSON for one form; `{max_images}` and the like stand for values."""
    template = orjson.loads(FILE.read_bytes())
    picture = _content(template, "/predict/files", "multipart/form-data")["example"]["files"][0]
    values = {
        **values_of(form, picture),
        **{name: getattr(settings, name) for name in LIMITS},
        "max_raw_bytes": form.pixels * settings.max_images,
        "service_version": __version__,
    }
    document = _fill(template, values)
    _describe_answers(document, form, values["answer"])
    free = opened(settings)
    if settings.token_file:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, item in document["paths"].items():
        for operation in item.values():
            statuses = ["431"] if path in EXEMPT else ["421", "431"]
            if path not in free and "text/html" not in operation["responses"]["200"].get("content", {}):
                if settings.token_file:
                    operation["security"] = [{"token": []}]
                    statuses.append("401")
                if settings.rate_limit:
                    statuses.append("429")
            for status in statuses:
                operation["responses"][status] = {"$ref": f"#/components/responses/Error{status}"}
            if not settings.tracing:
                # BentoML's timeout applies only if tracing puts the routes behind its middlewares.
                operation["responses"].pop("504", None)
    return orjson.dumps(document)


def _fill(node: Any, values: dict[str, Any]) -> Any:
    """Replace places in texts; a text that is one place alone becomes the value, of any type."""
    if isinstance(node, dict):
        return {name: _fill(each, values) for name, each in node.items()}
    if isinstance(node, list):
        return [_fill(each, values) for each in node]
    if not isinstance(node, str):
        return node
    if alone := PLACE.fullmatch(node):
        return values[alone[1]]
    return PLACE.sub(lambda place: str(values[place[1]]), node)


def _describe_answers(document: dict[str, Any], form: Form, answer: dict[str, Any]) -> None:
    """Put the fields of an answer in front of those that each schema, and the example of an explanation, have."""
    fields = answer_properties(form)
    for name in ("Answer", "Explanation"):
        schema = document["components"]["schemas"][name]
        schema["properties"] = {**fields, **schema["properties"]}
        schema["required"] = [*fields, *schema["required"]]
    explained = document["paths"]["/explain"]["post"]["responses"]["200"]["content"]["application/json"]
    explained["example"] = {**answer, **explained["example"]}


def _content(document: dict[str, Any], path: str, media_type: str) -> dict[str, Any]:
    content: dict[str, Any] = document["paths"][path]["post"]["requestBody"]["content"][media_type]
    return content
