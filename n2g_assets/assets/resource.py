"""The resource ``n2g``: where everything is kept; and how an error that names its cause becomes a step's failure."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Self

import dagster as dg

from n2g_assets.assets.alive import lives
from n2g_assets.assets.executors import executor_of_run
from n2g_assets.core.errors import N2GError
from n2g_assets.core.explorer import explorer_root
from n2g_assets.core.home import Home
from n2g_assets.storage.cache import sweep


def home_at(folder: str) -> Home:
    """The home in a folder; empty means that of the environment."""
    return Home(Path(folder).expanduser().resolve()) if folder else Home.from_environment()


class N2GResource(dg.ConfigurableResource):
    """Where everything is kept."""

    home: str = ""
    """Folder; empty means $N2G_HOME, or ``.n2g`` beside the project."""

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Self]:
        """Itself, as long as a run goes on; the process of a run that has only one is watched meanwhile."""
        run = context.run
        if context.instance is None or run is None or executor_of_run(run) != "in_process":
            yield self
        else:
            with lives(context.instance, run.run_id):
                yield self

    def open(self) -> Home:
        """The home folder, checked to be writable; what killed runs left in it is removed once a process.

        Raises:
            StorageError: it cannot be written, or the disk is full.
            SettingsError: ``$N2G_EXPLORER``, to which results link, is no address.
        """
        explorer_root()
        home = home_at(self.home)
        home.check_writable()
        _sweep_once(home.root, home.store, home.address)
        return home


_sweep_once = cache(lambda *home: sweep(Home(*home)))


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Turn an error with a cause and a cure into the headline of the step's failure."""
    try:
        yield
    except N2GError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
