"""Builders and processes that the storage tests share."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl

from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit
from n2g_assets.method.results import BlockResult, Outcome
from n2g_assets.storage import files
from n2g_assets.storage.slices import Manifest, SliceKey, SliceStore
from n2g_assets.storage.stages import StageReport, fill_units

UNITS = [Unit(neuron, 1) for neuron in (5, 0, 3, 9, 7, 1, 8)]


def rows(table: str, *records: dict[str, Any], **common: Any) -> pl.DataFrame:
    """A frame of a table; columns that are left out get a value of their type, or NULL where they may be."""
    fill = {
        pl.String: "",
        pl.Binary: b"",
        pl.Boolean: False,
        pl.Int8: 1,
        pl.Int32: 0,
        pl.Int64: 0,
        pl.Float32: 0.0,
        pl.Float64: 0.0,
    }
    columns = TABLES[table].columns
    full = [
        {
            column.name: {**common, **record}.get(
                column.name,
                None if column.nullable else [] if isinstance(column.dtype, pl.List) else fill.get(column.dtype),
            )
            for column in columns
        }
        for record in records
    ]
    return pl.DataFrame(full, schema=TABLES[table].schema)


def write(
    store: SliceStore, table: str, frame: pl.DataFrame, study: str = "demo", layer: int | None = 7, part: str = "rows"
) -> Manifest:
    key = SliceKey(table, study, layer if TABLES[table].scope == "layer" else None, part)
    return store.write(key, frame, input_hash="in", code_version="1")


def rows_of_all(store: SliceStore, table: str, study: str) -> pl.DataFrame:
    """The rows of every layer and part of a table; none where there is no slice."""
    found = [store.read(key) for key in store.keys(study) if key.table == table]
    return pl.concat([TABLES[table].empty(), *found])


def layers_of(store: SliceStore, table: str, study: str) -> list[int | None]:
    """The layers that have a slice of a table, whole or not."""
    return [key.layer for key in store.keys(study) if key.table == table]


def remove(store: SliceStore, *key: Any) -> None:
    """Removes a slice with its manifest, as somebody who tidies up by hand would."""
    store.path(SliceKey(*key)).unlink()
    store.manifest_path(SliceKey(*key)).unlink()


def forge(store: SliceStore, key: SliceKey, content: bytes) -> None:
    """Puts other bytes in the place of a slice's rows, with a manifest that is right about them."""
    about = store.manifest_path(key)
    store.path(key).write_bytes(content)
    sealed = files.read_sealed(about) | {"file_bytes": len(content), "file_sha256": sha256(content).hexdigest()}
    about.unlink()
    files.write_sealed(about, sealed)


def node_rows(units: Sequence[Unit]) -> pl.DataFrame:
    """Rows that a stage could write for these units: neuron n has n % 3 + 1 rules."""
    names = [name for name in TABLES["rules"].schema if name not in ("study", "layer")]
    records = [
        {"unit": u.number, "sign": u.sign, "rule_id": rule, "pattern": f"{u.number} *", "tokens": [b"\xff", None]}
        for u in units
        for rule in range(u.number % 3 + 1)
    ]
    return rows("rules", *records).select(names)


def compute(units: list[Unit]) -> BlockResult:
    """A stage that is always ok."""
    return BlockResult({"rules": node_rows(units)}, {unit: Outcome("ok") for unit in units})


def fill(store: SliceStore, **changes: Any) -> StageReport:
    """Runs a small stage for ``UNITS``."""
    arguments: dict[str, Any] = {
        "stage": "neuron_graphs",
        "tables": ["rules"],
        "study": "demo",
        "layer": 7,
        "code_version": "1",
        "settings_hash": "s",
        "units": UNITS,
        "carried": {},
        "compute": compute,
        "block_size": 2,
    } | changes
    arguments.setdefault("unit_inputs", {unit: f"input {unit.number}" for unit in arguments["units"]})
    return fill_units(store, **arguments)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Within, no file of this process can grow beyond ``size`` bytes: writing fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def start(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """Another Python process that talks through its standard input and output."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def expect(process: subprocess.Popen[str], word: str) -> None:
    """Waits for a line that says ``word``."""
    line = process.stdout.readline()
    assert line.strip() == word, f"expected {word!r}, the process said {line!r}"


def tell(process: subprocess.Popen[str]) -> None:
    """Lets a process that waits for a line go on."""
    process.stdin.write("\n")
    process.stdin.flush()


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
