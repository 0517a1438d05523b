"""The stage ``evaluation``: a whole small layer against a slow recomputation, and units counted by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from n2g_assets.core.registry import PREDICTORS, TEXTS, of_study
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.evaluate import evaluate_units
from n2g_assets.evaluation.failures import name_failures
from n2g_assets.evaluation.material import LayerMaterial, SharedMaterial
from n2g_assets.evaluation.texts import DocumentText
from n2g_assets.method.graph import NO_CLASSES, build_graphs
from n2g_assets.method.results import BlockResult, unit_frame
from n2g_assets_tests.evaluation.slow_evaluation import (
    chosen_n,
    contexts_of,
    mine,
    slow_counterexamples,
    slow_predictions,
    slow_scores,
    slow_thresholds,
)
from n2g_assets_tests.evaluation.small_layer import (
    A_MAX,
    DRAWS,
    EVALUATION,
    FITTED,
    LAYER,
    METHOD,
    UNITS,
    VOCABULARY,
    SmallLayer,
    frame_of,
    readings,
    small_layer,
)
from n2g_assets_tests.method.toy import conform, encode

TABLES = (
    "evaluation",
    "size_curve",
    "thresholds",
    "document_scores",
    "strength_examples",
    "counterexamples",
    "failures",
)
SUMS = ("actual_sum", "predicted_sum", "actual_square_sum", "predicted_square_sum", "product_sum")
TEXT_NAMES = [text.name for text in TEXTS]
PAPER_PREDICTORS = [predictor.name for predictor in of_study(PREDICTORS, "paper", "paper")]


@pytest.fixture(scope="module")
def layer() -> SmallLayer:
    return small_layer(1)


@pytest.fixture(scope="module")
def result(layer) -> BlockResult:
    return layer.evaluate()


def scores_of(result: BlockResult, unit: Unit, predictor: str) -> pl.DataFrame:
    """Rows of ``evaluation`` of one unit and predictor, without its name."""
    frame = result.tables["evaluation"].filter(unit=unit.number, sign=unit.sign, predictor=predictor)
    return frame.drop("predictor", "ngram_n")


# ------------------------------------------------------------------------------------------ against a slow evaluation
def test_every_unit_has_one_row_for_every_predictor_and_text(result):
    table = conform("evaluation", result.tables["evaluation"])
    expected = {(*unit, predictor, text) for unit in UNITS for predictor in FITTED for text in TEXT_NAMES}
    found = table.select("unit", "sign", "predictor", "text").rows()
    assert set(found) == expected
    assert len(found) == len(expected)
    assert list(result.ledger) == list(UNITS)
    assert {outcome.status for outcome in result.ledger.values()} == {"ok"}
    assert sorted(result.tables) == sorted(TABLES)


@pytest.mark.parametrize("preset", ["paper", "evidence"])
def test_scores_equal_a_slow_recomputation(layer, result, preset):
    """Every predictor, text, unit and sign; the controls from the partner's graph and from paths without variants."""
    if preset == "evidence":
        layer = small_layer(3, preset=preset)
        result = layer.evaluate()
    table, fitted = result.tables["evaluation"], layer.material.predictors
    thresholds = {(unit, name): slow_thresholds(layer, unit, name) for unit in UNITS for name in fitted}
    for row in table.iter_rows(named=True):
        unit, predictor = Unit(row["unit"], row["sign"]), row["predictor"]
        contexts = contexts_of(layer, unit, row["text"])
        alarm, predicted = thresholds[unit, predictor][row["text"]], slow_predictions(layer, unit, predictor, contexts)
        assert row["threshold"] == pytest.approx(alarm, abs=1e-6)
        expected = slow_scores(contexts, predicted, alarm, DRAWS, EVALUATION.seed)
        for name, value in expected.items():
            # the back-off n-gram forgets runs that change a value by less than a hundredth
            graded = name.startswith(("pearson_r", "explained_variance"))
            slack = 0.02 if graded and predictor == "ngram_backoff" else 1e-5
            wanted = value if value is None or isinstance(value, int) else pytest.approx(value, abs=slack)
            assert row[name] == wanted, (unit, predictor, row["text"], name)
        assert row["ngram_n"] == (chosen_n(layer, unit) if predictor == "ngram" else None)
    defined = table.filter(pl.col("f1").is_not_null())
    assert 0 < defined["f1_low"].null_count() < defined.height  # too few firing documents in some, enough in others
    assert 0 < table["pearson_r_low"].null_count() < table.height  # a constant prediction, or too few documents
    for text in TEXT_NAMES:  # no predictor could stand for another here
        counts = table.filter(text=text).group_by("predictor").agg("true_positives", "false_positives")
        assert counts.drop("predictor").n_unique() == len(fitted)
    tokens = dict(table.group_by("text").agg(pl.col("n_tokens").sum()).iter_rows())
    assert tokens["quantiles"] < tokens["random"]


