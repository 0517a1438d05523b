"""Where the store is: a folder, which machines may share; or object storage, of which a folder holds copies.

Slices, the cache, the database and the reports speak of paths in the store's folder. What has to be done for other
machines to see a file, and for this one to see theirs, a ``Place`` does: for a folder it is little (``objects`` has the
other kind, and says which one a home has). Whatever can be replaced is named by a file that is replaced at once, such
as a slice's manifest; all other files have names that are used once.
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

    def refresh(self, path: Path) -> bool:
        """Makes the copy of a file that can be replaced the newest, or removes it; whether that changed it."""
        return False

    def bring(self, path: Path, size: int, sha256: str, to: Path | None = None) -> None:
        """Copies a file of a name that is used once, unless it is here and whole; to ``to``, else to where it stands.

        Raises:
            FileNotFoundError: it is gone.
        """

    def send(self, file: Path, path: Path) -> None:
        """Keeps a copy of a new file under a name that is used once; the file itself stays where it is."""

    def supersede(self, file: Path, path: Path) -> str:
        """Has the text of a new file take the place of another in the store, before the file is moved to ``path``.

        Of several writers each supersedes another's text: this one's is given, and is empty where there was none.
        """
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError):
            return ""

    def text(self, path: Path) -> str | None:
        """The text of a file of the store; None where there is none."""
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def drop_copy(self, path: Path) -> None:
        """Removes the copy of a file or folder, as it is damaged; what is the store itself stays."""

    def drop_strays(self, folder: Path, name: str) -> None:
        """Removes copies below a folder of what has gone from the store; a file of this name stands for its folder."""

    def texts(self, folder: Path, name: str, depth: int = 1) -> dict[str, str]:
        """The text of the file ``name`` in each folder so far below one, by the path from there, in order."""
        found = {}
        for path in sorted(folder.glob(f"{'*/' * depth}{name}")):
            try:
                found[path.parent.relative_to(folder).as_posix()] = path.read_text(encoding="utf-8")
            except (OSError, ValueError):  # removed meanwhile, or damaged
                continue
        return found

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
        """Removes a file, or a folder with all that is in it; neither need be there."""
        if path.is_file():
            path.unlink(missing_ok=True)
        else:
            files.discard(path)
