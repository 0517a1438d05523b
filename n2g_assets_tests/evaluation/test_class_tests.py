"""The causal test of class rules: toy neurons of which it is known what they need, and a slow reading of graphs."""

from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.registry import SHOWN_RULES
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.class_tests import rules_to_test
from n2g_assets.evaluation.trials import ACTIVATING, CONTEXT, EXCHANGED, has_held
from n2g_assets.method.class_rows import classes_of
from n2g_assets.method.classes import ClassGraph
from n2g_assets_tests.evaluation.classes_by_hand import (
    A_MAX,
    AFTER,
    HELD_OUT,
    LIKED,
    THRESHOLD,
    TOKENS,
    UNIT,
    grown,
    neuron_of,
    random_text,
    tried,
)
from n2g_assets_tests.evaluation.rules_by_hand import contexts_of
from n2g_assets_tests.method.toy import BOS, conform


def table_of(*args, **named) -> pl.DataFrame:
    return conform("rule_tests", tried(*args, **named).tables["rule_tests"])


def strongest(table: pl.DataFrame) -> dict:
    """The rule of whose matches most is predicted: a liked token after one of ``AFTER``."""
    return table.sort("predicted").row(-1, named=True)


def slow_end(graph: ClassGraph, text: list[int]) -> int:
    """The node of the graph of ``SHOWN_RULES`` rules that takes a text, found by asking every class of every rule."""
    ends = []
    for node in range(len(graph)):
        if graph.ranks[node] <= SHOWN_RULES <= graph.until[node]:
            takes = []
            for step in graph.path(node):
                of_class = step - 1 if graph.all_but[step] else step
                members = graph.tokens[graph.starts[of_class] : graph.starts[of_class + 1]].tolist()
                takes.append((text[graph.offsets[step] - 1] in members) != graph.all_but[step])
            if all(takes):
                ends.append(node)
    (end,) = ends
    return end


def slow_expected(graph: ClassGraph, text: list[int]) -> float:
    """What that graph expects at the end of a text: the base of its rule, and what the tokens in its classes add."""
    node = slow_end(graph, text)
    expected = float(graph.bases[node])
    for step in graph.path(node):
        if not graph.all_but[step]:
            of_class = graph.members(step)
            place = graph.tokens[of_class].tolist().index(text[graph.offsets[step] - 1])
            expected += float(graph.deviations[of_class][place])
    return expected


# -------------------------------------------------------------------------------------------- what holds
def test_all_rules_of_a_neuron_that_follows_them_hold():
    table = table_of({UNIT: grown(neuron_of())}, neuron_of(), rule_texts=12)
    assert table["held"].to_list() == [True] * table.height
    assert table["predicted"].min() < 0 < THRESHOLD < table["predicted"].max()
    assert np.allclose(table["match_mean"], table["predicted"], atol=0.02)
    assert np.allclose(table["near_miss_mean"], table["otherwise"], atol=0.02)
    rule = strongest(table)
    assert (rule["n_matches"], rule["fired"], rule["n_near_misses"], rule["silent"]) == (12, 12, 12, 12)
    assert (rule["n_context_near_misses"], rule["context_silent"]) == (6, 6)
    assert rule["near_miss_tokens"] == [ACTIVATING, CONTEXT] * 6
    assert rule["near_miss_changes"] == [EXCHANGED] * 12
    assert {text[-1] for text in rule["match_ids"]} == set(LIKED)
    assert {text[-2] for text in rule["match_ids"]} == set(AFTER)


def test_a_rule_with_a_class_of_which_the_model_knows_one_member_does_not_hold():
    table = table_of({UNIT: grown(neuron_of())}, neuron_of(liked=LIKED[:1]), rule_texts=30)
    rule = strongest(table)
    fired = [text[-1] == LIKED[0] for text in rule["match_ids"]]
    assert rule["fired"] == sum(fired) < 15
    assert rule["held"] is False
    assert table.filter(pl.col("predicted") < 0)["held"].to_list() == [True]


def test_a_context_that_the_model_does_not_need_shows_in_the_near_misses_that_swap_it():
    rule = strongest(table_of({UNIT: grown(neuron_of())}, neuron_of(after=None), rule_texts=12))
    of_context = [
        value for value, token in zip(rule["near_miss_activations"], rule["near_miss_tokens"], strict=True)
        if token == CONTEXT
    ]  # fmt: skip
    assert rule["context_silent"] == 0
    assert of_context == [1.0] * 6


