"""A store in object storage (S3, Google Cloud Storage, Azure): each file is an object, of which a folder holds a copy.

1. What is replaced, such as a slice's manifest, is put on the condition that it is what was read before. Of several
   machines that write at once each one supersedes another's, and none is lost sight of.
2. A request is tried again until ``PATIENCE`` is over, so that storage that is away for a while delays a run alone.
3. The address and how to sign in are those of the variables that its own programs read, such as ``AWS_REGION``.

The library is obstore. Its threads do not survive a fork: whoever forks first uses it after.
"""

import os
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from n2g_assets.core.errors import SettingsError, StorageError, short_reason
from n2g_assets.core.home import Home
from n2g_assets.storage import files
from n2g_assets.storage.place import Found, Place

if TYPE_CHECKING:
    from obstore import UpdateVersion

PATIENCE = timedelta(minutes=3)
"""After so long without an answer a request fails."""
_AT_ONCE = 16
"""Small objects that are fetched at the same time."""
_PART_BYTES = 2**23
"""Of a large object, fetched at once."""
_connected: set[int] = set()
"""The process that has connected; what is forked from it cannot."""


def place_of(home: Home) -> Place:
    """Where the store of a home is.

    Raises:
        SettingsError: it is in object storage, and the package for that is not installed.
        StorageError: this process was forked from one that used object storage.
    """
    return _FOLDER if home.address is None else _objects(home.address, home.store, os.getpid())


_FOLDER = Place()


@cache
def _objects(address: str, folder: Path, _process: int) -> Place:
    return Objects(address, folder)


class Objects(Place):
    """Objects below an address, whose names are the paths of files below a folder."""

    def __init__(self, address: str, folder: Path) -> None:
        if find_spec("obstore") is None:
            raise SettingsError(
                f"N2G_STORE ({address}) needs the package obstore: install n2g_assets[objects], or set it to a folder."
            )
        from obstore.store import from_url

        if _connected - {os.getpid()}:
            raise StorageError(f"{address} cannot be used in a process that was forked from one that used it.")
        _connected.add(os.getpid())
        self.address, self.folder = address, folder
        client = {"allow_http": os.environ.get("AWS_ALLOW_HTTP", "true"), "timeout": timedelta(minutes=10)}
        backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2}
        retry = {"max_retries": 1_000, "retry_timeout": PATIENCE, "backoff": backoff}
        with self._answering():
            self._store: Any = from_url(address, client_options=client, retry_config=retry)
        self._versions: dict[Path, UpdateVersion] = {}
        """Of the copies of files that can be replaced."""
        self._lock = threading.Lock()

    @override
    def refresh(self, path: Path) -> bool:
        with self._lock:
            known = self._versions.get(path) if path.is_file() else None
            found = self._read(path, known)
            if found is _SAME:
                return False
            if found is None:
                self._versions.pop(path, None)
                there = path.exists()
                path.unlink(missing_ok=True)
                return there
            text, self._versions[path] = found
            _write(path, text)
            return True

    @override
    def bring(self, path: Path, size: int, sha256: str, to: Path | None = None) -> None:
        copy = to or path
        if copy.is_file() and files.is_whole(copy, size, sha256):
            return
        with files.temporary_folder(copy) as folder, self._answering():
            with (folder / "new").open("wb") as file:
                for part in self._store.get(self._name(path)).stream(min_chunk_size=_PART_BYTES):
                    file.write(part)
            os.replace(folder / "new", copy)

    @override
    def send(self, file: Path, path: Path) -> None:
        with self._answering(writing=True):
            self._store.put(self._name(path), file)

    @override
    def supersede(self, file: Path, path: Path) -> str:
        text, superseded = file.read_bytes(), b""
        while True:
            found = self._read(path)
            before, version = found or (b"", None)
            if before == text:  # the answer to an earlier try was lost
                break
            superseded = before
            if self._put(path, text, version):
                break
        return superseded.decode("utf-8", "replace")

    @override
    def text(self, path: Path) -> str | None:
        content = self._content(path)
        return None if content is None else content.decode("utf-8", "replace")

    @override
    def drop_copy(self, path: Path) -> None:
        super().remove(path)

    @override
    def drop_strays(self, folder: Path, name: str) -> None:
        there = {found.path for found in self.files(folder) if found.path.name == name}
        for found in list(super().files(folder)):
            if found.path.name == name and found.path not in there:
                super().remove(found.path.parent)

    @override
    def texts(self, folder: Path, name: str, depth: int = 1) -> dict[str, str]:
        paths = (found.path.relative_to(folder) for found in self.files(folder))
        named = sorted(path for path in paths if path.name == name and len(path.parts) == depth + 1)
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            texts = zip(named, threads.map(self.text, [folder / path for path in named]), strict=True)
            return {path.parent.as_posix(): text for path, text in texts if text is not None}

    @override
    def files(self, folder: Path) -> Iterator[Found]:
        with self._answering():
            for some in self._store.list(None if folder == self.folder else f"{self._name(folder)}/"):
                for each in some:
                    yield Found(self.folder / each["path"], each["size"], each["last_modified"].timestamp())

    @override
    def remove(self, path: Path) -> None:
        names = sorted((self._name(found.path) for found in self.files(path)), key=_entries_first)
        with self._answering(writing=True):
            for name in [self._name(path), *names]:
                self._store.delete(name)
        super().remove(path)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _content(self, path: Path) -> bytes | None:
        found = self._read(path)
        return None if found is None else found[0]

    def _read(self, path: Path, known: "UpdateVersion | None" = None) -> Any:
        """An object and its version; None where there is none, and ``_SAME`` where it is the known one still."""
        from obstore.exceptions import NotModifiedError

        try:
            with self._answering():
                options = {"if_none_match": known["e_tag"]} if known else None
                found = self._store.get(self._name(path), options=options)
                version = {name: found.meta[name] for name in ("e_tag", "version") if found.meta[name]}
                return bytes(found.bytes()), version
        except FileNotFoundError:
            return None
        except NotModifiedError:
            return _SAME

    def _put(self, path: Path, text: bytes, version: "UpdateVersion | None") -> bool:
        """Put an object in place of one of this version, or of none; whether it is still there."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            with self._answering(writing=True):
                self._store.put(self._name(path), text, mode="create" if version is None else version)
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    @contextmanager
    def _answering(self, *, writing: bool = False) -> Iterator[None]:
        """Turn what the storage says into an error with a cure, but for what is expected of an object."""
        from obstore import exceptions

        expected = (exceptions.AlreadyExistsError, exceptions.PreconditionError, exceptions.NotModifiedError)
        try:
            yield
        except expected:
            raise
        except (exceptions.BaseError, PermissionError, FileNotFoundError) as error:
            if isinstance(error, FileNotFoundError) and not writing:
                raise
            raise StorageError(
                f"N2G_STORE ({self.address}) does not answer as it should ({short_reason(error)}): correct the address "
                "and how to sign in, or wait until it does; the same command goes on from what is there."
            ) from error


_SAME = object()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{secrets.token_hex(8)}.tmp")
    new.write_bytes(content)
    os.replace(new, path)


def _entries_first(name: str) -> bool:
    """What names other files goes before them."""
    return not name.endswith(".json")
