"""A study of the method ``evidence`` in one run of Dagster, from the model to the report."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest

from n2g_assets.assets.learning import Learning, graph_threads
from n2g_assets.core.errors import CorpusError, RowsError
from n2g_assets.core.home import Home
from n2g_assets.core.registry import STAGES, of_study
from n2g_assets.core.tables import TABLES
from n2g_assets.evaluation.size_curve import SIZES
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.model.folder import hash_model
from n2g_assets.model.sources import SubjectFiles
from n2g_assets.report.summary import study_summary
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.slices import SliceStore
from n2g_assets_tests.assets.studies import changed, no_progress, reused, rows_of, run_stage, run_stages, session_of
from n2g_assets_tests.recomputation import gather
from n2g_assets_tests.tiny_models import load_tiny

LAYER = 1
UNITS = 3 * 4
KEY = ["layer", "unit", "sign"]


# -------------------------------------------------------------------------------------------- one run of everything
def test_one_run_materializes_every_stage_of_the_method_and_its_blocking_checks_pass(finished_evidence):
    stages = [stage.name for stage in of_study(STAGES, "full", "evidence")]
    assert finished_evidence.success
    assert list(finished_evidence.study.stages) == stages
    assert "augmented_examples" not in stages
    assert len(finished_evidence.steps) == len(stages) + 4
    assert all(one.passed for one in finished_evidence.checks if one.blocking or one.check_name == "rows_are_sound")


def test_every_published_table_but_those_of_variants_and_explanations_has_rows_in_the_database(finished_evidence):
    with duckdb.connect(str(finished_evidence.home / "n2g.duckdb"), read_only=True) as database:
        for table in TABLES.values():
            if table.published:
                found = database.execute(f'SELECT count(*) FROM "{table.name}"').fetchall()[0][0]
                assert (found > 0) == (table.name not in {"augmented_examples", "explanations", "encoders"}), table.name


def test_every_unit_has_a_graph_of_many_rules_which_are_tested_and_scored_at_every_size(finished_evidence):
    study, home = finished_evidence.study, finished_evidence.home
    graphs = rows_of(home, "rules").group_by(KEY).agg(pl.col("rank").max())
    assert graphs.height == UNITS
    assert graphs["rank"].min() > 1
    assert rows_of(home, "rule_tests").n_unique(KEY) == UNITS
    scored = rows_of(home, "evaluation").group_by("predictor", "text").len()
    assert set(scored.rows()) == {(name, text, UNITS) for name in study.predictors for text in study.texts}
    sizes = rows_of(home, "size_curve").group_by("text", "n_rules").len()
    assert set(sizes.rows()) == {(text, n_rules, UNITS) for text in study.texts for n_rules in SIZES}


def test_stored_activations_and_counts_are_found_again(finished_evidence):
    folder = finished_evidence.study.folder / "model"
    model = load_tiny(SubjectFiles(folder, "model", "local", hash_model(folder)))
    evidence = gather(SliceStore(Home(finished_evidence.home)), "tiny", model, n_units=UNITS)
    assert evidence.examples > 100
    assert evidence.largest_difference <= 1e-4
    assert evidence.wrong_counts == []


def test_graphs_count_the_harvested_tokens_of_all_but_the_units_own_test_documents(finished_evidence):
    """Promise 4, on the tables of a run: the counts of graphs are those of the contexts that may be learnt from."""
    harvested = rows_of(finished_evidence.home, "contexts", split="harvest")
    assert graphs_that_count_right(finished_evidence.home, harvested) == UNITS


def graphs_that_count_right(home: Path, harvested: pl.DataFrame, **of: int) -> int:
    cluster_of = dict(rows_of(home, "documents").select("document_id", "cluster_id").iter_rows())
    nodes, classes, examples = (
        rows_of(home, table, **of) for table in ("graph_nodes", "token_classes", "top_examples")
    )
    units = nodes.select(KEY).unique().rows(named=True)
    for unit in units:
        test = {cluster_of[document] for document in examples.filter(**unit, split="test")["document_id"]}
        kept = [(name, tokens) for _, name, tokens in contexts_of(harvested) if cluster_of[name] not in test]
        assert test
        root = nodes.filter(**unit, node_id=0).row(0, named=True)
        assert root["end_count"] == sum(len(tokens) - 1 for _, tokens in kept)
        assert root["documents"] == len({name for name, _ in kept})
        first = nodes.filter(**unit, node_id=1).row(0, named=True)
        back = -first["offset"]
        counts = Counter(tokens[max(position - back, 0)] for _, tokens in kept for position in range(1, len(tokens)))
        members = classes.filter(**unit, node_id=1)
        assert members.height
        assert first["end_count"] == members["count"].sum()
        assert {token: counts[token] for token in members["token_id"]} == dict(
            members.select("token_id", "count").iter_rows()
        )
    return len(units)


def contexts_of(harvested: pl.DataFrame) -> list[tuple[str, str, list[int]]]:
    return harvested.select("context_id", "document_id", "token_ids").rows()


def test_fewer_graphs_grow_side_by_side_where_the_text_is_long(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert graph_threads(1_000) == 8
    assert 2 <= graph_threads(10_000_000) <= 4
    assert graph_threads(10**9) == 1


# -------------------------------------------------------------------------------------------- what is stale
def test_a_finished_study_is_fresh(finished_evidence):
    again = run_stages(finished_evidence.study, finished_evidence.home)
    assert all(all(reused(reports).values()) for reports in again.values())


@pytest.mark.parametrize(
    ("setting", "value", "first"),
    [
        ("max_rules", 20, "neuron_graphs"),
        ("class_shrinkage", 4.0, "neuron_graphs"),
        ("prune_keep", 0.6, "pruned_examples"),
    ],
)
def test_a_changed_setting_makes_the_first_stage_stale_that_is_handed_it(
    finished_evidence, tmp_path, setting, value, first
):
    home = finished_evidence.copy_home(tmp_path)
    session = session_of(changed(finished_evidence.study, **{f"method__{setting}": value}), home)
    order = finished_evidence.study.stages
    for stage in order[: order.index(first) + 1]:
        assert run_stage(session, stage, [LAYER])[LAYER].reused == (stage != first), stage


def test_a_layer_that_is_scanned_no_more_is_learnt_anew_and_the_others_are_not(finished_evidence, tmp_path):
    home = finished_evidence.copy_home(tmp_path)
    session = session_of(changed(finished_evidence.study, harvest__scanned_layers=0), home)
    for stage in ("activation_cache", "top_examples", "neuron_graphs"):
        layers = reused(run_stage(session, stage))
        assert layers == {0: stage != "neuron_graphs", 1: True, 2: True}, stage


def test_only_graphs_of_a_scanned_layer_know_tokens_that_no_text_has(finished_evidence):
    home = finished_evidence.home
    unseen = rows_of(home, "token_classes").filter(pl.col("count") == 0)
    assert unseen["layer"].unique().to_list() == [0]
    harvested = set(rows_of(home, "contexts", split="harvest")["token_ids"].explode())
    only_there = unseen.join(
        rows_of(home, "graph_nodes").filter(parent_id=0, offset=0), on=[*KEY, "node_id"], how="semi"
    )
    assert only_there.height
    assert not harvested & set(only_there["token_id"])


def test_graphs_ask_for_contexts_beyond_the_harvest_learn_from_them_and_count_them_not(
    finished_evidence, tmp_path, monkeypatch
):
    home, stages = finished_evidence.copy_home(tmp_path), ("activation_cache", "top_examples", "pruned_examples")
    small = changed(finished_evidence.study, harvest__max_tokens=2_000)
    asking = changed(small, harvest__targeted_contexts=2)
    before = session_of(small, home)
    for stage in (*stages, "neuron_graphs"):
        run_stage(before, stage, [LAYER])
    grown = rows_of(home, "graph_nodes", layer=LAYER)
    session = session_of(asking, home)
    for stage in stages:
        assert run_stage(session, stage, [LAYER])[LAYER].reused, stage
    assert not run_stage(session, "neuron_graphs", [LAYER])[LAYER].reused
    asked = session.learning.targeted(LAYER)
    assert 2 <= asked.height <= 2 * UNITS // 3
    assert not set(asked["document_id"]) & set(session.contexts["document_id"])
    assert set(asked["document_id"]) <= set(rows_of(home, "contexts", split="harvest")["document_id"])
    unit = session.units(LAYER)[0]
    read, text = session.learning.read(LAYER)(unit), session.learning.text(LAYER)
    assert len(read) == len(text.text.encoded)
    *_, last = asked["token_ids"].to_list()
    alone = TokenCorpus.from_frame(asked.tail(1))
    found = session.evidence(alone, [LAYER], no_progress).of_unit(LAYER, unit)
    assert read[-len(last) :] == pytest.approx(found, abs=1e-5 * np.abs(read).max())
    assert not rows_of(home, "graph_nodes", layer=LAYER).equals(grown)
    assert graphs_that_count_right(home, session.contexts, layer=LAYER) == UNITS // 3
    for stage in ("rule_tests", "reach", "evaluation"):
        run_stage(session, stage, [LAYER])
    again = session_of(asking, home)
    for stage in asking.stages:
        assert run_stage(again, stage, [LAYER])[LAYER].reused, stage
    chosen, grown_otherwise = again.learning.inputs(LAYER), again.learning
    monkeypatch.setattr("n2g_assets.assets.learning.GROWTH_VERSION", "another")
    assert grown_otherwise.inputs(LAYER)["targeted"] != chosen["targeted"]
    monkeypatch.undo()
    bounded = session_of(changed(asking, layers_at_once=1), home)
    kept = len(Cache(bounded.home).listing("suffixes"))
    bounded.learning.text(LAYER).suffixes  # noqa: B018
    bounded.drop_evidence(LAYER)
    assert len(Cache(bounded.home).listing("suffixes")) == kept - 1
    Cache(bounded.home).remove("targeted")
    monkeypatch.setattr(Learning, "_choose", lambda *_: pytest.fail("nothing is chosen to be dropped"))
    session_of(changed(asking, layers_at_once=1), home).drop_evidence(LAYER)
    monkeypatch.undo()
    assert not run_stage(session_of(changed(asking, harvest__targeted_contexts=1), home), "neuron_graphs", [LAYER])[
        LAYER
    ].reused


def test_units_that_fire_often_enough_ask_for_no_contexts(finished_evidence, tmp_path):
    home = finished_evidence.copy_home(tmp_path)
    small = changed(finished_evidence.study, harvest__max_tokens=2_000)
    for stage in ("activation_cache", "top_examples", "pruned_examples"):
        run_stage(session_of(small, home), stage, [LAYER])
    session = session_of(small, home)
    harvest, units = session.cached_harvest(LAYER), session.units(LAYER)
    a_max = session.a_max(LAYER, units)
    counts = session.corpus.positions > 0
    firings = sorted(int((harvest.of_unit(LAYER, unit)[counts] >= 0.5 * a_max[unit]).sum()) for unit in units)
    asked = {}
    for limit in (None, firings[-1] + 1, firings[len(firings) // 2], 1):
        study = changed(small, harvest__targeted_contexts=2, harvest__targeted_firings=limit)
        found = session_of(study, home).learning.targeted(LAYER)
        asked[limit] = set() if found is None else set(found["context_id"])
    everything, all_rare, rarer, none = asked.values()
    assert everything == all_rare
    assert rarer
    assert rarer < all_rare
    assert not none
    nobody = session_of(changed(small, harvest__targeted_contexts=2, harvest__targeted_firings=1), home)
    assert len(nobody.learning.read(LAYER)(units[0])) == len(nobody.corpus.token_ids)
    run_stage(nobody, "neuron_graphs", [LAYER])


def test_an_error_while_contexts_are_chosen_is_of_no_unit(finished_evidence, tmp_path, monkeypatch):
    home = finished_evidence.copy_home(tmp_path)
    study = changed(finished_evidence.study, harvest__max_tokens=2_000, harvest__targeted_contexts=2)
    session = session_of(study, home)
    for stage in ("activation_cache", "top_examples", "pruned_examples"):
        run_stage(session, stage, [LAYER])
    monkeypatch.setattr("n2g_assets.assets.learning.ask", lambda *_: {}["a fault"])
    with pytest.raises(RowsError, match=r"graphs of layer 1 ask for were not chosen \(KeyError: 'a fault'\)"):
        run_stage(session, "neuron_graphs", [LAYER])


def test_where_no_text_is_beyond_the_harvest_a_study_that_asks_for_it_says_so(finished_evidence, tmp_path):
    session = session_of(changed(finished_evidence.study, harvest__targeted_contexts=2), finished_evidence.home)
    with pytest.raises(CorpusError, match=r"add text, lower harvest.max_tokens, or set harvest.targeted_contexts to 0"):
        run_stage(session, "activation_cache", [LAYER])


def test_settings_of_the_papers_graphs_make_no_graph_of_classes_stale(finished_evidence, tmp_path):
    home = finished_evidence.copy_home(tmp_path)
    study = changed(finished_evidence.study, method__important_threshold=0.9, method__substitutes=1)
    assert run_stage(session_of(study, home), "neuron_graphs", [LAYER])[LAYER].reused


def test_more_neurons_compute_only_the_new_ones_and_keep_the_others_rows(finished_evidence, tmp_path):
    home = finished_evidence.copy_home(tmp_path)
    larger = changed(finished_evidence.study, neurons={"sample": 5})
    session = session_of(larger, home)
    for stage in ("activation_cache", "top_examples", "pruned_examples", "neuron_graphs"):
        report = run_stage(session, stage, [LAYER])[LAYER]
        assert stage == "activation_cache" or (report.computed, report.kept) == (1, 4), stage
    for table in ("graph_nodes", "rules", "token_classes"):
        before, after = (rows_of(place, table, layer=LAYER) for place in (finished_evidence.home, home))
        assert after.filter(pl.col("unit").is_in(before["unit"].unique().to_list())).equals(before)


# -------------------------------------------------------------------------------------------- what is shown
def test_pictures_report_and_summary_show_graphs_of_classes_and_the_rivals_of_the_method(finished_evidence):
    for metadata in finished_evidence.metadata["neuron_graphs"].values():
        assert metadata["a graph"].startswith("![")
    page = (finished_evidence.home / "reports" / "tiny.html").read_text(encoding="utf-8")
    assert "grown on all of the harvest but the documents of the unit" in page
    assert "Units of the first layer of the model were also shown every token of the vocabulary" in page
    summary = study_summary(Home(finished_evidence.home), "tiny")
    for text in (page, summary):
        assert "suffix evidence" in text
        assert "back-off n-gram" not in text
    assert "all evidence" in page
    assert "(fires at" in summary
