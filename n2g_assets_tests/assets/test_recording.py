"""When Dagster learns of a layer: as soon as it is finished, so that what a run did is seen whatever becomes of it."""

from __future__ import annotations

from dataclasses import replace

import dagster as dg
import pytest

from n2g_assets.assets.resource import N2GResource
from n2g_assets.assets.shared import with_resources
from n2g_assets.assets.stage import LayerStage
from n2g_assets.assets.steps import layer_asset
from n2g_assets.assets.study import Study
from n2g_assets.core.settings import StudySettings
from n2g_assets.storage.stages import StageReport
from n2g_assets.study import LAYER_STAGES

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")  # of backfill policies
MAIN = LAYER_STAGES["neuron_graphs"].tables[0]
KEY = dg.AssetKey(["tiny", "neuron_graphs"])
REPORT = StageReport(
    reused=False, computed=4, kept=0, carried=0, seconds=0.1, rows={MAIN: 7}, ledger={"ok": 4},
    content_hashes={MAIN: "abc"},
)  # fmt: skip


class Death(BaseException):
    """What nothing catches, as a kill."""


def run_stage_that(work, tmp_path, instance) -> dg.ExecuteInProcessResult:
    """The step of a stage of three layers, with other work in it."""
    sources = {"subject": {"source": "local", "path": "none"}, "corpus": [{"source": "files", "path": "none"}]}
    study = Study("tiny", tmp_path, StudySettings(layers=3, **sources))
    stage: LayerStage = replace(LAYER_STAGES["neuron_graphs"], work=work, prepare=None)
    return dg.materialize(
        [layer_asset(study, stage)],
        instance=instance,
        resources=with_resources({"n2g": N2GResource(home=str(tmp_path / "home"))}).resources,
        tags=study.all_layers_tags,
        raise_on_error=False,
    )


def recorded(instance) -> list[str]:
    events = instance.fetch_materializations(KEY, limit=9, ascending=True).records
    return [event.partition_key for event in events]


def test_a_run_that_dies_in_its_second_layer_leaves_the_first_one_recorded(tmp_path, instance):
    def work(_session, layer, _show):
        if layer == 1:
            assert recorded(instance) == ["00"], "while the step goes on"
            raise Death
        return REPORT

    assert not run_stage_that(work, tmp_path, instance).success
    assert recorded(instance) == ["00"]


def test_a_layer_that_fails_leaves_the_others_recorded_with_what_was_done(tmp_path, instance):
    def work(_session, layer, _show):
        return REPORT if layer != 1 else {}[layer]

    assert not run_stage_that(work, tmp_path, instance).success
    assert recorded(instance) == ["00", "02"]
    (event,) = instance.fetch_materializations(KEY, limit=1).records
    said = {key: value.value for key, value in event.asset_materialization.metadata.items()}
    assert (said["result"], said["dagster/row_count"], said["units ok"]) == ("computed", 7, 4)
