"""Where everything lies: the folders of ``$N2G_HOME``, and an early check that they can be written."""

import getpass
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from n2g_assets.core.errors import StorageError

MINIMUM_FREE_BYTES = 200 * 2**20
"""A run starts only with this much free disk space."""

_PARTS_OF_ADDRESSES = "?#%"
"""SQLite and DuckDB read these in a path as parts of an address, and then write beside it or not at all."""


class Home:
    """The folder that holds all data; nothing is created before it is needed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.slices = root / "slices"
        """The canonical data: Parquet files and their manifests."""
        self.cache = root / "cache"
        """What can be deleted and is made again: converted models, rendered text, checkpoints, activations."""
        self.downloads = root / "downloads"
        """Fetched files, checked against their sha256."""
        self.database = root / "n2g.duckdb"
        """The published DuckDB file."""
        self.reports = root / "reports"
        """A page of HTML for each study."""
        self.dagster = root / "dagster"
        """``DAGSTER_HOME``: runs, events and logs."""
        self.locks = root / "locks"
        """Lock files; each is held by an open process alone, so deleting the folder is safe when nothing runs."""

    @property
    def forward_pass_lock(self) -> Path:
        """The file that keeps two forward passes from the same devices of this machine.

        It does not lie in the home, which machines may share.
        """
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        name = hashlib.sha256(f"{self.root}\n{devices}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"n2g-{getpass.getuser()}" / f"forward_pass.{name}.lock"

    @classmethod
    def from_environment(cls) -> "Home":
        """``$N2G_HOME``; without it ``.n2g`` beside the project's pyproject.toml, else in the working folder."""
        named = os.environ.get("N2G_HOME", "").strip()
        if named:
            return cls(Path(named).expanduser().absolute())
        project = Path(__file__).absolute().parents[2]
        beside = project if (project / "pyproject.toml").is_file() else Path.cwd()
        return cls(beside / ".n2g")

    def check_writable(self, minimum_free_bytes: int = MINIMUM_FREE_BYTES) -> None:
        """Creates the folder if need be, and writes a file to it and to each of its folders that is there.

        Raises:
            StorageError: it or a folder in it cannot be created or written, its path cannot be that of a database, or
                too little disk space is free.
        """
        self._check_path()
        folder = self.root
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for folder in (self.root, *self._written_folders()):
                with tempfile.TemporaryFile(dir=folder) as file:
                    file.write(b"n2g")
            free = shutil.disk_usage(self.root).free
        except OSError as error:
            part = "" if folder == self.root else f"{folder.relative_to(self.root)} in "
            raise StorageError(
                f"{part}N2G_HOME ({self.root}) cannot be written ({error.strerror or error}): "
                "make it writable, or set N2G_HOME to a folder that you may write to."
            ) from error
        if free < minimum_free_bytes:
            raise StorageError(
                f"N2G_HOME ({self.root}) has {free / 2**20:.0f} MiB of free disk space, a run needs "
                f"{minimum_free_bytes / 2**20:.0f} MiB: free some, or set N2G_HOME to a folder on another disk."
            )

    def _check_path(self) -> None:
        path = os.fsencode(self.root).decode("utf-8", "backslashreplace")
        marks = [mark for mark in _PARTS_OF_ADDRESSES if mark in path]
        if marks or path != str(self.root):
            what = f"the character {marks[0]}" if marks else "bytes that are not UTF-8"
            raise StorageError(
                f"N2G_HOME ({path}) has {what} in its path, and the databases in it could not be opened: set N2G_HOME "
                "to a folder whose path is UTF-8 without ?, # and %."
            )

    def _written_folders(self) -> Iterator[Path]:
        """The folders in it that are there, as far down as every run writes to them."""
        tops = (self.slices, self.cache, self.downloads, self.reports, self.locks, self.dagster)
        yield from (folder for folder in (*tops, self.dagster / "storage") if os.path.lexists(folder))
        yield from sorted({database.parent for database in self.dagster.rglob("*.db")})
