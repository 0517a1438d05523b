"""Where the browser is, and what becomes of a test that needs one where there is none."""

from __future__ import annotations

import os
import shutil

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def need_browser() -> None:
    """Skips where no browser is installed; fails there with ``N2G_NEED_BROWSER``, which ``.ci/run`` sets."""
    if BROWSER is None:
        say = pytest.fail if os.environ.get("N2G_NEED_BROWSER") else pytest.skip
        say("neither chromium nor google-chrome is installed")
