"""A study runs through Dagster: one run for all layers, only what is stale, and a layer that fails alone."""

from __future__ import annotations

import duckdb
import polars as pl
import pytest

from n2g_assets.core.home import Home
from n2g_assets.core.tables import STAGES, TABLES
from n2g_assets.storage.slices import SliceStore
from n2g_assets_tests.assets.studies import definitions_of, metadata_of, run_job, tiny_study, write_corpus
from n2g_assets_tests.tiny_models import tiny_gpt2

LAYERS = ["00", "01", "02"]


def rows(home, table, study="tiny", **where):
    frame = SliceStore(Home(home)).scan_all(table, study).collect()
    return frame.filter(**where) if where else frame


def test_one_run_materializes_every_stage_for_every_layer(finished):
    assert finished.result.success
    for stage in STAGES:
        assert sorted(metadata_of(finished.result, stage)) == LAYERS
    for stage in ("subject_model", "corpus_tokens", "warehouse"):
        assert list(metadata_of(finished.result, stage)) == [None]


def test_every_table_has_rows_in_the_database(finished):
    with duckdb.connect(str(finished.home / "n2g.duckdb"), read_only=True) as database:
        for table in TABLES:
            assert database.execute(f'SELECT count(*) FROM "{table}"').fetchall()[0][0] > 0, table


def test_all_layers_share_one_forward_pass(finished):
    messages = [event.user_message for event in finished.instance.all_logs(finished.result.run_id)]
    passes = [message for message in messages if "tokens went through the model in" in message]
    run = [int(message.split()[0].replace(",", "")) for message in passes]
    harvested = rows(finished.home, "contexts", split="harvest")["token_ids"].list.len().sum()
    assert run == [harvested, 0, 0, 0]  # the first for all layers, then each layer takes over what is cached


def test_all_layers_and_units_share_one_pass_through_the_held_out_texts(finished):
    messages = [event.user_message for event in finished.instance.all_logs(finished.result.run_id)]
    passes = [message for message in messages if "held-out text went through the model" in message]
    assert len(passes) == 1
    lengths = rows(finished.home, "contexts").filter(pl.col("split") != "harvest")["token_ids"].list.len()
    assert f"{lengths.sum():,} tokens" in passes[0]


def test_metadata_says_what_was_done(finished):
    for layer, metadata in metadata_of(finished.result, "neuron_graphs").items():
        assert metadata["dagster/row_count"] == rows(finished.home, "graph_nodes", layer=int(layer)).height
        assert metadata["result"] == "computed"
        assert metadata["seconds"] >= 0
        assert metadata["preview"].records
    pictures = [metadata["a graph"] for metadata in metadata_of(finished.result, "neuron_graphs").values()]
    assert all(picture.startswith("![") and "data:image/svg+xml;base64," in picture for picture in pictures)
    for metadata in metadata_of(finished.result, "evaluation").values():
        for text in finished.study.texts:
            assert metadata[f"F1 by layer, {text}"].startswith("![")
            assert metadata[f"precision and recall, {text}"].startswith("![")
        assert metadata["calibration"].startswith("![")


def test_every_unit_stands_in_the_ledger_of_every_stage(finished):
    ledger = rows(finished.home, "ledger")
    assert ledger.group_by("layer", "stage").len()["len"].to_list() == [4] * (3 * len(STAGES))


def test_a_second_run_reuses_everything_and_changes_no_row(finished, instance):
    before = rows(finished.home, "graph_nodes")
    again = run_job(finished.study, finished.home, instance)
    for stage in STAGES:
        assert {metadata["result"] for metadata in metadata_of(again, stage).values()} == {"reused"}
    assert metadata_of(again, "subject_model")[None]["result"] == "reused"
    assert metadata_of(again, "corpus_tokens")[None]["result"] == "reused"
    assert metadata_of(again, "warehouse")[None]["made anew"] is False
    assert rows(finished.home, "graph_nodes").equals(before)


def test_a_range_of_layers_touches_only_those(tmp_path, instance):
    study = tiny_study(tmp_path)
    result = run_job(study, tmp_path / "home", instance, ("00", "01"))
    assert sorted(metadata_of(result, "evaluation")) == ["00", "01"]
    rest = run_job(study, tmp_path / "home", instance, ("01", "02"))
    assert {layer: m["result"] for layer, m in metadata_of(rest, "evaluation").items()} == {
        "01": "reused",
        "02": "computed",
    }


