"""One finished run of a tiny study, shared by the tests that only look at it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from n2g_assets.assets.study import Study
from n2g_assets_tests.assets.studies import run_job, tiny_study


@dataclass(frozen=True)
class FinishedRun:
    study: Study
    home: Path
    instance: dg.DagsterInstance
    result: dg.ExecuteInProcessResult

    def copy_home(self, folder: Path) -> Path:
        """A home of its own for a test that changes something."""
        return Path(shutil.copytree(self.home, folder / "home"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedRun]:
    folder = tmp_path_factory.mktemp("tiny")
    study = tiny_study(folder)
    with dg.DagsterInstance.ephemeral() as instance:
        yield FinishedRun(study, folder / "home", instance, run_job(study, folder / "home", instance))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral
