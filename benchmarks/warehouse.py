"""Seconds to make the database anew at the size of a whole model, and to see that nothing has changed; its size.

1. Slices of a study of 30 layers with 1,536 units each (46,080) are written from those of a finished study, by default
   the demo's: each unit gets the rows of one of that study's units, with other numbers where they are activations or
   scores (each row times a factor of its own between .9 and 1.1), so that they compress as numbers do.
2. The database is published, and once more with nothing changed. Both times include the checksums of all slices.

The goal is a minute. The slices stay in the folder; a second run with the same folder only publishes.

    python benchmarks/warehouse.py --folder whole-model    # about 1 GB of slices, minutes to write them
    python benchmarks/warehouse.py --folder two-layers --layers 2
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import polars as pl

from n2g_assets.core.home import Home
from n2g_assets.core.table import Table
from n2g_assets.core.tables import TABLES
from n2g_assets.storage.slices import SliceKey, SliceStore
from n2g_assets.storage.warehouse import publish

STUDY = "whole_model"
LAYERS, UNITS = 30, 1536
JITTERED = (pl.Float32, pl.Float64, pl.List(pl.Float32), pl.List(pl.Float64))


def units_of(source: SliceStore, study: str) -> pl.DataFrame:
    """Layer, unit and sign of every unit that the finished study asks for."""
    columns = ["layer", "unit", "sign"]
    ledgers = [source.read(key, columns=columns) for key in source.keys(study) if key.table == "ledger"]
    return pl.concat(ledgers).unique().sort(columns)


def layer_rows(table: Table, found: pl.DataFrame, units: pl.DataFrame, layer: int, seed: int) -> pl.DataFrame:
    """Rows of a table for all units of a layer: unit i has those of unit i of ``units``, counted around."""
    generator = np.random.default_rng(seed)
    if not table.by_unit:
        rows = found.filter(layer=found["layer"].min())
    else:
        copies = units[(np.arange(UNITS) + layer) % units.height].with_columns(copy=pl.int_range(UNITS, dtype=pl.Int32))
        rows = copies.join(found, on=["layer", "unit", "sign"]).with_columns(unit="copy", sign=pl.lit(1, pl.Int8))
    factor = pl.Series("factor", generator.uniform(0.9, 1.1, rows.height).astype(np.float32))
    floats = [column.name for column in table.columns if column.dtype in JITTERED]
    return rows.with_columns(pl.col(floats) * factor, study=pl.lit(STUDY), layer=pl.lit(layer, pl.Int32)).select(
        table.schema.names()
    )


def write_whole_model(source: SliceStore, study: str, store: SliceStore, layers: int) -> None:
    """The slices of a study of all units of so many layers."""
    common = {"input_hash": "benchmark", "code_version": "1"}
    settings = pl.DataFrame({"settings": [json.dumps({"layers": layers})]})
    units = units_of(source, study)
    for table in TABLES.values():
        keys = [key for key in source.keys(study) if key.table == table.name]
        for part in sorted({key.part for key in keys}):
            found = pl.concat([source.read(key) for key in keys if key.part == part])
            if table.scope == "study":
                rows = found.with_columns(study=pl.lit(STUDY))
                rows = rows.with_columns(settings["settings"]) if table.name == "studies" else rows
                store.write(SliceKey(table.name, STUDY), rows, **common)
                continue
            if table.by_unit:
                found = found.join(units, on=["layer", "unit", "sign"], how="semi")
            for layer in range(layers):
                rows = layer_rows(table, found, units, layer, seed=layer)
                store.write(SliceKey(table.name, STUDY, layer, part), rows, **common)
        print(f"{table.name}: written", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="home of the whole model, made if it is not there")
    parser.add_argument("--home", type=Path, help="home of the finished study; $N2G_HOME if left out")
    parser.add_argument("--study", default="demo", help="the finished study")
    parser.add_argument("--layers", type=int, default=LAYERS)
    arguments = parser.parse_args()
    store = SliceStore(Home(arguments.folder))
    if STUDY not in store.studies():
        source = SliceStore(Home(arguments.home) if arguments.home else Home.from_environment())
        store.home.check_writable()
        write_whole_model(source, arguments.study, store, arguments.layers)
    store.home.database.unlink(missing_ok=True)
    slices = sum(path.stat().st_size for path in store.home.slices.rglob("*.parquet"))
    for what in ("made anew", "unchanged"):
        started, worked = time.perf_counter(), time.process_time()
        report = publish(SliceStore(store.home))
        seconds, work = time.perf_counter() - started, time.process_time() - worked
        rows = sum(report.rows[STUDY].values())
        print(
            f"{what} ({report.changed}): {seconds:.1f} s, {work:.1f} s of processors, {rows:,} rows, "
            f"{slices / 1e9:.2f} GB of slices, {store.home.database.stat().st_size / 1e9:.2f} GB of database"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
