"""How the code location behaves in Dagster: names, policies, schedule, automation (DESIGN section 4)."""

from __future__ import annotations

import dagster as dg
import pytest

from n2g_assets.assets.study import RANGE_END, RANGE_START
from n2g_assets.core.tables import STAGES, TABLES
from n2g_assets.definitions import build_defs
from n2g_assets_tests.assets.studies import definitions_of, metadata_of, run_job, tiny_study

UNPARTITIONED = ("warehouse", "report")
PIPELINE = ("subject_model", "corpus_tokens", *STAGES)


@pytest.fixture(scope="module")
def shipped() -> dg.Definitions:
    return build_defs()


def test_the_shipped_studies_their_jobs_and_schedules(shipped):
    keys = {tuple(key.path) for key in shipped.resolve_all_asset_keys()}
    studies = ("demo", "smollm2")
    expected = {(study, stage) for study in studies for stage in (*PIPELINE, *UNPARTITIONED)}
    assert keys == expected | {(f"{study}_reinitialised", stage) for study in studies for stage in PIPELINE}
    repository = shipped.get_repository_def()
    assert {job for job in repository.job_names if not job.startswith("__")} == {"demo", "smollm2"}
    assert {schedule.name for schedule in repository.schedule_defs} == {"demo_nightly", "smollm2_nightly"}


def test_partitions_are_the_layers_of_the_study(shipped):
    graph = shipped.resolve_asset_graph()
    assert graph.get(dg.AssetKey(["demo", "evaluation"])).partitions_def.get_partition_keys() == ["00", "07", "15"]
    assert len(graph.get(dg.AssetKey(["smollm2", "evaluation"])).partitions_def.get_partition_keys()) == 30


def test_every_per_layer_asset_has_the_same_backfill_policy(shipped, tmp_path):
    graph = shipped.resolve_asset_graph()
    policies = {graph.get(dg.AssetKey(["demo", stage])).backfill_policy for stage in (*PIPELINE, *UNPARTITIONED)}
    assert policies == {
        dg.BackfillPolicy.single_run()
    }  # of all: the command line asks for it where it is given a range
    some = definitions_of(tiny_study(tmp_path, layers_per_run=2), tmp_path).resolve_asset_graph()
    assert {some.get(dg.AssetKey(["tiny", stage])).backfill_policy for stage in STAGES} == {
        dg.BackfillPolicy.multi_run(max_partitions_per_run=2)
    }


def test_every_asset_has_a_description_and_a_column_schema(shipped):
    for node in shipped.resolve_asset_graph().asset_nodes:
        assert node.description
        assert node.group_name == node.key.path[0]
        if node.key.path[-1] not in UNPARTITIONED:
            schema = node.metadata["dagster/column_schema"].value
            assert all(column.description for column in schema.columns)
    evaluation = shipped.resolve_asset_graph().get(dg.AssetKey(["demo", "evaluation"]))
    names = [column.name for column in evaluation.metadata["dagster/column_schema"].value.columns]
    assert names == list(TABLES["evaluation"].schema)


def test_the_schedule_asks_for_one_run_of_all_layers(shipped):
    schedule = shipped.resolve_schedule_def("demo_nightly")
    with dg.DagsterInstance.ephemeral() as instance:
        ticks = schedule.evaluate_tick(dg.build_schedule_context(instance=instance))
    assert len(ticks.run_requests) == 1
    assert ticks.run_requests[0].tags[RANGE_START] == "00"
    assert ticks.run_requests[0].tags[RANGE_END] == "15"
    assert schedule.cron_schedule == "0 3 * * *"


def test_the_scheduled_run_does_only_what_is_stale(finished, instance):
    definitions = definitions_of(finished.study, finished.home)
    request = (
        definitions.resolve_schedule_def("tiny_nightly").evaluate_tick(dg.build_schedule_context(instance=instance))
    ).run_requests[0]
    result = definitions.resolve_job_def("tiny").execute_in_process(instance=instance, tags=request.tags)
    assert {m["result"] for stage in STAGES for m in metadata_of(result, stage).values()} == {"reused"}


def test_the_warehouse_follows_a_layer_by_automation_while_others_are_missing(tmp_path, instance):
    study = tiny_study(tmp_path)
    definitions = definitions_of(study, tmp_path / "home")
    selection = dg.AssetSelection.assets(study.key("warehouse"))
    first = dg.evaluate_automation_conditions(defs=definitions, instance=instance, asset_selection=selection)
    run_job(study, tmp_path / "home", instance, ("00", "00"))
    second = dg.evaluate_automation_conditions(
        defs=definitions, instance=instance, asset_selection=selection, cursor=first.cursor
    )
    assert second.total_requested == 1
    third = dg.evaluate_automation_conditions(
        defs=definitions, instance=instance, asset_selection=selection, cursor=second.cursor
    )
    assert third.total_requested == 0


def test_checks_name_the_layers_of_the_run(tmp_path, finished, instance):
    home = finished.copy_home(tmp_path)
    result = run_job(finished.study, home, instance, ("01", "02"))
    evaluations = result.get_asset_check_evaluations()
    evaluations = [e for e in evaluations if e.asset_key.path[0] == "tiny"]
    per_layer = [e for e in evaluations if e.asset_key.path[-1] in STAGES]
    assert {e.metadata["layers"].value for e in per_layer} == {"01, 02"}
    assert all(e.passed for e in evaluations if e.blocking or e.check_name == "rows_are_sound")
    assert {e.check_name for e in evaluations} == {
        "rows_are_sound", "activations_recomputed", "train_and_test_disjoint", "split_is_sound", "model_is_sane",
        "no_unit_is_missing", "graph_beats_token_lookup", "shuffled_control_is_near_zero", "texts_are_there",
    }  # fmt: skip
