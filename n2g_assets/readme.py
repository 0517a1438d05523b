"""Writes the parts of README.md that come from the code: the settings and the tables.

``python -m n2g_assets.readme`` brings them up to date; a test asserts that they are.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from n2g_assets.core.settings import (
    AnySubject,
    CorpusSource,
    EvaluationSettings,
    HarvestSettings,
    MethodSettings,
    StudySettings,
)
from n2g_assets.core.tables import TABLES

README = Path(__file__).parents[1] / "README.md"


def settings_text() -> str:
    """Every setting with its default and its meaning."""
    parts: list[tuple[str, type[BaseModel]]] = [
        ("attributes", StudySettings),
        ("attributes.harvest", HarvestSettings),
        ("attributes.method", MethodSettings),
        ("attributes.evaluation", EvaluationSettings),
        ("attributes.subject, whatever its source", AnySubject),
        ("attributes.corpus, each entry, whatever its source", CorpusSource),
    ]
    return "\n\n".join(f"`{name}`\n\n{_settings_table(settings)}" for name, settings in parts)


def _settings_table(settings: type[BaseModel]) -> str:
    rows = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for name, field in settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if default is PydanticUndefined:
            shown = "required"
        elif isinstance(default, BaseModel):
            shown = "`{" + ", ".join(f"{key}: {value}" for key, value in default.model_dump().items()) + "}`"
            shown = "see below" if len(shown) > 40 else shown
        else:
            shown = f"`{default}`"
        rows.append(f"| `{name}` | {shown} | {_cell(field.description or '')} |")
    return "\n".join(rows)


def tables_text() -> str:
    """Every table with its columns."""
    parts = []
    for table in TABLES.values():
        rows = ["| column | type | meaning |", "| --- | --- | --- |"]
        rows += [f"| `{column.name}` | {column.duckdb_type} | {_cell(column.meaning)} |" for column in table.columns]
        head = f"<details><summary><b>{table.name}</b>: one row a {table.row}</summary>"
        parts.append(f"{head}\n\nKey: `{', '.join(table.key)}`\n\n" + "\n".join(rows) + "\n\n</details>")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def updated(readme: str) -> str:
    """The README with its generated parts made anew."""
    for name, text in {"settings": settings_text(), "tables": tables_text()}.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end of {name} -->)", re.DOTALL)
        readme = marks.sub(lambda match, text=text: match[1] + text + match[2], readme)  # type: ignore[misc]
    return readme


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
