"""Where everything lies: the folders of ``$N2G_HOME``, and an early check that they can be written."""

import os
import shutil
import tempfile
from pathlib import Path

from n2g_assets.core.errors import StorageError

MINIMUM_FREE_BYTES = 200 * 2**20
"""A run starts only with this much free disk space."""


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
        """Creates the folder if need be, and writes a file to it.

        Raises:
            StorageError: it cannot be created or written, or too little disk space is free.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as file:
                file.write(b"n2g")
            free = shutil.disk_usage(self.root).free
        except OSError as error:
            raise StorageError(
                f"N2G_HOME ({self.root}) cannot be written ({error.strerror or error}): "
                "set N2G_HOME to a folder that you may write to."
            ) from error
        if free < minimum_free_bytes:
            raise StorageError(
                f"N2G_HOME ({self.root}) has {free / 2**20:.0f} MiB of free disk space, a run needs "
                f"{minimum_free_bytes / 2**20:.0f} MiB: free some, or set N2G_HOME to a folder on another disk."
            )
