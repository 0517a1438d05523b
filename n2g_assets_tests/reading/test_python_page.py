"""The examples of docs/python.md and of the notebook run, on a tiny study instead of the demo."""

from __future__ import annotations

import ast
import re

import polars as pl
import pytest

from n2g_assets.docs import FOLDER
from n2g_assets_tests.notebook import NOTEBOOK, executed, without_outputs
from n2g_assets_tests.reading.conftest import first_unit

PAGE = (FOLDER / "python.md").read_text(encoding="utf-8")


def test_every_example_of_the_page_runs_and_every_line_gives_something(classes, monkeypatch, capsys):
    monkeypatch.setenv("N2G_HOME", str(classes.home.root))
    unit = first_unit(classes)
    names: dict[str, object] = {}
    empty = []
    for written in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        block = written.replace('"demo"', '"tiny"').replace("7, 669", f"{unit.layer}, {unit.number}")
        for statement in ast.parse(block).body:
            source = ast.unparse(statement)
            if isinstance(statement, ast.Expr):
                value = eval(source, names)
                empty += [source] if isinstance(value, pl.DataFrame) and not value.width else []
                assert value is not None, source
            else:
                exec(source, names)
    assert not empty
    assert "has no layer 99, neuron 0: it has layers 0, 1, 2" in capsys.readouterr().out


def test_the_page_names_every_public_member(classes):
    unit = first_unit(classes)
    internal = {"database", "rows", "has_classes", "threshold", "vocabulary", "key", "study", "control_of", "versions"}
    internal |= {"layers", "layer", "number", "sign", "card", "statistics", "model", "home", "name"}
    members = {name for each in (classes, unit, unit.top_contexts()[0]) for name in dir(each) if name[0] != "_"}
    assert [name for name in sorted(members - internal) if not re.search(rf"\b{name}\b", PAGE)] == []


@pytest.fixture
def notebook():
    return without_outputs(NOTEBOOK)


def test_the_notebook_runs_on_any_study(classes, notebook):
    for cell in notebook.cells:
        cell.source = cell.source.replace('"demo"', '"tiny"').replace("(import|from)", ".")
    done = executed(notebook, classes.home)
    outputs = [output for cell in done.cells for output in cell.get("outputs", ())]
    assert any("image/svg+xml" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type in ("error", "stream")]


def test_the_stored_notebook_has_outputs_is_small_and_names_no_machine():
    stored = NOTEBOOK.read_text(encoding="utf-8")
    assert stored.count('"image/svg+xml"') >= 4, "run python -m n2g_assets_tests.notebook after make demo"
    assert len(stored) < 600_000
    assert not re.findall(r"/(?:home|root|tmp|work|Users)/", stored)
    code = [cell for cell in without_outputs(NOTEBOOK).cells if cell.cell_type == "code"]
    assert len(code) >= 8
