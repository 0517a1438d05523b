"""A study's job in Dagster: one run for all layers, a range of them, one layer that fails, a check that blocks."""

from __future__ import annotations

import dagster as dg
import duckdb
import polars as pl
import pytest

from n2g_assets.assets.study import RANGE_END, RANGE_START
from n2g_assets.core.explorer import explorer_address
from n2g_assets.core.home import Home
from n2g_assets.core.registry import STAGES
from n2g_assets.core.tables import TABLES
from n2g_assets.storage.slices import SliceKey, SliceStore
from n2g_assets_tests.assets.studies import (
    NIGHT,
    check,
    definitions_of,
    metadata_of,
    planted,
    rewrite,
    rows_of,
    run_job,
    tiny_study,
)

LAYERS = ["00", "01", "02"]
OF_EVIDENCE = {"token_classes", "size_curve"}
"""Tables without rows in studies of the method ``paper``."""


# -------------------------------------------------------------------------------------------- one run of everything
def test_one_run_materializes_every_stage_for_every_layer_in_a_step_each(finished):
    assert finished.success
    for stage in finished.study.stages:
        assert sorted(finished.metadata[stage]) == LAYERS
    for stage in ("subject_model", "corpus_tokens", "warehouse", "report"):
        assert list(finished.metadata[stage]) == [None]
    assert len(finished.steps) == len(STAGES) + 4


def test_every_published_table_has_rows_in_the_database(finished):
    """But for explanations of others and encoders, which this study does not name."""
    with duckdb.connect(str(finished.home / "n2g.duckdb"), read_only=True) as database:
        for table in TABLES.values():
            if table.published and table.name not in {*OF_EVIDENCE, "explanations", "encoders"}:
                assert database.execute(f'SELECT count(*) FROM "{table.name}"').fetchall()[0][0] > 0, table.name


def test_all_layers_share_one_forward_pass(finished):
    passes = [message for message in finished.messages if "tokens went through the model in" in message]
    run = [int(message.split()[0].replace(",", "")) for message in passes]
    harvested = rows_of(finished.home, "contexts", split="harvest")["token_ids"].list.len().sum()
    assert [tokens for tokens in run if tokens] == [harvested]  # what reads the cache later runs none


def test_all_layers_and_units_share_one_pass_through_the_held_out_texts(finished):
    passes = [message for message in finished.messages if "held-out text went through the model" in message]
    assert len(passes) == 1
    lengths = rows_of(finished.home, "contexts").filter(pl.col("split") != "harvest")["token_ids"].list.len()
    assert f"{lengths.sum():,} tokens" in passes[0]


def test_all_layers_and_units_share_one_pass_through_the_windows(finished):
    (said,) = (message for message in finished.messages if "tokens of windows went through the model" in message)
    windows = finished.session().windows.corpus
    assert said == f"{len(windows.token_ids):,} tokens of windows went through the model for layers [0, 1, 2]"


def test_metadata_says_what_was_done(finished):
    for layer, metadata in finished.metadata["neuron_graphs"].items():
        assert metadata["dagster/row_count"] == rows_of(finished.home, "rules", layer=int(layer)).height
        assert metadata["result"] == "computed"
        assert metadata["seconds"] >= 0
        assert metadata["preview"].records
        assert metadata["a graph"].startswith("![")
        assert "data:image/svg+xml;base64," in metadata["a graph"]
        assert metadata["explorer"] == explorer_address("tiny", int(layer))
    for metadata in finished.metadata["evaluation"].values():
        for text in finished.study.texts:
            assert metadata[f"F1 by layer, {text}"].startswith("![")
            assert metadata[f"precision and recall, {text}"].startswith("![")
        assert metadata["calibration"].startswith("![")
    pages = {layer: metadata["explorer"] for layer, metadata in finished.metadata["evaluation"].items()}
    assert pages == {layer: explorer_address("tiny", int(layer)) for layer in LAYERS}
    assert finished.metadata["warehouse"][None]["explorer"] == explorer_address("tiny")
    shown = {metadata["F1 by layer, top"] for metadata in finished.metadata["evaluation"].values()}
    assert len(shown) == 1  # one picture of all layers, not as many as were done when a layer was


def test_a_run_ends_by_saying_where_report_and_database_are(finished):
    said = [message for message in finished.messages if message.startswith("The report of study 'tiny' is ")]
    assert said == [
        f"The report of study 'tiny' is {finished.home}/reports/tiny.html, the database {finished.home}/n2g.duckdb."
    ]


def test_every_unit_stands_in_the_ledger_of_every_stage(finished):
    ledger = rows_of(finished.home, "ledger")
    assert ledger.group_by("layer", "stage").len()["len"].to_list() == [4] * (3 * len(STAGES))


