"""The canonical data: one Parquet file and one manifest for every slice, replaced as a whole.

    slices/<table>/study=<study>/layer=<7>/<part>.<random>.parquet and <part>.json     (tables of a layer)
    slices/<table>/study=<study>/<part>.<random>.parquet and <part>.json               (tables of a study)

1. Rows are brought to their table's schema and order, and hashed. Their file has a name that no other write, on
   whatever machine, gives or gave.
2. The rows are moved into place, then the manifest, which names them, takes the place of the old one by one rename: of
   several writers the last one's rows are the slice, and whoever reads finds the old one or the new one whole. Then the
   rows that the manifest superseded are removed; what a writer that was overtaken leaves is removed later.
3. A damaged slice counts as absent for whoever decides on reuse, and is an error for who reads it.

``<part>`` is ``rows``, or the stage for the ledger, whose slice of a layer is written by several stages.
"""

import os
import re
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from n2g_assets.core.errors import StorageError
from n2g_assets.core.home import Home
from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit, of_units
from n2g_assets.storage import files
from n2g_assets.storage.hashing import content_hash
from n2g_assets.storage.objects import place_of

_OVERTAKEN_SECONDS = 3600.0
"""Age from which rows that no manifest names are nobody's: a writer needs far less to move its manifest into place."""
_NAME_BYTES = 8
"""Of the random part of a file's name."""
_ROW_GROUP_BYTES = 2**20
"""Rows of about so many bytes, unpacked, stand together in a file: who reads some units leaves the other groups."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_VALUE = re.compile(r"(?P<column>study|layer)=(?P<value>.+)")
"""The folder of the slices of a study, or of a layer."""


class Manifest(BaseModel):
    """What is known of a slice without reading its rows."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    table: str
    study: str
    layer: int | None
    part: str
    input_hash: str
    """Hash of the stage's code version, settings and inputs: equal means that the slice can be reused."""
    content_hash: str
    """Hash of the rows: what later stages hash."""
    code_version: str
    rows: int
    written_at: str
    """UTC, ISO 8601."""
    file: str
    """Name of the file of its rows, beside it."""
    file_bytes: int
    file_sha256: str
    unit_hashes: dict[str, str] = {}
    """By ``unit:sign``, the hash of what this unit's rows were made from."""
    seconds: float = 0.0
    """How long it took to compute the rows."""
    extra: dict[str, Any] = {}


@dataclass(frozen=True, order=True)
class SliceKey:
    """Names one slice; ``layer`` is None for tables of a whole study."""

    table: str
    study: str
    layer: int | None = None
    part: str = "rows"

    def __str__(self) -> str:
        """Such as ``ledger/top_examples of study demo, layer 7``."""
        part = "" if self.part == "rows" else f"/{self.part}"
        return f"{self.table}{part} of study {self.study}" + ("" if self.layer is None else f", layer {self.layer}")


