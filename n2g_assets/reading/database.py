"""The published database as readers see it: read-only, always whole, always the newest.

1. ``Database.snapshot`` opens the file, and keeps it open until a run has put a new one in its place. Whoever holds a
   snapshot goes on reading the old file to the end, so that no page mixes two of them.
2. A snapshot attaches the file to an empty database in memory, so that the same path can be opened anew while the old
   file is still in use. Nothing outside it can be read then, and no setting can be changed.
3. Every query has a time limit, and few run at once: more of them wait.
"""

import math
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import duckdb
import polars as pl

from n2g_assets.core.errors import LimitError, QueryError, StorageError, short_reason
from n2g_assets.core.home import Home
from n2g_assets.storage.schema import literal, published_tables
from n2g_assets.storage.warehouse import described_views, newest_database, not_opened

MEMORY_LIMIT = "1GB"
"""Memory of all queries of a snapshot together."""
SECONDS = 30.0
"""A query that takes longer is ended."""
AT_ONCE = 4
"""Queries of a snapshot that run at the same time."""
WATCH_SECONDS = 0.05
"""How often it is looked for queries whose time is over."""
LOOK_SECONDS = 5.0
"""How often it is looked for a newer file in a store that is elsewhere."""
MOST_REMEMBERED = 48
"""Things that a snapshot remembers; of more, what was not asked for for the longest time is forgotten."""

Value = TypeVar("Value")


def not_there(path: Path) -> StorageError:
    """The error of a file that no run has published yet."""
    return StorageError(f"{path} is not there yet: run a study first, such as with n2g demo.")


class Database:
    """The published file of a home, which may be replaced at any time."""

    @classmethod
    def of(cls, home: Home) -> Self:
        """That of a home, whose store may be elsewhere."""
        return cls(home.database, home)

    def __init__(self, path: Path, home: Home | None = None) -> None:
        self.path, self.home = path, home or Home(path.parent)
        self._lock = threading.Lock()
        self._open: tuple[object, Snapshot] | None = None
        self._looked = -math.inf

    def snapshot(self) -> "Snapshot":
        """The newest published file.

        Raises:
            StorageError: nothing is published yet, or the file cannot be opened.
        """
        with self._lock:
            if time.monotonic() - self._looked > LOOK_SECONDS:
                newest_database(self.home)
                self._looked = time.monotonic()
            stamp = self._stamp()
            if self._open is None or self._open[0] != stamp:
                if self._open is not None:
                    self._open[1].forget()
                self._open = stamp, Snapshot(self.path, self.home)
            return self._open[1]

    def _stamp(self) -> tuple[int, ...]:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._open = None
            raise not_there(self.path) from None
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be looked at ({error.strerror}): mend its folder, or name another with $N2G_HOME."
            ) from error
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


