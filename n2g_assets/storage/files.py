"""Files that are complete or not there at all, their checksums, and locks that end with their process.

1. Whatever is written is written inside a temporary folder beside its place and then moved there. The folder has a
   random name and holds a locked file as long as its writer lives, so ``cache.sweep`` can tell what a killed one left.
2. A file is whole if its size and sha256 are those that were noted when it was written. A JSON file that notes such
   things carries its own checksum (``write_sealed``).
"""

import errno
import json
import logging
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from n2g_assets.core.errors import StorageError
from n2g_assets.storage.hashing import file_sha256, hash_json

logger = logging.getLogger(__name__)

LOCK_TIMEOUT = 3600.0
"""Seconds that a run waits for another one's lock before it gives up with a message."""

EXPORTED = ".n2g-export"
"""Empty file in a folder that an export wrote: such a folder may be replaced."""

_WRITER_LOCK, _WRITER_HOST = ".lock", ".host"
_OLD_SECONDS, _OLD_ELSEWHERE_SECONDS = 3600.0, 86400.0
_SETTLED_NS = 100_000_000
"""A file that changed less than this before it was read is read again: its time of change may not show another one."""
_verified: dict[Path, tuple[int, int, int, str]] = {}
"""By file, the state (inode, size, time of change, sha256) in which this process found it whole."""
_undamaged: set[str] = set()
"""Hashes of the texts of JSON files that this process found to have their own checksum."""

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
_LIBRARIES = {"polars", "duckdb", "_duckdb", "safetensors"}


# ------------------------------------------------------------------------------------------ writing
@contextmanager
def temporary_folder(target: Path, otherwise: str = "set N2G_HOME to one that is") -> Iterator[Path]:
    """A temporary folder beside ``target``, for what is to be moved there; removed when the block ends.

    ``otherwise`` says what else helps where its folder cannot be written.

    Raises:
        StorageError: the disk is full, or the folder of ``target`` cannot be written.
        OSError: anything else that the block raises.
    """
    from filelock import FileLock, Timeout

    with _clear_errors(target, otherwise):
        while True:
            folder = target.parent / f".{secrets.token_hex(8)}.tmp"
            try:
                folder.mkdir(parents=True)
            except FileNotFoundError:  # the parent was empty and went between two calls
                folder.mkdir(parents=True)
            lock = FileLock(folder / _WRITER_LOCK, timeout=0, thread_local=False)
            with suppress(Timeout):  # a sweep came between the two
                (folder / _WRITER_HOST).write_text(socket.gethostname(), encoding="utf-8")
                lock.acquire()
                break
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()


@contextmanager
def new_folder(target: Path, *, force: bool) -> Iterator[Path]:
    """A folder to fill, which stands at ``target`` once the block ends well, and nowhere if it does not.

    Args:
        target: not there yet, or empty.
        force: an earlier folder of this function may be there, which is replaced.

    Raises:
        StorageError: something else is there, or it cannot be written.
    """
    if target.is_dir():
        holds = {path.name for path in target.iterdir()}
        if holds and not force:
            raise StorageError(f"{target} is not empty: name another folder, or add --force to replace it.")
        if holds and EXPORTED not in holds:
            raise StorageError(
                f"{target} holds no earlier export, and is not replaced: name another folder, or empty this one first."
            )
    elif os.path.lexists(target):
        raise StorageError(f"{target} is a file: name a folder.")
    with temporary_folder(target, "name another") as folder:
        new = folder / "new"
        new.mkdir()
        (new / EXPORTED).touch()
        yield new
        if target.exists():
            os.replace(target, folder / "old")
        os.replace(new, target)


def discard(path: Path) -> None:
    """Remove a file or folder, which need not be there; whoever looks for it finds all of it or nothing."""
    if path.exists():
        with temporary_folder(path) as folder, suppress(FileNotFoundError):
            os.replace(path, folder / "old")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Has ``write`` fill a temporary file and moves it to ``path``; fails as ``temporary_folder`` does."""
    with temporary_folder(path) as folder:
        write(folder / path.name)
        os.replace(folder / path.name, path)


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object with its own checksum; ``path`` is not there yet."""
    path.write_text(_sealed(content), encoding="utf-8")


def _sealed(content: Mapping[str, Any]) -> str:
    return json.dumps({"checksum": hash_json(content), **content}, indent=1, ensure_ascii=True)


