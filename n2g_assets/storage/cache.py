"""The content-addressed cache: everything on disk that is made again where it is lost, and is not a slice.

    cache/<kind>/<key>/entry.json and the entry's files     (in object storage its files stand in a folder ``at``)

1. An entry's key is a hash of all that decides its content; its kind says what it is, such as ``models``.
2. An entry is filled in a temporary folder and moved into place by one rename. ``entry.json`` holds what is known
   about it and the size and sha256 of its files, and has a checksum of its own.
3. An entry that is damaged in any way is removed when it is looked for, so that it is made again.

``sweep`` removes what killed writers left, here and beside the slices, downloads, reports and the database.
"""

import errno
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from n2g_assets.core.errors import StorageError
from n2g_assets.core.home import Home
from n2g_assets.storage import files
from n2g_assets.storage.objects import place_of
from n2g_assets.storage.place import Place

logger = logging.getLogger(__name__)

_ABOUT = "entry.json"
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=-]*")
_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
_LEFTOVER = re.compile(r".*\.(tmp|part)|\.fetching-.*")


@dataclass(frozen=True)
class Entry:
    """A whole entry: the folder of its files, and what was written about it."""

    folder: Path
    about: dict[str, Any]

    def path(self, name: str) -> Path:
        """One of its files."""
        return self.folder / name