def test_more_neurons_compute_only_the_new_ones(finished, tmp_path, instance):
    home = finished.copy_home(tmp_path)
    larger = tiny_study(finished.study.folder, neurons={"sample": 6})
    result = run_job(larger, home, instance)
    for metadata in metadata_of(result, "neuron_graphs").values():
        assert (metadata["units computed"], metadata["units reused"]) == (2, 4)
    before, after = rows(finished.home, "graph_nodes"), rows(home, "graph_nodes")
    old = before.select("layer", "unit", "sign").unique()
    assert after.join(old, on=["layer", "unit", "sign"], how="semi").sort(TABLES["graph_nodes"].key).equals(before)


def test_new_documents_cost_only_their_own_forward_pass(tmp_path, instance):
    study = tiny_study(tmp_path)
    run_job(study, tmp_path / "home", instance)
    known = set(rows(tmp_path / "home", "contexts")["context_id"])
    write_corpus(tmp_path / "corpus", stories=4, first=500)
    result = run_job(study, tmp_path / "home", instance)
    contexts = rows(tmp_path / "home", "contexts", split="harvest")
    new = contexts.filter(~pl.col("context_id").is_in(list(known)))["token_ids"].list.len().sum()
    messages = [event.user_message for event in instance.all_logs(result.run_id)]
    run = [int(m.split()[0].replace(",", "")) for m in messages if "tokens went through the model" in m]
    assert sum(run) == new > 0


def test_a_changed_setting_recomputes_only_what_depends_on_it(finished, tmp_path, instance):
    home = finished.copy_home(tmp_path)
    method = finished.study.settings.method.model_dump() | {"important_threshold": 0.5}
    result = run_job(tiny_study(finished.study.folder, method=method), home, instance)
    done = {stage: {m["result"] for m in metadata_of(result, stage).values()} for stage in STAGES}
    assert done["augmented_examples"] == {"reused"}
    assert done["neuron_graphs"] == {"computed"}


def test_a_layer_that_fails_does_not_stop_its_siblings(finished, tmp_path, instance):
    home = finished.copy_home(tmp_path)
    (home / "slices" / "pruned_examples" / "study=tiny" / "layer=1" / "rows.parquet").write_bytes(b"PAR1 damaged")
    method = finished.study.settings.method.model_dump() | {"substitutes": 1}
    study = tiny_study(finished.study.folder, method=method)
    job = definitions_of(study, home).resolve_implicit_global_asset_job_def()
    keys = [study.key("augmented_examples")]
    result = job.execute_in_process(
        instance=instance,
        asset_selection=keys,
        tags={"dagster/asset_partition_range_start": "00", "dagster/asset_partition_range_end": "02"},
        raise_on_error=False,
    )
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure).step_failure_data
    assert "layer 01" in failure.user_failure_data.description
    assert "materialize" in failure.user_failure_data.description
    assert sorted(metadata_of(result, "augmented_examples")) == ["00", "02"]
    assert {m["result"] for m in metadata_of(result, "augmented_examples").values()} == {"computed"}


def test_a_damaged_slice_is_made_again_by_the_next_run(finished, tmp_path, instance):
    home = finished.copy_home(tmp_path)
    path = home / "slices" / "pruned_examples" / "study=tiny" / "layer=1" / "rows.parquet"
    path.write_bytes(b"PAR1 damaged")
    result = run_job(finished.study, home, instance)
    assert {layer: m["result"] for layer, m in metadata_of(result, "pruned_examples").items()}["01"] == "computed"
    assert rows(home, "graph_nodes").equals(rows(finished.home, "graph_nodes"))


@pytest.mark.parametrize("signs", [["positive"], ["positive", "negative"]])
def test_a_study_of_another_architecture_runs_from_a_local_folder(tmp_path, instance, signs):
    tiny_gpt2(tmp_path / "gpt2")
    subject = {"source": "local", "path": "gpt2"}
    study = tiny_study(tmp_path, name="other", subject=subject, layers=[1, 2], signs=signs)
    assert run_job(study, tmp_path / "home", instance).success
    graphs = rows(tmp_path / "home", "graph_nodes", "other")
    assert set(graphs["sign"]) <= {1, -1}
    assert rows(tmp_path / "home", "subject_models", "other")["gated"].to_list() == [False]
    assert len(set(graphs["sign"])) == len(signs)