def new_map(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """A new memory-mapped ``.npy`` file; a full disk is an error here, not a crash when it is written to."""
    values = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return values.view(np.ndarray)


# ------------------------------------------------------------------------------------------ checking
def read_sealed(path: Path) -> dict[str, Any]:
    """The JSON object that ``write_sealed`` wrote; the same text is compared with its checksum once a process.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged.
    """
    return unsealed(path.read_text(encoding="utf-8"))


def unsealed(text: str) -> dict[str, Any]:
    """As ``read_sealed``, of the text of such a file."""
    content, found = json.loads(text), hash_json(text)
    damaged = not isinstance(content, dict) or content.pop("checksum", None) is None
    if damaged or (found not in _undamaged and _sealed(content) != text):
        raise ValueError("it differs from its checksum")
    _undamaged.add(found)
    return content


def size_and_sha256(path: Path) -> tuple[int, str]:
    """What ``is_whole`` asks for: a file's size in bytes and its sha256."""
    return path.stat().st_size, file_sha256(path)


def is_whole(path: Path, size: int, sha256: str) -> bool:
    """Whether a file has this size and sha256; it is read once a process and state of the file.

    Raises:
        OSError: the file cannot be read.
    """
    found, now = path.stat(), time.time_ns()
    if found.st_size != size:
        return False
    state = (found.st_ino, found.st_size, found.st_mtime_ns, sha256)
    if _verified.get(path) == state:
        return True
    if file_sha256(path) != sha256:
        return False
    if found.st_mtime_ns < now - _SETTLED_NS:
        _verified[path] = state
    return True


def say_damaged(what: object, reason: str) -> None:
    """Warns that something stored cannot be used and is made again."""
    logger.warning("%s is damaged (%s) and is made again.", what, reason)


def is_abandoned(temporary: Path) -> bool:
    """Whether the writer of a temporary is dead; one without a lock file may have a writer for an hour.

    The lock of a writer on another machine cannot be seen here: it may be at work for a day.
    """
    from filelock import FileLock, Timeout

    lock = temporary / _WRITER_LOCK
    try:
        if not lock.is_file():
            return _age(temporary) > _OLD_SECONDS
        host = temporary / _WRITER_HOST
        if host.is_file() and host.read_text(encoding="utf-8") != socket.gethostname():
            return _age(temporary) > _OLD_ELSEWHERE_SECONDS
        with FileLock(lock, timeout=0, thread_local=False):
            return True
    except (FileNotFoundError, Timeout):
        return False


def _age(path: Path) -> float:
    return time.time() - path.lstat().st_mtime


# ------------------------------------------------------------------------------------------ errors
def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk, a quota or the largest file size is reached."""
    if isinstance(error, OSError) and (error.errno in _DISK_FULL or _SHORT_WRITE.search(str(error))):
        return True  # NumPy says how much it could write, and no errno
    library = type(error).__module__.partition(".")[0]
    return library in _LIBRARIES and any(os.strerror(code) in str(error) for code in _DISK_FULL)


@contextmanager
def _clear_errors(target: Path, otherwise: str = "set N2G_HOME to one that is") -> Iterator[None]:
    """Turns what the file system says about writing ``target`` into an error with a cure."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise StorageError(
                f"The disk is full: {target.name} could not be written in {target.parent}, what was there is unharmed; "
                "free some space and run the same command again."
            ) from error
        if isinstance(error, OSError) and error.filename:
            named = Path(os.fsdecode(error.filename))
            if named.is_relative_to(target.parent) or target.is_relative_to(named):
                raise StorageError(
                    f"{target.name} cannot be written in {target.parent} ({error.strerror or error}): "
                    f"make the folder writable, or {otherwise}."
                ) from error
        raise


# ------------------------------------------------------------------------------------------ locks
@contextmanager
def hold_lock(folder: Path, name: str) -> Iterator[None]:
    """Holds an OS file lock that ends with its process, whatever ends it; waits for another holder.

    Its name, such as ``database`` or ``top_examples/demo/7``, says what is locked; the folder is made if need be.

    Raises:
        StorageError: another process, which is named, still holds it after ``LOCK_TIMEOUT`` seconds.
    """
    from filelock import FileLock, Timeout

    stem = re.sub(r"[^A-Za-z0-9_.=-]", "__", name)
    lock, holder = FileLock(folder / f"{stem}.lock", thread_local=False), folder / f"{stem}.holder"
    with _clear_errors(folder / f"{stem}.lock"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            # a warning, so that it is seen even where nobody set up logging
            logger.warning("Waiting for %s, up to %.0f s: it is held by %s.", name, LOCK_TIMEOUT, _read_holder(holder))
            try:
                lock.acquire(timeout=LOCK_TIMEOUT)
            except Timeout as error:
                raise StorageError(
                    f"{name} is still held by {_read_holder(holder)} after {LOCK_TIMEOUT:.0f} s: "
                    "wait until that run ends, or stop it, and run the same command again."
                ) from error
    try:
        since = time.strftime("%H:%M:%S", time.gmtime())
        with _clear_errors(holder):
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()} since {since} UTC", encoding="utf-8")
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)
    finally:
        lock.release()


def _read_holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"
