"""Compares a study in two databases, row by row: what a change of code must leave as it was.

    python benchmarks/compare.py old.duckdb new.duckdb --study demo --without graph_shuffled

Numbers are equal within 1e-6, all else to the letter. Prints a line a table and ends with 1 if any differs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import duckdb
import polars as pl

from n2g_assets.core.home import Home
from n2g_assets.storage.slices import SliceStore

TOLERANCE = 1e-6
KEYS = {
    "documents": ["document_id"],
    "neuron_stats": [],
    "top_examples": ["rank"],
    "pruned_examples": ["rank"],
    "saliencies": ["rank", "position"],
    "augmented_examples": ["rank", "position", "choice"],
    "graph_nodes": ["node_id"],
    "rules": ["rule_id"],
    "rule_tests": ["rule_id"],
    "reach": ["text", "last_tokens"],
    "evaluation": ["predictor", "text"],
    "counterexamples": ["text", "kind", "rank"],
    "failures": ["kind"],
    "layer_scores": ["predictor", "text"],
}
"""The tables that are compared, with their key beyond layer, unit and sign."""


def rows(database: Path, table: str, study: str, without: list[str]) -> pl.DataFrame:
    with duckdb.connect(str(database), read_only=True) as connection:
        frame = connection.sql(f"SELECT * FROM {table} WHERE study = $study", params={"study": study}).pl()
    frame = frame.rename({"neuron": "unit"}, strict=False)  # the column's name before it was unit
    if "predictor" in frame.columns:
        frame = frame.filter(~pl.col("predictor").is_in(without))
    return frame.sort([*(name for name in ("layer", "unit", "sign") if name in frame.columns), *KEYS[table]])


def difference(old: pl.Series, new: pl.Series) -> float:
    """The largest difference of two columns; infinite where they differ in kind, length or NULLs."""
    if isinstance(old.dtype, pl.List) and old.dtype.inner.is_float():  # type: ignore[union-attr]
        if (old.list.len() != new.list.len()).any():
            return float("inf")
        old, new = old.explode(), new.explode()
    if old.dtype.is_float():
        same_holes = (old.is_null() == new.is_null()).all()
        return float((old - new).abs().max() or 0) if same_holes else float("inf")  # type: ignore[arg-type]
    return 0.0 if old.equals(new) else float("inf")


def compare_slices(old: Home, new: Home, study: str, near: float = TOLERANCE) -> tuple[int, float, list[str]]:
    """Of all slices of a study in two homes: the rows, the largest difference, and the tables that differ by more."""
    stores = [SliceStore(home) for home in (old, new)]
    keys, others = (store.keys(study) for store in stores)
    if keys != others:
        return 0, float("inf"), ["the list of slices"]
    rows, largest, wrong = 0, 0.0, list[str]()
    for table in sorted({key.table for key in keys}):
        own = [key for key in keys if key.table == table]
        before, after = (pl.concat([store.read(key) for key in own]) for store in stores)
        same = before.height == after.height
        apart = max(difference(before[name], after[name]) if same else float("inf") for name in before.columns)
        wrong += [table] if apart > near else []
        rows, largest = rows + after.height, max(largest, apart)
    return rows, largest, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--study", default="demo")
    parser.add_argument("--without", nargs="*", default=[], help="predictors that are left out")
    options = parser.parse_args()
    all_equal = True
    for table in KEYS:
        old, new = (rows(path, table, options.study, options.without) for path in (options.old, options.new))
        columns = [name for name in old.columns if name in new.columns]
        if old.height != new.height:
            wrong = {"rows": float("inf")}
        else:
            wrong = {name: difference(old[name], new[name]) for name in columns}
        largest = max(wrong.values())
        equal = largest <= TOLERANCE
        all_equal = all_equal and equal
        said = "equal" if equal else f"DIFFERS in {[name for name, size in wrong.items() if size > TOLERANCE]}"
        print(f"{table}: {old.height} rows before, {new.height} after, {said}, largest difference {largest:.1e}")
    return 0 if all_equal else 1


if __name__ == "__main__":
    raise SystemExit(main())
