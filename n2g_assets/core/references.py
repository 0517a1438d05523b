"""Tables of the database that say what the registry declares: stages, texts and predictors. They have no slices."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from n2g_assets.core import registry
from n2g_assets.core.table import Column, Table

_PLACE = Column("place", pl.Int32, "place in the order of the list, from 1")


def _reference(name: str, row: str, *columns: Column) -> Table:
    return Table(name, row, "reference", (columns[0], _PLACE, *columns[1:]), (columns[0].name,))


_TABLES = (
    _reference("stages", "per-layer stage of the pipeline",
        Column("stage", pl.String, "name: the value of ledger.stage"),
        Column("tables", pl.List(pl.String), "tables that it writes, besides the ledger"),
        Column("upstream", pl.List(pl.String), "stages and assets that it reads"),
    ),
    _reference("texts", "text on which predictors are scored",
        Column("text", pl.String, "name: the value of evaluation.text"),
        Column("label", pl.String, "name for reading"),
        Column("meaning", pl.String, "what it is"),
    ),
    _reference("predictors", "predictor of a unit's activation",
        Column("predictor", pl.String, "name: the value of evaluation.predictor"),
        Column("label", pl.String, "name for reading"),
        Column("role", pl.String, "explanation (what is judged), baseline (what it has to beat) or control"),
        Column("meaning", pl.String, "what it is"),
    ),
)  # fmt: skip

REFERENCES: dict[str, Table] = {table.name: table for table in _TABLES}
"""The reference tables by name."""


def reference_rows(table: Table) -> pl.DataFrame:
    """The rows of a table of ``REFERENCES``, in the order of the registry."""
    lists: dict[str, Sequence[registry.Stage | registry.Text | registry.Predictor]] = {
        "stages": registry.STAGES,
        "texts": registry.TEXTS,
        "predictors": registry.PREDICTORS,
    }
    entries = lists[table.name]
    named = {"place": range(1, len(entries) + 1), table.key[0]: [entry.name for entry in entries]}
    columns = {
        name: named[name] if name in named else [getattr(entry, name) for entry in entries] for name in table.schema
    }
    return pl.DataFrame(columns, schema=table.schema, strict=False)
