"""The explorer over finished runs of both methods, and one browser, shared by the tests of pages."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl
import pytest
import uvicorn

from n2g_assets.core.home import Home
from n2g_assets.explore.app import build_app
from n2g_assets.reading.database import Database
from n2g_assets.storage.slices import SliceStore
from n2g_assets.storage.warehouse import publish
from n2g_assets_tests.assets.conftest import FinishedRun, finished, finished_evidence
from n2g_assets_tests.browser import BROWSER, need_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["finished", "finished_evidence"]


EVIDENCE, PAPER = "tiny", "tiny_paper"
"""The studies that are published, of one model and one corpus, by their methods."""


@pytest.fixture(scope="session")
def both(finished: FinishedRun, finished_evidence: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home that has published both studies."""
    home = Home(finished_evidence.copy_home(tmp_path_factory.mktemp("both")))
    target, source = SliceStore(home), SliceStore(Home(finished.home))
    for key in source.keys("tiny"):
        manifest = source.manifest(key)
        target.write(
            replace(key, study=PAPER), source.read(key).with_columns(study=pl.lit(PAPER)),
            input_hash=manifest.input_hash, code_version=manifest.code_version, extra=manifest.extra,
        )  # fmt: skip
    publish(target)
    return home


@pytest.fixture(scope="session")
def site(both: Home) -> Iterator[str]:
    """The address of the explorer over ``both``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        application = build_app(Database(both.database))
        server = uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a window, which reaches nothing but this machine."""
    need_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        opened = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        yield opened
        opened.close()
