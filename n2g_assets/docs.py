"""Writes the pages of ``docs/`` that come from the code: every setting, every table and every view.

``make docs`` brings them up to date; a test asserts that they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from n2g_assets.core.settings import (
    EvaluationSettings,
    FilesSource,
    HarvestSettings,
    HubSource,
    HubSubject,
    LocalSubject,
    MethodSettings,
    NamedSource,
    NeuronSample,
    StudySettings,
    WheelSubject,
)
from n2g_assets.core.table import Table
from n2g_assets.core.tables import REFERENCES, TABLES
from n2g_assets.storage.warehouse import described_views

FOLDER = Path(__file__).parents[1] / "docs"

SETTINGS: dict[str, type[BaseModel]] = {
    "attributes": StudySettings,
    "attributes.subject, source: wheel": WheelSubject,
    "attributes.subject, source: hub": HubSubject,
    "attributes.subject, source: local": LocalSubject,
    "attributes.corpus, an entry with source: named": NamedSource,
    "attributes.corpus, an entry with source: files": FilesSource,
    "attributes.corpus, an entry with source: hub": HubSource,
    "attributes.neurons": NeuronSample,
    "attributes.harvest": HarvestSettings,
    "attributes.method": MethodSettings,
    "attributes.evaluation": EvaluationSettings,
}
"""Where in a ``defs.yaml`` the settings of each model stand."""


def settings_page() -> str:
    """Every setting with its default and its meaning."""
    parts = [
        "# Settings",
        "Every setting of a `defs.yaml`, made from the code (`make docs`). An unknown key is an error that names the "
        "nearest one. *Section* means a section of the paper, arXiv 2305.19911.",
    ]
    for where, model in SETTINGS.items():
        rows = [
            (f"`{name}`", _default(field.get_default(call_default_factory=True), field.annotation), field.description)
            for name, field in model.model_fields.items()
        ]
        parts += [f"## `{where}`", (model.__doc__ or "").strip().splitlines()[0]]
        parts.append(_table(("setting", "default", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def tables_page() -> str:
    """Every table with its columns, and every view and macro with its comment."""
    parts = [
        "# Tables and views",
        "What `$N2G_HOME/n2g.duckdb` holds, made from the code (`make docs`). Each comment stands in the database too. "
        "The key of a unit's rows is `(study, layer, unit, sign)`; positions count from 0, elements of DuckDB's lists "
        "from 1.",
        "## Tables",
        *(_described(table) for table in TABLES.values()),
        "## Reference tables",
        *(_described(table) for table in REFERENCES.values()),
        "## Views and macros",
    ]
    for view in described_views():
        rows = [(f"`{name}`", kind, meaning) for name, kind, meaning in view.columns]
        columns = "\n\n" + _folded("columns", _table(("column", "type", "meaning"), rows)) if rows else ""
        parts.append(f"**`{view.name}`**: {_cell(view.comment)}{columns}")
    return "\n\n".join(parts) + "\n"


def _described(table: Table) -> str:
    rows = [(f"`{column.name}`", column.duckdb_type, column.meaning) for column in table.columns]
    kept = "" if table.published else " In Parquet alone: it is too large for the database."
    head = f"**`{table.name}`**: one row a {table.row}. Key: `{', '.join(table.key)}`.{kept}"
    return f"{head}\n\n{_folded('columns', _table(('column', 'type', 'meaning'), rows))}"


def _folded(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, str, str | None]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_cell(value or "") for value in line) + " |" for line in lines)


def _default(default: object, annotation: object) -> str:
    if default is PydanticUndefined:
        values = get_args(annotation)
        return f"`{values[0]}`" if len(values) == 1 and isinstance(values[0], str) else "required"
    if isinstance(default, BaseModel):
        shown = ", ".join(f"{key}: {value}" for key, value in default.model_dump().items())
        return "see below" if len(shown) > 40 else f"`{{{shown}}}`"
    return "none" if default is None else f"`{default}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


PAGES: dict[str, Callable[[], str]] = {"settings.md": settings_page, "tables.md": tables_page}
"""The generated pages by file name."""


def main() -> None:
    """Write the generated pages."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
