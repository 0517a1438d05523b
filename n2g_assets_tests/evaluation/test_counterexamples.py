"""Counterexamples shard by shard: what is kept, in which order, and why it is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from n2g_assets.core.units import Unit
from n2g_assets.evaluation.counterexamples import Counterexamples, rules_of_ends
from n2g_assets.evaluation.texts import HeldOutText, Shard
from n2g_assets.method.results import unit_frame
from n2g_assets_tests.evaluation.small_layer import frame_of
from n2g_assets_tests.method.toy import BOS, vocabulary_of

VOCABULARY = vocabulary_of(["a", "b"])
UNIT, A, B = Unit(4, -1), 2, 3
KNOWN = VOCABULARY.form_of[[A]]


def shards_of(lengths: Sequence[Sequence[int]]) -> list[Shard]:
    """Shards of contexts of some lengths, all of the token a."""
    frames = [
        frame_of([(f"{s}:{c}", f"d{s}", [BOS, *[A] * (length - 1)]) for c, length in enumerate(shard)])
        for s, shard in enumerate(lengths)
    ]
    return HeldOutText.of("random", frames, VOCABULARY, lambda *_: np.zeros((1, 0), np.float32)).shards


def collected(shards: Sequence[Shard], actual, predicted, keep: int, ends=None) -> list[dict]:
    """Rows of a text whose tokens, through all shards, have these values."""
    found, at = Counterexamples(UNIT, "random", 0.5, keep), 0
    for shard in shards:
        here = slice(at, at := at + len(shard.encoded))
        reached = np.full(len(shard.encoded), -1, np.int32) if ends is None else np.array(ends[here], np.int32)
        found.add(shard, np.array(actual[here], np.float32), np.array(predicted[here], np.float32), reached, KNOWN)
    return list(found.rows({7: 3}))


def test_of_equal_errors_the_first_of_the_text_are_kept_however_it_is_cut():
    """The third shard comes after the second although the second pushed most of the first out."""
    actual = [0, 1.0, 0.75, 0.75, 0, 1.0, 1.0, 0, 1.0, 0.75]
    for lengths in ([[10]], [[4], [3], [3]], [[2, 2], [3, 3]]):
        begins = np.cumsum([0, *(length for shard in lengths for length in shard)])
        values = [0.0 if place in begins else value for place, value in enumerate(actual)]
        names = [f"{s}:{c}" for s, shard in enumerate(lengths) for c in range(len(shard))]
        first = dict(zip(names, begins.tolist(), strict=False))
        rows = collected(shards_of(lengths), values, [0.0] * 10, keep=3)
        found = [first[row["context_id"]] + row["position"] for row in rows]
        assert found == sorted((p for p in range(10) if values[p] >= 0.5), key=lambda p: -values[p])[:3]
        assert [row["rank"] for row in rows] == [0, 1, 2]


TOKENS = st.lists(st.tuples(st.sampled_from([0, 0.25, 0.5, 1]), st.sampled_from([0, 0.25, 0.5, 0.75, 1])), max_size=24)


@given(TOKENS, st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(0, 4))
def test_the_cut_into_shards_changes_nothing(tokens, lengths, keep):
    """The same contexts in one shard and in a shard each, against all errors in order."""
    lengths = [*lengths, max(1, len(tokens) - sum(lengths))]
    actual, predicted = ([*(pair[i] for pair in tokens), *[0] * (sum(lengths) - len(tokens))] for i in (0, 1))
    one, many = shards_of([lengths]), shards_of([[length] for length in lengths])
    rows = [collected(shards, actual, predicted, keep) for shards in (one, many)]
    columns = ("kind", "rank", "position", "predicted", "actual", "cause", "token_ids")
    assert [[row[name] for name in columns] for row in rows[0]] == [[row[name] for name in columns] for row in rows[1]]
    where = [(context, position) for context, length in enumerate(lengths) for position in range(length)]
    expected = []
    for kind, alarm in (("false_alarm", True), ("miss", False)):
        wrong = [
            (-abs(p - a), context, position)
            for (context, position), a, p in zip(where, actual, predicted, strict=True)
            if position > 0 and (p >= 0.5) is alarm and (a >= 0.5) is not alarm
        ]
        expected += [(kind, f"0:{context}", position) for _, context, position in sorted(wrong)[:keep]]
    assert [(row["kind"], row["context_id"], row["position"]) for row in rows[0]] == expected


@pytest.mark.parametrize(
    ("token", "actual", "predicted", "end", "kind", "cause", "rule"),
    [
        (A, 0.0, 0.5, 7, "false_alarm", "rule fired wrongly", 3),
        (B, 0.5, 0.0, -1, "miss", "token unknown", None),
        (A, 0.5, 0.0, -1, "miss", "context unmatched", None),
        (A, 0.5, 0.25, 7, "miss", "value too low", 3),
        (A, 1.0, 0.0, 7, "miss", "value too low", 3),
    ],
)
def test_causes(token, actual, predicted, end, kind, cause, rule):
    frame = frame_of([("h:0", "h", [BOS, B, token, A])])
    [shard] = HeldOutText.of("random", [frame], VOCABULARY, lambda *_: np.zeros((1, 0), np.float32)).shards
    [row] = collected([shard], [0, 0, actual, 0], [0, 0, predicted, 0], 5, [-1, -1, end, -1])
    assert row == {
        "unit": 4, "sign": -1, "text": "random", "kind": kind, "rank": 0, "context_id": "h:0", "position": 2,
        "predicted": predicted, "actual": actual, "token_ids": [BOS, B, token], "cause": cause, "rule_id": rule,
    }  # fmt: skip
    assert unit_frame("counterexamples", [row]).height == 1


def test_right_predictions_and_position_0_are_no_errors():
    shards = shards_of([[3, 2]])
    assert collected(shards, [1, 0.5, 0.2, 0, 0.6], [0, 0.9, 0.4, 1, 0.5], 5) == []


def test_each_rule_is_known_by_the_node_at_which_it_ends():
    rules = [
        {
            **UNIT._asdict(),
            "rule_id": rule,
            "end_node_id": end,
            "pattern": "",
            "tokens": [b"a"],
            "activation": 1.0,
            "count": 1,
        }
        for rule, end in enumerate((8, 2, 5))
    ]
    assert rules_of_ends(unit_frame("rules", rules)) == {8: 0, 2: 1, 5: 2}
    assert rules_of_ends(unit_frame("rules", [])) == {}