class SliceStore:
    """Reads and writes slices under a home, and holds its locks."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._place = place_of(home)

    # ---------------------------------------------------------------------------------------- writing
    def write(
        self,
        key: SliceKey,
        frame: pl.DataFrame,
        *,
        input_hash: str,
        code_version: str,
        unit_hashes: Mapping[str, str] | None = None,
        seconds: float = 0.0,
        extra: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Replaces one slice; what was there stays until the new one is complete.

        The rows have all columns of the table and any order; what else is given is kept in the manifest, ``extra`` as
        JSON.

        Raises:
            StorageError: the rows do not fit the table, repeat a key or belong to another slice, or the disk is full.
        """
        path = self.manifest_path(key)
        frame = TABLES[key.table].conform(frame)
        _check_keys(key, frame)
        with files.temporary_folder(path) as folder:
            row_group = max(1, int(frame.height * _ROW_GROUP_BYTES / max(frame.estimated_size(), 1)))
            frame.write_parquet(folder / "rows", row_group_size=row_group)
            size, sha256 = files.size_and_sha256(folder / "rows")
            manifest = Manifest(
                **vars(key), input_hash=input_hash, content_hash=content_hash(frame), code_version=code_version,
                rows=frame.height, written_at=datetime.now(UTC).isoformat(timespec="microseconds"),
                file=f"{key.part}.{secrets.token_hex(_NAME_BYTES)}.parquet", file_bytes=size, file_sha256=sha256,
                unit_hashes=dict(unit_hashes or {}), seconds=seconds, extra=dict(extra or {}),
            )  # fmt: skip
            files.write_sealed(folder / "manifest", manifest.model_dump())
            rows = path.with_name(manifest.file)
            self._place.send(folder / "rows", rows)
            os.replace(folder / "rows", rows)
            superseded = self._place.supersede((folder / "manifest").read_text(encoding="utf-8"), path)
            os.replace(folder / "manifest", path)
        self._remove_others(path, manifest.file, _file_named_in(superseded))
        return manifest

    # ---------------------------------------------------------------------------------------- reading
    def manifest(self, key: SliceKey, *, with_rows: bool = False) -> Manifest | None:
        """The manifest of a slice, or None if it is absent, half-written or damaged (then it is to be made again).

        In a store that is elsewhere the rows are looked at ``with_rows`` alone: they have to be copied for that.
        """
        state = self._inspect(key, with_rows=with_rows)
        if isinstance(state, Manifest):
            return state
        if state != "absent":
            files.say_damaged(f"The slice {key}", state)
        return None

    def read(
        self, key: SliceKey, *, columns: Sequence[str] | None = None, units: Collection[Unit] | None = None
    ) -> pl.DataFrame:
        """The rows of one slice, in the order of the table's key; of these columns and units alone.

        Only a table that is kept by unit can be asked for some units; memory is then that of their rows.

        Raises:
            StorageError: the slice is absent, damaged or half-written.
        """
        state = self._inspect(key)
        if state == "absent":
            raise StorageError(f"There is no slice {key}: materialize the stage that writes {key.table} first.")
        if not isinstance(state, Manifest):
            raise StorageError(f"{self._damage(key)}: {state}.")
        try:
            scan = self._scan(key, state)
            rows = scan if units is None else only_units(scan, units)
            return (rows if columns is None else rows.select(columns)).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            now = self._inspect(key)
            if isinstance(now, Manifest) and now.file != state.file:  # another writer was faster than the reader
                return self.read(key, columns=columns, units=units)
            self._discard_unreadable(key, state)
            raise StorageError(f"{self._damage(key)} ({type(error).__name__}).") from error

    def studies(self) -> list[str]:
        """The studies that have a slice of any table."""
        return sorted({key.study for key in self._all_keys()})

    def keys(self, study: str) -> list[SliceKey]:
        """Every slice of a study that has a manifest, whole or not, in the order of the tables."""
        order = {name: number for number, name in enumerate(TABLES)}
        return sorted((key for key in self._all_keys() if key.study == study), key=lambda key: (order[key.table], key))

    def path(self, key: SliceKey) -> Path:
        """The Parquet file of a slice that is whole.

        Raises:
            StorageError: it is absent or damaged, or as ``manifest_path``.
        """
        manifest = self.manifest(key, with_rows=True)
        if manifest is None:
            raise StorageError(f"There is no slice {key}: materialize the stage that writes {key.table} first.")
        return self.rows_path(key, manifest)

    def rows_path(self, key: SliceKey, manifest: Manifest) -> Path:
        """The Parquet file that a manifest of a slice ``with_rows`` names; fails as ``manifest_path``."""
        return self.manifest_path(key).with_name(manifest.file)

    def manifest_path(self, key: SliceKey) -> Path:
        """The manifest of a slice, which names the file of its rows beside it.

        Raises:
            StorageError: no such table, a layer where none belongs or none where one does, or an unusable name.
        """
        if key.table not in TABLES:
            raise StorageError(f"There is no table {key.table!r}: use one of {', '.join(TABLES)}.")
        table = TABLES[key.table]
        if (key.layer is None) != (table.scope == "study"):
            raise StorageError(
                f"Table {key.table} is kept per {table.scope}, but layer is {key.layer}: "
                f"{'leave the layer out' if table.scope == 'study' else 'name the layer'}."
            )
        folder = self.home.slices / table.name / f"study={_checked_name('study', key.study)}"
        if key.layer is not None:
            folder = folder / f"layer={int(key.layer)}"
        return folder / f"{_checked_name('part', key.part)}.json"

    # ---------------------------------------------------------------------------------------- locks
    def lock(self, name: str) -> AbstractContextManager[None]:
        """Holds a lock of this home; see ``files.hold_lock``."""
        return files.hold_lock(self.home.locks, name)

    # ---------------------------------------------------------------------------------------- inside
    def _inspect(self, key: SliceKey, *, with_rows: bool = True) -> Manifest | str:
        """The manifest, or 'absent', or what is wrong; looks again as long as writers replace it meanwhile."""
        named = None
        while True:
            state = self._look(key, with_rows)
            if state == "absent" or isinstance(state, Manifest):
                return state
            before, named = named, self._file_named_now(key)
            if named is None or named == before:
                return state

    def _look(self, key: SliceKey, with_rows: bool) -> Manifest | str:
        try:
            text = self._place.text(self.manifest_path(key))
            if text is None:
                return "absent"
            manifest = Manifest.model_validate(files.unsealed(text))
            look_at_rows = with_rows or not self._place.is_elsewhere
            return (look_at_rows and self._damage_of_rows(key, manifest)) or manifest
        except FileNotFoundError:
            return "its rows are missing"
        except (OSError, ValueError, pl.exceptions.PolarsError) as error:
            return f"{type(error).__name__} in its manifest or rows"

    def _damage_of_rows(self, key: SliceKey, manifest: Manifest) -> str:
        """What is wrong with the rows that a manifest names, which are copied here for that; empty if nothing is."""
        rows, whole = self.rows_path(key, manifest), (manifest.file_bytes, manifest.file_sha256)
        self._place.bring(rows, *whole)
        if not files.is_whole(rows, *whole):
            return "its rows are not those of its manifest"
        differs = self._scan(key, manifest).collect_schema() != TABLES[key.table].schema
        return "its columns are not those of the table" if differs else ""

    def _discard_unreadable(self, key: SliceKey, manifest: Manifest) -> None:
        """Removes the manifest of rows that cannot be read although their checksum is right: they are made again."""
        try:
            self._scan(key, manifest).collect()
        except (pl.exceptions.PolarsError, OSError):
            if self._file_named_now(key) == manifest.file:
                self._place.remove(self.manifest_path(key))

    def _damage(self, key: SliceKey) -> str:
        return f"{self.manifest_path(key)} or its rows cannot be read, delete it and materialize {key} again"

    def _all_keys(self) -> Iterator[SliceKey]:
        for found in self._place.files(self.home.slices):
            *folders, name = found.path.relative_to(self.home.slices).parts
            values = [_VALUE.fullmatch(folder) for folder in folders[1:]]
            if name.endswith(".json") and folders and folders[0] in TABLES and all(values):
                named = {value["column"]: value["value"] for value in values if value is not None}
                scope = ["study", "layer"][: 1 + (TABLES[folders[0]].scope == "layer")]
                number = named.get("layer", "")
                if list(named) == scope and (number.isdecimal() or len(scope) == 1):
                    layer = int(number) if number else None
                    yield SliceKey(folders[0], named["study"], layer, name.removesuffix(".json"))

    def _file_named_now(self, key: SliceKey) -> str | None:
        try:
            return _file_named_in(self._place.text(self.manifest_path(key)) or "")
        except (OSError, ValueError):
            return None

    def _remove_others(self, path: Path, file: str, superseded: str | None) -> None:
        """Removes the rows that a manifest superseded, and those that were nobody's for long; not its own ``file``."""
        rows_of_part = re.compile(rf"{re.escape(path.stem)}\.[0-9a-f]{{{2 * _NAME_BYTES}}}\.parquet")
        for other, _, changed in self._place.files(path.parent):
            useless = other.name == superseded or time.time() - changed > _OVERTAKEN_SECONDS
            if useless and other.name != file and rows_of_part.fullmatch(other.name):
                self._place.remove(other)

    def _scan(self, key: SliceKey, manifest: Manifest) -> pl.LazyFrame:
        return pl.scan_parquet(self.rows_path(key, manifest), hive_partitioning=False, glob=False)


