"""Who may import whom, and how large a room may be (the rooms stand in CONTRIBUTING.md), read from the code itself."""

import ast
import builtins
import subprocess
import symtable
import sys
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "n2g_assets"
MODULES = sorted(PACKAGE.rglob("*.py"))
NAMES = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in MODULES}

ORDER = [
    "core",
    "method",
    "storage",
    "corpus",
    "model",
    "evidence",
    "evaluation",
    "explanations",
    "report",
    "reading",
    "explore",
    "assets",
    "study",
    "top",
]
"""From the bottom up: a room imports itself and what stands before it."""
TOP = {"__init__.py", "definitions.py", "cli", "docs.py", "defs"}

KNOW_NOTHING_OF = {
    "dagster": set(ORDER) - {"assets", "study", "top"},
    "duckdb": set(ORDER) - {"storage", "reading", "top"},
    "torch transformers transformer_lens": set(ORDER) - {"model", "evidence", "assets"},
    "pathlib os io shutil": {"method", "evaluation"},
}
"""Libraries, and the rooms whose modules never import them, not even inside functions."""


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return "top" if first in TOP else first.removesuffix(".py")


@cache
def imports(path: Path, *, outside_functions: bool = False) -> set[str]:
    """Every module that a file imports, type-checking imports left out."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if outside_functions and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found.add(node.module or "")
            if node.module == "n2g_assets":
                found.update(f"n2g_assets.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_every_module_stands_in_a_room():
    assert {room(path) for path in MODULES} <= set(ORDER)


def test_rooms_import_only_what_stands_below_them():
    wrong = []
    for path in MODULES:
        for name in imports(path):
            if name.startswith("n2g_assets."):
                other = room(PACKAGE / name.split(".")[1] if name.split(".")[1] != "N2GStudy" else PACKAGE / "study.py")
                other = other if other in ORDER else "top"
                if ORDER.index(other) > ORDER.index(room(path)) and path.name != "__init__.py":
                    wrong.append(f"{name_of(path)} imports {name}")
    assert not wrong


def reachable(start: str, *, outside_functions: bool = False) -> set[str]:
    """All that a module imports, and what its imports import; beyond this package no further."""
    found, waiting = set[str](), [start]
    while waiting:
        path = NAMES.get(waiting.pop())
        others = imports(path, outside_functions=outside_functions) - found if path else set()
        found |= others
        waiting += others
    return found


def test_no_two_modules_import_each_other():
    """No circle inside a room either, whether of imports at the top of a module or inside functions."""
    assert not [name for name in NAMES if name in reachable(name)]


def test_rooms_do_not_know_what_is_not_their_business():
    wrong = []
    for path in MODULES:
        known = {name.split(".")[0] for name in imports(path)}
        for libraries, rooms in KNOW_NOTHING_OF.items():
            if room(path) in rooms and known & set(libraries.split()):
                wrong.append(f"{name_of(path)} imports {known & set(libraries.split())}")
    assert not wrong


def test_only_the_model_and_its_evidence_import_torch_at_module_level():
    for path in MODULES:
        if room(path) not in {"model", "evidence"}:
            known = {name.split(".")[0] for name in imports(path, outside_functions=True)}
            assert not known & {"torch", "transformers", "transformer_lens"}, name_of(path)


def test_a_study_is_read_without_torch():
    """Dagster reads them at every start, and so do commands that ask no model; finding a model is part of it."""
    for start in ("study", "model.sources"):
        found = reachable(f"n2g_assets.{start}", outside_functions=True)
        assert not {name.split(".")[0] for name in found} & {"torch", "transformers", "transformer_lens"}


def test_only_the_warehouse_and_its_readers_open_duckdb():
    opens = {name_of(path) for path in MODULES if "duckdb" in {name.split(".")[0] for name in imports(path)}}
    assert opens == {"storage/warehouse.py", "reading/database.py", "reading/sql_process.py"}


def test_no_module_outgrows_its_room():
    assert not [name_of(path) for path in MODULES if len(path.read_text(encoding="utf-8").splitlines()) > 400]


def test_every_name_is_defined_in_its_module():
    """Ruff and mypy do not say so here: shapes in types, which are strings, would be undefined names to them."""
    missing = []
    for path in MODULES:
        module = symtable.symtable(path.read_text(encoding="utf-8"), str(path), "exec")
        known = {symbol.get_name() for symbol in module.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
        known |= {child.get_name() for child in module.get_children()} | set(dir(builtins)) | {"__name__", "__file__"}
        waiting = [module]
        while waiting:
            scope = waiting.pop()
            waiting += scope.get_children()
            used = {
                symbol.get_name() for symbol in scope.get_symbols() if symbol.is_global() and symbol.is_referenced()
            }
            missing += [f"{name_of(path)}: {name}" for name in sorted(used - known)]
    assert not missing


def loaded_by(code: str) -> set[str]:
    """What a fresh interpreter has loaded after some imports."""
    command = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_loads_no_heavy_library():
    assert not loaded_by("import n2g_assets") & {"torch", "dagster", "transformers", "polars", "numba", "sklearn"}


def test_importing_the_light_rooms_loads_no_heavy_library():
    """All their modules at once; those of compiled loops are imported where they are called."""
    light = {"core", "method", "storage", "corpus", "evaluation", "report"}
    paths = [path.relative_to(PACKAGE.parent).with_suffix("") for path in MODULES if room(path) in light]
    names = {".".join(path.parts) for path in paths if path.name != "__init__"}
    names -= {"n2g_assets.method.walk", "n2g_assets.method.splits", "n2g_assets.evaluation.loops"}
    heavy = {"torch", "dagster", "transformers", "numba", "sklearn", "scipy", "duckdb", "jinja2", "matplotlib"}
    assert not loaded_by(f"import {', '.join(sorted(names))}") & heavy
