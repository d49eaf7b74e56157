"""`/docs.json`: the OpenAPI document of openapi.json, with the limits of the settings filled in."""

from __future__ import annotations

from pathlib import Path

import orjson

from serving import __version__
from serving.settings import Settings
from serving.web.hosts import EXEMPT
from serving.web.tokens import opened

FILE = Path(__file__).with_name("openapi.json")
LIMITS = ("max_images", "max_body_bytes", "max_picture_pixels")


def read(settings: Settings) -> bytes:
    """Return the document as JSON; `{max_images}` and the like stand for settings, alone in a string for numbers."""
    text = FILE.read_text(encoding="utf-8").replace("{service_version}", __version__)
    limits = {name: getattr(settings, name) for name in LIMITS}
    for name, value in {**limits, "max_raw_bytes": 784 * settings.max_images}.items():
        text = text.replace(f'"{{{name}}}"', str(value)).replace(f"{{{name}}}", str(value))
    document = orjson.loads(text)
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
