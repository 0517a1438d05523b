"""The finished runs of the tests of assets, as homes that commands read."""

from __future__ import annotations

import pytest

from n2g_assets_tests.assets.conftest import FinishedRun, finished, finished_evidence

__all__ = ["finished", "finished_evidence"]


@pytest.fixture
def published(finished_evidence: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> FinishedRun:
    """A finished run, whose home is that of the environment; tests only look at it."""
    monkeypatch.setenv("N2G_HOME", str(finished_evidence.home))
    return finished_evidence