@dataclass
class _Remembered:
    """A thing that the first one who asks for it makes while others who ask for it wait."""

    made: bool = False
    value: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Watch:
    """Ends queries whose time is over: one thread for all that run, since to start one takes as long as a small query.

    It ends with the last of them, so that it keeps nothing open.
    """

    def __init__(self) -> None:
        self._running: dict[duckdb.DuckDBPyConnection, float] = {}
        self._lock = threading.Lock()
        self._watches = False

    @contextmanager
    def limited(self, cursor: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
        """What runs on a cursor inside is interrupted after so many seconds, and never what runs on it later."""
        with self._lock:
            self._running[cursor] = time.monotonic() + seconds
            if not self._watches:
                threading.Thread(target=self._watch).start()
                self._watches = True
        try:
            yield
        finally:
            with self._lock:
                del self._running[cursor]

    def _watch(self) -> None:
        while self._goes_on():
            time.sleep(WATCH_SECONDS)

    def _goes_on(self) -> bool:
        """Interrupts what is late; whether anything runs."""
        with self._lock:
            for cursor, end in self._running.items():
                if time.monotonic() > end:
                    cursor.interrupt()
            self._watches = bool(self._running)
            return self._watches


_WATCH = _Watch()


class Snapshot:
    """The published file as it was when it was opened; threads may share it."""

    def __init__(self, path: Path, home: Home | None = None, *, seconds: float = SECONDS) -> None:
        self.path, self.home, self.seconds = path, home or Home(path.parent), seconds
        self._remembered: OrderedDict[object, _Remembered] = OrderedDict()
        self._remembering = threading.Lock()
        connection = duckdb.connect(
            ":memory:",
            config={"memory_limit": MEMORY_LIMIT, "threads": 2, "temp_directory": ""},  # no question may fill the disk
        )
        try:
            connection.execute(f"ATTACH {literal(str(path))} AS n2g (TYPE duckdb, READ_ONLY)")
        except duckdb.Error as error:
            raise not_opened(path, error) from error
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        self._connection = connection
        self._cursors: queue.LifoQueue[duckdb.DuckDBPyConnection] = queue.LifoQueue()
        for _ in range(AT_ONCE):
            cursor = connection.cursor()
            cursor.execute("USE n2g")
            self._cursors.put(cursor)

    def frame(self, query: str, **values: Any) -> pl.DataFrame:
        """The rows of a query, in which ``$name`` stands for each of ``values``.

        Raises:
            LimitError: it takes too long or too much memory.
            QueryError: it names what is not there, or is no SQL.
            StorageError: the file lacks a table or a column, since another version published it.
            duckdb.Error: it fails on the rows, such as at a text that is no number.
        """
        with self._cursor() as cursor:
            return cursor.sql(query, params=values).pl()

    def rows(self, query: str, **values: Any) -> list[dict[str, Any]]:
        """As ``frame``, each row by the names of its columns: of few rows in a third of the time."""
        with self._cursor() as cursor:
            found = cursor.execute(query, values)
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def refusal(self, query: str, **values: Any) -> str:
        """What DuckDB has against a query, in its own words; empty where it runs."""
        try:
            self.frame(query, **values)
        except duckdb.Error as error:
            return str(error).split(": ", 1)[-1].splitlines()[0]
        return ""

    def remembered(self, key: object, make: Callable[[], Value]) -> Value:
        """What ``make`` gives, made once for this file; for what many pages need, such as a vocabulary."""
        with self._remembering:
            found = self._remembered.setdefault(key, _Remembered())
            self._remembered.move_to_end(key)
            while len(self._remembered) > MOST_REMEMBERED:
                self._remembered.popitem(last=False)
        with found.lock:
            if not found.made:
                found.value, found.made = make(), True
            value: Value = found.value
            return value

    def forget(self) -> None:
        """Lets go of what is remembered, so that the file is closed once nobody reads it any more."""
        with self._remembering:
            self._remembered.clear()

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor for one query, which ends when its time is over."""
        try:
            cursor = self._cursors.get(timeout=self.seconds)
        except queue.Empty:
            raise LimitError(
                f"All {AT_ONCE} queries at once were taken for {self.seconds:g} seconds: try again later."
            ) from None
        try:
            with _WATCH.limited(cursor, self.seconds):
                yield cursor
        except duckdb.InterruptException as error:
            raise LimitError(f"The query took more than {self.seconds:g} seconds: ask for less.") from error
        except (duckdb.CatalogException, duckdb.BinderException, duckdb.ParserException) as error:
            said = str(error).splitlines()
            if self._is_of_another_version(cursor):
                raise StorageError(
                    f"{self.path} was published by another version ({said[0]}): publish it again with a run of any of "
                    "its studies."
                ) from error
            reason = short_reason(Exception(" ".join(said[:2])))
            raise QueryError(f"The query cannot be run ({reason}): correct it.") from error
        except duckdb.OutOfMemoryException as error:
            raise LimitError(f"The query took more than {MEMORY_LIMIT} of memory: ask for less.") from error
        except (
            duckdb.IOException,
            duckdb.InternalException,
            duckdb.FatalException,
            duckdb.SerializationException,
        ) as error:
            raise StorageError(
                f"{self.path} is damaged ({str(error).splitlines()[0]}): publish it again with a run of any of its "
                "studies."
            ) from error
        finally:
            self._cursors.put(cursor)

    @staticmethod
    def _is_of_another_version(cursor: duckdb.DuckDBPyConnection) -> bool:
        """Whether the file lacks a column of a table or a view that this version publishes."""
        found = cursor.execute("SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'n2g'")
        published = {(table.name, column) for table in published_tables() for column in table.schema}
        published |= {(view.name, column) for view in described_views() for column, *_ in view.columns}
        return not published <= set(found.fetchall())
