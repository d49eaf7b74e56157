import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from serving.web.pages import FOLDER
from tests.processes import ROOT
from tests.serving.conftest import Service

FILES = sorted(FOLDER.iterdir())
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
            if name in ("src", "href") and value:
                self.loaded.append(value)
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style") and data.strip():
            self.inline.append(data)


def policy(service: Service, path: str = "/draw") -> dict[str, str]:
    header = service.client.get(path).headers["content-security-policy"]
    return {name: sources for name, _, sources in (rule.strip().partition(" ") for rule in header.split(";"))}


def test_page_and_its_files_are_served(service: Service) -> None:
    answer = service.client.get("/draw")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Page(answer.text)
    assert page.inline == []
    assert {Path(path).suffix for path in page.loaded} == {".css", ".js", ".svg"}
    kinds = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    modules = [f"draw/{file.name}" for file in FILES if file.suffix == ".js"]
    for path in {*page.loaded, *modules}:
        part = service.client.get(f"/{path}")
        assert part.status_code == 200, path
        assert part.headers["content-type"] == kinds[Path(path).suffix]
        assert part.content == (FOLDER / Path(path).name).read_bytes()


def test_modules_import_existing_modules() -> None:
    for file in FOLDER.glob("*.js"):
        for imported in re.findall(r'from "(.*?)"', file.read_text()):
            assert (FOLDER / imported).exists(), f"{file.name}: {imported}"


def test_policy_restricts_a_page_to_this_service(service: Service) -> None:
    rules = policy(service)
    assert rules["default-src"] == "'none'"
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


def test_files_have_security_and_service_headers(service: Service) -> None:
    for path in ("/draw", "/draw/page.js", "/draw/page.css"):
        headers = service.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-cache"
        assert headers["x-model-version"]
        assert headers["x-request-id"]


def test_browser_with_a_current_copy_gets_304(service: Service) -> None:
    tag = service.client.get("/draw").headers["etag"]
    again = service.client.get("/draw", headers={"if-none-match": f'"another", {tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == tag
    other = service.client.get("/draw", headers={"if-none-match": '"another"'})
    assert other.status_code == 200
    assert service.client.get("/draw/page.js").headers["etag"] != tag


def test_head_returns_headers_only(service: Service) -> None:
    whole, head = service.client.get("/draw"), service.client.head("/draw")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]


@pytest.mark.parametrize(
    "path", ["/draw/", "/draw/draw.html", "/draw/nothing.js", "/draw/../pages.py", "/draw/%2e%2e/x"]
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
