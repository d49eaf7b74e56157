from urllib.parse import quote, quote_plus

import pytest

from serving.errors import one_line, redact, without_secrets

URIS = {
    "http://alice:s3cret@127.0.0.1:9": "http://127.0.0.1:9",
    "http://alice:p@ss:w@registry:9/base": "http://registry:9/base",
    "https://t0k3n@registry": "https://registry",
    "http://alice:sl/ash@registry": "http://registry",
    "postgresql://user:p/w@registry/db?sslmode=require&password=qu3ry": "postgresql://registry/db",
    "postgresql://user:my pass@registry/db": "postgresql://registry/db",
    "mysql+pymysql://user:p%40ss%2Fw%20rd@registry/db": "mysql+pymysql://registry/db",
    "http://[::1]:5000/mlflow": "http://[::1]:5000/mlflow",
    "http://registry:5000/team@home": "http://registry:5000/team@home",
    "sqlite:////srv/a@b/mlflow.db": "sqlite:////srv/a@b/mlflow.db",
}


@pytest.mark.parametrize("uri", URIS)
def test_shown_uri_has_no_userinfo_and_no_query(uri: str) -> None:
    assert without_secrets(uri) == URIS[uri]


@pytest.mark.parametrize("uri", URIS)
def test_uri_in_a_message_has_no_userinfo_and_no_query(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert redact(f"GET {uri} failed") in (f"GET {URIS[uri]} failed", f"GET {URIS[uri]}/db failed")


@pytest.mark.parametrize("password", ["s3cret", "p@ss/w rd+%", "ümläut", "a.b*c(", "100%25"])
@pytest.mark.parametrize("encode", [str, quote, quote_plus, lambda text: quote(text, safe="").lower()])
def test_password_is_removed_from_messages_in_every_encoding(
    password: str, encode: type[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://user:{quote(password, safe='')}@registry/db")
    assert redact(f"login with {encode(password)} failed") == "login with *** failed"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://registry")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    assert redact(f"login with {encode(password)} failed") == "login with *** failed"


@pytest.mark.parametrize("name", ["token", "X-Amz-Signature", "password", "api_key", "X-Amz-Credential"])
def test_secret_query_parameters_are_removed(name: str) -> None:
    assert redact(f"url: /files?{name}=abc123&part=1 not found") == f"url: /files?{name}=***&part=1 not found"
    assert redact(f"'https://store/files?{name}=abc123' not found") == "'https://store/files' not found"


def test_long_message_ends_between_words() -> None:
    line = one_line(ValueError("several words\n" * 100 + "."))
    assert len(line) <= 500
    assert line.endswith("several words …") or line.endswith("several …")
    assert one_line(ValueError("It failed.")) == "It failed"
