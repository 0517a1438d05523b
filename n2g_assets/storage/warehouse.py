"""Publishes the slices of all studies into the one DuckDB file: the only code that opens it for writing.

1. Take the database lock, and look at all slices: their manifests and today's tables and views give a fingerprint.
2. Beside the file stands its note, ``n2g.duckdb.json``: the fingerprint it was made from, its size and its sha256.
   If the fingerprint is the same and the file is whole, nothing happens. In object storage the note names the object
   that the file is a copy of.
3. Otherwise the database is written anew from the Parquet files in a temporary folder and moved into place, the file
   first, then its note. Readers keep their snapshot; a kill at any point leaves the old or the new file.

A study whose slices are gone leaves the database. Of tables by unit, the rows of each study's units are published. A
slice that is damaged, or that an older version wrote with other columns, is passed over with a warning.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import polars as pl

from n2g_assets.core import registry
from n2g_assets.core.errors import StorageError
from n2g_assets.core.home import Home
from n2g_assets.core.table import Table
from n2g_assets.core.tables import REFERENCES, TABLES, reference_rows
from n2g_assets.storage import files, schema
from n2g_assets.storage.hashing import hash_json
from n2g_assets.storage.objects import place_of
from n2g_assets.storage.schema import View, identifier, literal
from n2g_assets.storage.slices import Manifest, SliceKey, SliceStore

if TYPE_CHECKING:
    import duckdb

STORAGE_VERSION = "v1.2.0"
"""Storage format of the file: old enough for DuckDB 1.5 clients to open what DuckDB 2 wrote."""
MEMORY_LIMIT = "1GB"
"""Memory of the publishing connection; DuckDB spills what does not fit."""

Slices = dict[SliceKey, Manifest]
Rows = dict[str, dict[str, int]]
"""By study and table, the number of published rows."""


@dataclass
class PublishReport:
    """What ``publish`` did, and what the database holds now."""

    changed: bool = False
    """Whether the file was made anew."""
    rows: Rows = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    """Studies that were not in the database before."""
    dropped: list[str] = field(default_factory=list)
    """Studies that left the database, since they have no slices any more."""
    warnings: list[str] = field(default_factory=list)
    """Slices that were passed over; a file that was damaged or changed by another program."""
    seconds: float = 0.0


def publish(store: SliceStore) -> PublishReport:
    """Brings the database of a home up to date with the slices of all studies.

    Raises:
        StorageError: another publisher holds the lock, the disk is full or a folder stands in the way; the published
            file is unharmed.
    """
    started = time.perf_counter()
    with store.lock("database"):
        while (report := _publish(store)) is None:
            pass
    report.seconds = time.perf_counter() - started
    return report


def _publish(store: SliceStore) -> PublishReport | None:
    """What ``publish`` does, under its lock; None where a run elsewhere has replaced a slice or published meanwhile."""
    database = newest_database(store.home)
    report = PublishReport()
    slices = _slices(store, report.warnings)
    fingerprint = _fingerprint(slices)
    before = _read_note(store.home)
    whole = _is_whole(database, before)
    report.rows = before.get("rows", {})
    if not whole or before["fingerprint"] != fingerprint:
        if not whole and database.exists():
            report.warnings.append(
                f"{database.name} was damaged or changed by another program, and was made anew from the slices: "
                "keep tables of your own in another database, and ATTACH this one there."
            )
        try:
            report.rows, superseded = _replace(store, slices, fingerprint)
        except StorageError:
            if _fingerprint(_slices(store, [])) != fingerprint:
                return None
            raise
        if superseded not in (before, {}):
            return None
        report.changed = True
    studies, known = report.rows.keys(), before.get("rows", {}).keys()
    report.added, report.dropped = sorted(studies - known), sorted(known - studies)
    return report


def open_database(home: Home) -> "duckdb.DuckDBPyConnection":
    """A read-only connection to the published file; it keeps its snapshot while others publish.

    Raises:
        StorageError: nothing is published yet, or the file cannot be opened.
    """
    import duckdb

    database = newest_database(home)
    if not database.exists():
        raise StorageError(f"{database} is not there yet: materialize the warehouse of a study first.")
    try:
        return duckdb.connect(str(database), read_only=True)
    except duckdb.Error as error:
        raise not_opened(database, error) from error


def newest_database(home: Home) -> Path:
    """The published file, copied here if the store is elsewhere; it need not be there."""
    note = _read_note(home)
    with suppress(KeyError, FileNotFoundError):  # none is published, or it is being replaced: the next look finds that
        named = home.database.with_name(note["object"])
        place_of(home).bring(named, note["bytes"], note["sha256"], to=home.database)
    return home.database


def not_opened(path: Path, reason: object) -> StorageError:
    """The error of a file that DuckDB refuses for a reason: another program has it, or it is none that can be read."""
    said = (str(reason).splitlines() or [""])[0]
    if "set lock" in said:
        return StorageError(
            f"{path} cannot be opened ({said}): close the program that writes to it, or publish it again with a run of "
            "any of its studies."
        )
    return StorageError(f"{path} is damaged or no database ({said}): n2g run STUDY makes it anew.")


def described_views() -> list[View]:
    """Every view and macro of the database with its comments, for the documentation."""
    import duckdb

    with duckdb.connect(":memory:") as connection:
        schema.create_schema(connection)
        return schema.view_descriptions(connection)


# -------------------------------------------------------------------------------------------- what is to be published
def _slices(store: SliceStore, warnings: list[str]) -> Slices:
    """The slices to publish, in the order of studies, tables and layers; says which are passed over."""
    found: Slices = {}
    for study in store.studies():
        layers = _layers(store, study)
        for key in store.keys(study):
            if not TABLES[key.table].published or (layers is not None and key.layer not in layers):
                continue
            manifest = store.manifest(key, with_rows=True)
            if manifest is None:
                warnings.append(
                    f"The slice {key} is damaged or was written by another version, and is not published: "
                    f"materialize {key.part if key.table == 'ledger' else key.table} of this study again."
                )
            else:
                found[key] = manifest
    return found


def _layers(store: SliceStore, study: str) -> set[int | None] | None:
    """The layers that a study asks for in its settings, and None for its tables that have no layer; None: all."""
    key = SliceKey("studies", study)
    if store.manifest(key) is None:
        return None
    layers = json.loads(store.read(key, columns=["settings"]).item())["layers"]
    return {None, *(layers if isinstance(layers, list) else range(layers))}


def _units(store: SliceStore, slices: Slices) -> pl.DataFrame:
    """Study, layer, unit and sign of every unit asked for: those in the ledger of the first stage that has one."""
    stages = [stage.name for stage in registry.STAGES]
    ledgers = sorted((key for key in slices if key.table == "ledger"), key=lambda key: stages.index(key.part))
    first = {(key.study, key.layer): key for key in reversed(ledgers)}
    columns = ["study", "layer", "unit", "sign"]
    rows = [store.read(key, columns=columns) for key in first.values()]
    return pl.concat([TABLES["ledger"].empty().select(columns), *rows])


def _fingerprint(slices: Slices) -> str:
    """Hash of everything that the database is made from."""
    return hash_json(
        [
            STORAGE_VERSION,
            [[str(key), found.content_hash, found.input_hash, found.code_version] for key, found in slices.items()],
            *_schema(),
        ]
    )


def _schema() -> list[Any]:
    """What the database holds before any slice is in it."""
    references = [reference_rows(table).rows() for table in REFERENCES.values()]
    return [schema.schema_sql(), schema.views_sql(), references]


# -------------------------------------------------------------------------------------------- the file and its note
def _note_of(database: Path) -> Path:
    return database.with_name(f"{database.name}.json")


def _log_of(database: Path) -> Path:
    """Where DuckDB keeps what a program has committed and not yet written to the file."""
    return database.with_name(f"{database.name}.wal")


def _read_note(home: Home) -> dict[str, Any]:
    """The note of the published file; empty if it is missing or damaged, which counts as a damaged file."""
    with suppress(OSError, ValueError):
        return _note(place_of(home).text(_note_of(home.database)) or "")
    return {}


def _note(text: str) -> dict[str, Any]:
    """What a note says; empty where it is missing or damaged."""
    with suppress(ValueError):
        return files.unsealed(text)
    return {}


def _is_whole(database: Path, note: Mapping[str, Any]) -> bool:
    """Whether the file is the one that its note speaks of, with no log of another program beside it."""
    if not note or not database.is_file() or _log_of(database).exists():
        return False
    return files.is_whole(database, note["bytes"], note["sha256"])


def _replace(store: SliceStore, slices: Slices, fingerprint: str) -> tuple[Rows, dict[str, Any]]:
    """Makes the database anew in a temporary folder and moves it into place.

    Answers the rows that it holds, and the note that its own has superseded.
    """
    import duckdb

    database, note, place = store.home.database, _note_of(store.home.database), place_of(store.home)
    for path in (database, note):
        if path.is_dir():
            raise StorageError(f"{path} is a folder where a file of the database belongs: move it away.")
    with files.temporary_folder(database) as folder:
        try:
            rows = _build(folder / database.name, store, slices)
        except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
            if files.is_disk_full(error):
                raise
            raise StorageError(
                f"{database} could not be written ({error}), what was there is unharmed: "
                "remove the cause and materialize the warehouse again."
            ) from error
        size, sha256 = files.size_and_sha256(folder / database.name)
        about = {"fingerprint": fingerprint, "bytes": size, "sha256": sha256, "rows": rows}
        about["object"] = f"{database.stem}.{secrets.token_hex(8)}{database.suffix}"
        files.write_sealed(folder / note.name, about)
        place.send(folder / database.name, database.with_name(about["object"]))
        _log_of(database).unlink(missing_ok=True)  # DuckDB reads a log beside a file as part of it
        os.replace(folder / database.name, database)
        superseded = _note(place.supersede((folder / note.name).read_text(encoding="utf-8"), note))
        os.replace(folder / note.name, note)
    if place.is_elsewhere and superseded:
        place.remove(database.with_name(superseded["object"]))
    return rows, superseded


def _build(path: Path, store: SliceStore, slices: Slices) -> Rows:
    import duckdb

    settings: dict[str, Any] = {"memory_limit": MEMORY_LIMIT, "threads": min(4, os.cpu_count() or 1)}
    with duckdb.connect(":memory:", config=settings) as connection:
        connection.execute(f"SET temp_directory = {literal(str(path.with_suffix('.spill')))}")
        path.write_bytes(empty_database())
        connection.execute(f"ATTACH {literal(str(path))} AS warehouse")
        connection.execute("USE warehouse")
        connection.register("asked", _units(store, slices))
        for table in schema.published_tables():
            if found := {key: manifest for key, manifest in slices.items() if key.table == table.name}:
                connection.begin()  # else every row of the table ``slices`` would be written to the file alone
                _fill(connection, store, table, found)
                connection.commit()
        schema.name_explanations(connection)
        schema.keep_rows(connection)
        counted = "SELECT study, table_name, CAST(sum(published_rows) AS BIGINT) FROM slices GROUP BY ALL ORDER BY ALL"
        rows: Rows = {}
        for study, name, count in connection.execute(counted).fetchall():
            rows.setdefault(study, {})[name] = count
        connection.execute("CHECKPOINT warehouse")
        connection.execute("USE memory")
        connection.execute("DETACH warehouse")
    return rows


def empty_database() -> bytes:
    """The file of a database with all tables, views and macros and no slice in it."""
    return _empty_database(hash_json(_schema()))


@lru_cache(maxsize=1)
def _empty_database(_schema: str) -> bytes:
    """Made once in a process for a hash of the schema: that takes longer than to fill a small database."""
    import duckdb

    with TemporaryDirectory() as folder, duckdb.connect(":memory:") as connection:
        path = Path(folder) / "empty.duckdb"
        connection.execute(f"ATTACH {literal(str(path))} AS warehouse (STORAGE_VERSION {literal(STORAGE_VERSION)})")
        connection.execute("USE warehouse")
        schema.create_schema(connection)
        connection.execute("USE memory")
        connection.execute("DETACH warehouse")
        return path.read_bytes()


def _fill(connection: "duckdb.DuckDBPyConnection", store: SliceStore, table: Table, slices: Slices) -> None:
    """Inserts the rows of a table's slices, all files at once, and a row of the table ``slices`` for each of them."""
    paths = {str(store.rows_path(key, found)): found for key, found in slices.items()}
    patterns = [re.sub(r"([*?\[])", r"[\1]", path) for path in paths]  # so that nothing in a path is a wildcard
    columns = ", ".join(identifier(column.name) for column in table.columns)
    chosen = "SEMI JOIN asked USING (study, layer, unit, sign)" if table.by_unit else ""
    connection.execute(
        f"INSERT INTO {identifier(table.name)} ({columns}) "
        f"SELECT {columns} FROM read_parquet(?, hive_partitioning = false) {chosen}",
        [patterns],
    )
    counted = f"SELECT filename, count(*) FROM read_parquet(?, hive_partitioning = false, filename = true) {chosen}"
    inserted = dict(connection.execute(f"{counted} GROUP BY filename", [patterns]).fetchall())
    names = TABLES["slices"].schema.names()
    marks = ", ".join("?" for _ in names)
    for path, manifest in paths.items():
        about = dict(manifest) | {
            "table_name": manifest.table,
            "published_rows": inserted.get(path, 0),
            "written_at": datetime.fromisoformat(manifest.written_at).replace(tzinfo=None),
        }
        connection.execute(f"INSERT INTO slices VALUES ({marks})", [about[name] for name in names])
