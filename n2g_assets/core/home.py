"""Where everything lies: the folders of ``$N2G_HOME``, and an early check that they can be written."""

import getpass
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from n2g_assets.core.errors import SettingsError, StorageError

MINIMUM_FREE_BYTES = 200 * 2**20
"""A run starts only with this much free disk space."""

_SCHEMES = ("s3", "gs", "az")
"""Of the addresses of object storage."""
_PARTS_OF_ADDRESSES = "?#%"
"""SQLite and DuckDB read these in a path as parts of an address, and then write beside it or not at all."""


class Home:
    """The folder that holds all data; nothing is created before it is needed."""

    def __init__(self, root: Path, store: Path | None = None, address: str | None = None) -> None:
        self.root = root
        self.store = root if store is None else store
        """What machines may share: all that is computed. The rest of the home is the machine's own."""
        self.address = address
        """Of the object storage whose copies lie in ``store``; None where that is the store itself."""
        self.slices = self.store / "slices"
        """The canonical data: Parquet files and their manifests."""
        self.cache = self.store / "cache"
        """What can be deleted and is made again: converted models, rendered text, checkpoints, activations."""
        self.database = self.store / "n2g.duckdb"
        """The published DuckDB file."""
        self.reports = self.store / "reports"
        """A page of HTML for each study."""
        self.downloads = root / "downloads"
        """Fetched files, checked against their sha256."""
        self.dagster = root / "dagster"
        """``DAGSTER_HOME``: runs, events and logs."""
        self.folders = root / "folders"
        """For each study that ran here a file that names its folder, from which the paths of its settings count."""
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

    def folder_of(self, study: str) -> Path:
        """From which relative paths of a study's settings count; the working folder where it never ran here."""
        try:
            return Path((self.folders / study).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Path.cwd()

    @classmethod
    def from_environment(cls) -> "Home":
        """``$N2G_HOME``; without it ``.n2g`` beside the project's pyproject.toml, else in the working folder.

        Its store is ``$N2G_STORE``, where that is set: a folder, or the address of object storage.

        Raises:
            SettingsError: ``$N2G_STORE`` is an address of something else.
        """
        named, store = (os.environ.get(name, "").strip() for name in ("N2G_HOME", "N2G_STORE"))
        project = Path(__file__).absolute().parents[2]
        beside = project if (project / "pyproject.toml").is_file() else Path.cwd()
        root = _absolute(named) if named else beside / ".n2g"
        if "://" not in store:
            return cls(root, _absolute(store) if store else None)
        if urlsplit(store).scheme not in _SCHEMES or not urlsplit(store).netloc:
            raise SettingsError(
                f"N2G_STORE ({store}) is no object storage: set it to such as s3://bucket/folder "
                f"({', '.join(_SCHEMES)}), or to a folder."
            )
        address = store.rstrip("/")
        return cls(root, root / "copies" / hashlib.sha256(address.encode()).hexdigest()[:16], address)

    def check_writable(self, minimum_free_bytes: int = MINIMUM_FREE_BYTES) -> None:
        """Creates the folder if need be, and writes a file to it and to each of its folders that is there.

        Raises:
            StorageError: it or a folder in it cannot be created or written, its path cannot be that of a database, or
                too little disk space is free.
        """
        own = [self.downloads, self.locks, self.dagster, self.dagster / "storage"]
        own += sorted({database.parent for database in self.dagster.rglob("*.db")})
        shared = [self.slices, self.cache, self.reports]
        if self.store == self.root:
            _check_folder("N2G_HOME", self.root, [*shared, *own], minimum_free_bytes)
        else:
            _check_folder("N2G_HOME", self.root, own, minimum_free_bytes)
            _check_folder("N2G_STORE" if self.address is None else "N2G_HOME", self.store, shared, minimum_free_bytes)


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _check_folder(name: str, top: Path, written: Sequence[Path], minimum_free_bytes: int) -> None:
    """Check the folder that a variable names, and those in it that are there, as far down as every run writes."""
    _check_path(name, top)
    folder = top
    try:
        top.mkdir(parents=True, exist_ok=True)
        for folder in (top, *(each for each in written if os.path.lexists(each))):
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"n2g")
        free = shutil.disk_usage(top).free
    except OSError as error:
        part = "" if folder == top else f"{folder.relative_to(top)} in "
        raise StorageError(
            f"{part}{name} ({top}) cannot be written ({error.strerror or error}): "
            f"make it writable, or set {name} to a folder that you may write to."
        ) from error
    if free < minimum_free_bytes:
        raise StorageError(
            f"{name} ({top}) has {free / 2**20:.0f} MiB of free disk space, a run needs "
            f"{minimum_free_bytes / 2**20:.0f} MiB: free some, or set {name} to a folder on another disk."
        )


def _check_path(name: str, top: Path) -> None:
    path = os.fsencode(top).decode("utf-8", "backslashreplace")
    marks = [mark for mark in _PARTS_OF_ADDRESSES if mark in path]
    if marks or path != str(top):
        what = f"the character {marks[0]}" if marks else "bytes that are not UTF-8"
        raise StorageError(
            f"{name} ({path}) has {what} in its path, and the databases in it could not be opened: set {name} "
            "to a folder whose path is UTF-8 without ?, # and %."
        )
