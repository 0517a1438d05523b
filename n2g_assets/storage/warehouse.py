"""Publishes a study's slices into the one DuckDB file: the only code that opens it for writing.

1. Take the database lock. If the file, opened for reading alone, is up to date already, leave it alone.
   Else copy it, with the log of commits that are not in it yet, to a temporary file beside it, and open the copy.
2. Create the tables and their comments from ``tables.py``, the views and macros from ``views.sql``
   and ``views_evaluation.sql``, where they differ.
3. In one transaction, replace the slices whose content hash is not the published one, and drop those that are gone.
   A table whose columns changed is made anew and filled for all studies; a slice that an older version wrote with
   other columns is passed over, with a warning, until its stage has written it again.
4. Checkpoint, close, and ``os.replace`` the file. Readers keep their snapshot; nobody waits for them.

The copy is read through first; a file that is damaged is set aside as ``n2g.duckdb.damaged-<n>`` and made anew from
the slices of all studies. Cache tables hold all neurons of a layer; of them the rows of the study's units are
published.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from n2g_assets.core.errors import StorageError
from n2g_assets.core.home import Home
from n2g_assets.core.table import Table
from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit
from n2g_assets.storage.database_file import copy_database, log_of, remove_database, set_aside, spill_of
from n2g_assets.storage.files import LOCK_TIMEOUT, disk_full_error, is_disk_full
from n2g_assets.storage.hashing import hash_json
from n2g_assets.storage.slices import Manifest, SliceKey, SliceStore

if TYPE_CHECKING:
    import duckdb

STORAGE_VERSION = "v1.2.0"
"""Storage format of the file: old enough for DuckDB 1.5 clients to open what DuckDB 2 wrote."""
MEMORY_LIMIT = "1GB"
"""Memory of the publishing connection; DuckDB spills what does not fit."""
VIEWS = ("views.sql", "views_evaluation.sql")
"""The files with views and macros, in the order in which they are run."""

Units = Mapping[int, Sequence[Unit]]
Group = tuple[str, str, int | None]
"""Table, study, layer: what is deleted and filled together."""
Parts = dict[str, Manifest]


@dataclass
class PublishReport:
    """What ``publish`` did."""

    study: str
    database: Path
    changed: bool = False
    """Whether the file was replaced."""
    replaced: list[str] = field(default_factory=list)
    """Slices whose rows were filled in."""
    dropped: list[str] = field(default_factory=list)
    """Slices whose rows were taken out: gone from disk, or not of the study any more."""
    kept: int = 0
    """Slices that were published already."""
    warnings: list[str] = field(default_factory=list)
    """Slices that were passed over, damaged or of an older version; a damaged database that was set aside."""
    rows: dict[str, int] = field(default_factory=dict)
    """Published rows of the study by table."""
    seconds: float = 0.0
    file_bytes: int = 0


def publish(
    store: SliceStore,
    study: str,
    units: Units | None = None,
    *,
    lock_timeout: float = LOCK_TIMEOUT,
    memory_limit: str = MEMORY_LIMIT,
) -> PublishReport:
    """Brings the database up to date with the slices of one study.

    Args:
        store: the slices; their home names the database.
        study: the study to publish.
        units: its units by layer; of other units and layers nothing is published. None takes the units of the
            ledger of stage ``top_examples``.
        lock_timeout: seconds to wait for another publisher.
        memory_limit: memory that DuckDB may take.

    Raises:
        StorageError: another publisher holds the lock, or the disk is full; the published file is unharmed.
    """
    import duckdb

    started = time.perf_counter()
    database = store.home.database
    with store.lock("database", lock_timeout):
        copy = database.with_name(f".{database.name}.publishing")
        remove_database(copy)
        publisher = _Publisher(store, study, units, memory_limit, copy)
        try:
            existed = database.exists()
            report = publisher.compare(database) if existed else None
            if report is None:
                try:
                    if existed:
                        copy_database(database, copy)
                    report = publisher.update(all_studies=False)
                except duckdb.Error as error:
                    if not existed or is_disk_full(error) or not _says_damage(error):
                        raise
                    remove_database(copy)
                    report = publisher.update(all_studies=True)
                    aside = set_aside(database)
                    report.warnings.append(
                        f"{database.name} was damaged ({type(error).__name__}): it was set aside as {aside.name} "
                        "and made anew from the slices."
                    )
                if report.changed:
                    # the log goes last: its commits are in the new file, and until then they are nowhere else
                    os.replace(copy, database)
                    log_of(database).unlink(missing_ok=True)
        except (duckdb.Error, OSError) as error:
            if is_disk_full(error):
                raise disk_full_error(database) from error
            if isinstance(error, duckdb.OutOfMemoryException) or _says_damage(error):
                raise StorageError(
                    f"{database} could not be published ({error}): what was there is unharmed; "
                    "move the file away and materialize the warehouse again if this stays."
                ) from error
            raise
        finally:
            remove_database(copy)
        report.file_bytes = database.stat().st_size
    report.seconds = time.perf_counter() - started
    return report


def open_database(home: Home) -> duckdb.DuckDBPyConnection:
    """A read-only connection to the published file; it keeps its snapshot while others publish.

    Raises:
        StorageError: nothing is published yet, or the file cannot be opened.
    """
    import duckdb

    if not home.database.exists():
        raise StorageError(f"{home.database} is not there yet: materialize the warehouse of a study first.")
    try:
        return duckdb.connect(str(home.database), read_only=True)
    except duckdb.Error as error:
        raise StorageError(
            f"{home.database} cannot be opened ({error}): close the program that writes to it, "
            "or materialize the warehouse again."
        ) from error


def units_of_ledger(store: SliceStore, study: str) -> dict[int, list[Unit]]:
    """The units of a study by layer, as its slices of stage ``top_examples`` name them."""
    answer = {}
    for layer in store.layers("ledger", study):
        manifest = store.manifest("ledger", study, layer, "top_examples")
        if manifest is not None:
            pairs = (key.split(":") for key in manifest.unit_hashes)
            answer[layer] = [Unit(int(unit), int(sign)) for unit, sign in pairs]
    return answer


@dataclass
class _Publisher:
    """One publication; what differs between the studies and the file is worked out here."""

    store: SliceStore
    study: str
    units: Units | None
    memory_limit: str
    copy: Path

    def compare(self, database: Path) -> PublishReport | None:
        """The report on a file that is up to date; None if it differs or cannot be opened for reading alone."""
        import duckdb

        report = PublishReport(self.study, self.store.home.database)
        try:
            with self._attached(database, "READ_ONLY") as connection:
                made_anew, known, wanted = _compare_schema(connection)
                if made_anew or known != wanted or self._differences(connection, self.study, report):
                    return None
                report.rows = _published_rows(connection, self.study)
                return report
        except duckdb.Error:
            return None

    def update(self, all_studies: bool) -> PublishReport:
        """Brings the copy, which may be missing, up to date."""
        report = PublishReport(self.study, self.store.home.database)
        fresh = not self.copy.exists()
        with self._attached(self.copy, f"STORAGE_VERSION {_quote(STORAGE_VERSION)}") as connection:
            connection.execute("CREATE TEMP TABLE selected_units (unit INTEGER, sign TINYINT)")
            if not fresh:
                _read_through(connection)
            connection.execute("BEGIN")
            made_anew, differs = _bring_schema(connection)
            everyone = all_studies or (bool(made_anew) and not fresh)
            studies = sorted({self.study, *self.store.studies()}) if everyone else [self.study]
            for study in studies:
                self._update_study(connection, study, report)
            connection.execute("COMMIT")
            report.changed = fresh or differs or bool(report.replaced or report.dropped)
            if report.changed:
                connection.execute("CHECKPOINT warehouse")
            report.rows = _published_rows(connection, self.study)
        return report

    @contextlib.contextmanager
    def _attached(self, path: Path, options: str) -> Iterator[duckdb.DuckDBPyConnection]:
        import duckdb

        settings: dict[str, Any] = {"memory_limit": self.memory_limit, "threads": min(4, os.cpu_count() or 1)}
        connection = duckdb.connect(":memory:", config=settings)
        try:
            connection.execute("SET temp_directory = " + _quote(str(spill_of(self.copy))))
            connection.execute(f"ATTACH {_quote(str(path))} AS warehouse ({options})")
            connection.execute("USE warehouse")
            yield connection
            connection.execute("USE memory")
            connection.execute("DETACH warehouse")
        finally:
            connection.close()

    def _units(self, study: str) -> Units:
        return self.units if study == self.study and self.units is not None else units_of_ledger(self.store, study)

    def _differences(
        self, connection: duckdb.DuckDBPyConnection, study: str, report: PublishReport
    ) -> dict[Group, tuple[Parts, list[str]]]:
        """Of each group that is not published as it is on disk, its parts on disk and the names of those published."""
        units = self._units(study)
        published = _published(connection, study)
        wanted: dict[Group, Parts] = {}
        held: set[Group] = set()
        for key in self.store.keys(study):
            if not TABLES[key.table].published or (key.layer is not None and key.layer not in units):
                continue
            group = (key.table, study, key.layer)
            manifest = self.store.manifest(key.table, study, key.layer, key.part)
            if manifest is not None:
                wanted.setdefault(group, {})[key.part] = manifest
            elif self.store.status(key) == "damaged":
                held.add(group)
                report.warnings.append(
                    f"The slice {key} is damaged or was being written, and was not published: materialize it again."
                )
        differences = {}
        for group in sorted(published.keys() | wanted.keys(), key=str):
            if group in held:
                continue
            parts, known = wanted.get(group, {}), published.get(group, {})
            units_hash = _units_hash(group, units)
            if {part: (manifest.content_hash, units_hash) for part, manifest in parts.items()} == {
                part: (content, selection) for part, (content, selection) in known.items()
            }:
                report.kept += len(parts)
            elif old := [str(_key(group, part)) for part in parts if not self.store.fits(_key(group, part))]:
                report.warnings.append(
                    f"{', '.join(old)} was written by an older version, with other columns, and was not published: "
                    "materialize its stage again."
                )
            else:
                differences[group] = (parts, list(known))
        return differences

    def _update_study(self, connection: duckdb.DuckDBPyConnection, study: str, report: PublishReport) -> None:
        units = self._units(study)
        for group, (parts, known) in self._differences(connection, study, report).items():
            _clear(connection, group)
            for part, manifest in parts.items():
                _fill(connection, self.store.path(_key(group, part)), manifest, units, _units_hash(group, units))
                report.replaced.append(str(_key(group, part)))
            report.dropped += [str(_key(group, part)) for part in known if part not in parts]


# -------------------------------------------------------------------------------------------- rows
def _published(connection: duckdb.DuckDBPyConnection, study: str) -> dict[Group, dict[str, tuple[str, str | None]]]:
    found: dict[Group, dict[str, tuple[str, str | None]]] = {}
    rows = connection.execute(
        "SELECT table_name, layer, part, content_hash, units_hash FROM slices WHERE study = ?", [study]
    ).fetchall()
    for table, layer, part, content, selection in rows:
        found.setdefault((table, study, layer), {})[part] = (content, selection)
    return found


def _published_rows(connection: duckdb.DuckDBPyConnection, study: str) -> dict[str, int]:
    counted = "SELECT table_name, CAST(sum(published_rows) AS BIGINT) FROM slices WHERE study = ? GROUP BY ALL"
    return dict(connection.execute(counted, [study]).fetchall())


def _clear(connection: duckdb.DuckDBPyConnection, group: Group) -> None:
    table, study, layer = group
    if table in TABLES:
        where, values = ("study = ?", [study]) if layer is None else ("study = ? AND layer = ?", [study, layer])
        connection.execute(f"DELETE FROM {_name(TABLES[table])} WHERE {where}", values)
    connection.execute(
        "DELETE FROM slices WHERE table_name = ? AND study = ? AND layer IS NOT DISTINCT FROM ?", [table, study, layer]
    )


def _fill(
    connection: duckdb.DuckDBPyConnection, path: Path, manifest: Manifest, units: Units, units_hash: str | None
) -> None:
    table = TABLES[manifest.table]
    columns = ", ".join(_identifier(column.name) for column in table.columns)
    source = "read_parquet(?, hive_partitioning = false) AS file_rows"
    if table.by_unit and manifest.layer is not None:
        chosen = units[manifest.layer]
        connection.execute("DELETE FROM selected_units")
        connection.execute(
            "INSERT INTO selected_units SELECT unnest(CAST(? AS INTEGER[])), unnest(CAST(? AS TINYINT[]))",
            [[unit.number for unit in chosen], [unit.sign for unit in chosen]],
        )
        source += " SEMI JOIN selected_units USING (unit, sign)"
    inserted = connection.execute(
        f"INSERT INTO {_name(table)} ({columns}) SELECT {columns} FROM {source}", [_literal_path(path)]
    ).fetchall()[0][0]
    about: dict[str, Any] = {
        "study": manifest.study,
        "layer": manifest.layer,
        "table_name": manifest.table,
        "part": manifest.part,
        "input_hash": manifest.input_hash,
        "content_hash": manifest.content_hash,
        "code_version": manifest.code_version,
        "rows": manifest.rows,
        "published_rows": inserted,
        "units_hash": units_hash,
        "written_at": datetime.fromisoformat(manifest.written_at).replace(tzinfo=None),
    }
    names = TABLES["slices"].schema.names()
    marks = ", ".join("?" for _ in names)
    quoted = ", ".join(_identifier(name) for name in names)
    connection.execute(f"INSERT INTO slices ({quoted}) VALUES ({marks})", [about[name] for name in names])


def _units_hash(group: Group, units: Units) -> str | None:
    table, _, layer = group
    if table not in TABLES or not TABLES[table].by_unit or layer is None:
        return None
    return hash_json(sorted([unit.number, unit.sign] for unit in units.get(layer, ())))


def _key(group: Group, part: str) -> SliceKey:
    return SliceKey(*group, part)


# -------------------------------------------------------------------------------------------- schema
def _bring_schema(connection: duckdb.DuckDBPyConnection) -> tuple[list[str], bool]:
    """Makes tables, comments, views and macros what the code says.

    Returns:
        The tables that were made anew, and whether anything differed.
    """
    made_anew, known, fingerprint = _compare_schema(connection)
    if not made_anew and known == fingerprint:
        return [], False
    for table in _published_tables():
        if table.name in made_anew:
            connection.execute(f"DROP TABLE IF EXISTS {_name(table)}")
            _create(connection, table)
        _comment(connection, table)
    for name in made_anew:
        connection.execute("DELETE FROM slices WHERE table_name = ?", [name])
    connection.execute(_views_text())
    connection.execute(f"CREATE OR REPLACE MACRO schema_fingerprint() AS {_quote(fingerprint)}")
    connection.execute("COMMENT ON MACRO schema_fingerprint IS 'Hash of the tables, views and macros of this file.'")
    return made_anew, True


def _compare_schema(connection: duckdb.DuckDBPyConnection) -> tuple[list[str], str | None, str]:
    """The tables whose columns differ or that are missing, the file's fingerprint and the code's."""
    found = _columns(connection)
    differing = [table.name for table in _published_tables() if found.get(table.name) != _wanted_columns(table)]
    about = [[table.name, table.row, [column.meaning for column in table.columns]] for table in _published_tables()]
    return differing, _fingerprint(connection), hash_json([_views_text(), about])


def _columns(connection: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[str, str, bool]]]:
    """Name, type and whether it may be NULL, for every column of the product's tables that are there."""
    # duckdb_columns() would say the same, but binds every view for it
    there = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() AND schema_name = 'main'"
    ).fetchall()
    columns = {}
    for name in sorted({name for (name,) in there} & TABLES.keys()):
        rows = connection.execute(f"DESCRIBE {_identifier(name)}").fetchall()
        columns[name] = [(row[0], row[1], row[2] == "YES") for row in rows]
    return columns


