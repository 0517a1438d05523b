"""The explorer over finished runs of both methods, and a browser, shared by the tests of pages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
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
    publish_beside(home, finished.home, PAPER)
    return home


def publish_beside(home: Home, other: Path, name: str) -> None:
    """Publishes a home with the slices of the study ``tiny`` of another one, under another name."""
    target, source = SliceStore(home), SliceStore(Home(other))
    for key in [*source.keys("tiny")]:
        manifest = source.manifest(key)
        target.write(
            replace(key, study=name), source.read(key).with_columns(study=pl.lit(name)),
            input_hash=manifest.input_hash, code_version=manifest.code_version, extra=manifest.extra,
        )  # fmt: skip
    publish(target)


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
