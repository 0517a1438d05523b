"""A finished run of a tiny study of each method, shared by the tests that only look at it, also between processes."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from filelock import FileLock

from n2g_assets.assets.session import Session
from n2g_assets.assets.study import Study
from n2g_assets_tests.assets.studies import metadata_of, of_evidence, run_job, session_of, tiny_study


@dataclass(frozen=True)
class FinishedRun:
    """A home that a job has filled, and what Dagster recorded of that run."""

    study: Study
    home: Path
    success: bool
    metadata: dict[str, dict[str | None, dict[str, Any]]]
    """By stage and partition."""
    messages: list[str]
    steps: list[str]
    checks: list[Any]
    """The evaluations of its asset checks."""

    def copy_home(self, folder: Path) -> Path:
        """A home of its own for a test that changes something."""
        return Path(shutil.copytree(self.home, folder / "home", ignore=shutil.ignore_patterns("locks")))

    def session(self) -> Session:
        return session_of(self.study, self.home)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return _once(tmp_path_factory, "finished", tiny_study)


@pytest.fixture(scope="session")
def finished_evidence(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Of the method ``evidence``; the other one is of the method ``paper``."""
    return _once(tmp_path_factory, "finished_evidence", lambda folder: of_evidence(tiny_study(folder)))


def _once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Study]) -> FinishedRun:
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    kept = base / f"{name}.pickle"
    with FileLock(base / f"{name}.lock"):
        if not kept.exists():
            (base / name).mkdir()
            kept.write_bytes(pickle.dumps(_run(make(base / name))))
    return pickle.loads(kept.read_bytes())


def _run(study: Study) -> FinishedRun:
    home = study.folder / "home"
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_job(study, home, instance)
        stages = ("subject_model", "corpus_tokens", *study.stages, "warehouse", "report")
        return FinishedRun(
            study,
            home,
            result.success,
            {stage: metadata_of(result, stage) for stage in stages},
            [event.user_message for event in instance.all_logs(result.run_id)],
            [event.step_key for event in result.all_events if event.is_step_success],
            result.get_asset_check_evaluations(),
        )


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral
