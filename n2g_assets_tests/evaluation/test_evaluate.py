"""The stage ``evaluation``: counts written out by hand, and against slow predictors on made-up units."""

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.evaluation.evaluate import PREDICTORS, evaluate_units
from n2g_assets.method.probing import Unit
from n2g_assets.method.results import unit_frame
from n2g_assets.settings import MethodSettings
from n2g_assets_tests.evaluation.slow_baselines import slow_choice, slow_fit, slow_predict
from n2g_assets_tests.method.slow_graph import slow_predict as slow_predict_graph
from n2g_assets_tests.method.toy import conform, encode, vocabulary_of

VOCABULARY = vocabulary_of([" except", "All", " all", " of", " them", "."])
A_MAX = 4.0


def example(unit: Unit, rank: int, split: str, tokens, activations) -> dict:
    peak = 1 + int(np.argmax(activations[1:]))
    return {
        "neuron": unit.neuron, "sign": unit.sign, "rank": rank, "context_id": f"d{rank}:0", "document_id": f"d{rank}",
        "peak": peak, "split": split, "activation": activations[peak], "token_ids": np.asarray(tokens),
        "activations": np.asarray(activations, np.float32),
    }  # fmt: skip


def node(unit: Unit, node_id: int, parent_id: int | None, depth: int, token: bytes | None, end: float | None) -> dict:
    kind = "activating" if parent_id is None else "ignore" if token is None else "context"
    return {
        "neuron": unit.neuron, "sign": unit.sign, "node_id": node_id, "parent_id": parent_id, "depth": depth,
        "kind": kind, "token": token, "activation": 1.0, "importance": None, "end_activation": end,
        "end_count": int(end is not None),
    }  # fmt: skip


def evaluated(units, examples, nodes, a_max=None):
    return evaluate_units(
        units,
        unit_frame("top_examples", examples),
        unit_frame("graph_nodes", nodes),
        a_max or dict.fromkeys(units, A_MAX),
        VOCABULARY,
        MethodSettings(),
    )


def test_counts_of_a_unit_done_by_hand():
    """The graph asks for All before except; the lookup fires on any except; BOS counts nowhere, fire as it may."""
    unit = Unit(7, 1)
    train = [
        example(unit, 0, "train", encode(VOCABULARY, "All", " except", "."), [9, 0, 4, 0]),
        example(unit, 2, "train", encode(VOCABULARY, " all", " except", " of"), [9, 0, 2, 0]),
    ]
    test = [
        example(unit, 1, "test", encode(VOCABULARY, " all", " except", " of", " except"), [9, 0, 3, 0, 1]),
        example(unit, 3, "test", encode(VOCABULARY, " of", " them"), [9, 0, 2]),
    ]
    graph = [node(unit, 0, None, 0, b"except", None), node(unit, 1, 0, 1, b"all", 0.75)]
    result = evaluated([unit], train + test, graph)
    rows = {row["predictor"]: row for row in conform("evaluation", result.tables["evaluation"]).iter_rows(named=True)}
    counts = {
        name: tuple(row[f"{c}"] for c in ("true_positives", "false_positives", "false_negatives", "true_negatives"))
        for name, row in rows.items()
    }
    assert counts == {"graph": (1, 0, 1, 4), "token_lookup": (1, 1, 1, 3), "ngram": (1, 0, 1, 4)}
    assert (rows["graph"]["precision"], rows["graph"]["recall"], rows["graph"]["f1"]) == (1.0, 0.5, 2 / 3)
    assert {row["n_firings"] for row in rows.values()} == {2}
    assert {row["text"] for row in rows.values()} == {"top"}
    assert (rows["graph"]["ngram_n"], rows["token_lookup"]["ngram_n"], rows["ngram"]["ngram_n"]) == (None, None, 2)
    assert result.ledger[unit].status == "ok"


def test_a_unit_without_a_graph_stays_in_the_table_and_is_predicted_silent():
    unit = Unit(1, -1)
    tokens = encode(VOCABULARY, "All", ".")
    rows = [example(unit, i, split, tokens, [0, 4, 0]) for i, split in enumerate(("train", "test"))]
    table = evaluated([unit], rows, []).tables["evaluation"]
    graph = table.row(by_predicate=pl.col("predictor") == "graph", named=True)
    assert (graph["true_positives"], graph["false_negatives"], graph["true_negatives"]) == (0, 1, 1)
    assert (graph["precision"], graph["recall"], graph["f1"]) == (None, 0.0, 0.0)