def _file_named_in(manifest: str) -> str | None:
    """The rows that the text of a manifest names; None where it is empty or damaged."""
    try:
        return Manifest.model_validate(files.unsealed(manifest)).file
    except ValueError:
        return None


def only_units(rows: pl.LazyFrame, units: Collection[Unit]) -> pl.LazyFrame:
    """The rows of some units; the first condition lets the reader leave out groups of rows of other units."""
    numbers = [unit.number for unit in units]
    near = pl.col("unit").is_between(min(numbers), max(numbers)) if numbers else pl.lit(False)
    return rows.filter(near, of_units(units))


def _checked_name(what: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise StorageError(
            f"The {what} name {name!r} cannot name a folder: use letters, digits, _, - and . (not as the first one)."
        )
    return name


def _check_keys(key: SliceKey, frame: pl.DataFrame) -> None:
    for column, value in {"study": key.study, "layer": key.layer}.items():
        if value is not None and (frame[column] != value).any():
            raise StorageError(f"Rows for the slice {key} name another {column}: make the stage write {value!r} there.")
    keys = frame.select(TABLES[key.table].key)
    repeated = keys.filter(keys.is_duplicated())
    if repeated.height:
        first = repeated.row(0, named=True)
        raise StorageError(f"Rows for the slice {key} repeat the key {first}: make the stage write each key once.")
