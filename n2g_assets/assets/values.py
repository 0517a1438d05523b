"""What the steps of an asset hand to one another: small values, which go through the store.

Steps of a run may execute on different machines, which share nothing else.
"""

import pickle
from pathlib import Path
from typing import Any

import dagster as dg

from n2g_assets.assets.resource import home_at
from n2g_assets.core.errors import StorageError
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.hashing import hash_json

VALUES = "n2g_values"
"""The key of the manager below among the resources."""
_FILE = "value.pickle"


class StepValues(dg.ConfigurableIOManager):
    """Keeps the values of a run's steps in the cache, as long as the run goes on or can be repeated in part."""

    home: str = ""
    """As that of the resource ``n2g``."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Keep a value."""

        def fill(folder: Path) -> None:
            (folder / _FILE).write_bytes(pickle.dumps(obj))

        run_id, *step = context.get_identifier()
        Cache(home_at(self.home)).write(_kind(run_id), hash_json(step), fill)

    def load_input(self, context: dg.InputContext) -> Any:
        """The value that a step of this run, or of the one that it repeats, has kept."""
        assert context.upstream_output is not None
        run_id, *step = context.upstream_output.get_identifier()
        entry = Cache(home_at(self.home)).find(_kind(run_id), hash_json(step))
        if entry is None:
            raise StorageError(f"The value of step {'.'.join(step)} is gone: run the same command again.")
        return pickle.loads(entry.path(_FILE).read_bytes())


def _kind(run_id: str) -> str:
    return f"steps/{run_id}"
