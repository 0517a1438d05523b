"""A store in object storage (S3, Google Cloud Storage, Azure): each file is an object, of which a folder holds a copy.

1. A text that can be replaced, such as a slice's manifest, is put on the condition that what stands there is what was
   read. So of several machines that write at once each supersedes another's text, and removes what that one named.
2. A request is tried again until ``PATIENCE`` is over, so that storage that is away for a while delays a run alone.
3. The address and how to sign in are those of the variables that its own programs read, such as ``AWS_REGION``.

The library is obstore. Its threads do not survive a fork: whoever forks first uses it after.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache, partial
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
"""After so long a request is not tried again."""
_TIMEOUT = timedelta(minutes=1)
"""Of one try."""
_AT_ONCE = 16
"""Texts that are fetched at the same time."""
_PART_BYTES = 2**25
"""Of a large object, in one request."""
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

    is_elsewhere = True

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
        plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        client = {"timeout": _TIMEOUT, "allow_http": plain}
        backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2}
        retry = {"max_retries": 1_000, "retry_timeout": PATIENCE, "backoff": backoff}
        with self._answering():
            self._store: Any = from_url(address, client_options=client, retry_config=retry)
        self._known: dict[Path, tuple[UpdateVersion, bytes]] = {}
        """Texts as they were read last, which need not be sent again."""

    @override
    def text(self, path: Path) -> str | None:
        found = self._read(path)
        return None if found is None else found[1].decode()

    @override
    def texts(self, folder: Path, name: str, depth: int = 1) -> dict[str, str]:
        paths = (found.path.relative_to(folder) for found in self.files(folder))
        named = sorted(path for path in paths if path.name == name and len(path.parts) == depth + 1)
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            read = partial(self._read, remembering=False)
            texts = zip(named, threads.map(read, [folder / path for path in named]), strict=True)
            return {path.parent.as_posix(): text[1].decode("utf-8", "replace") for path, text in texts if text}

    @override
    def supersede(self, text: str, path: Path) -> str:
        new, superseded = text.encode(), b""
        while True:
            version, before = self._read(path) or (None, b"")
            if before == new:  # the answer to an earlier try was lost
                break
            superseded = before
            if self._put(path, new, version):
                break
        return superseded.decode("utf-8", "replace")

    @override
    def send(self, file: Path, path: Path) -> None:
        with self._answering(writing=True):
            self._store.put(self._name(path), file)

    @override
    def bring(self, path: Path, size: int, sha256: str, to: Path | None = None) -> None:
        copy = to or path
        if copy.is_file() and files.is_whole(copy, size, sha256):
            return
        with files.temporary_folder(copy) as folder, self._answering():
            with (folder / "new").open("wb") as file:
                for start in range(0, size, _PART_BYTES):
                    end = min(start + _PART_BYTES, size)
                    file.write(self._store.get_range(self._name(path), start=start, end=end))
            os.replace(folder / "new", copy)

    @override
    def files(self, folder: Path) -> Iterator[Found]:
        with self._answering():
            for some in self._store.list(None if folder == self.folder else f"{self._name(folder)}/"):
                for each in some:
                    yield Found(self.folder / each["path"], each["size"], each["last_modified"].timestamp())

    @override
    def remove(self, path: Path) -> None:
        for each in sorted((found.path for found in self.files(path)), key=_texts_first) or [path]:
            with self._answering(), suppress(FileNotFoundError):
                self._store.delete(self._name(each))
        super().remove(path)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _read(self, path: Path, *, remembering: bool = True) -> "tuple[UpdateVersion, bytes] | None":
        """A text with its version; None where there is none."""
        from obstore.exceptions import NotModifiedError

        known = self._known.get(path)
        try:
            with self._answering():
                options = {"if_none_match": known[0]["e_tag"]} if known and known[0].get("e_tag") else None
                found = self._store.get(self._name(path), options=options)
                version: Any = {name: found.meta[name] for name in ("e_tag", "version") if found.meta[name]}
                now = version, bytes(found.bytes())
        except FileNotFoundError:
            self._known.pop(path, None)
            return None
        except NotModifiedError:
            assert known is not None
            return known
        if remembering:
            self._known[path] = now
        return now

    def _put(self, path: Path, text: bytes, version: "UpdateVersion | None") -> bool:
        """Put a text in place of one of this version, or of none; whether that is what still stood there."""
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
            said = short_reason(Exception(str(error).partition("Debug source")[0]))
            raise StorageError(
                f"N2G_STORE ({self.address}) does not answer as it should ({said}): correct the address and how to "
                "sign in, or wait until it does; the same command goes on from what is there."
            ) from error


def _texts_first(path: Path) -> bool:
    """What names other files goes before them."""
    return path.suffix != ".json"
