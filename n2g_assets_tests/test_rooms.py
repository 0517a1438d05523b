"""Who may import whom (DESIGN section 3), read from the code itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "n2g_assets"
DAGSTER_ROOMS = {"assets", "defs", "study.py", "definitions.py", "demo.py"}
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


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
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def top(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_dagster_rooms_import_dagster(path):
    if room(path) not in DAGSTER_ROOMS:
        assert "dagster" not in top(imports(path))


@pytest.mark.parametrize("path", [p for p in MODULES if room(p) in {"method", "evaluation"}], ids=name_of)
def test_the_method_knows_no_database_no_files_and_no_models(path):
    assert not top(imports(path)) & {
        "duckdb",
        "transformers",
        "transformer_lens",
        "torch",
        "pathlib",
        "os",
        "io",
        "shutil",
    }


@pytest.mark.parametrize("path", [p for p in MODULES if room(p) not in {"subject"}], ids=name_of)
def test_only_subject_imports_torch_at_module_level(path):
    assert not top(imports(path, outside_functions=True)) & {"torch", "transformers", "transformer_lens"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_rooms_below_do_not_import_rooms_above(path):
    below = {"method", "evaluation", "corpus", "storage", "drawing", "subject"}
    if room(path) in below:
        ours = {name.split(".")[1] for name in imports(path) if name.startswith("n2g_assets.")}
        assert not ours & {"assets", "study", "definitions", "defs", "demo"}


def test_only_the_warehouse_opens_duckdb_for_writing():
    opens = {name_of(path) for path in MODULES if "duckdb" in top(imports(path))}
    assert opens == {"storage/warehouse.py"}


def loaded_by(imports: str) -> set[str]:
    """What a fresh interpreter has loaded after some imports."""
    code = f"import sys; {imports}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_loads_no_heavy_library():
    assert not loaded_by("import n2g_assets") & {"torch", "dagster", "transformers", "polars", "numba", "sklearn"}


def test_importing_the_light_rooms_loads_no_heavy_library():
    """All their modules at once; ``walk`` is compiled, and is imported where it is called."""
    light = {"method", "evaluation", "corpus", "storage", "drawing"}
    paths = [path.relative_to(PACKAGE.parent).with_suffix("") for path in MODULES if room(path) in light]
    names = {".".join(path.parts) for path in paths if path.name != "__init__"} - {"n2g_assets.method.walk"}
    heavy = {"torch", "dagster", "transformers", "numba", "sklearn", "scipy", "duckdb", "jinja2"}
    assert not loaded_by(f"import {', '.join(sorted(names))}") & heavy


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_outgrows_its_room(path):
    assert len(path.read_text().splitlines()) <= 500
