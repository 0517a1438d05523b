"""Dagster's own database in the home: made once, with this package's settings."""

import os
from pathlib import Path

import dagster as dg

from n2g_assets.assets.alive import fail_dead_runs
from n2g_assets.core.home import Home
from n2g_assets.storage.files import hold_lock, write_atomically

STARTING = "dagster_instance"
"""The lock that every start of ``n2g`` takes."""
_SETTINGS = Path(__file__).with_name("instance.yaml")


def prepare_instance(home: Home) -> Path:
    """Makes the folder that ``DAGSTER_HOME`` is to name, writes its settings and creates its databases.

    Runs that died since the last time are marked as failed.

    Under a lock: Dagster's databases break for good ("more than one head present") where several processes create them
    at once.

    Raises:
        StorageError: the home cannot be written, or the disk is full.
    """
    home.check_writable()
    home.dagster.mkdir(parents=True, exist_ok=True)
    settings = home.dagster / "dagster.yaml"
    with hold_lock(home.locks, STARTING):
        wanted = _SETTINGS.read_text(encoding="utf-8")
        if not settings.is_file() or settings.read_text(encoding="utf-8") != wanted:
            write_atomically(settings, lambda temporary: temporary.write_text(wanted, encoding="utf-8"))
        with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
            instance.get_runs(limit=1)
            instance.all_instigator_state()
            fail_dead_runs(instance)
    os.environ["DAGSTER_HOME"] = str(home.dagster)
    return home.dagster
