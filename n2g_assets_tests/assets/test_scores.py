"""Scores one can trust, on the tables of a real run: controls, leaks, the paper's preset, the report."""

from __future__ import annotations

import logging
import shutil
import subprocess

import dagster as dg
import polars as pl
import pytest

from n2g_assets.assets import evaluation
from n2g_assets.assets.session import Session
from n2g_assets.assets.study import RANGE_END, RANGE_START
from n2g_assets.core.home import Home
from n2g_assets.core.settings import StudySettings
from n2g_assets.core.tables import STAGES
from n2g_assets.storage.slices import SliceStore
from n2g_assets_tests.assets.studies import definitions_of, metadata_of, run_job, tiny_study
from n2g_assets_tests.assets.test_checks import evaluate, rewrite
from n2g_assets_tests.browser import BROWSER, needs_browser


def store_of(home) -> SliceStore:
    return SliceStore(Home(home))


def rows_of(home, table: str, study: str = "tiny") -> pl.DataFrame:
    return store_of(home).scan_all(table, study).collect()


# -------------------------------------------------------------------------------------------- controls
def test_every_unit_is_scored_by_every_predictor_on_every_text(finished):
    rows = rows_of(finished.home, "evaluation")
    counts = rows.group_by("predictor", "text").len()
    assert set(counts["predictor"]) == set(finished.study.predictors)
    assert set(counts["text"]) == set(finished.study.texts)
    of_control = counts.filter(pl.col("predictor") == "graph_reinitialised")
    assert set(of_control["len"]) == {3 * 2}  # the control has two units a layer
    assert set(counts.join(of_control, on=["predictor", "text"], how="anti")["len"]) == {3 * 4}


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


def test_the_reinitialised_control_is_the_companions_graphs_on_its_own_model(finished):
    companion = finished.study.companion
    assert companion is not None
    assert companion.settings.subject.reinitialise == 0
    models = {
        study: rows_of(finished.home, "subject_models", study).row(0, named=True) for study in ("tiny", companion.name)
    }
    assert models["tiny"]["file_sha256"] != models[companion.name]["file_sha256"]
    rows = rows_of(finished.home, "evaluation").filter(pl.col("predictor") == "graph_reinitialised").drop("study")
    of_companion = rows_of(finished.home, "evaluation", companion.name).filter(pl.col("predictor") == "graph")
    assert rows.height == 3 * 2 * 4
    assert rows.drop("predictor").equals(of_companion.drop("study", "predictor"))
    units = set(rows_of(finished.home, "evaluation").select("layer", "unit", "sign").iter_rows())
    assert set(rows.select("layer", "unit", "sign").iter_rows()) <= units
    harvested = rows_of(finished.home, "neuron_stats", companion.name)["n_tokens"].max()
    assert 3000 <= harvested < rows_of(finished.home, "neuron_stats")["n_tokens"].max()


def test_a_study_of_a_reinitialised_model_or_without_units_for_it_has_no_companion(tmp_path):
    assert tiny_study(tmp_path).companion is None
    model = {"source": "local", "path": str(tmp_path / "model"), "reinitialise": 3}
    assert tiny_study(tmp_path, subject=model, evaluation={}).companion is None
    assert tiny_study(tmp_path, neurons="all", evaluation={}).companion.settings.neurons.sample == 8
    assert tiny_study(
        tmp_path, neurons=[5, 3, 1], evaluation={"reinitialised": {"units": 2}}
    ).companion.settings.neurons == [5, 3]


# -------------------------------------------------------------------------------------------- leaks
def planted(contexts: pl.DataFrame) -> pl.DataFrame:
    """The text of a held-out document stands inside a harvested one."""
    held_out = contexts.filter(pl.col("split") == "held_out")["document_id"][0]
    harvested = contexts.filter(pl.col("split") == "harvest")["document_id"][0]
    copied = contexts.filter(pl.col("document_id") == held_out).with_columns(
        document_id=pl.lit(harvested),
        split=pl.lit("harvest"),
        context_id=pl.lit(harvested + ":9") + pl.int_range(pl.len()).cast(pl.String),
    )
    return pl.concat([contexts, copied])


def test_a_test_documents_text_planted_in_the_harvest_is_detected_and_blocks(finished, tmp_path, instance):
    home = finished.copy_home(tmp_path)
    assert evaluate(finished, home, instance, "corpus_tokens", "split_is_sound").passed
    rewrite(home, "contexts", None, planted)
    evaluation = evaluate(finished, home, instance, "corpus_tokens", "split_is_sound")
    assert not evaluation.passed
    assert evaluation.blocking
    assert "stands in the harvested document" in evaluation.description


def test_a_planted_document_ends_the_run_before_the_harvest(finished, tmp_path, instance):
    home = finished.copy_home(tmp_path)
    rewrite(home, "contexts", None, planted)
    result = run_job(finished.study, home, instance, raise_on_error=False)
    assert not result.success
    assert metadata_of(result, "activation_cache") == {}


