"""Every regular expression of the package takes time in proportion to the text, whoever wrote the text.

The patterns are found in the source, so a new one is held to this as well. Texts to attack one are made of
its own characters and words, repeated, after every beginning of it, and end with what it cannot match.
"""

import ast
import importlib
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import accumulate, pairwise

import pytest

from marigold_demo.settings import ReliefSettings
from tests.pages import ROOT

PACKAGE = ROOT / "marigold_demo"
# Patterns that are chosen while the program runs: module and expression -> where they are listed.
CHOSEN = {
    ("serving.middleware", "PATHS.get(method, '(?!)')"): lambda module: module.PATHS.values(),
    ("ui.widgets", r"f'\\b{name}\\b'"): lambda _: [rf"\b{field.name}\b" for field in fields(ReliefSettings)],
}
SCANS = {"search", "sub", "subn", "split", "findall", "finditer"}
COMMON = "a0 .-_/:@'\"<>,=\t\n"
# How often the unit of an attack is repeated: an exponential pattern shows in the first five, before it takes
# for ever, a quadratic one in the last.
REPEATS = (8, 12, 16, 20, 24, 1000, 10_000)
LONGEST = 10_000  # characters of a text
LIMIT_S = 1.5  # of the processor, for all texts of one pattern and number of repeats; usual is less than 0.1


def expressions() -> Iterator[tuple[str, str, frozenset[str]]]:
    """Yield module, source of the pattern and the methods it is used by, for each call of `re`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and is_attribute(node.func)]
        for call in calls:
            if call.func.value.id == "re" and call.args and call.func.attr not in ("escape", "error"):
                yield name, ast.unparse(call.args[0]), methods(tree, call, calls)


def is_attribute(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)


def methods(tree: ast.Module, call: ast.Call, calls: list[ast.Call]) -> frozenset[str]:
    """Return how a pattern is used: by the call itself, or by what is done with its name once compiled."""
    if call.func.attr != "compile":
        return frozenset({call.func.attr})
    names = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and node.value is call
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    used = {other.func.attr for other in calls if other.func.value.id in names}
    return frozenset(used or {"search", "fullmatch"})


def patterns(module: str, source: str) -> Iterable[str | bytes]:
    loaded = importlib.import_module(f"marigold_demo.{module}")
    if (module, source) in CHOSEN:
        return CHOSEN[module, source](loaded)
    return [eval(source, dict(vars(loaded)))]


def attacks(pattern: str, repeats: int) -> Iterator[str]:
    """Yield texts that a pattern may have to try in many ways."""
    words = [word for word in re.split(r"\\[a-zA-Z]|[\\\[\](){}|?*+^$.]", pattern) if word]
    units = {*COMMON, *words, *("".join(pair) for pair in pairwise(words)), *"".join(words)}
    beginnings = {"", *words[:3], *accumulate(words[:6])}
    for beginning in sorted(beginnings):
        for unit in sorted(units):
            yield beginning + unit * min(repeats, LONGEST // len(unit)) + "\x00"


def seconds(pattern: str | bytes, used: frozenset[str], repeats: int) -> float:
    """Return how long a pattern takes for all texts of so many repeats; more than LIMIT_S ends it."""
    text = pattern.decode("latin-1") if isinstance(pattern, bytes) else pattern
    compiled = re.compile(pattern, re.DOTALL)
    start = time.process_time()
    for attack in attacks(text, repeats):
        given = attack.encode("latin-1", "replace") if isinstance(pattern, bytes) else attack
        if used & SCANS:
            list(compiled.finditer(given))
        if used - SCANS:
            compiled.match(given)
            compiled.fullmatch(given)
        if time.process_time() - start > LIMIT_S:
            return LIMIT_S + 1
    return time.process_time() - start


def is_linear(pattern: str | bytes, used: frozenset[str]) -> bool:
    return all(seconds(pattern, used, repeats) <= LIMIT_S for repeats in REPEATS)


FOUND = sorted(set(expressions()), key=str)


def test_the_patterns_of_the_package_are_found():
    modules = {module for module, _, _ in FOUND}
    assert {
        "network.checkpoint_files",
        "io.depth_arrays",
        "serving.middleware",
    } <= modules
    assert len(FOUND) > 15


@pytest.mark.parametrize(("module", "source", "used"), FOUND, ids=[f"{m}: {s}"[:60] for m, s, _ in FOUND])
def test_pattern_takes_time_in_proportion_to_the_text(module, source, used):
    for pattern in patterns(module, source):
        assert is_linear(pattern, used), f"{pattern!r} backtracks"


@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r"(?:\s|<\?xml.*?\?>|<!--.*?-->)*<svg", "match"),
        (
            rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*<svg",
            "match",
        ),  # 420 bytes stopped a server
        (r"(\w+\s?)*$", "match"),
        (r"\s*https?:", "search"),
    ],
)
def test_patterns_that_backtrack_are_found(pattern, method, monkeypatch):
    monkeypatch.setattr(f"{__name__}.LIMIT_S", 0.1)
    assert not is_linear(pattern, frozenset({method}))


def test_no_pattern_hides_from_this_test():
    """Other ways to the engine of `re` would not be found."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"^from re import|^import (?:regex|sre_\w+)|fnmatch\.", text, re.MULTILINE), path
