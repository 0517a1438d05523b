"""Runs the job of a tiny study and dies by SIGKILL at its n-th file put into place: ``killed_run.py folder home n``."""

import os
import signal
import sys
from pathlib import Path

import dagster as dg

from n2g_assets_tests.assets.studies import WITH_CONTROL, run_job, tiny_study


def die_at(nth: int) -> None:
    """Let this process be killed just before its n-th ``os.replace``."""
    replace, seen = os.replace, 0

    def counting(*args, **kwargs):
        nonlocal seen
        seen += 1
        if seen == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*args, **kwargs)

    os.replace = counting


if __name__ == "__main__":
    folder, home, nth = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    study = tiny_study(folder, evaluation=WITH_CONTROL)
    die_at(nth)
    with dg.DagsterInstance.ephemeral() as instance:
        run_job(study, home, instance)