def test_every_unit_of_the_block_is_in_the_ledger_and_a_bad_one_does_not_take_others_with_it():
    good, missing, one_sided, broken = (Unit(neuron, 1) for neuron in range(4))
    tokens = encode(VOCABULARY, "All", ".")
    rows = [example(unit, i, s, tokens, [0, 4, 0]) for unit in (good, broken) for i, s in ((0, "train"), (1, "test"))]
    rows[-1]["activations"] = np.array([0, np.nan, 0], np.float32)
    rows.append(example(one_sided, 0, "train", tokens, [0, 4, 0]))
    result = evaluated([good, missing, one_sided, broken], rows, [])
    assert [outcome.status for outcome in result.ledger.values()] == ["ok", "failed", "too_few_contexts", "failed"]
    assert list(result.ledger) == [good, missing, one_sided, broken]
    assert "NaN" in result.ledger[broken].reason
    assert result.tables["evaluation"]["neuron"].unique().to_list() == [0]


def test_an_empty_block_has_the_schema_of_the_table():
    assert conform("evaluation", evaluated([], [], []).tables["evaluation"]).is_empty()


CONTEXT = st.lists(
    st.tuples(st.integers(0, len(VOCABULARY.tokens) - 1), st.sampled_from([-1.0, 0.0, 1.0, 2.0, 3.0, 4.0])),
    min_size=1,
    max_size=10,
)


@st.composite
def tries(draw, unit: Unit):
    """A random trie with distinct siblings."""
    rows = []
    forms = [None, *VOCABULARY.forms]
    for _ in range(draw(st.integers(0, 8))):
        parent = draw(st.sampled_from([None, *range(len(rows))]))
        token = draw(st.sampled_from(forms[1:] if parent is None else forms))
        if any(row["parent_id"] == parent and row["token"] == token for row in rows):
            continue
        depth = 0 if parent is None else rows[parent]["depth"] + 1
        rows.append(node(unit, len(rows), parent, depth, token, draw(st.sampled_from([None, 0.25, 0.5, 1.0]))))
    return rows


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_counts_of_all_predictors_equal_those_of_slow_ones(data):
    units = [Unit(0, 1), Unit(0, -1), Unit(5, 1)]
    examples, nodes = [], []
    for unit in units:
        sides = ["train", "test", *data.draw(st.lists(st.sampled_from(["train", "test"]), max_size=3))]
        for rank, side in enumerate(sides):
            context = data.draw(CONTEXT)
            tokens = np.array([0, *(token for token, _ in context)], np.int32)
            examples.append(example(unit, rank, side, tokens, [4.0, *(value for _, value in context)]))
        nodes += data.draw(tries(unit))
    table = evaluated(units, examples, nodes).tables["evaluation"]
    assert table.height == len(units) * len(PREDICTORS)
    for unit in units:
        mine = {
            side: [row for row in examples if (row["neuron"], row["sign"], row["split"]) == (*unit, side)]
            for side in ("train", "test")
        }
        forms = {side: [VOCABULARY.form_of[row["token_ids"]] for row in rows] for side, rows in mine.items()}
        truth = {side: [row["activations"] / A_MAX for row in rows] for side, rows in mine.items()}
        n = slow_choice(forms["train"], truth["train"], 0.5)
        graph = unit_frame("graph_nodes", [row for row in nodes if (row["neuron"], row["sign"]) == unit])
        means = {size: slow_fit(forms["train"], truth["train"], size) for size in (1, n)}
        predicted = {
            "graph": [slow_predict_graph(graph, [VOCABULARY.forms[i] for i in one])[0] for one in forms["test"]],
            "token_lookup": [slow_predict(means[1], one, 1) for one in forms["test"]],
            "ngram": [slow_predict(means[n], one, n) for one in forms["test"]],
        }
        for row in table.filter(neuron=unit.neuron, sign=unit.sign).iter_rows(named=True):
            pairs = [
                (bool(a >= 0.5), bool(p >= 0.5))
                for values, guesses in zip(truth["test"], predicted[row["predictor"]], strict=True)
                for a, p in list(zip(values, guesses, strict=True))[1:]
            ]
            assert row["true_positives"] == pairs.count((True, True))
            assert row["false_positives"] == pairs.count((False, True))
            assert row["false_negatives"] == pairs.count((True, False))
            assert row["true_negatives"] == pairs.count((False, False))
            assert row["ngram_n"] == (n if row["predictor"] == "ngram" else None)
