"""The finished runs of the tests of assets, opened as studies; tests only look at them."""

from __future__ import annotations

import pytest

from n2g_assets import open_study
from n2g_assets.core.home import Home
from n2g_assets.reading.study import Study, Unit
from n2g_assets_tests.assets.conftest import FinishedRun, finished, finished_evidence

__all__ = ["finished", "finished_evidence"]


def first_unit(study: Study) -> Unit:
    """One whose graph has rules."""
    row = study.rows("SELECT layer, unit, sign FROM rules WHERE study = $study ORDER BY ALL LIMIT 1")[0]
    return study.unit(row["layer"], row["unit"], row["sign"])


@pytest.fixture(params=["paper", "evidence"])
def study(request: pytest.FixtureRequest, finished: FinishedRun, finished_evidence: FinishedRun) -> Study:
    """Of each method."""
    run = finished if request.param == "paper" else finished_evidence
    return open_study("tiny", Home(run.home))


@pytest.fixture
def unit(study: Study) -> Unit:
    return first_unit(study)


@pytest.fixture
def classes(finished_evidence: FinishedRun) -> Study:
    """Of graphs of token classes."""
    return open_study("tiny", Home(finished_evidence.home))
