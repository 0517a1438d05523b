"""Dagster's own database: made once, with this package's settings, in the home or in a Postgres."""

import os
from importlib.util import find_spec
from pathlib import Path

import dagster as dg

from n2g_assets.assets.alive import fail_dead_runs
from n2g_assets.core.errors import SettingsError, short_reason
from n2g_assets.core.home import Home
from n2g_assets.storage.files import hold_lock, write_atomically

STARTING = "dagster_instance"
"""The lock that every start of ``n2g`` takes."""
POSTGRES = "N2G_POSTGRES"
"""Variable: the address of the Postgres that holds Dagster's database, where several machines work on one home."""
_SCHEME = "postgresql+psycopg2://"
_SHARED = f"""\
storage: {{postgres: {{postgres_url: {{env: {POSTGRES}}}}}}}
# what steps print stays with the worker: to copy it takes four processes a step
compute_logs: {{module: dagster._core.storage.noop_compute_log_manager, class: NoOpComputeLogManager}}
"""
_SETTINGS = Path(__file__).with_name("instance.yaml")


def prepare_instance(home: Home) -> Path:
    """Makes the folder that ``DAGSTER_HOME`` is to name, writes its settings and creates its databases.

    Runs that died since the last time are marked as failed.

    Under a lock: Dagster's databases break for good ("more than one head present") where several processes create them
    at once.

    Raises:
        StorageError: the home cannot be written, or the disk is full.
        SettingsError: the Postgres that is named does not answer.
    """
    home.check_writable()
    home.dagster.mkdir(parents=True, exist_ok=True)
    settings = home.dagster / "dagster.yaml"
    check_postgres()
    with hold_lock(home.locks, STARTING):
        wanted = _settings()
        if not settings.is_file() or settings.read_text(encoding="utf-8") != wanted:
            write_atomically(settings, lambda temporary: temporary.write_text(wanted, encoding="utf-8"))
        with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
            instance.get_runs(limit=1)
            instance.all_instigator_state()
            fail_dead_runs(instance)
    os.environ["DAGSTER_HOME"] = str(home.dagster)
    return home.dagster


def check_postgres() -> None:
    """Check that the Postgres answers, if one is named.

    Raises:
        SettingsError: it does not, its package is not installed, or its address is of another form.
    """
    address = _postgres()
    if not address:
        return
    if not address.startswith(_SCHEME):
        raise SettingsError(f"{POSTGRES} does not begin with {_SCHEME}: write {_SCHEME}user:password@host/database.")
    if find_spec("dagster_postgres") is None:
        raise SettingsError(
            f"{POSTGRES} needs the package dagster-postgres: install n2g_assets[celery], or unset the variable."
        )
    import psycopg2

    try:
        psycopg2.connect(address.replace("+psycopg2", "", 1), connect_timeout=5).close()
    except psycopg2.ProgrammingError:  # which quotes the address, with its password
        raise SettingsError(
            f"{POSTGRES} cannot be read: write {_SCHEME}user:password@host:port/database, with %40 for an @ in the "
            "password and so on."
        ) from None
    except psycopg2.Error as error:
        raise SettingsError(
            f"The Postgres that {POSTGRES} names does not answer ({short_reason(error)}): start it, or correct the "
            "address."
        ) from error


def _settings() -> str:
    """What Dagster reads; the address of a Postgres, with its password, stays in the environment."""
    return _SETTINGS.read_text(encoding="utf-8") + (_SHARED if _postgres() else "")


def _postgres() -> str:
    return os.environ.get(POSTGRES, "").strip()
