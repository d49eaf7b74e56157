import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from serving.web import pages
from serving.web.pages import FOLDER, SWAGGER, SWAGGER_FILES
from tests.processes import ROOT
from tests.serving.conftest import Service

FILES = sorted(FOLDER.iterdir())
PAGES = ("/", "/docs", "/draw")
# Swagger UI contains these hosts as namespaces, licences, examples and links. It sends a request to one of them only:
# the validator, which docs.js turns off. The policy forbids all of them.
NAMED_BY_SWAGGER = {
    "example.com",
    "fb.me",
    "github.com",
    "instagram.com",
    "json-schema.org",
    "petstore.swagger.io",
    "reactjs.org",
    "redux.js.org",
    "soundcloud.com",
    "spdx.org",
    "spec.openapis.org",
    "swagger.io",
    "twitter.com",
    "validator.swagger.io",
    "www.facebook.com",
    "www.tiktok.com",
    "www.w3.org",
}
DOCUMENT = ROOT / "serving" / "web" / "openapi.json"


class Page(HTMLParser):
    """The files that a page loads, and the inline code that its policy forbids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._within = tag
        for name, value in attributes:
            if name in ("src", "href") and value and tag != "a":
                self.loaded.append(value)
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style") and data.strip():
            self.inline.append(data)


def policy(service: Service, path: str = "/draw") -> dict[str, str]:
    header = service.client.get(path).headers["content-security-policy"]
    return {name: sources for name, _, sources in (rule.strip().partition(" ") for rule in header.split(";"))}


@pytest.mark.parametrize("path", PAGES)
def test_page_and_its_files_are_served(service: Service, path: str) -> None:
    answer = service.client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Page(answer.text)
    assert page.inline == []
    assert {Path(path).suffix for path in page.loaded} == {".css", ".js", ".svg"}
    kinds = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    modules = [f"static/{file.name}" for file in FILES if file.suffix == ".js"]
    for file in {*page.loaded, *modules}:
        part = service.client.get(f"/{file}")
        assert part.status_code == 200, file
        assert part.headers["content-type"] == kinds[Path(file).suffix]
        folder = SWAGGER if Path(file).name in SWAGGER_FILES else FOLDER
        assert part.content == (folder / Path(file).name).read_bytes()


def test_modules_import_existing_modules() -> None:
    for file in FOLDER.glob("*.js"):
        for imported in re.findall(r'from "(.*?)"', file.read_text()):
            assert (FOLDER / imported).exists(), f"{file.name}: {imported}"


@pytest.mark.parametrize("path", PAGES)
def test_policy_restricts_a_page_to_this_service(service: Service, path: str) -> None:
    rules = policy(service, path)
    assert rules["default-src"] == "'none'"
    if path == "/docs":
        assert rules["img-src"] == "'self' data:"  # Swagger UI's icons
        rules["img-src"] = "'self'"
    allowed = {source for name, sources in rules.items() if name != "default-src" for source in sources.split()}
    assert allowed == {"'self'", "'none'"}
    for name in ("script-src", "style-src", "img-src", "connect-src"):
        assert rules[name] == "'self'"
    for name in ("base-uri", "form-action", "frame-ancestors"):
        assert rules[name] == "'none'"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_files_refer_to_no_other_host(file: Path) -> None:
    text = file.read_text().replace("http://www.w3.org/2000/svg", "")
    assert "//" not in re.sub(r"(?m)(^|\s)// .*$", "", text)


def test_swagger_ui_loads_nothing_from_other_hosts() -> None:
    style, bundle = ((SWAGGER / name).read_text() for name in SWAGGER_FILES)
    assert "@import" not in style
    assert {address[:10] for address in re.findall(r"""url\(["']?([^)]*)""", style)} == {"data:image"}
    assert set(re.findall(r"https?://([a-z][a-z0-9.-]*)", bundle)) <= NAMED_BY_SWAGGER
    assert "validatorUrl: null" in (FOLDER / "docs.js").read_text()


def test_index_of_bentoml_is_not_passed_on(service: Service) -> None:
    for path in ("/", "/?new=1", "//", "/index.html", "/static_content/index.html"):
        assert "bentoml" not in service.client.get(path).text.lower(), path


def test_api_page_without_swagger_ui_links_to_the_document(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pages, "SWAGGER", tmp_path)
    assert {page.path for page in pages.read_pages()} >= set(PAGES)
    assert 'href="docs.json"' in (FOLDER / "docs.html").read_text()


def test_files_have_security_and_service_headers(service: Service) -> None:
    for path in (*PAGES, "/static/page.js", "/static/page.css"):
        headers = service.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-cache"
        assert headers["x-model-version"]
        assert headers["x-request-id"]


@pytest.mark.parametrize("path", [*PAGES, "/static/swagger-ui-bundle.js"])
def test_browser_with_a_current_copy_gets_304(service: Service, path: str) -> None:
    tag = service.client.get(path).headers["etag"]
    again = service.client.get(path, headers={"if-none-match": f'"another", {tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == tag
    other = service.client.get(path, headers={"if-none-match": '"another"'})
    assert other.status_code == 200
    assert service.client.get("/static/page.js").headers["etag"] != tag


@pytest.mark.parametrize("path", PAGES)
def test_head_returns_headers_only(service: Service, path: str) -> None:
    whole, head = service.client.get(path), service.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]


@pytest.mark.parametrize(
    "path", ["/draw/", "/static/", "/static/draw.html", "/static/nothing.js", "/static/../pages.py", "/static/%2e%2e/x"]
)
def test_other_paths_return_404(service: Service, path: str) -> None:
    answer = service.client.get(path)
    assert answer.status_code == 404
    assert "is not a route" in answer.json()["error"]


def test_builds_include_the_files() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    for patterns, folder in (
        (project["bentoml"]["build"]["include"], ROOT),
        (project["setuptools"]["package-data"]["serving.web"], ROOT / "serving" / "web"),
    ):
        included = {path for pattern in patterns for path in folder.glob(pattern)}
        assert {*FILES, DOCUMENT} <= included
    assert "COPY serving serving" in (ROOT / "Dockerfile.serve").read_text()
