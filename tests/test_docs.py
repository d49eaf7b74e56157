"""Every setting, command, route and metric is documented once, as the code has it."""

import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from pipeline.__main__ import COMMANDS
from pipeline.recipes import RECIPES, find
from pipeline.settings import COMMAND_SETTINGS, variable
from serving.settings import Settings as ServingSettings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
EVERYTHING = "\n".join(path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])


def rows_of_settings(kinds: tuple[type[BaseSettings], ...], name: str) -> list[str]:
    """The rows that the README's table must hold: variables of environment, that is fields with a default."""
    rows: dict[str, str] = {}
    for kind in kinds:
        for field, described in kind.model_fields.items():
            if field not in ("to", "version"):  # flags of one command only
                shown = "" if described.default is None else f"`{described.default}`"
                of = variable(field) if name == "pipeline" else f"SERVING_{field.upper()}"
                rows[of] = f"| `{of}` | {shown} | {described.description} |"
    return list(rows.values())


@pytest.mark.parametrize(("name", "kinds"), [("pipeline", COMMAND_SETTINGS), ("serving", (ServingSettings,))])
def test_readme_lists_every_setting_as_the_code_describes_it(name: str, kinds: tuple[type[BaseSettings], ...]) -> None:
    prefix = "(PIPELINE_|MNIST_DIR)" if name == "pipeline" else "SERVING_"
    listed = [line for line in README.splitlines() if re.match(rf"\| `{prefix}", line)]
    assert listed == rows_of_settings(kinds, name)


def test_readme_lists_every_command_as_help_does() -> None:
    rows = [f"| `python -m pipeline {name}` | {does} |" for name, (_, does) in COMMANDS.items()]
    assert [line for line in README.splitlines() if line.startswith("| `python -m pipeline")] == rows


def test_readme_lists_every_recipe_and_its_own_one_works(tmp_path: Path) -> None:
    rows = [f"| `{recipe.name}` | {recipe.about} |" for recipe in RECIPES.values()]
    section = README[README.index("## Recipes") : README.index("## Requests")]
    assert [line for line in section.splitlines() if line.startswith("| `") and "--recipe" not in line] == rows
    example = re.search(r"```toml\n(.*?)```", section, re.DOTALL)
    assert example
    (tmp_path / "mine.toml").write_text(example.group(1))
    assert find(str(tmp_path / "mine.toml")).epochs == 4


def test_every_route_is_documented() -> None:
    routes = re.findall(
        r'^            "(/[a-z/]+)": \(', (ROOT / "serving" / "web" / "routes.py").read_text(), re.MULTILINE
    )
    assert len(routes) >= 4
    for route in [*routes, "/livez", "/readyz", "/metrics", "/docs.json"]:
        assert f"{route}`" in README, route


def test_every_metric_is_documented() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "serving").rglob("*.py"))
    metrics = set(re.findall(r'"((?:digits|bentoml_service)_[a-z_]+)"', sources))
    assert metrics
    for metric in metrics:
        assert f"`{metric}`" in OPERATIONS, metric


def test_every_verb_of_make_is_documented_and_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE)
    for named in re.findall(r"(?:`|^)make ([a-z-]+)", EVERYTHING, re.MULTILINE):
        assert named in targets, named
    for target in ("run", "test", "test-stack", "bench-train", "bench-serve", "lock", "up", "down"):
        assert f"make {target}" in EVERYTHING, target


def test_tree_names_every_room() -> None:
    tree = README[README.index("## What is where") : README.index("## Commands")]
    top = ""
    named = set()
    for indent, name in re.findall(r"^( *)([\w.-]+/?) ", tree, re.MULTILINE):
        top = top if indent else name
        named.add(top + name if indent else name)
    for place in named - {"```"}:
        assert (ROOT / place).exists(), place
    for package in ("pipeline", "serving", "benchmarks"):
        rooms = {f"{package}/{file.parent.name}/" for file in (ROOT / package).glob("*/__init__.py")}
        assert rooms <= named, rooms - named


def test_links_and_pictures_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_numbers_in_the_readme_are_those_of_the_results() -> None:
    results = (ROOT / "docs" / "results.md").read_text()
    rows = [line for line in README.splitlines() if line.startswith("| `") and " ± " in line]
    assert len(rows) == 5
    for row in rows:
        accuracy = re.search(r"\d\d\.\d\d ± \d\.\d\d", row)
        assert accuracy
        assert accuracy.group() in results, row
