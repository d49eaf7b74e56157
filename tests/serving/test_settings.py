import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.settings import Settings, SettingsError, read_settings


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SERVING_"):
            monkeypatch.delenv(name)


def test_defaults_need_no_environment() -> None:
    settings = read_settings()
    assert settings.model is None
    assert settings.max_images == 1024
    assert settings.threads == 1


def test_every_setting_is_described() -> None:
    undescribed = [name for name, field in Settings.model_fields.items() if not (field.description or "").endswith(".")]
    assert undescribed == []


def test_default_body_limit_fits_the_default_number_of_images_as_indented_json() -> None:
    settings = read_settings()
    assert settings.max_body_bytes > settings.max_images * 784 * len("255,\n        ")


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_MODEL", "somewhere/model.onnx")
    monkeypatch.setenv("SERVING_THREADS", "3")
    settings = read_settings()
    assert settings.model == Path("somewhere/model.onnx")
    assert settings.threads == 3


@pytest.mark.parametrize(("value", "workers"), [("auto", "auto"), ("1", 1), ("256", 256)])
def test_workers_are_a_number_or_auto(monkeypatch: pytest.MonkeyPatch, value: str, workers: object) -> None:
    monkeypatch.setenv("SERVING_WORKERS", value)
    assert read_settings().workers == workers


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_MODEL", "")
    assert read_settings().model is None


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("SERVING_THREADS", "many", "integer"),
        ("SERVING_THREADS", "0", "greater than or equal to 1"),
        ("SERVING_WORKERS", "many", "auto or a whole number from 1 to 256"),
        ("SERVING_WORKERS", "0", "auto or a whole number from 1 to 256"),
        ("SERVING_WORKERS", "1.5", "auto or a whole number from 1 to 256"),
        ("SERVING_WORKERS", "257", "auto or a whole number from 1 to 256"),
        ("SERVING_ACCESS_LOG", "perhaps", "valid boolean"),
        ("SERVING_MAX_IMAGES", "-1", "greater than or equal to 1"),
        ("SERVING_MAX_IMAGES", "1e9", "integer"),
        ("SERVING_MAX_BODY_BYTES", "10", "greater than or equal to 1024"),
        ("SERVING_POLL_SECONDS", "0", "greater than or equal to 0.1"),
        ("SERVING_POLL_SECONDS", "nan", "finite number"),
        ("SERVING_ALLOWED_HOSTS", "digits.example:3000", "host names without scheme and port"),
        ("SERVING_ALLOWED_HOSTS", "http://digits.example", "host names without scheme and port"),
        ("SERVING_ALLOWED_HOSTS", ",", "host names without scheme and port"),
        ("SERVING_ALLOWED_ORIGINS", "digits.example", "sites such as https://digits.example:8443"),
        ("SERVING_ALLOWED_ORIGINS", "https://digits.example/draw", "sites such as https://digits.example:8443"),
        ("SERVING_QUEUE_IMAGES", "1000", "at least SERVING_MAX_IMAGES, 1024"),
    ],
)
def test_invalid_value_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        read_settings()
    sentence = str(refused.value)
    assert sentence.startswith(f"{name} is '{value}', but ")
    assert allowed in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SERVING_THREAD", "SERVING_THREADS"),
        ("SERVING_MAX_IMAGE", "SERVING_MAX_IMAGES"),
        ("SERVING_QUEUE", "SERVING_QUEUE_IMAGES"),
    ],
)
def test_unknown_setting_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch, name: str, nearest: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=rf"^{name} is not a setting; the nearest is {nearest}\.$"):
        read_settings()


def test_bentoml_serve_exits_with_one_sentence() -> None:
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Digits", "--host", "127.0.0.1"]
    environment = {**os.environ, "SERVING_THREADS": "none", "BENTOML_DO_NOT_TRACK": "True"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.strip().count("\n") == 0
    assert ended.stderr.startswith("SERVING_THREADS is 'none', but must be a valid integer")
