"""The explorer over finished runs of both methods, and a browser, shared by the tests of pages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl
import pytest

from n2g_assets.core.home import Home
from n2g_assets.storage.slices import SliceStore
from n2g_assets.storage.warehouse import publish
from n2g_assets_tests.assets.conftest import FinishedRun, finished, finished_evidence
from n2g_assets_tests.browser import chromium, need_browser, served

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
    with served(both) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests of a file; while it is open, this thread has a running event loop and Dagster's own fail."""
    need_browser()
    with chromium() as opened:
        yield opened