@pytest.mark.parametrize(
    ("predicted", "otherwise", "match_mean", "near_miss_mean", "held"),
    [
        (1.0, 0.0, 0.5, 0.0, True),
        (1.0, 0.0, 0.75, 0.25, True),
        (1.0, 0.0, 0.49, 0.0, False),
        (1.0, 0.5, 0.1, 0.4, False),
        (-0.5, 0.5, 0.0, 0.5, True),
        (-0.5, 0.5, 0.5, 0.0, False),
        (0.5, 0.5, 1.0, 0.0, None),
        (1.0, None, 1.0, 0.0, None),
        (1.0, 0.0, None, 0.0, None),
        (1.0, 0.0, 1.0, None, None),
    ],
)
def test_a_claim_holds_from_half_of_its_difference_on_in_its_direction(
    predicted, otherwise, match_mean, near_miss_mean, held
):
    assert has_held(predicted, otherwise, match_mean, near_miss_mean) is held


# -------------------------------------------------------------------------------------------- texts
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9))
def test_matches_end_in_their_rule_and_near_misses_differ_in_one_token_and_end_elsewhere(seed, number):
    graph = grown(neuron_of(), seed, noise=0.3)
    assert 5 < len(graph.rules_of(SHOWN_RULES)) <= SHOWN_RULES  # fewer where the halves agree on no more
    table = table_of({UNIT: graph}, neuron_of(), rule_texts=number, seed=seed)
    assert table.height
    for row in table.filter(pl.col("n_matches") > 0).iter_rows(named=True):
        node = slow_end(graph, row["match_ids"][0])
        assert node in rules_to_test(graph, 8)
        told = [slow_expected(graph, text) for text in row["match_ids"]]
        assert row["predicted"] == pytest.approx(np.mean(told), abs=1e-6)
        classes = {each.offset: each for each in classes_of(graph, node)}
        required = [offset for offset, each in classes.items() if not each.all_but]
        for text in row["match_ids"]:
            assert text[0] == BOS
            assert BOS not in text[1:]
            assert 10 - min(classes) <= len(text) <= 18 - min(classes)
            assert slow_end(graph, text) == node
        turns = []
        for text, token, expected in zip(
            row["near_miss_ids"], row["near_miss_tokens"], row["near_miss_expected"], strict=True
        ):
            assert slow_end(graph, text) != node
            assert expected == pytest.approx(slow_expected(graph, text), abs=1e-6)
            changed = {
                index - len(match)
                for match in row["match_ids"]
                if len(match) == len(text)
                for index in np.flatnonzero(np.array(match) != text)
                if np.count_nonzero(np.array(match) != text) == 1
            }
            turns.append({place + 1 for place in changed} & set(required))
            assert (token == ACTIVATING) == (0 in turns[-1])
        if row["n_near_misses"] == number:
            assert all(required[turn % len(required)] in found for turn, found in enumerate(turns))
            assert row["otherwise"] == pytest.approx(np.mean(row["near_miss_expected"]))


def test_half_of_the_matches_draw_members_by_their_counts_and_half_the_rare_ones_alike():
    weights = [1.0 + 9 * (token in (3, 6)) for token in TOKENS]
    neuron = neuron_of(after=None)
    graph = grown(neuron, tokens=random_text(0, contexts=200, weights=weights))
    rule = strongest(table_of({UNIT: graph}, neuron, rule_texts=400))
    frequent, rare = (Counter(text[-1] for text in part) for part in (rule["match_ids"][:200], rule["match_ids"][200:]))
    assert set(frequent) == set(LIKED)
    assert frequent[3] / 200 == pytest.approx(10 / 12, abs=0.1)
    assert set(rare) == {5, 8}
    assert rare[5] / 200 == pytest.approx(1 / 2, abs=0.15)


def test_what_a_scan_alone_showed_is_not_put_to_the_model():
    graph = grown(neuron_of(after=None))
    shown = replace(graph, counts=np.where(np.isin(graph.tokens, (3, 5)), 0, graph.counts))
    rule = strongest(table_of({UNIT: shown}, neuron_of(after=None), rule_texts=40))
    assert {text[-1] for text in rule["match_ids"]} == {8}
    nodes = graph.rules_of(10)
    node = int(nodes[np.argmax(graph.values[nodes])])
    assert node in rules_to_test(graph, 8)
    without = replace(graph, supports=np.where(np.arange(len(graph)) == node, 0, graph.supports))
    assert node not in rules_to_test(without, 8)


