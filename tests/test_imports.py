"""The import ladder: a module imports from rows below its own, or from its own row, and never in a circle."""

import ast
import sys
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = "marigold_demo"

# A module stands in the row of the longest name that it is or lies under; what is not named stands in row 2.
ROWS = {
    "errors": 0,
    "catalog": 1,
    "depth": 1,
    "settings": 1,
    "evaluation": 3,
    "network": 3,
    "workflow": 3,
    "network.checkpoint": 4,
    "network.checkpoint_folder": 4,
    "api": 5,
    "batch": 4,
    "cli.many": 5,
    "serving": 4,
    "training": 4,
    "ui": 4,
    "cli.main": 6,
    "cli.commands": 5,
    "app": 6,
    "__main__": 6,
}
UNNAMED_ROW = 2

LIGHT = {
    "PIL",
    "contourpy",
    "huggingface_hub",
    "matplotlib",
    "numpy",
    "pillow_heif",
    "scipy",
    "trimesh",
    "manifold3d",
}
NETWORKS = {"accelerate", "diffusers", "numpy", "psutil", "safetensors", "torch", "transformers"}
ALIGNMENT = {"numpy", "scipy"}
# Libraries a module may use: by the longest name again, else by its row.
LIBRARIES = {
    "batch.manifest": {"filelock"},
    "io.cache_folder": {"filelock"},
    "workflow": {"cachetools", "numpy"},
    "network": NETWORKS,
    "network.plan": NETWORKS | ALIGNMENT,
    "network.ensemble": ALIGNMENT,
    "network.hub": LIGHT,
    "network.checkpoint_files": LIGHT,
    "network.feedforward": NETWORKS | {"PIL"},
    "network.weights": NETWORKS | {"huggingface_hub"},
    "serving.http": {"brotli", "cachetools", "starlette"},
    "serving": {"cachetools", "fastapi", "prometheus_client", "python_multipart", "starlette", "uvicorn"},
    "training": NETWORKS | LIGHT | {"h5py", "synthetic"},
    "ui": LIGHT | {"gradio", "starlette"},
}
BY_ROW: dict[int, set[str]] = {0: set(), 1: {"numpy"}, 2: LIGHT, 3: LIGHT, 4: set(), 5: LIGHT, 6: {"gradio"}}

SERVING = ("workflow", "ui", "serving", "io", "network", "geometry", "catalog", "examples")
WITHOUT_TORCH = (
    "workflow",
    "ui",
    "serving",
    "cli",
    "io",
    "geometry",
    "evaluation.evaluate",
    "api",
    "app",
    "batch",
)


@cache
def sources() -> dict[str, Path]:
    """Return the files of all modules by their names without the package."""
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT / PACKAGE).with_suffix("").parts) for file in files]
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


@cache
def imports(name: str, *, at_start: bool = False) -> frozenset[str]:
    """Return the dotted names a module imports; `at_start` leaves out what only calls import."""
    nodes = [ast.parse(sources()[name].read_text())]
    found: set[str] = set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports relatively; name the module from {PACKAGE} on"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        if not (at_start and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)) and not _is_for_types(
            node
        ):
            nodes += ast.iter_child_nodes(node)
    return frozenset(found)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def own(name: str, *, at_start: bool = False) -> set[str]:
    """Return the modules of the package that a module imports."""
    found = set()
    for dotted in imports(name, at_start=at_start):
        if dotted.split(".")[0] == PACKAGE:
            inner = dotted.removeprefix(PACKAGE).removeprefix(".")
            found.add(inner if inner in sources() else inner.rpartition(".")[0])
    return found - {"__init__", ""}


def libraries(name: str, *, at_start: bool = False) -> set[str]:
    tops = {dotted.split(".")[0] for dotted in imports(name, at_start=at_start)}
    return tops - set(sys.stdlib_module_names) - {PACKAGE}


