"""Every setting of the service: read from `SERVING_*` once, at the start, and refused there if wrong."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "SERVING_"
MAX_WORKERS = 256


class SettingsError(ValueError):
    """A setting that is unknown or has a wrong value; the message is one sentence for whoever set it."""


class Settings(BaseSettings):
    """What can be set; an empty environment variable counts as one that is not set."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    model: Path | None = Field(
        default=None, description="Serve this ONNX file; when not set, the champion of the registry is served."
    )
    cache_dir: Path = Field(
        default=Path("var/serving"),
        description="Folder that keeps downloaded models, so that a start without the registry can serve the last.",
    )
    poll_seconds: float = Field(
        default=10.0,
        ge=0.1,
        le=3600,
        allow_inf_nan=False,
        description="Seconds between two looks at the registry; also the longest wait between retries.",
    )
    registry_timeout_seconds: int = Field(
        default=10, ge=1, le=600, description="Seconds that one request to the registry may take."
    )
    threads: int = Field(
        default=1,
        ge=1,
        le=256,
        description=(
            "ONNX Runtime threads of each worker; fixed, because in a container it would use all cores of the host."
        ),
    )
    workers: int | Literal["auto"] = Field(
        default=1,
        description=(
            "Processes that serve; `auto`: as many as the cores that affinity and quota leave, by SERVING_THREADS each."
        ),
    )
    max_images: int = Field(
        default=1024, ge=1, le=65536, description="Images that one request may hold; more are answered with 413."
    )
    max_body_bytes: int = Field(
        default=16 * 2**20,
        ge=1024,
        le=2**30,
        description="Bytes that one request's body may have; more are answered with 413 and not kept.",
    )
    max_picture_pixels: int = Field(
        default=25_000_000,
        ge=784,
        le=2**28,
        description=(
            "Pixels that the pictures of one request may have in sum; more are answered with 413 before decoding."
        ),
    )
    queue_images: int = Field(
        default=4096,
        ge=1,
        le=2**20,
        description=(
            "Images that may wait for the model of each worker; beyond that a request is answered with 503 at once."
        ),
    )
    client_seconds: float = Field(
        default=30.0,
        ge=0.1,
        lt=60,  # after which BentoML answers 504
        allow_inf_nan=False,
        description=(
            "Seconds that a client may take to send a request or to take its answer; then 408, or a closed connection."
        ),
    )
    access_log: bool = Field(
        default=False, description="A line in the log for each request: method, path, status, milliseconds, request id."
    )
    tracing: bool = Field(
        default=False,
        description=(
            "OpenTelemetry spans, exported as BentoML's configuration says; log lines then name their request's trace."
        ),
    )

    @field_validator("workers", mode="before")
    @classmethod
    def _a_number_of_workers(cls, value: object) -> object:
        text = str(value)
        if text == "auto" or (text.isdecimal() and 1 <= int(text) <= MAX_WORKERS):
            return text if text == "auto" else int(text)
        raise ValueError(f"must be auto or a whole number from 1 to {MAX_WORKERS}")

    @model_validator(mode="after")
    def _largest_request_fits_the_queue(self) -> Self:
        if self.queue_images < self.max_images:
            raise ValueError(f"must be at least {PREFIX}MAX_IMAGES, {self.max_images}")
        return self


def read_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        SettingsError: a `SERVING_` variable is unknown, or its value is not allowed.
    """
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    for name in os.environ:
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.0)[0]
            raise SettingsError(f"{name} is not a setting; the nearest is {nearest}.")
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # An error of the whole model has no field: the only rule of that kind is about the queue.
        name = f"{PREFIX}{first['loc'][0]}".upper() if first["loc"] else f"{PREFIX}QUEUE_IMAGES"
        given = first["input"] if first["loc"] else os.environ.get(name, "too small")
        reason = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        raise SettingsError(f"{name} is {given!r}, but {reason[0].lower()}{reason[1:]}.") from None
