"""Graphs of token classes as rows and back, and what their rules say, against a slow reader of the rows."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from n2g_assets.core.units import Unit
from n2g_assets.method.class_rows import SHOWN, TokenClass, classes_of, graph_frames, graph_of_rows, pattern
from n2g_assets.method.classes import ClassGraph
from n2g_assets_tests.method.class_harvest import Harvest
from n2g_assets_tests.method.slow_classes import questions_of, slow_predict_classes, slow_rules
from n2g_assets_tests.method.toy import BOS, conform, vocabulary_of

UNIT = Unit(7, -1)
WORDS = ["a", "b", " c", "d", "e", "f", "g", "h", "i", "j"]
VOCABULARY = vocabulary_of(WORDS)
IMPORTANCES = {1: 0.5, 4: -0.25}


@pytest.fixture(scope="module", params=range(4))
def graph(request) -> ClassGraph:
    """Of a harvest of its own; noise makes rules of many classes."""
    harvest = Harvest(request.param)
    harvest.values += np.random.default_rng(request.param).normal(0, 0.2, len(harvest.values)).astype(np.float32)
    return harvest.grow(max_rules=30, class_shrinkage=0.5)


@pytest.fixture(scope="module")
def frames(graph) -> dict[str, pl.DataFrame]:
    return graph_frames(UNIT, graph, IMPORTANCES, VOCABULARY)


def nodes_of(frames: dict[str, pl.DataFrame]) -> dict[int, dict]:
    return {row["node_id"]: row for row in frames["graph_nodes"].iter_rows(named=True)}


def classes(**at: tuple[str, bool]) -> list[TokenClass]:
    """By offset (``o2``: -2), the letters of a class and whether it takes all but these."""
    found = []
    for offset, (letters, all_but) in at.items():
        tokens = np.array([VOCABULARY.tokens.index(letter.encode()) for letter in letters], np.int32)
        found.append(TokenClass(-int(offset[1:]), tokens, np.ones(len(tokens)), all_but, np.zeros(len(tokens))))
    return found


# -------------------------------------------------------------------------------------------- rows and back
def test_the_graph_of_its_rows_in_any_order_is_the_graph(graph, frames):
    stored = {name: conform(name, frame).sample(fraction=1, shuffle=True, seed=0) for name, frame in frames.items()}
    found = graph_of_rows(stored["graph_nodes"], stored["token_classes"], BOS)
    for field in fields(ClassGraph):
        one, other = getattr(found, field.name), getattr(graph, field.name)
        assert np.array_equal(one, other), field.name
        assert field.name == "bos_id" or one.dtype == other.dtype, field.name


def test_a_graph_of_one_rule_comes_back_too():
    harvest = Harvest(3)
    harvest.values = np.zeros_like(harvest.values)
    frames = graph_frames(UNIT, harvest.grow(), {}, VOCABULARY)
    assert frames["token_classes"].is_empty()
    assert frames["rules"]["pattern"].to_list() == ["[*]"]
    assert len(graph_of_rows(frames["graph_nodes"], frames["token_classes"], BOS)) == 1


def test_a_node_says_how_deep_it_is_what_it_asks_and_what_was_measured_of_it(graph, frames):
    rows = nodes_of(frames)
    assert rows[0]["kind"] == "ignore"
    for node, row in rows.items():
        assert row["depth"] == len(graph.path(node))
        assert row["importance"] == IMPORTANCES.get(node)
        if node:
            assert row["kind"] == ("activating" if row["offset"] == 0 else "context")
            assert row["all_but"] == frames["token_classes"].filter(node_id=node).is_empty()


def test_every_node_is_a_rule_and_the_strongest_comes_first(frames):
    rules, nodes = frames["rules"], frames["graph_nodes"]
    assert rules["rule_id"].to_list() == list(range(nodes.height))
    assert rules["activation"].is_sorted(descending=True)
    of_nodes = nodes.select(
        "unit", "sign", "rank", "until", "documents", "firings", "activation", end_node_id="node_id",
        count="end_count",
    )  # fmt: skip
    assert_frame_equal(rules.select(of_nodes.columns).sort("end_node_id"), of_nodes)


# -------------------------------------------------------------------------------------------- what a rule takes
def test_classes_take_the_tokens_that_pass_every_question_on_the_way(graph, frames):
    rows, there = nodes_of(frames), set()
    for node in range(len(graph)):
        found = {each.offset: each for each in classes_of(graph, node)}
        asked = questions_of(rows, frames["token_classes"], node)
        assert list(found) == sorted({question.offset for question in asked}, reverse=True)
        for offset, each in found.items():
            at = [question for question in asked if question.offset == offset]
            for token in range(len(WORDS) + 3):  # the last one was never seen
                passes = all((token in question.tokens) != question.all_but for question in at)
                assert ((token in each.tokens) != each.all_but) == passes
            there.add((each.all_but, min(len(at), 2)))
    assert len(there) == 4, "nodes with one question and with several at an offset, which take a class and all but one"


def test_tokens_that_matter_most_come_first_with_what_they_matter(graph, frames):
    """By count times the squared distance of their mean from what the node above expects."""
    rows = nodes_of(frames)
    weights: dict[int, dict[int, float]] = {}
    for row in frames["token_classes"].iter_rows(named=True):
        above = rows[rows[row["node_id"]]["parent_id"]]["activation"]
        weights.setdefault(row["node_id"], {})[row["token_id"]] = row["count"] * (row["mean"] - above) ** 2
    for node in range(len(graph)):
        for found in classes_of(graph, node):
            assert np.all(np.diff(found.weights) <= 0)
            steps = [
                step - bool(graph.all_but[step]) for step in graph.path(node) if graph.offsets[step] == found.offset
            ]
            for token, weight in zip(found.tokens.tolist(), found.weights, strict=True):
                known = [weights[step][token] for step in steps if token in weights[step]]
                assert weight == pytest.approx(known[0], rel=1e-5)


def test_a_slow_reader_of_the_rows_predicts_the_same_by_graphs_of_every_size(graph, frames):
    tokens = Harvest(9, contexts=3, vocabulary=13).token_ids.reshape(3, -1)  # one token was never seen
    for n_rules in (1, 2, 5, 30):
        rules = slow_rules(frames["graph_nodes"], frames["token_classes"], n_rules)
        assert {rule.node_id for rule in rules} == set(graph.rules_of(n_rules).tolist())
        for context in tokens:
            ends = graph.ends(context, np.arange(len(context), dtype=np.int32), [n_rules])[0]
            assert ends[1:].tolist() == slow_predict_classes(rules, context.tolist())[1][1:]


# -------------------------------------------------------------------------------------------- patterns
@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({}, "[*]"),
        ({"o0": ("ab", False)}, "[{a|b}]"),
        ({"o0": ("ab", True), "o2": ("d", False)}, "{d} * [{not a|b}]"),
        ({"o1": ("e", True)}, "{not e} [*]"),
        ({"o0": ("fghij", False)}, "[{f|g|h|i|j}]"),
        ({"o0": ("bafghij", True)}, "[{not b|a|f|g|h|+2}]"),
    ],
)
def test_patterns_done_by_hand(rule, said):
    assert SHOWN == 5
    assert pattern(classes(**rule), VOCABULARY) == said


def test_a_pattern_shows_white_space_and_counts_many_tokens_in_thousands():
    tokens = np.full(1239, VOCABULARY.tokens.index(b" c"), np.int32)
    shown = "|".join(["␣c"] * 5)
    assert pattern([TokenClass(0, tokens, np.ones(1239), False, np.zeros(1239))], VOCABULARY) == f"[{{{shown}|+1,234}}]"


def test_the_rows_hold_the_pattern_of_their_node(graph, frames):
    for row in frames["rules"].iter_rows(named=True):
        assert row["pattern"] == pattern(classes_of(graph, row["end_node_id"]), VOCABULARY)
