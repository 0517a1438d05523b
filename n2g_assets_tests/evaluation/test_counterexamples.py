"""Counterexamples: what is kept, in which order, and why it is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from n2g_assets.core.units import Unit
from n2g_assets.evaluation.failures import find_counterexamples
from n2g_assets.evaluation.texts import DocumentText
from n2g_assets.method.results import unit_frame
from n2g_assets_tests.evaluation import classes_by_hand as by_hand
from n2g_assets_tests.evaluation.small_layer import frame_of
from n2g_assets_tests.method.toy import BOS, vocabulary_of

VOCABULARY = vocabulary_of(["a", "b"])
UNIT, A, B = Unit(4, -1), 2, 3
RULES = pl.DataFrame({"end_node_id": [8, 7], "rule_id": [0, 3]})


@dataclass
class PrescribedGraph:
    """Predicts what it is told to; a is its only activating token."""

    predicted: np.ndarray
    ends: np.ndarray

    def activating(self, text):
        return text.forms == VOCABULARY.form_of[A]

    def predict_with_ends(self, text):
        return self.predicted, self.ends


def text_of(lengths: Sequence[int]) -> DocumentText:
    """Contexts of some lengths, BOS counted, all of the token a."""
    frame = frame_of([(str(number), "d", [BOS, *[A] * (length - 1)]) for number, length in enumerate(lengths)])
    return DocumentText.of(frame, VOCABULARY)


def found(text: DocumentText, actual, predicted, keep: int, ends=None, alarm=0.5) -> list[dict]:
    graph = PrescribedGraph(
        np.array(predicted, np.float32), np.full(len(text.encoded), -1) if ends is None else np.array(ends)
    )
    return find_counterexamples(UNIT, graph, RULES, "random", text, np.array(actual, np.float32), 0.5, alarm, keep)


TOKENS = st.lists(st.tuples(st.sampled_from([0, 0.25, 0.5, 1]), st.sampled_from([0, 0.25, 0.5, 0.75, 1])), max_size=24)


@given(TOKENS, st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(0, 4))
def test_the_most_confident_errors_are_kept_and_of_equals_the_first_of_the_text(tokens, lengths, keep):
    lengths = [*lengths, max(1, len(tokens) - sum(lengths))]
    actual, predicted = ([*(pair[i] for pair in tokens), *[0] * (sum(lengths) - len(tokens))] for i in (0, 1))
    rows = found(text_of(lengths), actual, predicted, keep)
    where = [(context, position) for context, length in enumerate(lengths) for position in range(length)]
    expected = []
    for kind, alarm in (("false_alarm", True), ("miss", False)):
        wrong = [
            (-abs(p - a), context, position)
            for (context, position), a, p in zip(where, actual, predicted, strict=True)
            if position > 0 and (p >= 0.5) is alarm and (a >= 0.5) is not alarm
        ]
        kept = sorted(wrong)[:keep]
        expected += [(kind, rank, str(context), position) for rank, (_, context, position) in enumerate(kept)]
    assert [(row["kind"], row["rank"], row["context_id"], row["position"]) for row in rows] == expected


@pytest.mark.parametrize(
    ("token", "actual", "predicted", "end", "kind", "cause", "rule"),
    [
        (A, 0.0, 0.5, 7, "false_alarm", "rule fired wrongly", 3),
        (B, 0.5, 0.0, -1, "miss", "token unknown", None),
        (A, 0.5, 0.0, -1, "miss", "context unmatched", None),
        (A, 0.5, 0.25, 7, "miss", "value too low", 3),
        (A, 1.0, 0.0, 8, "miss", "value too low", 0),
    ],
)
def test_causes(token, actual, predicted, end, kind, cause, rule):
    frame = frame_of([("h:0", "h", [BOS, B, token, A])])
    text = DocumentText.of(frame, VOCABULARY)
    [row] = found(text, [0, 0, actual, 0], [0, 0, predicted, 0], 5, [-1, -1, end, -1])
    assert row == {
        "unit": 4, "sign": -1, "text": "random", "kind": kind, "rank": 0, "context_id": "h:0", "position": 2,
        "predicted": predicted, "actual": actual, "token_ids": [BOS, B, token], "cause": cause, "rule_id": rule,
    }  # fmt: skip
    assert unit_frame("counterexamples", [row]).height == 1


def test_the_unit_may_be_predicted_to_fire_from_another_prediction_on_than_it_fires():
    rows = found(text_of([5]), [0, 0.5, 0.5, 0.25, 0.25], [0, 0.25, 0.125, 0.25, 0.125], 5, alarm=0.25)
    assert [(row["kind"], row["position"]) for row in rows] == [("false_alarm", 3), ("miss", 2)]


def test_right_predictions_and_position_0_are_no_errors():
    assert found(text_of([3, 2]), [1, 0.5, 0.2, 0, 0.6], [0, 0.9, 0.4, 1, 0.5], 5) == []


def test_of_a_graph_of_classes_every_token_has_a_rule_and_is_unknown_outside_classes_that_expect_more():
    """The unit likes 2, which its graph has never seen it do."""
    graph = by_hand.grown(by_hand.neuron_of())
    rules, *_ = by_hand.frames_of({by_hand.UNIT: graph})
    tokens = by_hand.random_text(5, contexts=6)
    frame = frame_of([(str(number), "d", row.tolist()) for number, row in enumerate(tokens)])
    text = DocumentText.of(frame, by_hand.VOCABULARY)
    actual = np.concatenate([by_hand.neuron_of(liked=[2, 3], weak=2.0)(row) for row in tokens]) / by_hand.A_MAX
    rows = find_counterexamples(by_hand.UNIT, graph, rules, "random", text, actual, 0.5, 0.5, 99)
    nodes = dict(rules.select("rule_id", "end_node_id").iter_rows())
    causes = {("false_alarm", 5): "rule fired wrongly", ("miss", 2): "token unknown", ("miss", 3): "value too low"}
    causes["false_alarm", 8] = "rule fired wrongly"
    assert {(row["kind"], row["token_ids"][-1]) for row in rows} == set(causes)
    for row in rows:
        assert row["cause"] == causes[row["kind"], row["token_ids"][-1]]
        assert row["predicted"] == graph.values[nodes[row["rule_id"]]]