# -------------------------------------------------------------------------------------------- checks
@pytest.mark.parametrize(
    ("check", "change", "says"),
    [
        (
            "graph_beats_token_lookup",
            lambda frame: frame.with_columns(f1_gain=pl.lit(-0.25), f1_gain_low=pl.lit(-0.5), f1_gain_high=pl.lit(0.0)),
            "differs from the token lookup's by -0.25 (95 % interval -0.50 to +0.00)",
        ),
        (
            "shuffled_control_is_near_zero",
            lambda frame: frame.with_columns(f1_all=pl.lit(0.5)),
            "the graph of another unit has a mean F1 of 0.50 on top",
        ),
    ],
)
def test_a_warning_says_what_the_reader_should_doubt(finished, tmp_path, instance, check, change, says):
    home = finished.copy_home(tmp_path)
    rewrite(home, "layer_scores", 1, change)
    evaluation = evaluate(finished, home, instance, "evaluation", check)
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert not evaluation.blocking
    assert says in evaluation.description


def test_a_text_that_is_shorter_than_asked_for_is_warned_of(finished, tmp_path, instance):
    evaluation = evaluate(finished, finished.copy_home(tmp_path), instance, "evaluation", "texts_are_there")
    assert not evaluation.passed  # the tiny corpus is far below the defaults
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert "of 50,000 tokens: add text to the corpus, or raise harvest.held_out_share" in evaluation.description
    assert "of 30,000 tokens" in evaluation.description


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("activations", lambda frame: frame.filter(pl.col("rank") < 8)),
        ("rule_tests", lambda frame: frame.with_columns(fired=pl.lit(0, pl.Int32))),
        ("graph_nodes", lambda frame: frame.with_columns(pl.col("end_activation") * 0.5)),
    ],
)
def test_whatever_scores_are_made_from_makes_them_stale(finished, tmp_path, instance, table, change):
    home = finished.copy_home(tmp_path)
    rewrite(home, table, 1, change)
    keys = [finished.study.key("evaluation")]
    result = (
        definitions_of(finished.study, home)
        .resolve_job_def("tiny")
        .execute_in_process(instance=instance, tags={RANGE_START: "00", RANGE_END: "02"}, asset_selection=keys)
    )
    done = {layer: metadata["result"] for layer, metadata in metadata_of(result, "evaluation").items()}
    assert done == {"00": "reused", "01": "computed", "02": "reused"}


def test_a_layer_that_lacks_its_inputs_does_not_stop_its_siblings(finished, tmp_path, instance):
    home = finished.copy_home(tmp_path)
    shutil.rmtree(home / "slices" / "graph_nodes" / "study=tiny" / "layer=2")
    for layer in (0, 1, 2):
        shutil.rmtree(home / "slices" / "layer_scores" / "study=tiny" / f"layer={layer}")
    result = (
        definitions_of(finished.study, home)
        .resolve_job_def("tiny")
        .execute_in_process(
            instance=instance, tags={RANGE_START: "00", RANGE_END: "02"}, raise_on_error=False,
            asset_selection=[finished.study.key("evaluation")],
        )
    )  # fmt: skip
    assert not result.success
    assert store_of(home).layers("layer_scores", "tiny") == [0, 1]


def test_a_unit_without_a_score_or_a_place_in_the_ledger_blocks(finished, tmp_path, instance):
    home = finished.copy_home(tmp_path)
    rewrite(home, "evaluation", 1, lambda frame: frame.filter(pl.col("predictor") != "skip_bigram"))
    evaluation = evaluate(finished, home, instance, "evaluation", "no_unit_is_missing")
    assert not evaluation.passed
    assert evaluation.blocking
    assert "4 units have no score of skip_bigram on top" in evaluation.description


# -------------------------------------------------------------------------------------------- doing only what is stale
def test_means_that_a_killed_run_did_not_write_are_made_again_without_the_model(finished, tmp_path, instance):
    home = finished.copy_home(tmp_path)
    store = store_of(home)
    before = store.manifest("layer_scores", "tiny", 1)
    folder = home / "slices" / "layer_scores" / "study=tiny" / "layer=1"
    shutil.rmtree(folder)
    result = run_job(finished.study, home, instance)
    after = store_of(home).manifest("layer_scores", "tiny", 1)
    assert after.content_hash == before.content_hash
    assert {m["result"] for m in metadata_of(result, "evaluation").values()} == {"reused"}


