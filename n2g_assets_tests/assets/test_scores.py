"""Scores one can trust, on the tables of a real run: leaks, checks, what makes scores stale, the paper's preset."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from n2g_assets.assets import evaluation
from n2g_assets.assets.checks import checks_of, split_is_sound
from n2g_assets.assets.steps import layer_metadata
from n2g_assets.assets.study import Study
from n2g_assets.core.home import Home
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.predictors.graph_shuffled import shuffled_partners
from n2g_assets.storage.slices import SliceKey, SliceStore
from n2g_assets.storage.stages import StageReport
from n2g_assets.study import LAYER_STAGES, shipped_study
from n2g_assets_tests.assets.studies import (
    changed,
    definitions_of,
    planted,
    rewrite,
    rows_of,
    run_job,
    run_stage,
    session_of,
)
from n2g_assets_tests.storage.helpers import layers_of

LAYER = 1
TABLES = (*evaluation.STAGE.tables, "layer_scores")
UNIT_KEY = ["unit", "sign"]


def store_of(home: Path) -> SliceStore:
    return SliceStore(Home(home))


def evaluate(study: Study, home: Path) -> StageReport:
    """The stage alone, on one layer, in a session of its own."""
    return evaluation.STAGE.work(session_of(study, home), LAYER, lambda *_: None)


def contents(home: Path) -> dict[str, str]:
    """By table, the hash of the rows of the layer."""
    return {table: store_of(home).manifest(SliceKey(table, "tiny", LAYER)).content_hash for table in TABLES}


@pytest.fixture
def scored(monkeypatch) -> list[Unit]:
    """Every unit that the stage scores, in order."""
    units: list[Unit] = []
    evaluate_units = evaluation.evaluate_units

    def counted(block, material):
        units.extend(block)
        return evaluate_units(block, material)

    monkeypatch.setattr(evaluation, "evaluate_units", counted)
    return units


# -------------------------------------------------------------------------------------------- rows
def test_every_unit_is_scored_by_every_predictor_on_every_text(finished):
    counts = rows_of(finished.home, "evaluation").group_by("predictor", "text").len()
    pairs = {(predictor, text) for predictor in finished.study.predictors for text in finished.study.texts}
    assert set(counts.select("predictor", "text").rows()) == pairs
    assert set(counts["len"]) == {3 * 4}


def test_the_random_text_is_whole_held_out_documents_and_each_token_is_scored_once(finished):
    documents = rows_of(finished.home, "documents")
    tokens = documents.group_by("split").agg(pl.col("n_tokens").sum())
    expected = dict(tokens.iter_rows())
    rows = rows_of(finished.home, "evaluation").filter(pl.col("predictor") == "graph")
    for text, split in (("random", "held_out"), ("out_of_domain", "out_of_domain")):
        mine = rows.filter(pl.col("text") == text)
        assert set(mine["n_documents"]) == {documents.filter(pl.col("split") == split).height}
        # a last piece of a document that is too short makes no context
        assert 0 <= expected[split] - mine["n_tokens"].max() <= 7 * mine["n_documents"].max()
        counts = mine.select(pl.sum_horizontal("^(true|false)_.*$")).to_series()
        assert counts.to_list() == mine["n_tokens"].to_list()


def test_the_assets_overview_begins_with_its_figures_and_the_preview_with_the_graph(finished):
    study, home = finished.study, finished.home
    report = evaluate(study, home)
    assert report.reused
    metadata = layer_metadata(session_of(study, home), evaluation.STAGE, LAYER, report)
    means = rows_of(home, "layer_scores").filter(layer=LAYER, text="top")
    for predictor in ("graph", "token_lookup"):
        [row] = means.filter(predictor=predictor).to_dicts()
        said = f"{predictor.replace('_', ' ')}, top"
        assert metadata[f"mean F1, {said}"] == round(row["f1_all"], 4)
        assert metadata[f"mean average precision, {said}"] == round(row["average_precision"], 4)
    assert metadata["units evaluated"] == "4 of 4"
    [graded] = rows_of(home, "layer_scores").filter(layer=LAYER, text="random", predictor="graph").to_dicts()
    assert metadata["mean r, graph, random"] == round(graded["pearson_r"], 4)
    assert metadata["mean explained variance, graph, random"] == round(graded["explained_variance"], 4)
    assert next(iter(metadata)) == "mean r, graph, random"
    pictures = [name for name in metadata if " by layer, " in name]
    assert pictures[:2] == ["r by layer, random", "r by layer, out_of_domain"]
    assert set(pictures[2:]) == {f"F1 by layer, {text}" for text in study.texts}
    first = metadata["preview"].records[: 4 * 4]
    assert {record.data["predictor"] for record in first} == {"graph"}


# -------------------------------------------------------------------------------------------- leaks
def test_a_test_documents_text_planted_in_the_harvest_is_detected(finished, tmp_path):
    home = finished.copy_home(tmp_path)
    assert split_is_sound(session_of(finished.study, home)) == []
    rewrite(home, "contexts", None, planted)
    [*_, last] = split_is_sound(session_of(finished.study, home))
    assert "stands in the harvested document" in last


# -------------------------------------------------------------------------------------------- checks
CHECKS = {check.name: check for check in checks_of(shipped_study("demo"), "evaluation")}


@pytest.mark.parametrize(
    ("check", "table", "change", "says"),
    [
        (
            "graph_beats_token_lookup", "layer_scores",
            lambda frame: frame.with_columns(f1_gain=pl.lit(-0.25), f1_gain_low=pl.lit(-0.5), f1_gain_high=pl.lit(0.0)),
            "differs from the token lookup's by -0.25 (95 % interval -0.50 to +0.00)",
        ),
        (
            "shuffled_control_is_near_zero", "layer_scores", lambda frame: frame.with_columns(f1_all=pl.lit(0.5)),
            "the graph of another unit has a mean F1 of 0.50 on top",
        ),
        (
            "no_unit_is_missing", "evaluation", lambda frame: frame.filter(pl.col("predictor") != "skip_bigram"),
            "4 units have no score of skip_bigram on top",
        ),
    ],
)  # fmt: skip
def test_a_check_says_what_the_reader_should_doubt(finished, tmp_path, check, table, change, says):
    home = finished.copy_home(tmp_path)
    rewrite(home, table, LAYER, change)
    assert any(says in fault for fault in CHECKS[check].faults(session_of(finished.study, home), LAYER))


def test_scores_that_lack_units_block_and_doubts_warn():
    assert {name for name, check in CHECKS.items() if check.blocking} == {"no_unit_is_missing"}
    assert {name for name, check in CHECKS.items() if not check.warns} == {"no_unit_is_missing", "rows_are_sound"}


def test_a_text_that_is_shorter_than_asked_for_is_warned_of(finished):
    session = session_of(finished.study, finished.home)  # the tiny corpus is far below the defaults
    random, out_of_domain = CHECKS["texts_are_there"].faults(session, LAYER)
    assert "of 50,000 tokens: add text to the corpus, or raise harvest.held_out_share" in random
    assert "of 30,000 tokens" in out_of_domain


# -------------------------------------------------------------------------------------------- doing only what is stale
@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("rule_tests", "fired", pl.col("fired") + 1),
        ("rules", "count", pl.col("count") + 1),
        ("saliencies", "activation", pl.col("activation") * 0.5),
        ("pruned_examples", "reduced", ~pl.col("reduced")),
        ("top_examples", "activation", pl.col("activation") * 0.5),
        ("graph_nodes", "end_activation", pl.col("end_activation") * 0.5),
    ],
)
def test_a_units_rows_make_that_unit_stale_and_a_graph_those_whose_partner_it_is(
    finished, tmp_path, scored, table, column, value
):
    home, study = finished.copy_home(tmp_path), finished.study
    units = session_of(study, home).units(LAYER)
    there = set(store_of(home).read(SliceKey(table, "tiny", LAYER)).select(UNIT_KEY).iter_rows())
    unit = next(unit for unit in units if unit in there)
    own = (pl.col("unit") == unit.number) & (pl.col("sign") == unit.sign)
    change = pl.when(own).then(value).otherwise(column).alias(column)
    rewrite(home, table, LAYER, lambda frame: frame.with_columns(change))
    report = evaluate(study, home)
    partners = shuffled_partners(units, study.settings.evaluation.seed, LAYER)
    served = {other for other, partner in partners.items() if partner == unit} if table == "graph_nodes" else set()
    assert set(scored) == {unit} | served
    assert (report.computed, report.kept) == (len(scored), 4 - len(scored))


@pytest.mark.parametrize(
    "changes", [{"harvest__dtype": "tf32"}, {"harvest__evidence_dtype": "int8"}, {"method__preset": "evidence"}]
)
def test_what_was_learnt_from_other_activations_or_by_another_method_is_stale(finished, tmp_path, changes):
    report = evaluate(changed(finished.study, **changes), finished.copy_home(tmp_path))
    assert (report.computed, report.kept) == (4, 0)


def test_evidence_that_was_dropped_is_read_again_and_dropped_after_the_scores(finished, tmp_path):
    home = finished.copy_home(tmp_path)
    session = session_of(changed(finished.study, layers_at_once=2), home)
    assert all(report.reused for report in run_stage(session, "evaluation", [0, 1]).values())
    shutil.rmtree(home / "slices" / "evaluation")
    before = rows_of(finished.home, "evaluation").filter(pl.col("layer") < 2)
    assert not any(report.reused for report in run_stage(session, "evaluation", [0, 1]).values())
    assert_frame_equal(rows_of(home, "evaluation"), before, abs_tol=1e-4)
    kept = {path.parents[2].name for path in (home / "cache" / "evidence").rglob("activations.npy")}
    assert kept == {"2"}


def test_in_the_method_paper_every_threshold_is_the_firing_threshold(finished):
    thresholds = rows_of(finished.home, "thresholds")
    assert thresholds.select("threshold", "f1", "n_firings").unique().rows() == [(0.5, None, None)]


def test_in_the_method_evidence_every_predictor_has_thresholds_of_its_own(finished_evidence):
    study, home = finished_evidence.study, finished_evidence.home
    rows, thresholds = (rows_of(home, table).filter(layer=LAYER) for table in ("evaluation", "thresholds"))
    assert set(rows["predictor"]) == set(thresholds["predictor"]) == set(study.predictors)
    assert {"graph", "combined", "suffixes", "token_lookup"} < set(study.predictors)
    assert not {"ngram", "ngram_backoff", "graph_unaugmented"} & set(study.predictors)
    assert set(thresholds["kind"]) == {"top", "ordinary"}
    assert set(rows.filter(predictor="always_zero")["threshold"]) == {0.5}
    assert rows.filter(predictor="suffixes")["threshold"].n_unique() > 4
    assert [path.name for path in (home / "cache" / "suffixes").iterdir()]


def test_a_layer_that_lacks_its_inputs_does_not_stop_its_siblings(finished, tmp_path, instance):
    home = finished.copy_home(tmp_path)
    shutil.rmtree(home / "slices" / "graph_nodes" / "study=tiny" / "layer=2")
    shutil.rmtree(home / "slices" / "layer_scores")
    result = (
        definitions_of(finished.study, home)
        .resolve_job_def("tiny")
        .execute_in_process(
            instance=instance, tags=finished.study.all_layers_tags, raise_on_error=False,
            asset_selection=[finished.study.key("evaluation")],
        )
    )  # fmt: skip
    assert not result.success
    assert layers_of(store_of(home), "layer_scores", "tiny") == [0, 1]


def test_a_killed_evaluation_scores_only_the_blocks_that_it_had_not_finished(finished, tmp_path, scored, monkeypatch):
    home, before = finished.copy_home(tmp_path), contents(finished.home)
    for table in TABLES:
        shutil.rmtree(home / "slices" / table / "study=tiny" / f"layer={LAYER}")
    counted = evaluation.evaluate_units

    def dies(units, material):
        if scored:
            raise MemoryError
        return counted(units, material)

    monkeypatch.setattr(evaluation, "evaluate_units", dies)
    with pytest.raises(MemoryError):
        evaluate(finished.study, home)
    monkeypatch.setattr(evaluation, "evaluate_units", counted)
    assert len(scored) == 2
    report = evaluate(finished.study, home)
    assert len(scored) == len(set(scored)) == 4
    assert (report.computed, report.kept) == (2, 2)
    assert contents(home) == before


def test_means_that_a_killed_run_did_not_write_are_made_again_without_scoring(finished, tmp_path, scored):
    home, before = finished.copy_home(tmp_path), contents(finished.home)
    shutil.rmtree(home / "slices" / "layer_scores" / "study=tiny" / f"layer={LAYER}")
    assert evaluate(finished.study, home).reused
    assert contents(home) == before
    assert scored == []


def test_fresh_means_are_not_written_again_and_other_draws_make_them_anew(finished, tmp_path):
    home, study = finished.copy_home(tmp_path), finished.study
    written = store_of(home).manifest(SliceKey("layer_scores", "tiny", LAYER)).written_at
    evaluate(study, home)
    assert store_of(home).manifest(SliceKey("layer_scores", "tiny", LAYER)).written_at == written
    rewrite(home, "document_scores", LAYER, lambda frame: frame.with_columns(true_positives=pl.lit(0, pl.Int32)))
    before = contents(home)["layer_scores"]
    evaluate(study, home)
    assert contents(home)["layer_scores"] != before


def test_a_new_unit_costs_itself_and_those_whose_partner_it_becomes(finished, tmp_path, scored):
    """Its rows and the layer's means are those of an evaluation from scratch; all other rows stay."""
    home, settings = finished.copy_home(tmp_path), finished.study.settings
    more = settings.model_copy(update={"neurons": settings.neurons.model_copy(update={"sample": 5})})
    study = Study("tiny", finished.study.folder, more)
    session = session_of(study, home)
    for name in study.stages:
        LAYER_STAGES[name].work(session, LAYER, lambda *_: None)
    old, now = session_of(finished.study, home).units(LAYER), session.units(LAYER)
    [new] = set(now) - set(old)
    seed = settings.evaluation.seed
    before, after = shuffled_partners(old, seed, LAYER), shuffled_partners(now, seed, LAYER)
    assert set(scored) == {new} | {unit for unit in old if before[unit] != after[unit]}
    assert len(scored) < len(now)

    found = {table: store_of(home).read(SliceKey(table, "tiny", LAYER)) for table in TABLES}
    kept = pl.col("predictor") != "graph_shuffled"
    rows = found["evaluation"].filter(kept).join(pl.DataFrame([new], UNIT_KEY, orient="row"), on=UNIT_KEY, how="anti")
    assert_frame_equal(rows, store_of(finished.home).read(SliceKey("evaluation", "tiny", LAYER)).filter(kept))
    for table in TABLES:
        shutil.rmtree(home / "slices" / table / "study=tiny" / f"layer={LAYER}")
    evaluate(study, home)
    for table in TABLES:
        assert_frame_equal(store_of(home).read(SliceKey(table, "tiny", LAYER)), found[table])