def test_exchanged_tokens_are_drawn_by_their_frequency_in_fresh_text():
    held_out = contexts_of([[2] * 30 + [6] * 10 + [3]] * 3)
    rule = strongest(table_of({UNIT: grown(neuron_of())}, neuron_of(), held_out, rule_texts=200))
    drawn = Counter(text[-1] for text in rule["near_miss_ids"][::2])
    assert set(drawn) == {2, 6}
    assert drawn[2] / 100 == pytest.approx(3 / 4, abs=0.12)


def test_where_no_token_stands_outside_a_class_there_is_no_near_miss_and_no_grade():
    rule = strongest(table_of({UNIT: grown(neuron_of(after=None))}, neuron_of(), contexts_of([[*LIKED] * 9])))
    assert (rule["n_matches"], rule["n_near_misses"]) == (4, 0)
    assert rule["held"] is rule["otherwise"] is rule["near_miss_mean"] is None


def test_a_rule_on_the_first_token_of_a_context_has_no_texts():
    """BOS stands at position 0 alone, and before it nothing: no match could have 8 fresh tokens."""
    neuron = neuron_of(after=[BOS], weak=0.0)
    graph = grown(neuron, tokens=random_text(0, contexts=200))
    rule = strongest(table_of({UNIT: graph}, neuron))
    assert (rule["n_matches"], rule["fired"], rule["n_near_misses"]) == (0, 0, 0)
    assert rule["held"] is rule["match_mean"] is None


# -------------------------------------------------------------------------------------------- which rules
def test_the_rules_furthest_from_the_mean_are_tested_unless_they_only_leave_tokens_out():
    graph = grown(neuron_of(), noise=0.3)
    nodes = [node for node in range(len(graph)) if graph.ranks[node] <= SHOWN_RULES <= graph.until[node]]
    naming = [node for node in nodes if any(not each.all_but for each in classes_of(graph, node))]
    assert 3 < len(naming) < len(nodes)
    naming.sort(key=lambda node: (-abs(graph.values[node] - graph.values[0]), node))
    for number in (0, 1, 3, 99):
        assert list(rules_to_test(graph, number)) == naming[:number]


def test_a_unit_without_a_rule_that_names_a_class_has_no_rows_and_is_ok():
    result = tried({UNIT: grown(lambda tokens: np.zeros(len(tokens)))}, neuron_of())
    assert conform("rule_tests", result.tables["rule_tests"]).is_empty()
    assert result.ledger[UNIT].status == "ok"


# -------------------------------------------------------------------------------------------- promises
def test_rows_of_a_unit_do_not_depend_on_the_units_beside_it_nor_on_the_order_of_the_contexts():
    graphs = {Unit(3, 1): grown(neuron_of(), 1, 0.3), Unit(3, -1): grown(neuron_of(), 2, 0.3), UNIT: grown(neuron_of())}
    together = table_of(graphs, neuron_of())
    assert table_of(graphs, neuron_of(), HELD_OUT.reverse(), units=list(graphs)[::-1]).equals(together)
    for unit, graph in graphs.items():
        alone = table_of({unit: graph}, neuron_of())
        assert alone.equals(together.filter(unit=unit.number, sign=unit.sign))
        assert alone.height > 2
        assert alone["rule_id"].is_sorted()


def test_texts_of_a_rule_do_not_depend_on_the_rules_tested_beside_it():
    graph = grown(neuron_of(), noise=0.3)
    few, many = (table_of({UNIT: graph}, neuron_of(), tested_rules=number) for number in (2, 8))
    assert few.height == 2
    assert few.equals(many.filter(pl.col("rule_id").is_in(few["rule_id"].to_list())))


@pytest.mark.parametrize(
    ("unit", "other"), [(UNIT, {"seed": 1}), (UNIT, {"layer": 4}), (Unit(8, 1), {}), (Unit(7, -1), {})]
)
def test_seed_layer_neuron_and_sign_give_other_texts(unit, other):
    first = table_of({UNIT: grown(neuron_of())}, neuron_of())
    second = table_of({unit: grown(neuron_of())}, neuron_of(), **other)
    assert strongest(first)["match_ids"] != strongest(second)["match_ids"]


def test_activations_are_those_of_the_last_token_as_shares_of_the_largest():
    def place(tokens):
        return np.arange(len(tokens), dtype=np.float64)

    for row in table_of({UNIT: grown(neuron_of())}, place).iter_rows(named=True):
        assert row["match_activations"] == [(len(text) - 1) / A_MAX for text in row["match_ids"]]
        assert row["near_miss_activations"] == [(len(text) - 1) / A_MAX for text in row["near_miss_ids"]]
