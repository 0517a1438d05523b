"""What the Dagster UI shows of a table: its column schema and a preview, both from ``core/tables.py``."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import polars as pl

from n2g_assets.core.explorer import explorer_address
from n2g_assets.core.tables import TABLES
from n2g_assets.method.tokens import display_text

_PREVIEW_ROWS = 8
_CELL_CHARACTERS = 40


def asset_metadata(tables: Sequence[str]) -> dict[str, Any]:
    """Metadata of an asset that holds for every materialization: the schema of each of its tables, the main one first.

    It holds the meaning of every column.
    """
    metadata = {}
    for index, table in enumerate(tables):
        columns = [
            dg.TableColumn(
                column.name, column.duckdb_type, column.meaning, dg.TableColumnConstraints(nullable=column.nullable)
            )
            for column in TABLES[table].columns
        ]
        schema = dg.MetadataValue.table_schema(dg.TableSchema(columns))
        metadata[f"schema of {table}" if index else "dagster/column_schema"] = schema
    return metadata


def preview(frame: pl.DataFrame) -> dg.MetadataValue:
    """The first rows of a frame as a table in the UI; long cells are cut."""
    rows = frame.head(_PREVIEW_ROWS).iter_rows(named=True)
    records = [dg.TableRecord({name: _cell(value) for name, value in row.items()}) for row in rows]
    return dg.MetadataValue.table(records, dg.TableSchema([dg.TableColumn(name) for name in frame.columns]))


def explorer_link(study: str, layer: int | None = None) -> dict[str, dg.MetadataValue]:
    """The link to the explorer's page about a study, or about a layer of it."""
    return {"explorer": dg.MetadataValue.url(explorer_address(study, layer))}


def rounded(value: Any) -> Any:
    """A number as the UI shows it: four significant digits; anything else as it is."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _cell(value: object) -> str | int | float | bool | None:
    if isinstance(value, float):
        return round(value, 4)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, bytes):
        value = display_text(value)
    if isinstance(value, list):
        value = ", ".join(str(_cell(item)) for item in value[:12]) + (" …" if len(value) > 12 else "")
    text = str(value)
    return text if len(text) <= _CELL_CHARACTERS else text[: _CELL_CHARACTERS - 1] + "…"