def reach(name: str) -> set[str]:
    """Return all modules that are loaded when one is imported."""
    seen, todo = set(), [name]
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += own(module, at_start=True)
            todo += [module.rpartition(".")[0]] if "." in module else []
    return seen


def longest(name: str, table: dict[str, Any]) -> Any:
    """Return the entry of the longest name that a module is or lies under, None without one."""
    parts = name.split(".")
    names = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return next((table[prefix] for prefix in names if prefix in table), None)


def row(name: str) -> int:
    found = longest(name, ROWS)
    return UNNAMED_ROW if found is None else found


MODULES = [name for name in sources() if name != "__init__"]


def test_modules_import_only_from_their_row_or_below():
    above = {name: {other for other in own(name) if row(other) > row(name)} for name in MODULES}
    assert not {name: found for name, found in above.items() if found}


def test_modules_use_only_the_libraries_of_their_row():
    foreign = {name: libraries(name) - (longest(name, LIBRARIES) or BY_ROW[row(name)]) for name in MODULES}
    assert not {name: found for name, found in foreign.items() if found}


def test_no_import_goes_in_a_circle():
    state: dict[str, bool] = {}  # False while a module's imports are being followed

    def follow(name: str, path: tuple[str, ...]) -> None:
        assert state.get(name) is not False, f"{' -> '.join((*path, name))} is a circle"
        if name not in state:
            state[name] = False
            for other in own(name, at_start=True):
                if not name.startswith(f"{other}."):  # a package's own __init__ may name its modules
                    follow(other, (*path, name))
            state[name] = True

    for name in MODULES:
        follow(name, ())


def test_what_serves_visitors_never_loads_training_or_evaluation():
    for name in MODULES:
        if name.split(".")[0] in SERVING:
            loaded = {module.split(".")[0] for module in reach(name)}
            assert not loaded & {"training", "evaluation"}, name


def test_page_command_line_and_workflow_start_without_torch():
    for name in MODULES:
        if longest(name, dict.fromkeys(WITHOUT_TORCH, True)):
            heavy = {
                module for module in reach(name) if libraries(module, at_start=True) & {"torch", "diffusers"}
            }
            assert not heavy, f"{name} loads torch through {sorted(heavy)}"


def test_page_and_workflow_never_name_the_pipeline():
    for name in MODULES:
        if name.split(".")[0] in ("ui", "workflow"):
            assert not {other for other in own(name) if other.split(".")[0] == "network"}


def test_nothing_imports_the_programs():
    programs = {"cli.main": {"__main__"}, "cli.commands": {"cli.main"}, "__main__": set()}
    for program, allowed in programs.items():
        assert not [name for name in MODULES if program in own(name) and name not in allowed]


def test_only_the_app_imports_the_page():
    outside = [name for name in MODULES if name.split(".")[0] not in ("ui", "app")]
    assert not [name for name in outside if any(other.split(".")[0] == "ui" for other in own(name))]


def test_only_the_command_line_imports_the_app():
    assert {name for name in MODULES if "app" in own(name)} == {"cli.main"}
    for name in MODULES:
        assert "app" not in {dotted.split(".")[0] for dotted in imports(name)}  # app.py beside the package


def test_rendered_scenes_are_a_package_of_their_own():
    for file in (ROOT / "synthetic").glob("*.py"):
        assert PACKAGE not in file.read_text(), file
    assert {name for name in MODULES if "synthetic" in libraries(name)} == {"training.data"}
    assert not [name for name in MODULES if "synthetic" in libraries(name, at_start=True)]


def test_modules_are_few_and_have_a_readable_length():
    lengths = {name: len(file.read_text().splitlines()) for name, file in sources().items() if name}
    lengths = {n: lines for n, lines in lengths.items() if sources()[n].stem not in ("__init__", "__main__")}
    assert 50 < len(lengths) <= 95
    assert not {name: lines for name, lines in lengths.items() if not 30 <= lines <= 600}
