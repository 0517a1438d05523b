"""The files of a DuckDB database on disk: the database, its log and its spill folder. Nothing here opens one.

DuckDB keeps commits that are not in the file yet in a log beside it, and reads them when it opens the file: whoever
copies, moves or removes a database has to do the same with its log.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

_COPY_TRIES = 5


def log_of(database: Path) -> Path:
    """Where DuckDB keeps commits that are not in the file yet."""
    return database.with_name(f"{database.name}.wal")


def spill_of(database: Path) -> Path:
    """Where DuckDB may put what does not fit into memory."""
    return database.with_name(f"{database.name}.tmp")


def copy_database(database: Path, copy: Path) -> None:
    """Copies a database with its log; once more if a program that writes moved the log into the file meanwhile."""
    for _ in range(_COPY_TRIES):
        before = database.stat()
        remove_database(copy)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(log_of(database), log_of(copy))
        shutil.copyfile(database, copy)
        after = database.stat()
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            break


def remove_database(database: Path) -> None:
    """Removes a database with its log and its spill folder; what is not there is no error."""
    database.unlink(missing_ok=True)
    log_of(database).unlink(missing_ok=True)
    shutil.rmtree(spill_of(database), ignore_errors=True)


def set_aside(database: Path) -> Path:
    """Renames a damaged database and its log to the first free ``<name>.damaged-<n>``, and returns that."""
    number = 1
    while (aside := database.with_name(f"{database.name}.damaged-{number}")).exists():
        number += 1
    os.replace(database, aside)
    with contextlib.suppress(FileNotFoundError):
        os.replace(log_of(database), log_of(aside))
    return aside