def test_the_shuffled_control_scores_as_the_partners_graph_would_as_the_units_own(layer, result):
    for unit, partner in layer.material.partners.items():
        assert partner != unit
        nodes = mine(layer, "graph_nodes", partner).with_columns(
            unit=pl.lit(unit.number, pl.Int32), sign=pl.lit(unit.sign, pl.Int8)
        )
        swapped = layer.with_rows(graph_nodes=nodes).but(predictors=["graph"]).evaluate([unit])
        as_own = scores_of(swapped, unit, "graph")
        assert_frame_equal(scores_of(result, unit, "graph_shuffled"), as_own)
        assert not as_own.equals(scores_of(result, unit, "graph"))


def test_the_unaugmented_control_scores_as_a_graph_built_without_variants(layer, result):
    rows = layer.material.rows
    built = build_graphs(
        UNITS, rows["pruned_examples"], rows["saliencies"], unit_frame("augmented_examples", []), layer.material.a_max,
        VOCABULARY, METHOD,
    )  # fmt: skip
    without = layer.with_rows(**built.tables).but(predictors=["graph"]).evaluate()
    for unit in UNITS:
        assert layer.augmented.filter(unit=unit.number, sign=unit.sign)["kept"].any()
        as_own = scores_of(without, unit, "graph")
        assert_frame_equal(scores_of(result, unit, "graph_unaugmented"), as_own)
        assert not as_own.equals(scores_of(result, unit, "graph"))


@pytest.mark.parametrize("preset", ["paper", "evidence"])
def test_the_thresholds_are_stored_and_those_of_the_rows(layer, result, preset):
    found = result.tables if preset == "paper" else small_layer(1, preset=preset).evaluate().tables
    table = conform("thresholds", found["thresholds"])
    kinds = pl.DataFrame([(text.name, text.threshold) for text in TEXTS], ["text", "kind"], orient="row")
    used = found["evaluation"].join(kinds, on="text").join(table, on=["unit", "sign", "predictor", "kind"])
    assert used.height == found["evaluation"].height
    assert used["threshold"].equals(used["threshold_right"], check_names=False)
    if preset == "paper":
        assert table.select("threshold", "f1", "n_firings").unique().rows() == [(METHOD.firing_threshold, None, None)]
    else:
        assert table["n_firings"].null_count() == 0
        assert table.n_unique(["threshold"]) > 10


@pytest.mark.parametrize("keep", [0, 1, 4, 1000])
def test_counterexamples_are_the_most_confident_errors_and_of_equals_the_first_of_the_text(layer, keep):
    settings = EVALUATION.model_copy(update={"counterexamples": keep})
    table = layer.but(evaluation=settings, predictors=["graph"]).evaluate().tables["counterexamples"]
    assert conform("counterexamples", table).height == table.height
    expected = [
        row | {"rank": rank}
        for unit in UNITS
        for text in ("random", "out_of_domain")
        for kind in ("false_alarm", "miss")
        for rank, row in enumerate(slow_counterexamples(layer, unit, text, kind)[:keep])
    ]
    assert table.to_dicts() == expected
    if keep == 1000:
        assert set(table["cause"]) == {"rule fired wrongly", "token unknown", "context unmatched"}
        ties = table.group_by("unit", "sign", "text", "kind", pl.col("predicted") - pl.col("actual")).len()
        assert ties["len"].max() > 4  # which of them are kept is decided by their order