class Cache:
    """Reads and writes the entries under a home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._place = place_of(home)

    def find(self, kind: str, key: str) -> Entry | None:
        """The entry, or None where there is none; a damaged one is removed with a warning."""
        folder = self.folder(kind, key)
        for again in (True, False):  # another process may have replaced it during the first look
            try:
                text = self._place.text(folder / _ABOUT)
                if text is None and (self._place.is_elsewhere or not folder.exists()):
                    return None
                about, held = _about(kind, key, text or "")
                damaged = [name for name, known in held.items() if not _is_whole(folder / name, *known)]
                if damaged and self._place.is_elsewhere:
                    self._bring(folder, text or "")
                elif damaged:
                    raise ValueError(f"its file {damaged[0]}")
                return Entry(folder, about)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError, KeyError, TypeError) as error:
                reason = f"{type(error).__name__}: {error}"
            except OSError as error:  # the disk or the rights, which says nothing of the entry
                raise StorageError(
                    f"{folder} cannot be read ({error.strerror or error}): make it readable, and run the same command "
                    "again."
                ) from error
            if not again:
                files.say_damaged(f"The cache entry {kind}/{key}", reason)
                if not self._place.is_elsewhere:  # there it is superseded when it is made again
                    self.remove(kind, key)
        return None

    def write(
        self, kind: str, key: str, fill: Callable[[Path], object], about: Mapping[str, Any] | None = None
    ) -> Entry:
        """Makes an entry, in place of another one; ``fill`` writes its files into the folder that it is given.

        Its kind is a name or a path of names; ``about`` is what else is to be known of it, as JSON.

        Raises:
            StorageError: the disk is full, or the cache cannot be written.
        """
        folder = self.folder(kind, key)
        about = dict(about or {})
        with files.temporary_folder(folder) as temporary:
            new = temporary / "new"
            new.mkdir()
            fill(new)
            held = {
                path.relative_to(new).as_posix(): files.size_and_sha256(path)
                for path in sorted(new.rglob("*"))
                if path.is_file()
            }
            content = {"kind": kind, "key": key, "about": about, "files": held}
            if self._place.is_elsewhere:
                content["at"] = secrets.token_hex(8)
            files.write_sealed(new / _ABOUT, content)
            self._send(new, folder, content)
            _take_place(new, folder)
        return Entry(folder, about)

    def obtain(
        self, kind: str, key: str, fill: Callable[[Path], object], about: Mapping[str, Any] | None = None
    ) -> Entry:
        """The entry that is there, else a new one; of several processes one makes it and the others wait.

        Raises:
            StorageError: as ``write``, or another process still makes it after an hour.
        """
        found = self.find(kind, key)
        if found is not None:
            return found
        with files.hold_lock(self.home.locks, f"cache/{kind}/{key}"):
            return self.find(kind, key) or self.write(kind, key, fill, about)

    def listing(self, kind: str, depth: int = 1) -> dict[str, dict[str, Any]]:
        """What is known about each entry of a kind, by key in order; its files are not looked at (see ``find``).

        Where a kind has kinds below it, entries so deep are listed, by their path.
        """
        found = {}
        for path, text in self._place.texts(self.folder(kind), _ABOUT, depth).items():
            below, _, key = f"{kind}/{path}".rpartition("/")
            with suppress(ValueError, KeyError, TypeError):  # damaged
                found[path] = _about(below, key, text)[0]
        return found

    def remove(self, kind: str, key: str | None = None) -> None:
        """Removes an entry, or all of a kind; none need be there."""
        self._place.remove(self.folder(kind, key))
        with suppress(OSError):  # others are there, or are being written
            self.folder(kind).rmdir()

    def folder(self, kind: str, key: str | None = None) -> Path:
        """Where an entry stands, or all of a kind; it need not be there."""
        names = [*kind.split("/"), *([] if key is None else [key])]
        if not all(_KEY.fullmatch(name) for name in names):
            raise ValueError(f"{names} cannot name a cache entry")
        return self.home.cache.joinpath(*names)

    def _bring(self, folder: Path, text: str) -> None:
        """Copies an entry of this ``entry.json`` here; a FileNotFoundError or ValueError if it is not whole."""
        content = files.unsealed(text)
        with files.temporary_folder(folder) as temporary:
            new = temporary / "new"
            for name, (size, sha256) in content["files"].items():
                self._place.bring(folder / content["at"] / name, size, sha256, to=new / name)
                if not _is_whole(new / name, size, sha256):
                    raise ValueError(f"its file {name}")
            new.mkdir(exist_ok=True)
            (new / _ABOUT).write_text(text, encoding="utf-8")
            _take_place(new, folder)

    def _send(self, new: Path, folder: Path, content: Mapping[str, Any]) -> None:
        """Gives a new entry to a store that is elsewhere, in place of one that is there."""
        if not self._place.is_elsewhere:
            return
        for name in content["files"]:
            self._place.send(new / name, folder / content["at"] / name)
        superseded = self._place.supersede((new / _ABOUT).read_text(encoding="utf-8"), folder / _ABOUT)
        with suppress(ValueError, KeyError):
            self._place.remove(folder / files.unsealed(superseded)["at"])


def _take_place(new: Path, folder: Path) -> None:
    """Moves a new entry into its place; an equal one that another process put there stays, since it may be read."""
    for attempt in range(100):
        try:
            os.rename(new, folder)
            return
        except OSError as error:
            if error.errno not in _OCCUPIED:
                raise
        with suppress(OSError, ValueError, KeyError, TypeError):
            own, there = (files.read_sealed(each / _ABOUT) for each in (new, folder))
            equal = own["about"] == there["about"] and own["files"] == there["files"]
            if equal and all(_is_whole(folder / name, *known) for name, known in there["files"].items()):
                return
        with suppress(FileNotFoundError):
            os.replace(folder, new.with_name(f"old{attempt}"))
    raise AssertionError(f"{folder} is replaced faster than it can be moved aside")


def _is_whole(path: Path, size: int, sha256: str) -> bool:
    """As ``files.is_whole``, of a file that need not be there."""
    try:
        return files.is_whole(path, size, sha256)
    except FileNotFoundError:
        return False


def _about(kind: str, key: str, text: str) -> tuple[dict[str, Any], dict[str, tuple[int, str]]]:
    """What the text of an ``entry.json`` says about the entry, and of its files.

    Raises:
        ValueError: it is damaged, as KeyError and TypeError say too, or another entry's.
    """
    content = files.unsealed(text)
    if (content["kind"], content["key"]) != (kind, key):
        raise ValueError(f"it is the entry {content['kind']}/{content['key']}")
    return content["about"], content["files"]


def sweep(home: Home) -> list[Path]:
    """Removes the temporary files and folders of killed writers, and gives their paths; what a living one holds stays.

    A temporary without a lock file, which an earlier version or a library left, is removed when it is an hour old.
    """
    removed = leftovers(home)
    for path in removed:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    if removed:
        logger.info("Removed %d temporary files and folders that killed runs left in %s.", len(removed), home.root)
    _drop_copies(home)
    return removed


def _drop_copies(home: Home) -> None:
    """Removes copies of what has left a store that is elsewhere."""
    place, folder = place_of(home), Place()
    if not place.is_elsewhere:
        return
    entries = [found.path for found in folder.files(home.cache) if found.path.name == _ABOUT]
    rows = [found.path for found in folder.files(home.slices) if found.path.suffix == ".parquet"]
    there = {found.path for top in (home.cache, home.slices) for found in place.files(top)}
    for path in (*entries, *rows):
        if path not in there:
            folder.remove(path.parent if path.name == _ABOUT else path)


def leftovers(home: Home) -> list[Path]:
    """What ``sweep`` removes."""
    return [path for path in _temporaries(home) if files.is_abandoned(path)]


def _temporaries(home: Home) -> Iterator[Path]:
    for place in {home.root, home.store}:
        yield from (path for path in place.glob("*") if _LEFTOVER.fullmatch(path.name))
    for top in (home.slices, home.cache, home.downloads, home.reports):
        for folder, folders, plain in os.walk(top):
            if _ABOUT in plain:  # the files of an entry are its own
                folders.clear()
                continue
            names = [name for name in (*folders, *plain) if _LEFTOVER.fullmatch(name)]
            folders[:] = [name for name in folders if name not in names]
            yield from (Path(folder, name) for name in names)
