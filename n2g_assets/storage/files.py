"""Files that are complete or not there at all, and locks that end with their process."""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from n2g_assets.core.errors import StorageError
from n2g_assets.storage.hashing import file_sha256

logger = logging.getLogger(__name__)

LOCK_TIMEOUT = 3600.0
"""Seconds that a run waits for another one's lock before it gives up with a message."""

_ABANDONED_SECONDS = 3600.0
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` to fill, moved into place when the block ends; a failure leaves no trace.

    Of nested blocks the inner file is moved first and the outer one directly after it.

    Raises:
        StorageError: the disk is full.
        OSError: anything else that the file system says.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if is_disk_full(error):
            raise disk_full_error(path) from error
        raise


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Has ``write`` fill a temporary file beside ``path`` and moves it into place; fails as ``replacing`` does."""
    with replacing(path) as temporary:
        write(temporary)


def write_parquet(frame: pl.DataFrame, path: Path, row_group: int | None = None) -> tuple[int, str]:
    """Writes a frame as Parquet, so many rows to a group; answers the file's size in bytes and its sha256."""
    frame.write_parquet(path, compression="zstd", row_group_size=row_group)
    return path.stat().st_size, file_sha256(path)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk, a quota or the largest file size is reached."""
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return True
    library = type(error).__module__.partition(".")[0]
    return library in {"polars", "duckdb", "_duckdb"} and any(os.strerror(code) in str(error) for code in _DISK_FULL)


def disk_full_error(path: Path) -> StorageError:
    """The error for a file that could not be written because the disk is full."""
    return StorageError(
        f"The disk is full: {path.name} could not be written in {path.parent}, what was there is unharmed; "
        "free some space and run the same command again."
    )


@contextmanager
def hold_lock(folder: Path, name: str, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Holds an OS file lock that ends with its process, whatever ends it; waits for another holder.

    Args:
        folder: where lock files lie; created if need be.
        name: what is locked, such as ``database`` or ``top_examples/demo/7``.
        timeout: seconds to wait.

    Raises:
        StorageError: another process, which is named, still holds it after ``timeout`` seconds.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^A-Za-z0-9_.=-]", "__", name)
    lock = FileLock(folder / f"{stem}.lock", thread_local=False)
    holder = folder / f"{stem}.holder"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        # a warning, so that it is seen even where nobody set up logging
        logger.warning("Waiting for %s, up to %.0f s: it is held by %s.", name, timeout, _read_holder(holder))
        try:
            lock.acquire(timeout=timeout)
        except Timeout as error:
            raise StorageError(
                f"{name} is still held by {_read_holder(holder)} after {timeout:.0f} s: "
                "wait until that run ends, or stop it, and run the same command again."
            ) from error
    try:
        since = time.strftime("%H:%M:%S", time.gmtime())
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()} since {since} UTC", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _read_holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"


def _remove_abandoned(path: Path) -> None:
    """Removes what killed writers of this very file left beside it."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        try:
            if time.time() - leftover.stat().st_mtime > _ABANDONED_SECONDS:
                leftover.unlink()
        except FileNotFoundError:
            continue