def test_failures_are_those_of_the_rows_that_are_given_back(layer, result):
    tables = {**layer.material.rows, **{name: result.tables[name] for name in ("evaluation", "counterexamples")}}
    expected = []
    for unit in UNITS:
        own = {name: frame.filter(unit=unit.number, sign=unit.sign) for name, frame in tables.items()}
        expected.append(name_failures(unit, own, VOCABULARY, A_MAX, METHOD.firing_threshold))
    assert result.tables["failures"].height
    assert_frame_equal(result.tables["failures"], pl.concat(expected))


def test_document_scores_add_up_to_the_rows_of_evaluation(result):
    documents = conform("document_scores", result.tables["document_scores"])
    key = ["unit", "sign", "predictor", "text"]
    counts = ["n_tokens", "true_positives", "false_positives", "false_negatives"]
    fired = pl.col("firing").list.sum()
    assert documents.select((fired == pl.col("true_positives") + pl.col("false_negatives")).all()).item()
    assert documents.select((fired + pl.col("silent").list.sum() == pl.col("n_tokens")).all()).item()
    assert documents.select((pl.col("levels").list.diff().list.min().fill_null(1) > 0).all()).item()
    summed = documents.group_by(key).agg(pl.col(counts).sum(), n_documents=pl.len()).sort(key)
    expected = result.tables["evaluation"].filter(pl.col("n_tokens") > 0).select(*key, *counts, "n_documents").sort(key)
    assert_frame_equal(summed, expected, check_dtypes=False)
    n, (x, y, xx, yy, xy) = pl.col("n_tokens"), map(pl.col, SUMS)
    r = (n * xy - x * y) / ((n * xx - x**2) * (n * yy - y**2)).sqrt()
    together = documents.group_by(key).agg(pl.col("n_tokens", *SUMS).sum()).select(*key, pearson_r=r)
    told = result.tables["evaluation"].filter(pl.col("pearson_r").is_not_null()).select(*key, "pearson_r")
    found = told.join(together, on=key).select(*key, pearson_r="pearson_r_right")
    assert_frame_equal(found.sort(key), told.sort(key))


def test_a_negative_unit_fires_where_its_neuron_is_most_negative(layer, result):
    raw = [layer.neurons[3](np.array(tokens)) for tokens in layer.texts["random"]["token_ids"]]
    values = np.concatenate([row[1:] for row in raw])
    for sign in (1, -1):
        [n] = scores_of(result, Unit(3, sign), "graph").filter(text="random")["n_firings"]
        assert n == np.count_nonzero(sign * values >= A_MAX / 2)


# ------------------------------------------------------------------------------------------ by hand
def not_read() -> NoReturn:
    """The harvest, where no predictor learns from it."""
    raise AssertionError("the harvest is read")


def by_hand(
    unit: Unit,
    examples: Sequence[tuple[str, str, Sequence[float]]],
    nodes: Sequence[tuple[int | None, bytes | None, float | None]],
    text: Sequence[tuple[str, Sequence[float]]] = (),
) -> LayerMaterial:
    """A unit from its contexts (side, words, activations), its nodes (parent, form, end) and held-out contexts."""
    top = [
        {
            **unit.key(), "rank": rank, "context_id": f"d{rank}:0", "document_id": f"d{rank}",
            "peak": 1 + int(np.argmax(activations[1:])), "split": split, "activation": max(activations[1:]),
            "token_ids": encode(VOCABULARY, *words.split("/")), "activations": np.array(activations, np.float32),
        }
        for rank, (split, words, activations) in enumerate(examples)
    ]  # fmt: skip
    graph = [
        {
            **unit.key(), "node_id": number, "parent_id": parent, "depth": int(parent is not None),
            "kind": "activating" if parent is None else "context", "token": form, "activation": 1.0,
            "importance": None, "end_activation": end, "end_count": int(end is not None),
            "offset": -int(parent is not None), "all_but": False, **NO_CLASSES,
        }
        for number, (parent, form, end) in enumerate(nodes)
    ]  # fmt: skip
    ends = [number for number, (_, _, end) in enumerate(nodes) if end is not None]
    rules = [
        {
            **unit.key(), "rule_id": rule, "end_node_id": number, "pattern": "", "tokens": [nodes[0][1]],
            "activation": 1.0, "count": 1, **NO_CLASSES,
        }
        for rule, number in enumerate(ends)
    ]  # fmt: skip
    names = ("pruned_examples", "saliencies", "rule_tests", "token_classes")
    rows = {
        "top_examples": unit_frame("top_examples", top), "graph_nodes": unit_frame("graph_nodes", graph),
        "rules": unit_frame("rules", rules), **{name: unit_frame(name, []) for name in names},
    }  # fmt: skip
    activations = {tuple(encode(VOCABULARY, *words.split("/")).tolist()): values for words, values in text}
    corpus = frame_of([(f"h{i}:0", f"h{i}", list(token_ids)) for i, token_ids in enumerate(activations)])
    read = readings({"random": corpus}, lambda _, token_ids: np.array(activations[tuple(token_ids)], np.float32))
    texts = {"random": DocumentText.of(corpus, VOCABULARY)} if text else {}
    return LayerMaterial(
        SharedMaterial(VOCABULARY, not_read, METHOD, "paper", 0), layer=LAYER, rows=rows, a_max={unit: 4.0},
        texts=texts, read=read, read_harvest=lambda _: not_read(), partners={}, predictors=PAPER_PREDICTORS,
        evaluation=EVALUATION,
    )  # fmt: skip