# -------------------------------------------------------------------------------------------- other runs
def test_the_schedules_run_asks_for_all_layers_and_does_only_what_is_stale(finished, tmp_path, instance):
    definitions = definitions_of(finished.study, finished.copy_home(tmp_path))
    tick = definitions.resolve_schedule_def("tiny_nightly").evaluate_tick(dg.build_schedule_context(instance, NIGHT))
    (request,) = tick.run_requests
    result = definitions.resolve_job_def("tiny").execute_in_process(instance=instance, tags=request.tags)
    for stage in ("subject_model", "corpus_tokens", *finished.study.stages):
        assert {metadata["result"] for metadata in metadata_of(result, stage).values()} == {"reused"}
        seconds = {key: metadata["seconds"] for key, metadata in metadata_of(result, stage).items()}
        assert seconds == {key: metadata["seconds"] for key, metadata in finished.metadata[stage].items()}
    assert metadata_of(result, "warehouse")[None]["made anew"] is False


def test_a_range_of_layers_touches_only_those_and_the_warehouse_follows_by_automation(tmp_path, instance):
    study = tiny_study(tmp_path, preset="paper", neurons=[1, 2])
    definitions = definitions_of(study, tmp_path / "home")
    asked = {"defs": definitions, "instance": instance}
    asked["asset_selection"] = dg.AssetSelection.assets(study.key("warehouse"))
    first = dg.evaluate_automation_conditions(**asked)
    selection = [study.key(name) for name in ("subject_model", "corpus_tokens", *study.stages)]
    result = definitions.resolve_job_def("tiny").execute_in_process(
        instance=instance, tags={RANGE_START: "00", RANGE_END: "01"}, asset_selection=selection
    )
    assert sorted(metadata_of(result, "evaluation")) == ["00", "01"]
    per_layer = [one for one in result.get_asset_check_evaluations() if one.asset_key.path[-1] in study.stages]
    assert {one.metadata["layers"].value for one in per_layer} == {"00, 01"}
    second = dg.evaluate_automation_conditions(**asked, cursor=first.cursor)
    assert second.total_requested == 1  # although a layer is missing
    assert dg.evaluate_automation_conditions(**asked, cursor=second.cursor).total_requested == 0


def test_a_layer_that_fails_does_not_stop_its_siblings(finished, tmp_path, instance):
    home = finished.copy_home(tmp_path)
    SliceStore(Home(home)).path(SliceKey("pruned_examples", "tiny", 1)).write_bytes(b"PAR1 damaged")
    method = finished.study.settings.method.model_dump() | {"substitutes": 1}
    study = tiny_study(finished.study.folder, method=method)
    result = (
        definitions_of(study, home)
        .resolve_job_def("tiny")
        .execute_in_process(instance=instance, asset_selection=[study.key("augmented_examples")], raise_on_error=False)
    )
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure).step_failure_data
    assert "layer 01" in failure.user_failure_data.description
    assert "materialize" in failure.user_failure_data.description
    assert sorted(metadata_of(result, "augmented_examples")) == ["00", "02"]
    assert {m["result"] for m in metadata_of(result, "augmented_examples").values()} == {"computed"}


def test_a_blocking_check_that_fails_ends_the_run_before_the_harvest(finished, tmp_path, instance):
    home = finished.copy_home(tmp_path)
    rewrite(home, "contexts", None, planted)
    assert (
        "stands in the harvested document" in check(finished.study, home, "corpus_tokens", "split_is_sound").description
    )
    result = run_job(finished.study, home, instance, raise_on_error=False)
    assert not result.success
    assert metadata_of(result, "corpus_tokens")
    assert metadata_of(result, "activation_cache") == {}


@pytest.mark.parametrize(
    ("changes", "step", "says"),
    [
        ({"layers": [0, 7]}, "subject_model", "has no layer 7"),
        ({"corpus": [{"source": "files", "path": "nowhere"}]}, "corpus_tokens", "nowhere"),
    ],
)
def test_a_mistake_is_the_headline_of_the_step_that_can_know_it(finished, tmp_path, instance, changes, step, says):
    home = finished.copy_home(tmp_path)
    before = {path: path.read_bytes() for path in sorted(home.rglob("*.parquet"))}
    study = tiny_study(finished.study.folder, **changes)
    result = run_job(study, home, instance, raise_on_error=False)
    event = next(event for event in result.all_events if event.is_step_failure)
    assert event.step_key == f"tiny__{step}"
    assert says in event.step_failure_data.user_failure_data.description
    lost = {path for path, content in before.items() if not path.exists() or path.read_bytes() != content}
    assert {path.parts[-3] for path in lost} <= {"studies"}, "what was there is still there"
