"""What a per-layer stage returns: the rows of a block of units and the outcome for each unit.

Frames hold ``unit``, ``sign`` and the table's own columns; the runner adds ``study`` and ``layer``. A unit that has a
number that is not finite is reported as failed and its rows are removed, so that no NaN reaches a later stage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
import polars.selectors as cs

from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit, of_units


@dataclass(frozen=True)
class Outcome:
    """The outcome of one stage for one unit."""

    status: Literal["ok", "dead", "too_few_contexts", "failed"]
    """A value of ``ledger.status``."""
    reason: str = ""
    """Why, in one sentence; empty where ok."""


@dataclass(frozen=True)
class BlockResult:
    """The rows of a block of units, and one outcome for every unit of the block."""

    tables: dict[str, pl.DataFrame]
    """By table name, without the columns ``study`` and ``layer``."""
    ledger: dict[Unit, Outcome]
    """By unit, in the order of the block."""


def unit_schema(table: str) -> pl.Schema:
    """The schema of a unit table as a stage writes it: ``unit``, ``sign`` and the table's own columns."""
    return pl.Schema((name, dtype) for name, dtype in TABLES[table].schema.items() if name not in ("study", "layer"))


def unit_frame(table: str, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows as a frame with the schema of ``unit_schema``; lists may be numpy arrays."""
    schema = unit_schema(table)
    return pl.DataFrame({name: _column([row[name] for row in rows]) for name in schema}, schema=schema)


def _column(values: list[Any]) -> list[Any] | pl.Series:
    """The values of a column; lists that are all arrays are cut from one, since polars takes lists one by one."""
    if not values or not all(isinstance(value, np.ndarray) for value in values):
        return [value.tolist() if isinstance(value, np.ndarray) else value for value in values]
    sizes, whole = np.array([*map(len, values)]), pl.Series(np.concatenate(values)).implode()
    cuts = pl.DataFrame({"start": np.cumsum(sizes) - sizes, "size": sizes})
    return cuts.select(pl.lit(whole).list.slice("start", "size")).to_series()


def rows_by_unit(units: Sequence[Unit], frame: pl.DataFrame) -> dict[Unit, list[dict[str, Any]]]:
    """The rows of each unit of a block in the order of the frame; rows of other units are left out."""
    rows: dict[Unit, list[dict[str, Any]]] = {unit: [] for unit in units}
    for row in frame.filter(of_units(units)).iter_rows(named=True):
        rows[Unit(row["unit"], row["sign"])].append(row)
    return rows


def finish_block(
    units: Sequence[Unit], tables: Mapping[str, pl.DataFrame], unusual: Mapping[Unit, Outcome] | None = None
) -> BlockResult:
    """A block's result: every unit is ok, except those in ``unusual`` and those with a number that is not finite."""
    ledger = {unit: (unusual or {}).get(unit, Outcome("ok")) for unit in units}
    for table, frame in tables.items():
        for column, dtype in frame.select(cs.float() | cs.list(cs.float())).schema.items():
            finite = pl.col(column).is_finite()
            if isinstance(dtype, pl.List):
                finite = pl.col(column).list.eval(pl.element().is_finite()).list.all()
            for unit in map(Unit._make, frame.filter(~finite).select("unit", "sign").unique().iter_rows()):
                if ledger[unit].status == "ok":
                    reason = f"{table}.{column} is not finite: check the subject model for overflow."
                    ledger[unit] = Outcome("failed", reason)
    lost = [unit for unit, outcome in ledger.items() if outcome.status != "ok"]
    return BlockResult({table: frame.filter(~of_units(lost)) for table, frame in tables.items()}, ledger)
