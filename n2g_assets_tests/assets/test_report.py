"""The asset of the report: what it needs, and the commands that it prints."""

from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from n2g_assets.assets.publishing import REPORT, commands_of
from n2g_assets.assets.resource import N2GResource
from n2g_assets.assets.steps import whole_asset
from n2g_assets.study import shipped_study
from n2g_assets_tests.assets.conftest import FinishedRun


def test_without_a_published_database_it_says_what_is_missing(tmp_path: Path):
    with pytest.raises(dg.Failure, match="is not there yet: materialize the warehouse of a study first"):
        dg.materialize(
            [whole_asset(shipped_study("demo"), REPORT)], resources={"n2g": N2GResource(home=str(tmp_path))},
            instance=dg.DagsterInstance.ephemeral(),
        )  # fmt: skip
    assert not (tmp_path / "reports").exists()


def test_a_run_says_where_the_page_lies_and_how_large_it_is(finished: FinishedRun):
    page = finished.home / "reports" / f"{finished.study.name}.html"
    metadata = finished.metadata["report"][None]
    assert metadata["page"] == str(page)
    assert metadata["url"] == page.as_uri()
    assert metadata["bytes"] == page.stat().st_size
    assert metadata["layers"] == 3


def test_commands_are_those_of_the_project_where_the_study_lives(tmp_path: Path):
    demo, smollm2 = shipped_study("demo"), shipped_study("smollm2")
    assert commands_of(demo) == ["make demo"]
    assert commands_of(smollm2) == ["n2g run smollm2"]
    example = Path(__file__).parents[2] / "examples" / "latents" / "smollm2_neurons"
    assert commands_of(replace(demo, folder=example)) == ["n2g run examples/latents/smollm2_neurons/defs.yaml"]
    assert commands_of(replace(demo, folder=tmp_path / "defs" / "demo")) == ["dg launch --job demo"]
