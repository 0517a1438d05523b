"""How the code location looks in Dagster: names, policies, schedule, checks, components."""

from __future__ import annotations

import dagster as dg
import pytest

from n2g_assets.core.registry import STAGES, of_study
from n2g_assets.core.tables import TABLES
from n2g_assets.definitions import defs
from n2g_assets.study import N2GStudy, shipped_study
from n2g_assets_tests.assets.studies import NIGHT, definitions_of, tiny_study

STUDIES = ("demo", "demo_paper", "demo_reinitialised", "smollm2")
UNPARTITIONED = ("warehouse", "report")
PER_LAYER = tuple(stage.name for stage in of_study(STAGES, "full", "paper"))
PIPELINE = ("subject_model", "corpus_tokens", *PER_LAYER, *UNPARTITIONED)
SHIPPED = tuple(stage for stage in PIPELINE if stage != "augmented_examples")
"""The pipeline of the shipped studies of the method ``evidence``: all but ``demo_paper``."""


@pytest.fixture(scope="module")
def shipped() -> dg.Definitions:
    return defs()


def test_the_shipped_studies_their_jobs_and_schedules(shipped):
    keys = {tuple(key.path) for key in shipped.resolve_all_asset_keys()}
    pipelines = dict.fromkeys(STUDIES, SHIPPED) | {"demo_paper": PIPELINE}
    assert keys == {(study, stage) for study, stages in pipelines.items() for stage in stages}
    repository = shipped.get_repository_def()
    assert {job for job in repository.job_names if not job.startswith("__")} == set(STUDIES)
    assert {schedule.name for schedule in repository.schedule_defs} == {f"{study}_nightly" for study in STUDIES}


def test_the_papers_study_of_the_demo_reads_the_same_units_on_the_same_texts():
    """So one pass serves both: evidence is kept by model, hook, precision and documents."""
    demo, paper = (shipped_study(name).settings for name in ("demo", "demo_paper"))
    assert (demo.method.preset, paper.method.preset) == ("evidence", "paper")
    alike = {
        "method": demo.method,
        "harvest": paper.harvest.model_copy(update={"scanned_layers": demo.harvest.scanned_layers}),
        "evaluation": paper.evaluation.model_copy(update={"reach_positions": demo.evaluation.reach_positions}),
    }
    assert paper.model_copy(update=alike) == demo


def test_the_code_location_holds_its_components(shipped):
    """The page *Components* of the UI lists what the component tree of the definitions holds."""
    assert len(shipped.component_tree.get_all_components(of_type=N2GStudy)) == len(STUDIES)


def test_partitions_are_the_layers_of_the_study(shipped):
    graph = shipped.resolve_asset_graph()
    assert graph.get(dg.AssetKey(["demo", "evaluation"])).partitions_def.get_partition_keys() == ["00", "07", "15"]
    assert len(graph.get(dg.AssetKey(["smollm2", "evaluation"])).partitions_def.get_partition_keys()) == 30


def test_every_asset_has_the_same_backfill_policy(shipped, tmp_path):
    """The command line asks for it where it is given a range, and mixed ones would repeat the harvest a layer."""
    graph = shipped.resolve_asset_graph()
    policies = {graph.get(dg.AssetKey(["demo", stage])).backfill_policy for stage in SHIPPED}
    assert policies == {dg.BackfillPolicy.single_run()}
    graph = definitions_of(tiny_study(tmp_path, layers_at_once=2), tmp_path).resolve_asset_graph()
    assert {graph.get(dg.AssetKey(["tiny", stage])).backfill_policy for stage in PER_LAYER} == {
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


def test_a_study_depends_on_no_other(shipped):
    for node in shipped.resolve_asset_graph().asset_nodes:
        assert {parent.path[0] for parent in node.parent_keys} <= {node.key.path[0]}


def test_a_job_has_a_step_an_asset_and_takes_all_layers_where_none_is_named(shipped):
    job = shipped.resolve_job_def("demo")
    assert len(job.all_node_defs) == len(SHIPPED)
    tags = {key.rpartition("_")[2]: value for key, value in job.run_tags.items() if "partition_range" in key}
    assert tags == {"start": "00", "end": "15"}


def test_the_papers_preset_leaves_out_what_asks_the_model_on_other_text(tmp_path):
    study = tiny_study(tmp_path, preset="paper")
    stages = {key.path[-1] for key in definitions_of(study, tmp_path).resolve_all_asset_keys()}
    assert stages == set(PIPELINE) - {"rule_tests", "reach"}


@pytest.mark.parametrize(("at_once", "runs"), [("all", [{"00", "15"}]), (2, [{"00", "07"}, {"15"}])])
def test_the_schedule_asks_for_one_run_of_all_layers_or_of_each_group(at_once, runs, tmp_path):
    study = tiny_study(tmp_path, name="demo", layers=[0, 7, 15], layers_at_once=at_once)
    schedule = definitions_of(study, tmp_path).resolve_schedule_def("demo_nightly")
    with dg.DagsterInstance.ephemeral() as instance:
        requests = schedule.evaluate_tick(dg.build_schedule_context(instance, NIGHT)).run_requests
    assert [{value for key, value in each.tags.items() if "partition_range" in key} for each in requests] == runs
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 3 * * *", "UTC")


def test_the_schedule_is_read_in_the_time_zone_of_the_study(tmp_path):
    study = tiny_study(tmp_path, timezone="Asia/Tokyo")
    schedule = definitions_of(study, tmp_path).resolve_schedule_def("tiny_nightly")
    assert schedule.execution_timezone == "Asia/Tokyo"