TRAIN = [("train", "a/ Cat/b", [9, 0, 4, 0]), ("train", "a/cat/c", [9, 0, 2, 0])]
TEST = [("test", "a/cat/b/cat", [9, 0, 3, 0, 1]), ("test", "c/d", [9, 0, 2])]


def test_counts_of_a_unit_done_by_hand():
    """The graph asks for a before cat; the lookup fires on any cat; BOS counts nowhere, loud as it may be."""
    unit, nodes = Unit(7, 1), [(None, b"cat", None), (0, b"a", 0.75)]
    found = evaluate_units([unit], by_hand(unit, TRAIN + TEST, nodes))
    rows = {row["predictor"]: row for row in found.tables["evaluation"].iter_rows(named=True)}
    counts = ("true_positives", "false_positives", "false_negatives", "true_negatives")
    assert {name: tuple(row[count] for count in counts) for name, row in rows.items()} == {
        "graph": (1, 0, 1, 4), "token_lookup": (1, 1, 1, 3), "ngram": (1, 0, 1, 4),
    }  # fmt: skip
    graph = rows["graph"]
    assert (graph["precision"], graph["recall"], graph["f1"]) == (1.0, 0.5, 2 / 3)
    assert (graph["n_tokens"], graph["n_documents"], graph["n_firings"]) == (6, 2, 2)
    assert (graph["coverage_firings"], graph["coverage_mass"]) == (0.5, 0.5)
    assert [rows[name]["ngram_n"] for name in PAPER_PREDICTORS] == [None, None, 2]


def test_counterexamples_of_a_unit_done_by_hand():
    """One of every cause; rules are named by their ends, windows stop at the token in question."""
    unit, nodes = Unit(7, -1), [(None, b"cat", 0.25), (0, b"a", 0.75), (None, b"d", None), (2, b"e", 1.0)]
    text = [("a/cat/cat/b", [9, 0, 1, 3, 4]), ("d/e/d", [-9, 2, 0, 3.75])]
    found = evaluate_units([unit], by_hand(unit, TRAIN + TEST, nodes, text)).tables
    columns = ["kind", "rank", "context_id", "position", "predicted", "actual", "cause", "rule_id", "token_ids"]
    first, second = (encode(VOCABULARY, *words.split("/")).tolist() for words, _ in text)
    assert found["counterexamples"].select(columns).rows() == [
        ("false_alarm", 0, "h0:0", 2, 0.75, 0.25, "rule fired wrongly", 1, first[:3]),
        ("miss", 0, "h0:0", 4, 0.0, 1.0, "token unknown", None, first[:5]),
        ("miss", 1, "h0:0", 3, 0.25, 0.75, "value too low", 0, first[:4]),
        ("miss", 2, "h1:0", 1, 0.0, 0.5, "context unmatched", None, second[:2]),
    ]
    assert set(found["counterexamples"]["sign"]) == {-1}
    graph = found["evaluation"].filter(predictor="graph", text="random").row(0, named=True)
    assert (graph["true_positives"], graph["false_positives"], graph["false_negatives"]) == (1, 1, 3)
    assert (graph["n_tokens"], graph["n_documents"]) == (7, 2)
