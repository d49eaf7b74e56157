"""Settings of the service, read from `SERVING_*` variables and validated at startup."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "SERVING_"
MAX_WORKERS = 256
HOST = r"\*|[\w.-]+|\[[0-9A-Fa-f:.]+\]"
ORIGIN = r"\*|https?://(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?"


class SettingsError(ValueError):
    """An unknown setting or an invalid value; the message is one sentence for the user."""


class Settings(BaseSettings):
    """Settings with their defaults; an empty environment variable counts as unset."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    model: Path | None = Field(
        default=None, description="ONNX file to serve; if unset, the champion of the registry is served."
    )
    model_name: str = Field(
        default="digits",
        pattern=r"^[\w][\w.-]*$",
        max_length=120,
        description="Registered model to serve; that of another data set than MNIST has the data set's name.",
    )
    cache_dir: Path = Field(
        default=Path("var/serving"),
        description="Folder for downloaded models; a start without the registry serves the last one.",
    )
    poll_seconds: float = Field(
        default=10.0,
        ge=0.1,
        le=3600,
        allow_inf_nan=False,
        description="Seconds between two polls of the registry, and the longest wait between retries.",
    )
    registry_timeout_seconds: int = Field(
        default=10, ge=1, le=600, description="Timeout of one request to the registry, in seconds."
    )
    verify_seconds: float = Field(
        default=30.0,
        ge=1,
        le=3600,
        allow_inf_nan=False,
        description="Seconds for the verification of a model in a process of its own; a slower model is refused.",
    )
    threads: int = Field(
        default=1,
        ge=1,
        le=256,
        description="ONNX Runtime threads per worker; fixed, because its default is the number of the host's cores.",
    )
    workers: int | Literal["auto"] = Field(
        default=1,
        description="Worker processes; `auto`: usable cores (CPU affinity and quota) divided by SERVING_THREADS.",
    )
    max_images: int = Field(default=1024, ge=1, le=65536, description="Images per request; more return 413.")
    max_body_bytes: int = Field(
        default=16 * 2**20,
        ge=1024,
        le=2**30,
        description="Bytes per request body; more return 413 and are discarded.",
    )
    max_picture_pixels: int = Field(
        default=25_000_000,
        ge=784,
        le=2**28,
        description="Pixels of all pictures in a request; more return 413 before decoding.",
    )
    queue_images: int = Field(
        default=4096,
        ge=1,
        le=2**20,
        description="Images in the queue of each worker; a request that does not fit returns 503 immediately.",
    )
    client_seconds: float = Field(
        default=30.0,
        ge=0.1,
        lt=60,  # BentoML's own timeout, with status 504
        allow_inf_nan=False,
        description=(
            "Seconds for a client to send a request or to read its response; then 408 or a closed connection."
        ),
    )
    allowed_hosts: str = Field(
        default="localhost,127.0.0.1,[::1],serve",
        description=(
            "Host names and addresses in requests, without port, separated by commas; any other returns 421. "
            "`*` allows all."
        ),
    )
    allowed_origins: str | None = Field(
        default=None,
        description=(
            "Other sites whose pages may use the service (CORS), such as `https://digits.example`, separated by commas."
        ),
    )
    token_file: Path | None = Field(
        default=None,
        description=(
            "File with one access token a line, which requests then need; read again when it changes. Pages and probes "
            "stay open."
        ),
    )
    protect_metrics: bool = Field(default=False, description="With SERVING_TOKEN_FILE, `/metrics` needs a token, too.")
    rate_limit: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description=(
            "Requests a second from each token, or from each client address without tokens; more return 429. Each "
            "worker counts its own."
        ),
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="`text`, or `json`: one JSON object per event, with the id of its request."
    )
    access_log: bool = Field(
        default=False, description="Log a line per request: method, path, status, milliseconds, request id."
    )
    tracing: bool = Field(
        default=False,
        description=(
            "OpenTelemetry spans, exported as configured in BentoML; log lines then include the trace of their request."
        ),
    )

    @field_validator("workers", mode="before")
    @classmethod
    def _a_number_of_workers(cls, value: object) -> object:
        text = str(value)
        if text == "auto" or (text.isdecimal() and 1 <= int(text) <= MAX_WORKERS):
            return text if text == "auto" else int(text)
        raise ValueError(f"must be auto or a whole number from 1 to {MAX_WORKERS}")

    @field_validator("allowed_hosts")
    @classmethod
    def _names_without_ports(cls, text: str) -> str:
        if listed(text) and all(re.fullmatch(HOST, name) for name in listed(text)):
            return text.lower()
        raise ValueError("must be host names without scheme and port, separated by commas, or *")

    @field_validator("allowed_origins")
    @classmethod
    def _sites(cls, text: str | None) -> str | None:
        if all(re.fullmatch(ORIGIN, site) for site in listed(text)):
            return text.lower() if text else None
        raise ValueError("must be sites such as https://digits.example:8443, separated by commas, or *")

    @model_validator(mode="after")
    def _largest_request_fits_the_queue(self) -> Self:
        if self.queue_images < self.max_images:
            raise ValueError(f"must be at least {PREFIX}MAX_IMAGES, {self.max_images}")
        return self


def listed(text: str | None) -> list[str]:
    """Return the items of a setting that are separated by commas."""
    return [item.strip() for item in (text or "").split(",") if item.strip()]


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
        # Only the rule about the queue compares two settings; its error has no field.
        name = f"{PREFIX}{first['loc'][0]}".upper() if first["loc"] else f"{PREFIX}QUEUE_IMAGES"
        given = first["input"] if first["loc"] else os.environ.get(name, "too small")
        reason = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        raise SettingsError(f"{name} is {given!r}, but {reason[0].lower()}{reason[1:]}.") from None
