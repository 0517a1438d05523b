"""The explorer served, and a browser that looks at it; what becomes of a test where there is none."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import uvicorn

from n2g_assets.core.home import Home
from n2g_assets.explore.app import build_app
from n2g_assets.reading.database import Database

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def need_browser() -> None:
    """Skips where no browser is installed; fails there with ``N2G_NEED_BROWSER``, which ``.ci/run`` sets."""
    if BROWSER is None:
        say = pytest.fail if os.environ.get("N2G_NEED_BROWSER") else pytest.skip
        say("neither chromium nor google-chrome is installed")


@contextmanager
def served(home: Home) -> Iterator[str]:
    """The address of the explorer of a home, which this process serves on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        application = build_app(Database(home.database))
        server = uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window, which reaches nothing but this machine."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        opened = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        yield opened
        opened.close()
