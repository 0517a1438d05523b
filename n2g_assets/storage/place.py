"""Where the store is: a folder, which machines may share; or object storage, of which a folder holds copies.

Slices, the cache, the database and the reports speak of paths in the store's folder. What has to be done for other
machines to see a file, and for this one to see theirs, a ``Place`` does. For a folder that is nearly nothing; in
``objects`` stands the other kind, and which one a home has.

1. Small texts say what there is, such as a slice's manifest or an entry's ``entry.json``. They are read from the store
   itself each time, and are the only files that are ever replaced.
2. All other files have names that are used once. So a copy of one is the file, whatever other machines do.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from n2g_assets.storage import files


class Found(NamedTuple):
    """A file of the store."""

    path: Path
    """Where it or its copy stands in the folder."""
    bytes: int
    changed: float
    """Seconds since 1970."""


class Place:
    """A folder that is the store itself."""

    is_elsewhere = False
    """Whether the folder holds copies alone."""

    def text(self, path: Path) -> str | None:
        """The text that stands in the store now; None where there is none. A ValueError if it is damaged."""
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def texts(self, folder: Path, name: str, depth: int = 1) -> dict[str, str]:
        """The text of the file ``name`` in each folder so far below one, by the path from there, in order."""
        found = {}
        for path in sorted(folder.glob(f"{'*/' * depth}{name}")):
            try:
                found[path.parent.relative_to(folder).as_posix()] = path.read_text(encoding="utf-8")
            except (OSError, ValueError):  # removed meanwhile, or damaged
                continue
        return found

    def supersede(self, text: str, path: Path) -> str:
        """Has a text take the place of another in the store, before the caller writes it to ``path``.

        Gives the text that stood there, which is empty where there was none: what it named is the caller's to remove.
        """
        try:
            return self.text(path) or ""
        except ValueError:
            return ""

    def send(self, file: Path, path: Path) -> None:
        """Adds a file to the store, under a name that is used once, before the caller moves it to ``path``."""

    def bring(self, path: Path, size: int, sha256: str, to: Path | None = None) -> None:
        """Copies a file of the store here, unless it is here and whole; to ``to``, else to where it stands.

        Raises:
            FileNotFoundError: it is gone.
        """

    def files(self, folder: Path) -> Iterator[Found]:
        """All files below a folder, in no order; none where it is not there."""
        for top, _, names in os.walk(folder):
            for path in (Path(top, name) for name in names):
                try:
                    about = path.lstat()
                except FileNotFoundError:
                    continue
                yield Found(path, about.st_size, about.st_mtime)

    def remove(self, path: Path) -> None:
        """Removes a file, or a folder with all that is in it, and copies of it; neither need be there."""
        if path.is_file():
            path.unlink(missing_ok=True)
        else:
            files.discard(path)
