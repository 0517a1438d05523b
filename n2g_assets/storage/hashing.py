"""Hashes that decide on reuse: of settings, of other hashes, and of the rows of a frame.

A row hash speaks of values alone. It does not depend on Parquet's encoding, on Polars' chunks or version, or on
what lies under a NULL: each column is taken apart into flat little-endian buffers (NULL flags, lengths of lists and
strings, values), and those are hashed with their column's name and type. All hashes are blake2b, 128 bits, as hex.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit

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
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for column in frame.get_columns():
        _feed(digest, column, _pieces(column), 0, frame.height)
    digest.update(frame.height.to_bytes(8, "little"))
    return digest.hexdigest()


def unit_rows_hashes(frame: pl.DataFrame, units: Iterable[Unit]) -> dict[Unit, str]:
    """Hash of each unit's rows; ``study`` and ``layer`` do not count, the order of rows within a unit does.

    Args:
        frame: rows with the columns ``unit`` and ``sign``; rows of other units are passed over.
        units: the units asked about; one without rows gets the hash of no rows.
    """
    units = list(units)
    wanted = pl.DataFrame(units, schema={"unit": pl.Int32, "sign": pl.Int8}, orient="row").unique()
    rows = (
        frame.drop("study", "layer", strict=False)
        .with_columns(pl.col("unit").cast(pl.Int32), pl.col("sign").cast(pl.Int8))
        .join(wanted, on=["unit", "sign"], how="semi")
        .sort("unit", "sign", maintain_order=True)
    )
    groups = rows.group_by("unit", "sign", maintain_order=True).len()
    ends = np.cumsum(groups["len"].to_numpy()).astype(np.int64)
    spans = {
        Unit(number, sign): (int(end) - size, int(end))
        for (number, sign, size), end in zip(groups.iter_rows(), ends, strict=True)
    }
    columns = [(column, _pieces(column)) for column in rows.get_columns()]
    answer = {}
    for unit in units:
        start, end = spans.get(unit, (0, 0))
        digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        for column, pieces in columns:
            _feed(digest, column, pieces, start, end)
        digest.update((end - start).to_bytes(8, "little"))
        answer[unit] = digest.hexdigest()
    return answer


def file_sha256(path: Any) -> str:
    """sha256 of a file, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Piece(NamedTuple):
    """A flat buffer and where each row's bytes begin and end in it: row i is data[offsets[i]:offsets[i + 1]]."""

    data: np.ndarray
    offsets: np.ndarray


def _feed(digest: Any, column: pl.Series, pieces: list[_Piece], start: int, end: int) -> None:
    """Takes a column's name and type and the bytes of some of its rows into a hash."""
    digest.update(f"{column.name}\0{column.dtype}\0".encode())
    for piece in pieces:
        digest.update(piece.data[piece.offsets[start] : piece.offsets[end]])


def _pieces(column: pl.Series) -> list[_Piece]:
    array = column.rechunk().to_arrow()
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return _flatten(array)


def _flatten(array: pa.Array) -> list[_Piece]:
    pieces = [_fixed(np.asarray(pc.is_null(array).to_numpy(zero_copy_only=False), dtype=np.uint8))]
    kind = array.type
    if pa.types.is_large_list(kind):
        lengths = _lengths(pc.list_value_length(array))
        pieces.append(_fixed(lengths))
        bounds = _bounds(lengths)
        for inner in _flatten(array.flatten()):
            pieces.append(_Piece(inner.data, inner.offsets[bounds]))
    elif pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        filled = pc.fill_null(array.cast(pa.large_binary()), b"")
        lengths = _lengths(pc.binary_length(filled))
        pieces.append(_fixed(lengths))
        pieces.append(_Piece(_joined_bytes(filled), _bounds(lengths)))
    elif pa.types.is_boolean(kind) or pa.types.is_timestamp(kind):
        whole = array.cast(pa.uint8() if pa.types.is_boolean(kind) else pa.int64())
        pieces.append(_fixed(pc.fill_null(whole, 0).to_numpy(zero_copy_only=False)))
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        pieces.append(_fixed(pc.fill_null(array, 0).to_numpy(zero_copy_only=False)))
    else:
        raise TypeError(f"Rows of type {kind} cannot be hashed: teach storage/hashing.py this type.")
    return pieces


def _lengths(array: pa.Array) -> np.ndarray:
    return pc.fill_null(array, 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _bounds(lengths: np.ndarray) -> np.ndarray:
    bounds = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    return bounds


def _fixed(values: np.ndarray) -> _Piece:
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return _Piece(values.view(np.uint8), np.arange(len(values) + 1, dtype=np.int64) * values.itemsize)


def _joined_bytes(array: pa.Array) -> np.ndarray:
    _, offsets, data = array.buffers()
    if data is None or offsets is None or len(array) == 0:
        return np.zeros(0, np.uint8)
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]]
