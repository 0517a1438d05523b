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
                if folder.exists():
                    self._place.refresh(folder / _ABOUT)
                elif not self._bring(folder):
                    return None
                about, held = self._read_about(kind, key)
                damaged = [name for name, known in held.items() if not files.is_whole(folder / name, *known)]
                if not damaged:
                    return Entry(folder, about)
                reason = f"its file {damaged[0]}"
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError, KeyError, TypeError) as error:
                reason = f"{type(error).__name__}: {error}"
            except OSError as error:  # the disk or the rights, which says nothing of the entry
                raise StorageError(
                    f"{folder} cannot be read ({error.strerror or error}): make it readable, and run the same command "
                    "again."
                ) from error
            if again:
                self._place.drop_copy(folder)
            else:
                files.say_damaged(f"The cache entry {kind}/{key}", reason)
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
            content = {"kind": kind, "key": key, "at": secrets.token_hex(8), "about": about, "files": held}
            files.write_sealed(new / _ABOUT, content)
            self._send(new, folder, content)
            for attempt in range(100):
                try:
                    os.rename(new, folder)
                    return Entry(folder, about)
                except OSError as error:
                    if error.errno not in _OCCUPIED:
                        raise
                if self._holds(kind, key, new):  # another process was faster, and may read it
                    return Entry(folder, about)
                with suppress(FileNotFoundError):
                    os.replace(folder, temporary / f"old{attempt}")
        raise AssertionError(f"{folder} is replaced faster than it can be moved aside")

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

    def folder(self, kind: str, key: str | None = None) -> Path:
        """Where an entry stands, or all of a kind; it need not be there."""
        names = [*kind.split("/"), *([] if key is None else [key])]
        if not all(_KEY.fullmatch(name) for name in names):
            raise ValueError(f"{names} cannot name a cache entry")
        return self.home.cache.joinpath(*names)

    def _holds(self, kind: str, key: str, new: Path) -> bool:
        """Whether the entry that is there is whole, and equal to one in the folder ``new``."""
        content = files.read_sealed(new / _ABOUT)
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = self._read_about(kind, key) if self.find(kind, key) is not None else None
            return known == (content["about"], content["files"])
        return False

    def _read_about(self, kind: str, key: str) -> tuple[dict[str, Any], dict[str, tuple[int, str]]]:
        return _about(kind, key, (self.folder(kind, key) / _ABOUT).read_text(encoding="utf-8"))

    def _bring(self, folder: Path) -> bool:
        """Copies an entry that this machine lacks, if the store has one; whether it has."""
        text = self._place.text(folder / _ABOUT)
        if text is None:
            return False
        content = files.unsealed(text)
        with files.temporary_folder(folder) as temporary:
            new = temporary / "new"
            new.mkdir()
            (new / _ABOUT).write_text(text, encoding="utf-8")
            for name, known in content["files"].items():
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                self._place.bring(folder / content["at"] / name, *known, to=new / name)
            with suppress(OSError):  # another process was faster
                os.rename(new, folder)
        return True

    def _send(self, new: Path, folder: Path, content: Mapping[str, Any]) -> None:
        """Gives a new entry to the store, in place of one that is there."""
        for name in content["files"]:
            self._place.send(new / name, folder / content["at"] / name)
        superseded = self._place.supersede(new / _ABOUT, folder / _ABOUT)
        with suppress(ValueError, KeyError):
            self._place.remove(folder / files.unsealed(superseded)["at"])


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
    place_of(home).drop_strays(home.cache, _ABOUT)
    return removed


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
