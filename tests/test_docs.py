"""The documentation agrees with the code: settings, commands, routes, metrics, error messages, numbers and links."""

import ast
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import AliasChoices
from pydantic_settings import BaseSettings

from pipeline.__main__ import COMMANDS
from pipeline.arguments import read
from pipeline.recipes import RECIPES, find
from pipeline.settings import COMMAND_SETTINGS, FLAGS_ONLY, RENAMED, variable
from serving.settings import Settings as ServingSettings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
EVERY_PAGE = {"README.md": README, **PAGES}


def section(page: str, heading: str) -> str:
    """The text below a heading, up to the next one of the same level."""
    level = re.escape(heading.split(maxsplit=1)[0])
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^{level} |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found.group(1)


def rows(text: str) -> list[str]:
    """The rows of the tables in a text, without their heads."""
    lines = ["", *text.splitlines(), ""]
    return [
        line
        for (before, line), (_, after) in zip(pairwise(lines), pairwise(lines[1:]), strict=False)
        if line.startswith("|") and not line.startswith("|-") and not after.startswith("|-") and before
    ]


def without_code(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


def expected_settings(kinds: tuple[type[BaseSettings], ...], package: str) -> list[str]:
    expected: dict[str, str] = {}
    for kind in kinds:
        for field, described in kind.model_fields.items():
            if field not in FLAGS_ONLY:
                default = "" if described.default is None else f"`{described.default}`"
                name = variable(field) if package == "pipeline" else f"SERVING_{field.upper()}"
                expected[name] = f"| `{name}` | {default} | {described.description} |"
    return list(expected.values())


def flags_of(kind: type[BaseSettings], field: str) -> list[str]:
    """The flag of a field, if the command has it."""
    described = kind.model_fields.get(field)
    alias = described and described.validation_alias
    return [f"--{alias.choices[0] if isinstance(alias, AliasChoices) else field}"] if described else []


def assert_rows(listed: list[str], expected: list[str], page: str) -> None:
    assert listed == expected, f"docs/{page} needs these rows:\n" + "\n".join(expected)


@pytest.mark.parametrize(
    ("heading", "package", "kinds"),
    [("## Training", "pipeline", COMMAND_SETTINGS), ("## Serving", "serving", (ServingSettings,))],
)
def test_settings_page_lists_every_setting(heading: str, package: str, kinds: tuple[type[BaseSettings], ...]) -> None:
    assert_rows(rows(section(PAGES["settings.md"], heading)), expected_settings(kinds, package), "settings.md")


def test_settings_page_lists_every_variable_of_compose() -> None:
    files = "\n".join(path.read_text() for path in ROOT.glob("docker-compose*.yml"))
    read = set(re.findall(r"\$\{([A-Z_]+)", files))
    assert len(read) >= 9
    first_cells = " ".join(row.split("|")[1] for row in rows(section(PAGES["settings.md"], "## Compose")))
    assert sorted(re.findall(r"`([A-Z_]+)`", first_cells)) == sorted(read)


@pytest.mark.parametrize("command", COMMANDS)
def test_settings_page_lists_every_variable_that_the_help_shows(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read(COMMANDS[command][0], ["--help"], command)
    shown = re.findall(r"\[env: (\w+)\]", " ".join(capsys.readouterr().out.split()))
    assert "PIPELINE_STATE_DIR" in shown
    listed = {row.split("`")[1] for row in rows(section(PAGES["settings.md"], "## Training"))}
    assert set(shown) <= listed


def test_settings_page_names_every_flag_without_a_variable() -> None:
    fields = set(FLAGS_ONLY) - {"space"}  # the file of `search`, which is no flag
    flags = {alias for kind in COMMAND_SETTINGS for field in fields for alias in flags_of(kind, field)}
    assert set(re.findall(r"`(--[a-z]+)`", section(PAGES["settings.md"], "## Training").split("|")[0])) == flags


def test_settings_page_lists_every_command() -> None:
    expected = [f"| `python -m pipeline {name}` | {purpose} |" for name, (_, purpose) in COMMANDS.items()]
    assert_rows(rows(section(PAGES["settings.md"], "## Commands")), expected, "settings.md")


def test_settings_page_lists_every_make_target() -> None:
    targets = re.findall(r"^([a-z-]+):.*## (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets
    expected = [f"| `make {target}` | {purpose} |" for target, purpose in targets]
    assert_rows(rows(section(PAGES["settings.md"], "## Make targets")), expected, "settings.md")


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_every_make_target_in_the_text_exists(page: str) -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", EVERY_PAGE[page], re.MULTILINE)) <= set(targets)


def test_recipes_page_lists_every_recipe() -> None:
    listed = rows(PAGES["recipes.md"])
    assert_rows(listed, [f"| `{recipe.name}` | {recipe.about} |" for recipe in RECIPES.values()], "recipes.md")


def test_example_of_a_recipe_file_is_valid(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", PAGES["recipes.md"], re.DOTALL)
    assert example
    (tmp_path / "mine.toml").write_text(example.group(1))
    assert find(str(tmp_path / "mine.toml")).epochs == 4


def test_api_page_lists_every_route_once() -> None:
    source = (ROOT / "serving" / "web" / "routes.py").read_text()
    served = re.search(r"^ROUTES = \(?\s*(.*?)\n\)?$", source, re.MULTILINE | re.DOTALL)
    assert served
    routes = re.findall(r"/[a-z/.]*", served.group(1))
    assert len(routes) >= 10
    document = json.loads((ROOT / "serving" / "web" / "openapi.json").read_text())
    described = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    listed = re.findall(r"`(GET|POST) (/[a-z/.]*)`", "\n".join(rows(section(PAGES["api.md"], "## Routes"))))
    assert sorted(listed) == sorted(described)
    assert set(routes) <= {path for _, path in listed}


def test_operations_page_lists_every_metric_once() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "serving").rglob("*.py"))
    metrics = set(re.findall(r'"((?:digits|bentoml_service)_[a-z_]+)"', sources))
    assert metrics
    listed = [row.split("`")[1] for row in rows(section(PAGES["operations.md"], "## Metrics of the service"))]
    assert sorted(listed) == sorted(metrics)


def test_every_promise_names_a_test_that_exists() -> None:
    promises = rows(section(PAGES["operations.md"], "## Promises"))
    assert promises
    for row in promises:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row.split("|")[-2])
        assert named, row
        for file, name in named:
            assert f"def {name}(" in (ROOT / file).read_text(), row


@pytest.mark.parametrize("prefix", ["PIPELINE_", "SERVING_"])
def test_every_variable_in_the_text_exists(prefix: str) -> None:
    known = {variable(field) for kind in COMMAND_SETTINGS for field in kind.model_fields if field not in FLAGS_ONLY}
    known |= {variable(field) for field in RENAMED}
    known |= {f"SERVING_{field.upper()}" for field in ServingSettings.model_fields}
    for name, page in EVERY_PAGE.items():
        assert set(re.findall(rf"\b{prefix}[A-Z_]+", page)) <= known, name


def messages(folder: Path) -> Iterator[str]:
    """A pattern for each longer text constant of the code below a folder, in which any value may be filled in."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "%s" for part in node.values)
            else:
                text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if len(text) > 30:
                yield ".+".join(map(re.escape, text.split("%s")))


@pytest.mark.parametrize("heading", ["## Training data", "## Service"])
def test_error_messages_in_troubleshooting_are_those_of_the_code(heading: str) -> None:
    blocks = re.findall(r"```text\n(.*?)```", section(PAGES["troubleshooting.md"], heading), re.DOTALL)
    shown = [line for block in blocks for line in block.splitlines() if not line.startswith("TypeError")]
    assert shown
    patterns = [pattern for package in ("pipeline", "serving") for pattern in messages(ROOT / package)]
    assert [line for line in shown if not any(re.fullmatch(pattern, line) for pattern in patterns)] == []


def test_readme_names_every_folder_of_modules() -> None:
    tree = section(README, "## What is where")
    top = ""
    named = set()
    for indent, name in re.findall(r"^( *)([\w.-]+/?)  ", tree, re.MULTILINE):
        top = top if indent else name
        named.add(top + name if indent else name)
    assert len(named) > 20
    for place in named:
        assert (ROOT / place).exists(), place
    for package in ("pipeline", "preparation", "serving", "benchmarks"):
        folders = {f"{package}/{file.parent.name}/" for file in (ROOT / package).glob("*/__init__.py")}
        assert folders <= named, folders - named


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 130


def test_accuracies_in_readme_equal_those_of_the_results() -> None:
    results = {
        row.split("`")[1]: row for row in rows(section(PAGES["results.md"], "## Accuracy on the full MNIST"))[:5]
    }
    listed = [row for row in rows(README) if " ± " in row]
    assert len(listed) == len(results) == 5
    for row in listed:
        recipe, parameters, accuracy, epochs = (row.split("|")[column].strip() for column in (1, 3, 4, 5))
        cells = [cell.strip() for cell in results[recipe.strip("`")].split("|")]
        assert [parameters, epochs, accuracy.removesuffix(" %")] == [cells[2], cells[3], cells[6]], recipe


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_lines_are_at_most_100_columns_wide(page: str) -> None:
    lines = [line for line in without_code(EVERY_PAGE[page]).splitlines() if not line.startswith(("|", "!["))]
    addresses = r"\]\([^)]*\)|<http[^>]*>"
    assert [line for line in lines if len(re.sub(addresses, "", line)) > 100] == []


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    named = re.findall(r"`((?:pipeline|serving|tests|benchmarks|requirements|docs)/[\w./-]*)`", EVERY_PAGE[page])
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_every_module_that_a_page_runs_exists(page: str) -> None:
    for module in re.findall(r"python -m ((?:pipeline|benchmarks)[\w.]*)", EVERY_PAGE[page]):
        place = ROOT.joinpath(*module.split("."))
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), module


def test_every_page_that_the_code_names_exists() -> None:
    files = [ROOT / "Makefile", *ROOT.glob("*.yml"), *ROOT.glob("Dockerfile*")]
    files += [path for package in ("pipeline", "serving", "benchmarks") for path in (ROOT / package).rglob("*.py")]
    for file in files:
        for page in re.findall(r"\bdocs/([\w-]+\.md)", file.read_text()):
            assert page in PAGES, f"{file}: {page}"


def anchor(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", ["README.md", "pipeline/data/tenth/README.md"])
def test_links_outside_the_site_lead_to_files_and_headings(page: str) -> None:
    source = ROOT / page
    for target, fragment in re.findall(r"\]\(([^)#:]+)(?:#([^)]*))?\)", source.read_text()):
        assert (source.parent / target).exists(), target
        headings = (
            re.findall(r"^#+ (.*)$", without_code((source.parent / target).read_text()), re.MULTILINE)
            if fragment
            else []
        )
        assert not fragment or fragment in map(anchor, headings), f"{target}#{fragment}"