def test_a_killed_evaluation_scores_only_the_blocks_that_it_had_not_finished(finished, tmp_path, monkeypatch):
    home = finished.copy_home(tmp_path)
    tables = ("evaluation", "counterexamples", "failures", "layer_scores")
    before = {table: store_of(home).manifest(table, "tiny", 1).content_hash for table in tables}
    for table in tables:
        shutil.rmtree(home / "slices" / table / "study=tiny" / "layer=1")
    evaluate_units, scored = evaluation.evaluate_units, []

    def until(number):
        def counted(units, *rest):
            if len(scored) + len(units) > number:
                raise MemoryError
            scored.extend(units)
            return evaluate_units(units, *rest)

        monkeypatch.setattr(evaluation, "evaluate_units", counted)
        return evaluation.STAGE.work(Session(finished.study, Home(home), logging.getLogger()), 1, lambda *_: None)

    with pytest.raises(MemoryError):
        until(2)
    assert len(scored) == 2
    report = until(4)
    assert len(scored) == len(set(scored)) == 4
    assert (report.computed, report.kept) == (2, 2)
    assert {table: store_of(home).manifest(table, "tiny", 1).content_hash for table in tables} == before
    assert not list((home / "cache" / "sums").rglob("*.npz"))


def test_draws_that_are_lost_are_made_again_for_all_units(finished, tmp_path, monkeypatch):
    home = finished.copy_home(tmp_path)
    before = store_of(home).manifest("layer_scores", "tiny", 1).content_hash
    shutil.rmtree(home / "slices" / "layer_scores" / "study=tiny" / "layer=1")
    damaged = home / "cache" / "sums" / "tiny" / "1.npz"
    damaged.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_bytes(b"PK no archive")
    evaluation.STAGE.work(Session(finished.study, Home(home), logging.getLogger()), 1, lambda *_: None)
    assert store_of(home).manifest("layer_scores", "tiny", 1).content_hash == before


def test_more_neurons_keep_the_others_scores(finished, tmp_path, instance):
    home = finished.copy_home(tmp_path)
    before = rows_of(home, "evaluation")
    more = finished.study.settings.model_copy(
        update={"neurons": finished.study.settings.neurons.model_copy(update={"sample": 6})}
    )
    study = type(finished.study)("tiny", finished.study.folder, more)
    run_job(study, home, instance)
    after = rows_of(home, "evaluation")
    keys = ["layer", "unit", "sign", "predictor", "text"]
    others = pl.col("predictor") != "graph_shuffled"  # whose partner is another one among more units
    assert after.filter(others).join(before, on=keys, how="semi").sort(keys).equals(before.filter(others).sort(keys))
    assert after.select("layer", "unit").unique().height == 3 * 6


# -------------------------------------------------------------------------------------------- the paper's protocol
@pytest.fixture(scope="module")
def paper(tmp_path_factory, finished):
    """A finished run of the same study under the paper's preset."""
    home = finished.copy_home(tmp_path_factory.mktemp("paper"))
    settings = StudySettings(**(finished.study.settings.model_dump() | {"preset": "paper"}))
    study = type(finished.study)("tiny", finished.study.folder, settings)
    with dg.DagsterInstance.ephemeral() as instance:
        yield study, home, run_job(study, home, instance)


def test_the_papers_preset_does_nothing_else(paper):
    study, home, _ = paper
    assert study.companion is None
    stages = {key.path[-1] for key in definitions_of(study, home).resolve_all_asset_keys()}
    assert stages == {"subject_model", "corpus_tokens", *STAGES, "warehouse", "report"} - {"rule_tests"}
    rows = rows_of(home, "evaluation")
    assert set(rows["text"]) == {"top"}
    assert set(rows["predictor"]) == {"graph", "token_lookup", "ngram"}
    assert rows_of(home, "counterexamples").is_empty()


def test_the_papers_preset_gives_the_same_scores_of_the_same_graphs(paper, finished):
    _, home, _ = paper
    counts = ["layer", "unit", "predictor", "true_positives", "false_positives", "false_negatives", "true_negatives"]
    mine = rows_of(home, "evaluation").select(counts)
    full = rows_of(finished.home, "evaluation").filter(pl.col("text") == "top").select(counts)
    assert mine.join(full, on=counts, how="anti").is_empty()


def test_the_report_of_the_papers_preset_has_the_papers_table(paper):
    _, home, _ = paper
    page = (home / "reports" / "tiny.html").read_text(encoding="utf-8")
    assert "non-firing" in page
    assert "Rule tests" not in page


# -------------------------------------------------------------------------------------------- the report
def test_the_report_of_a_real_run_asks_for_nothing(finished):
    page = (finished.home / "reports" / "tiny.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert 'src="http' not in page
    model = rows_of(finished.home, "subject_models").row(0, named=True)
    assert model["file_sha256"] in page
    assert finished.study.name in page


@needs_browser
def test_the_report_of_a_real_run_renders_in_a_browser(finished):
    path = finished.home / "reports" / "tiny.html"
    shown = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={finished.home / 'browser'}",
         "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    for heading in ("Summary", "Protocol", "Results", "Controls", "Rule tests", "Failures", "Reproduce"):
        assert f">{heading}<" in shown
