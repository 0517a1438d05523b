"""Runs the stages of a tiny study and dies by SIGKILL before its n-th file is put into place: ``folder home n``."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from n2g_assets_tests.assets.studies import run_stages, tiny_study


def before_the(nth: int, die: Callable[[], None], name: str = "replace") -> Callable[..., Any]:
    """``os.replace`` or ``os.rename``, which dies before its n-th call."""
    call, seen = getattr(os, name), 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == nth:
            die()
        return call(*args, **kwargs)

    return counting


if __name__ == "__main__":
    folder, home, nth = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    study = tiny_study(folder)
    os.replace = before_the(nth, lambda: os.kill(os.getpid(), signal.SIGKILL))
    run_stages(study, home)
