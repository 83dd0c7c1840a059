"""Documents name files, sections and make targets that exist, and are spelled the American way."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "benchmarks/*.md",
        "examples/*.md",
        "synthetic/*.md",
        "marigold_demo/**/*.md",
    )
    for path in ROOT.glob(pattern)
)
FILE = re.compile(r"(?<![\w/.*-])(?:[\w.-]+/)*[\w-]+\.(?:py|md|toml|css|js|cff)(?![\w-])")
ELSEWHERE = {"script/depth/eval.py"}  # in Marigold's own repository
BRITISH = re.compile(
    r"colour|\bgrey|metres?\b|licence|\bcentre|neighbour|behaviour|mould|\bfavour|cancelled|labelled|modelling"
    r"|(?:normal|optim|recogn|minim|organ|summar|initial|visual)is(?:e|ed|es|ing|ation)\b",
    re.IGNORECASE,
)
LARGEST_ANIMATION_BYTES = 10**6

documents = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def files() -> set[str]:
    """Return the files of the project, by their paths from its root."""
    folders = ("marigold_demo", "synthetic", "tests", "benchmarks", "scripts", "docs", "examples")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {
        path.relative_to(ROOT).as_posix() for path in [*found, *(p for p in ROOT.glob("*") if p.is_file())]
    }


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@documents
def test_links_lead_to_files_and_sections_that_exist(path):
    text = path.read_text()
    for target in re.findall(r"(?:\]\(|src=\")([^)\s\"]+)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name) if name else path
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked.read_text()), target


@documents
def test_files_that_are_named_exist(path):
    known = files()
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL))
    named = {name for span in spans for name in FILE.findall(span)} - ELSEWHERE
    missing = {name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in known)}
    assert not missing


@documents
def test_spelling_is_american(path):
    text = re.sub(r"`[^`\n]+`", "", path.read_text())  # names in code keep the spelling that people type
    assert not BRITISH.findall(text)


@documents
def test_make_targets_that_are_named_exist(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", path.read_text(), flags=re.MULTILINE)) <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }


def test_the_animation_of_the_readme_is_small():
    [name] = re.findall(r"src=\"([^\"]+\.gif)\"", (ROOT / "README.md").read_text())
    assert (ROOT / name).stat().st_size < LARGEST_ANIMATION_BYTES


def test_the_path_of_a_photo_names_functions_that_are_there():
    rows = re.findall(r"^\| `(\S+\.py)` \| `(\S+)` \|", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert len(rows) > 15
    for file, name in rows:
        tree = ast.parse((ROOT / "marigold_demo" / file).read_text())
        for part in name.split("."):
            named = (ast.FunctionDef, ast.ClassDef)
            [tree] = [node for node in tree.body if isinstance(node, named) and node.name == part]


def test_the_import_ladder_names_modules_that_exist():
    rows = re.findall(r"^\| \d \| ([^|]+) \|", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    assert len(rows) == 7
    names = {name.replace(".", "/") for row in rows for name in re.findall(r"\b[a-z_]+(?:\.[a-z_]+)?\b", row)}
    names -= {"in", "the", "root", "commands"} | {"app/py"}
    missing = [name for name in names if not list((ROOT / "marigold_demo").glob(f"{name}*"))]
    assert not missing
