"""Check the language of the documentation, comments and strings: prints `file:line: rule: text`, exits with 1 if any.

    .venv/bin/python .ci/prose.py [FILE ...]

proselint checks English usage; RULES are this project's own. Code in Markdown and in Python is ignored.
"""

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from proselint.checks import __register__
from proselint.config import DEFAULT
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "pipeline", "preparation", "serving", "tests", "benchmarks", "deploy", ".github", ".ci")
FILES = ("*.md", "*.yml", "*.toml", "Makefile", "Dockerfile.*")
SUFFIXES = (".md", ".py", ".yml")
EXEMPT = (Path(__file__), ROOT / "tests" / "test_prose.py")  # the patterns, and sentences that break them
# Off: straight quotes, the letter x and `color` are code here, `train train` is a table, saliency is the field's term.
OFF = (
    "annotations",
    "lexical_illusions",
    "misc.preferred_forms",
    "needless_variants",
    "psychology",
    "restricted",
    "spelling.consistency",
    "typography",
)
WIDTH = 100
# Each rule: a name with the better wording, and a pattern; a space matches a line break too.
RULES = {
    "headless clause: name the thing": r"\b(?:who|whom)ever\b"
    r"|\bwhat(?: \w+){0,3} (?:brought|is there|there is|came of it|is left)\b",
    "headless sentence: start with a noun or an imperative": r"(?<=\"\"\")(?:What|Who|Where|How) [^?\"]*?\."
    r"|(?:^|^ |^- |[.:] )(?:What|Who) (?:(?!\n\s*\n)[^.?])*\.",
    "where: a condition takes if or when": r"(?:^|^ |[.;] )Where (?:there|it|they|no|neither|nothing|a|an|one|the) "
    r"|\bwhere (?:there is|there are|nothing|none|neither|needed|possible)\b",
    "anew: again, from scratch": r"\banew\b",
    "beside: next to": r"\bbeside\b",
    "any more: no longer": r"(?:\b(?:not|never|cannot|nobody|nothing|no)\b|n't)[^.;:]{0,60}\bany ?more\b",
    "word order: also comes before the verb": r"\b(?:reaches|takes|covers|names|gives|holds|shows|counts|reads|writes"
    r"|makes|needs|keeps|serves|applies) also\b",
    "also where: even if, including": r"\balso (?:where|if|when|with|without)\b",
    "by why: by reason": r"\b(?:by|of|with) why\b",
    "code does not speak: returns, raises, logs, shows": r"\b(?:says|tells|knows)"
    r" (?:so|why|what|which|who|where|whether|how|that|it)\b",
    "is asked: receives a request": r"\b(?:is|are|was|were|be|been) asked\b",
    "goes on: continues, resumes": r"\bgo(?:es|ing)? on(?! to)\b",
    "in vain: without success": r"\bin vain\b",
    "to be had: available": r"\bto be had\b",
    "put right: fix": r"\bputs? right\b",
    "archaism: use the plain word": r"\b(?:thereof|therewith|whereof|wherein|therein|hitherto|henceforth|wished)\b",
}


def prose_of(path: Path) -> str:
    """Return the text of a file with code replaced by spaces, so that prose keeps its line and column."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        kept = re.sub(r"^```.*?^```|<!--.*?-->|^#.*?$|(?<=\])\([^)]*\)", blank, text, flags=re.MULTILINE | re.DOTALL)
    elif path.suffix == ".py":
        kept = python_prose(text)
    else:
        kept = re.sub(r"^[^#\n]*#?|^.*\"[^\"\n]*#.*$", blank, text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`", blank, kept)


def blank(match: re.Match[str]) -> str:
    """Replace everything but line ends by spaces."""
    return re.sub(r"[^\n]", " ", match.group())


def python_prose(text: str) -> str:
    """Keep comments and strings of a module."""
    lines = [" " * len(line) for line in text.splitlines()]
    source = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            (first, start), (last, end) = token.start, token.end
            for row in range(first, last + 1):
                a, b = start if row == first else 0, end if row == last else len(source[row - 1])
                lines[row - 1] = lines[row - 1][:a] + source[row - 1][a:b].replace("#", " ") + lines[row - 1][b:]
    return "\n".join(lines)


def findings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line number of each violation, and the rule with the text that breaks it."""
    prose = prose_of(path)
    for rule, pattern in RULES.items():
        for match in re.finditer(pattern.replace(" ", r"\s+"), prose, re.MULTILINE):
            words = match.group().lstrip(" .:;,-\n")
            yield prose.count("\n", 0, match.end() - len(words)) + 1, f"{rule}: {' '.join(words.split())}"
    checks = {**dict.fromkeys(OFF, False), **{name: on for name, on in DEFAULT["checks"].items() if name not in OFF}}
    for found in LintFile(path.name, prose).lint({**DEFAULT, "checks": checks}) if prose.strip() else ():
        yield found.pos[0], f"{found.check_result.check_path}: {found.check_result.message}"
    if path.suffix == ".md":
        text = re.sub(r"^```.*?^```", blank, path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for number, line in enumerate(text.splitlines(), 1):
            if len(line.rstrip()) > WIDTH and not line.startswith(("|", "<")) and "](" not in line:
                yield number, f"width: {len(line)} columns, at most {WIDTH}"


if __name__ == "__main__":
    CheckRegistry().register_many(__register__)
    named = [ROOT / name for name in sys.argv[1:]]
    everywhere = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    everywhere += [path for pattern in FILES for path in ROOT.glob(pattern)]
    paths = sorted(set(named or everywhere) - set(EXEMPT))
    found = [f"{str(path).removeprefix(f'{ROOT}/')}:{line}: {rule}" for path in paths for line, rule in findings(path)]
    print(*sorted(found), sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