# -------------------------------------------------------------------------------------------- the paper's protocol
@pytest.fixture(scope="module")
def paper(tmp_path_factory, finished):
    """A finished run of a layer of the same study under the paper's preset, on what it shares with the other preset."""
    home = finished.copy_home(tmp_path_factory.mktemp("paper"))
    study = changed(finished.study, preset="paper", layers=[LAYER])
    for layer in {*finished.study.settings.layer_numbers} - {LAYER}:
        for slices in (home / "slices").glob(f"*/study=tiny/layer={layer}"):
            shutil.rmtree(slices)
    with dg.DagsterInstance.ephemeral() as instance:
        yield study, home, run_job(study, home, instance)


def test_the_papers_preset_does_nothing_else(paper):
    study, home, _ = paper
    stages = {key.path[-1] for key in definitions_of(study, home).resolve_all_asset_keys()}
    assert stages == {"subject_model", "corpus_tokens", *study.stages, "warehouse", "report"}
    assert "rule_tests" not in study.stages
    rows = rows_of(home, "evaluation")
    assert set(rows["text"]) == {"top"}
    assert set(rows["predictor"]) == {"graph", "token_lookup", "ngram"}
    assert rows_of(home, "counterexamples").is_empty()


def test_the_papers_preset_gives_the_same_scores_of_the_same_graphs(paper, finished):
    _, home, _ = paper
    counts = ["layer", "unit", "predictor", "true_positives", "false_positives", "false_negatives", "true_negatives"]
    mine = rows_of(home, "evaluation").select(counts)
    full = rows_of(finished.home, "evaluation").filter(pl.col("text") == "top").select(counts)
    assert set(mine["layer"]) == {LAYER}
    assert mine.join(full, on=counts, how="anti").is_empty()


def test_the_report_of_the_papers_preset_has_the_papers_table(paper):
    _, home, _ = paper
    page = (home / "reports" / "tiny.html").read_text(encoding="utf-8")
    assert "non-firing" in page
    assert "Rule tests" not in page
