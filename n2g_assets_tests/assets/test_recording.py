"""When Dagster learns of a layer: as soon as it is finished, so that what a run did is seen whatever becomes of it."""

from __future__ import annotations

from dataclasses import replace

import dagster as dg
import pytest

from n2g_assets.assets.resource import N2GResource
from n2g_assets.assets.shared import with_resources
from n2g_assets.assets.stage import Ahead, LayerStage
from n2g_assets.assets.steps import layer_asset
from n2g_assets.assets.study import Study
from n2g_assets.core.errors import SettingsError
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


def run_stage_that(
    work, tmp_path, instance, *, ahead: Ahead | None = None, executor: str = "in_process"
) -> dg.ExecuteInProcessResult:
    """The steps of a stage of three layers, with other work in it, one after the other in this process."""
    sources = {"subject": {"source": "local", "path": "none"}, "corpus": [{"source": "files", "path": "none"}]}
    study = Study("tiny", tmp_path, StudySettings(layers=3, executor=executor, **sources))
    stage: LayerStage = replace(LAYER_STAGES["neuron_graphs"], work=work, prepare=None, ahead=ahead)
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


def steps_of(result) -> list[str]:
    return [event.step_key.removeprefix("tiny__neuron_graphs.") for event in result.all_events if event.is_step_success]


def test_steps_that_spread_do_pieces_ahead_and_then_a_layer_each(tmp_path, instance):
    done = []
    ahead = Ahead(
        lambda session, layers: [(layer, part) for layer in layers for part in "ab"],
        lambda session, piece, show: done.append(piece),
    )

    def work(_session, layer, _show):
        assert len(done) == 6
        if layer == 1:
            raise SettingsError("A cause: a cure.")
        return REPORT

    result = run_stage_that(work, tmp_path, instance, ahead=ahead, executor="multiprocess")
    assert not result.success
    assert sorted(done) == [(layer, part) for layer in (0, 1, 2) for part in "ab"]
    pieces = [f"ahead[{number:05d}]" for number in range(6)]
    assert steps_of(result) == ["pieces", *pieces, "plan", "layer[00]", "layer[02]"]
    (event,) = [event for event in result.all_events if event.is_step_failure]
    assert event.step_key == "tiny__neuron_graphs.layer[01]"
    assert (
        event.step_failure_data.user_failure_data.description == "neuron_graphs failed for layer 01: A cause: a cure."
    )
    assert recorded(instance) == ["00", "02"]


def test_without_pieces_steps_that_spread_go_on_with_the_layers(tmp_path, instance):
    ahead = Ahead(lambda session, layers: [], lambda session, piece, show: None)
    result = run_stage_that(lambda *_: REPORT, tmp_path, instance, ahead=ahead, executor="multiprocess")
    layers = ["layer[00]", "layer[01]", "layer[02]"]
    assert steps_of(result)[:5] == ["pieces", "plan", *layers]
    assert recorded(instance)[:3] == ["00", "01", "02"]
