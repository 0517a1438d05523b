"""Hashes that decide on reuse: of settings, of other hashes, and of the rows of a frame.

A row hash speaks of values alone. It does not depend on Parquet's encoding, on Polars' chunks or version, or on
what lies under a NULL: each column is taken apart into flat little-endian buffers (NULL flags, lengths of lists and
strings, values), and those are hashed with their column's name and type. All hashes are blake2b, 128 bits, as hex.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit, of_units

_DIGEST_BYTES = 16


def hash_json(value: Any) -> str:
    """Hash of anything that JSON can hold; the order of keys does not count, NaN is refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def schema_hash(tables: Iterable[str]) -> str:
    """Hash of the columns and types of some tables: rows that were made for other columns have another one."""
    return hash_json(
        [[table, [[name, str(dtype)] for name, dtype in TABLES[table].schema.items()]] for table in tables]
    )


def content_hash(frame: pl.DataFrame) -> str:
    """Hash of a frame's rows in the order they stand in (``SliceStore.write`` sorts them by the key first)."""
    return _hash_rows(_flat_columns(frame), 0, frame.height)


def unit_rows_hashes(frame: pl.DataFrame, units: Iterable[Unit]) -> dict[Unit, str]:
    """Hash of each unit's rows; ``study`` and ``layer`` do not count, the order of rows within a unit does.

    Args:
        frame: rows with the columns ``unit`` and ``sign``; rows of other units are passed over.
        units: the units asked about; one without rows gets the hash of no rows.
    """
    units = list(units)
    rows = (
        frame.drop("study", "layer", strict=False)
        .cast({"unit": pl.Int32, "sign": pl.Int8})
        .filter(of_units(units))
        .sort("unit", "sign", maintain_order=True)
    )
    columns = _flat_columns(rows)
    found = rows.select("unit", "sign").with_row_index("start").group_by("unit", "sign").agg(pl.min("start"), pl.len())
    spans = {Unit(number, sign): (start, start + size) for number, sign, start, size in found.iter_rows()}
    return {unit: _hash_rows(columns, *spans.get(unit, (0, 0))) for unit in units}


def file_sha256(path: Path) -> str:
    """sha256 of a file, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Piece(NamedTuple):
    """A flat buffer and where each row's bytes begin and end in it: row i is data[offsets[i]:offsets[i + 1]]."""

    data: np.ndarray
    offsets: np.ndarray


def _flat_columns(frame: pl.DataFrame) -> dict[str, list[_Piece]]:
    """By a column's name and type, its flat buffers."""
    return {f"{column.name}\0{column.dtype}\0": _flatten(column.rechunk().to_arrow()) for column in frame.get_columns()}


def _hash_rows(columns: dict[str, list[_Piece]], start: int, end: int) -> str:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for column, pieces in columns.items():
        digest.update(column.encode())
        for data, offsets in pieces:
            digest.update(data[offsets[start] : offsets[end]].data)
    digest.update((end - start).to_bytes(8, "little"))
    return digest.hexdigest()


def _flatten(array: pa.Array) -> list[_Piece]:
    null_flags = _fixed(array.is_null())
    kind = array.type
    if pa.types.is_large_list(kind):
        lengths = pc.fill_null(pc.list_value_length(array), 0)
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        inner = [_Piece(data, offsets[bounds]) for data, offsets in _flatten(array.flatten())]
        return [null_flags, _fixed(lengths), *inner]
    if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        filled = pc.fill_null(array.cast(pa.large_binary()), b"")
        return [null_flags, _fixed(pc.binary_length(filled)), _joined_bytes(filled)]
    if pa.types.is_primitive(kind):
        return [null_flags, _fixed(pc.fill_null(array, pa.scalar(0).cast(kind)))]
    raise TypeError(f"Rows of type {kind} cannot be hashed: teach storage/hashing.py this type.")


def _fixed(array: pa.Array) -> _Piece:
    """Values of one width, without NULL."""
    values = array.to_numpy(zero_copy_only=False)
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return _Piece(values.view(np.uint8), np.arange(len(values) + 1) * values.itemsize)


def _joined_bytes(array: pa.Array) -> _Piece:
    """Values of any length, without NULL."""
    _, offsets, data = array.buffers()
    if data is None or offsets is None or len(array) == 0:
        return _Piece(np.zeros(0, np.uint8), np.zeros(len(array) + 1, np.int64))
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return _Piece(np.frombuffer(data, np.uint8), bounds)