def _published_tables() -> list[Table]:
    return [table for table in TABLES.values() if table.published]


def _wanted_columns(table: Table) -> list[tuple[str, str, bool]]:
    # DuckDB calls a REAL column FLOAT when it describes it
    return [(c.name, c.duckdb_type.replace("REAL", "FLOAT"), c.nullable) for c in table.columns]


def _read_through(connection: duckdb.DuckDBPyConnection) -> None:
    """Reads every value of the product's tables once, so that DuckDB finds a damaged block now and not a user later."""
    for name in _columns(connection):
        connection.execute(f"SELECT bit_xor(hash(t)) FROM {_identifier(name)} AS t").fetchall()


def _fingerprint(connection: duckdb.DuckDBPyConnection) -> str | None:
    known = connection.execute(
        "SELECT count(*) FROM duckdb_functions() "
        "WHERE database_name = current_database() AND function_name = 'schema_fingerprint'"
    ).fetchall()[0][0]
    return connection.execute("SELECT schema_fingerprint()").fetchall()[0][0] if known else None


def _create(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    columns = ", ".join(
        f"{_identifier(column.name)} {column.duckdb_type}{'' if column.nullable else ' NOT NULL'}"
        for column in table.columns
    )
    connection.execute(f"CREATE TABLE {_name(table)} ({columns})")


def _comment(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    connection.execute(f"COMMENT ON TABLE {_name(table)} IS {_quote(f'one row a {table.row}')}")
    for column in table.columns:
        connection.execute(f"COMMENT ON COLUMN {_name(table)}.{_identifier(column.name)} IS {_quote(column.meaning)}")


def _views_text() -> str:
    folder = files("n2g_assets.storage")
    return "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in VIEWS)


# -------------------------------------------------------------------------------------------- names and errors
def _name(table: Table) -> str:
    return _identifier(table.name)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _literal_path(path: Path) -> str:
    """A path that DuckDB does not take for a pattern."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))


def _says_damage(error: BaseException) -> bool:
    """Whether DuckDB blames the file that it was given, and not the question that it was asked."""
    import duckdb

    blames = (duckdb.IOException, duckdb.SerializationException, duckdb.FatalException, duckdb.InternalException)
    # DuckDB says that a block's checksum is wrong with an error of no class of its own
    return isinstance(error, blames) or type(error) is duckdb.Error
