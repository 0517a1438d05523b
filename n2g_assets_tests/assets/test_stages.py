"""Stages do only what is stale: their functions called as their steps call them, without Dagster."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from n2g_assets.assets import activation_cache, corpus_tokens, subject_model
from n2g_assets.assets.plan import plan_here
from n2g_assets.assets.study import Study
from n2g_assets.core.errors import SettingsError
from n2g_assets.core.home import Home
from n2g_assets.core.setting import CHANGES_NO_ROW
from n2g_assets.core.settings import EvaluationSettings, HarvestSettings, MethodSettings
from n2g_assets.core.tables import TABLES
from n2g_assets.report.text import human_bytes
from n2g_assets.storage.slices import SliceKey, SliceStore
from n2g_assets_tests.assets.studies import (
    HARVEST,
    changed,
    check,
    no_progress,
    reused,
    rewrite,
    rows_of,
    run_stage,
    run_stages,
    session_of,
    tiny_study,
    write_corpus,
)
from n2g_assets_tests.tiny_models import tiny_gpt2

LAYER = 1


def stale_stages(study: Study, home: Path) -> set[str]:
    """The stages that do something on a finished home."""
    session = session_of(study, home)
    fresh = {"subject_model": subject_model.materialize(session)}
    fresh["corpus_tokens"] = corpus_tokens.materialize(session, no_progress)
    stale = {name for name in fresh if not fresh[name]}
    return stale | {name for name in study.stages if not all(reused(run_stage(session, name)).values())}


# -------------------------------------------------------------------------------------------- what is stale
def test_a_finished_study_is_fresh_and_says_how_long_it_took_when_it_was_computed(finished):
    before = rows_of(finished.home, "graph_nodes")
    again = run_stages(finished.study, finished.home)
    assert all(all(reused(reports).values()) for reports in again.values())
    for stage, reports in again.items():
        recorded = finished.metadata[stage]
        assert {
            key: round(report.seconds, 2) for key, report in zip(sorted(recorded), reports.values(), strict=True)
        } == {key: metadata["seconds"] for key, metadata in recorded.items()}
    assert rows_of(finished.home, "graph_nodes").equals(before)


def test_a_changed_cron_line_or_control_changes_the_studys_row_and_makes_nothing_stale(finished, tmp_path):
    home = finished.copy_home(tmp_path)
    study = changed(finished.study, schedule="0 4 * * *")
    study = replace(study, settings=study.settings.model_copy(update={"control_of": "other"}))
    assert stale_stages(study, home) == set()
    assert '"0 4 * * *"' in rows_of(home, "studies")["settings"][0]
    assert rows_of(home, "studies")["control_of"].to_list() == ["other"]


@pytest.mark.parametrize(("package", "stale"), [("duckdb", set()), ("transformers", {"subject_model"})])
def test_an_upgrade_of_a_library_makes_stale_what_uses_it(finished, tmp_path, monkeypatch, package, stale):
    home = finished.copy_home(tmp_path)
    version = importlib.metadata.version
    monkeypatch.setattr(subject_model, "version", lambda name: "99.0" if name == package else version(name))
    session = session_of(finished.study, home)
    assert subject_model.materialize(session) != bool(stale)
    assert "99.0" in rows_of(home, "studies")["versions"][0]


STALE_BY_SETTING = {
    "method__seed": "top_examples",
    "method__prune_keep": "pruned_examples",
    "method__augment_threshold": "augmented_examples",
    "method__important_threshold": "neuron_graphs",
    "method__firing_threshold": "pruned_examples",
    "method__normalise_tokens": "subject_model",
    "evaluation__rule_texts": "rule_tests",
    "evaluation__reach_positions": "reach",
    "evaluation__counterexamples": "evaluation",
    "harvest__strongest": "activation_cache",
    "harvest__held_out_share": "corpus_tokens",
}
"""By setting, the first stage that is handed it."""
OTHER_VALUES = {"seed": 5, "normalise_tokens": False, "held_out_share": 0.4}


@pytest.mark.parametrize(("setting", "first"), STALE_BY_SETTING.items())
def test_a_changed_setting_makes_the_first_stage_stale_that_is_handed_it(finished, tmp_path, setting, first):
    """Every stage before it is fresh; those after it follow its rows."""
    home = finished.copy_home(tmp_path)
    room, _, name = setting.partition("__")
    before = getattr(getattr(finished.study.settings, room), name)
    value = OTHER_VALUES.get(name, before - 1 if isinstance(before, int) else before * 0.9)
    study = changed(finished.study, **{setting: value})
    session = session_of(study, home)
    order = ["subject_model", "corpus_tokens", *study.stages]
    for stage in order[: order.index(first) + 1]:
        if stage == "subject_model":
            fresh = subject_model.materialize(session)
        elif stage == "corpus_tokens":
            fresh = corpus_tokens.materialize(session, no_progress)
        else:
            fresh = run_stage(session, stage, [LAYER])[LAYER].reused
        assert fresh == (stage != first), stage


def test_no_setting_of_a_room_is_left_out_of_what_is_hashed():
    """Every setting is one that a stage is handed as part of a class, one named above, or marked as changing no row."""
    elsewhere = {"preset", "mask_token", "max_tokens", "random_tokens", "out_of_domain_tokens"}
    for kind in (MethodSettings, HarvestSettings, EvaluationSettings):
        parents = {name for parent in kind.__mro__[1:] for name in getattr(parent, "model_fields", {})}
        marked = {name for name, field in kind.model_fields.items() if field.json_schema_extra == CHANGES_NO_ROW}
        hashed = set(kind().hashed())
        assert hashed | marked == set(kind.model_fields)
        if kind is MethodSettings:
            assert set(kind.model_fields) <= parents | marked | elsewhere
    assert set(MethodSettings().hashed()) & {"units_per_block"} == set()
    assert set(HarvestSettings().hashed()) & {"batch_tokens", "shard_tokens", "device"} == set()


def test_how_work_is_cut_up_makes_nothing_stale(finished, tmp_path):
    home = finished.copy_home(tmp_path)
    study = changed(
        finished.study, method__units_per_block=3, harvest__batch_tokens=300, harvest__shard_tokens=900,
        harvest__device="auto",
    )  # fmt: skip
    assert stale_stages(study, home) == set()


# -------------------------------------------------------------------------------------------- what it costs
def test_more_neurons_compute_only_the_new_ones_and_keep_the_others_rows(finished, tmp_path):
    home = finished.copy_home(tmp_path)
    larger = tiny_study(finished.study.folder, neurons={"sample": 6})
    reports = run_stages(larger, home, [LAYER])
    for stage in ("top_examples", "pruned_examples", "augmented_examples", "neuron_graphs", "rule_tests"):
        assert (reports[stage][LAYER].computed, reports[stage][LAYER].kept) == (2, 4), stage
    before, after = (rows_of(place, "graph_nodes", layer=LAYER) for place in (finished.home, home))
    assert after.filter(pl.col("unit").is_in(before["unit"].unique().to_list())).equals(before)


def test_new_documents_cost_only_their_own_forward_pass(tmp_path, caplog):
    study = tiny_study(tmp_path)
    session = session_of(study, tmp_path / "home")
    subject_model.materialize(session)
    corpus_tokens.materialize(session, no_progress)
    run_stage(session, "activation_cache")
    known = set(rows_of(tmp_path / "home", "contexts")["context_id"])
    write_corpus(tmp_path / "corpus", stories=4, first=500)
    session = session_of(study, tmp_path / "home")
    corpus_tokens.materialize(session, no_progress)
    caplog.clear()
    with caplog.at_level("INFO"):
        run_stage(session, "activation_cache")
    contexts = rows_of(tmp_path / "home", "contexts", split="harvest")
    new = contexts.filter(~pl.col("context_id").is_in(list(known)))["token_ids"].list.len().sum()
    run = [int(m.split()[0].replace(",", "")) for m in caplog.messages if "tokens went through the model" in m]
    assert sum(run) == new > 0


def test_another_sign_that_is_asked_for_later_costs_no_pass(finished, tmp_path, caplog):
    home = finished.copy_home(tmp_path)
    before = session_of(finished.study, home).read("top_examples", LAYER)
    session = session_of(tiny_study(finished.study.folder, signs=["positive", "negative"]), home)
    with caplog.at_level("INFO"):
        run_stage(session, "activation_cache", [LAYER])
    assert {message.split()[0] for message in caplog.messages if "tokens went through the model" in message} == {"0"}
    report = run_stage(session, "top_examples", [LAYER])[LAYER]
    assert (report.computed, report.kept) == (4, 4)
    after = session.read("top_examples", LAYER)
    assert after.filter(sign=1).equals(before)
    assert after.filter(sign=-1)["unit"].n_unique() > 1


@pytest.mark.parametrize("coarse", [{"dtype": "bfloat16"}, {"dtype": "tf32"}, {"evidence_dtype": "int8"}])
def test_what_a_coarse_harvest_lists_is_measured_again_in_float32(tmp_path, coarse, monkeypatch):
    again = Mock(wraps=activation_cache._measure_again)
    monkeypatch.setattr(activation_cache, "_measure_again", again)
    study = tiny_study(tmp_path, layers=[LAYER], neurons={"sample": 2}, harvest=HARVEST | coarse)
    session = session_of(study, tmp_path / "home")
    subject_model.materialize(session)
    corpus_tokens.materialize(session, no_progress)
    run_stage(session, "activation_cache")
    again.assert_called_once()
    run_stage(session, "top_examples")
    for asset in ("activation_cache", "top_examples"):
        assert check(study, tmp_path / "home", asset, "activations_recomputed").passed
    assert session.model_row["dtype"] == coarse.get("dtype", "float32")
    (kept,) = (path for path in (tmp_path / "home" / "cache" / "evidence").iterdir() if path.is_dir())
    assert [path.name for path in kept.iterdir()] == [str(LAYER)], "the pass is kept, and it alone"
    assert len(list((kept / str(LAYER)).iterdir())) > 1


def test_layers_in_groups_give_the_same_rows_and_leave_no_evidence(finished, tmp_path):
    study = changed(finished.study, layers=[0, 1], layers_at_once=1, neurons={"sample": 2})
    assert [set(tags.values()) for tags in study.run_tags] == [{"00"}, {"01"}]
    home = tmp_path / "home"
    for layer in (0, 1):
        session = session_of(study, home)
        subject_model.materialize(session)
        corpus_tokens.materialize(session, no_progress)
        for stage in study.stages:
            run_stage(session, stage, [layer])
            if stage == "activation_cache":
                there = {path.name for path in (home / "cache" / "evidence").glob("*/*") if any(path.iterdir())}
                assert there == {str(layer)}
    assert not any((home / "cache" / "evidence").rglob("activations.npy"))
    for table in ("neuron_stats", "top_contexts", "graph_nodes", "evaluation"):
        rows = rows_of(home, table)
        before = rows_of(finished.home, table).join(rows.select("layer", "unit").unique(), ["layer", "unit"], "semi")
        if table == "evaluation":  # whose partners are drawn among all units
            rows, before = (each.filter(pl.col("predictor") != "graph_shuffled") for each in (rows, before))
        key = TABLES[table].key
        assert_frame_equal(rows.sort(key), before.sort(key), abs_tol=1e-4)  # other units share the batches


def test_a_home_from_before_gets_what_its_units_write_without_another_pass(finished, tmp_path):
    home = finished.copy_home(tmp_path)
    before = rows_of(home, "output_tokens")
    shutil.rmtree(home / "slices" / "output_tokens")
    shutil.rmtree(home / "cache" / "evidence")
    session = session_of(finished.study, home)
    session.harvest = Mock()
    reports = run_stage(session, "activation_cache")
    session.harvest.assert_not_called()
    assert not any(reused(reports).values())
    assert [report.computed for report in reports.values()] == [0, 0, 0]
    assert_frame_equal(rows_of(home, "output_tokens"), before)
    assert all(reused(run_stage(session, "activation_cache")).values())


def test_another_harvest_leaves_what_the_units_write(finished, tmp_path):
    home = finished.copy_home(tmp_path)
    session = session_of(changed(finished.study, harvest__strongest=8), home)
    written = {layer: session.manifest("output_tokens", layer).written_at for layer in range(3)}
    run_stage(session, "activation_cache")
    assert {layer: session.manifest("output_tokens", layer).written_at for layer in range(3)} == written
    assert rows_of(home, "activations").group_by("layer", "unit", "sign").len()["len"].max() == 8


def test_more_layers_in_one_run_than_the_study_bounds_are_refused(finished, tmp_path):
    session = session_of(changed(finished.study, layers_at_once=2), finished.copy_home(tmp_path))
    with pytest.raises(SettingsError, match="3 layers, but layers_at_once is 2: start it with n2g run"):
        run_stage(session, "activation_cache")


def test_a_plan_bounds_the_disk_by_the_largest_run_and_says_where_it_does_not_fit(finished, tmp_path, monkeypatch):
    home = finished.copy_home(tmp_path)
    shutil.rmtree(home / "slices" / "evaluation" / "study=tiny" / "layer=0")
    for keep, expected in ((False, 4), (True, 8)):
        study = changed(finished.study, layers_at_once=1, keep_evidence=keep, neurons={"sample": 8})
        session = session_of(study, home)
        layers = [[0], [1]]
        tokens = sum(len(corpus.token_ids) for corpus in [session.corpus, *session.scored_corpora.values()])
        said = plan_here(session, layers)
        assert re.search(r"layer 0 +8 ", said)
        assert re.search(r"layer 1 +4 ", said)
        assert f"{human_bytes(4 * expected * tokens)} for new evidence at once" in said
        assert "TOO LITTLE" not in said
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert "TOO LITTLE disk, 0 bytes for" in plan_here(session, layers)


@pytest.mark.parametrize(
    ("lacking", "units", "read"),
    [
        ((), 0, ()),
        (("evaluation",), 4, ("harvest", "random", "out_of_domain")),
        (("reach",), 0, ("random", "out_of_domain", "windows")),
        (("evaluation", "reach"), 4, ("harvest", "random", "out_of_domain", "windows")),
    ],
)
def test_a_plan_counts_evidence_that_was_dropped_where_something_is_still_made_of_it(
    finished, tmp_path, lacking, units, read
):
    home = finished.copy_home(tmp_path)
    shutil.rmtree(home / "cache" / "evidence")
    for table in lacking:
        shutil.rmtree(home / "slices" / table / "study=tiny" / "layer=0")
    session = session_of(finished.study, home)
    corpora = {"harvest": session.corpus, **session.scored_corpora}
    tokens = sum(len(corpora[name].token_ids) for name in read)
    assert re.search(rf" {units} +{len(read)} +{tokens:,} ", plan_here(session, [[0, 1, 2]]))


@pytest.mark.parametrize("keep", [False, True])
def test_the_evidence_of_evaluated_layers_is_dropped_unless_told(finished, tmp_path, keep):
    home = finished.copy_home(tmp_path)
    session = session_of(changed(finished.study, layers_at_once=2, keep_evidence=keep), home)
    assert reused(run_stage(session, "evaluation", [0, 1])) == {0: True, 1: True}
    there = {path.name for path in (home / "cache" / "evidence").glob("*/*") if any(path.iterdir())}
    assert there == ({"0", "1", "2"} if keep else {"2"})


# -------------------------------------------------------------------------------------------- damage and other models
def test_a_damaged_slice_is_made_again_with_the_same_rows(finished, tmp_path):
    home = finished.copy_home(tmp_path)
    SliceStore(Home(home)).path(SliceKey("pruned_examples", "tiny", 1)).write_bytes(b"PAR1 damaged")
    reports = run_stages(finished.study, home)
    assert reused(reports["pruned_examples"]) == {0: True, 1: False, 2: True}
    assert reused(reports["neuron_graphs"]) == {0: True, 1: True, 2: True}
    for table in ("pruned_examples", "saliencies", "graph_nodes"):
        assert rows_of(home, table).equals(rows_of(finished.home, table))


def test_rows_that_a_later_stage_reads_make_it_stale(finished, tmp_path):
    home = finished.copy_home(tmp_path)
    rewrite(home, "pruned_examples", LAYER, lambda frame: frame.with_columns(pl.col("activation") * 0.99))
    assert reused(run_stage(session_of(finished.study, home), "augmented_examples")) == {0: True, 1: False, 2: True}


def test_an_ungated_model_of_another_architecture_runs_from_a_local_folder_with_both_signs(tmp_path):
    tiny_gpt2(tmp_path / "gpt2")
    changes = {"subject": {"source": "local", "path": "gpt2"}, "signs": ["positive", "negative"]}
    run_stages(tiny_study(tmp_path, name="other", layers=[1], neurons={"sample": 2}, **changes), tmp_path / "home")
    assert set(rows_of(tmp_path / "home", "graph_nodes", "other")["sign"]) == {1, -1}
    assert rows_of(tmp_path / "home", "subject_models", "other")["gated"].to_list() == [False]
