"""The causal test of rules: toy neurons of which it is known what they need, and slow definitions of what a text is."""

import math
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.settings import EvaluationSettings
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.rule_tests import try_rules, turns
from n2g_assets.evaluation.trials import ACTIVATING, CHANGES, CONTEXT, FreshText
from n2g_assets.method.graph import rule_rows
from n2g_assets.method.results import unit_frame
from n2g_assets_tests.evaluation.rules_by_hand import (
    A_MAX,
    ALL_EXCEPT,
    HELD_OUT,
    METHOD,
    UNIT,
    VOCABULARY,
    contexts_of,
    follows,
    frames,
    graph_of,
    matches,
    row_of,
    text_of,
    token,
    tried,
)
from n2g_assets_tests.method.slow_graph import slow_predict
from n2g_assets_tests.method.toy import BOS, ToyProber, conform, hash_neuron


def test_a_unit_that_follows_its_rule_fires_on_all_matches_and_on_no_near_miss():
    unit, prober = UNIT, ToyProber({7: follows(*ALL_EXCEPT)})
    result = tried([unit], [graph_of(ALL_EXCEPT)], prober, rule_texts=12)
    row = row_of(result)
    assert (row["n_matches"], row["fired"], row["n_near_misses"], row["silent"]) == (12, 12, 12, 12)
    assert row["match_activations"] == [1.0] * 12
    assert row["near_miss_activations"] == [0.0] * 12
    assert {change: row["near_miss_changes"].count(change) for change in CHANGES} == dict.fromkeys(CHANGES, 4)
    assert row["near_miss_tokens"] == [CONTEXT] * 12
    assert (row["n_context_near_misses"], row["context_silent"]) == (12, 12)
    assert result.ledger[unit].status == "ok"
    assert prober.calls == [24]


def test_a_unit_that_ignores_context_fires_on_every_near_miss_of_a_rule_with_context():
    """The activating token stays as it is, so that nothing but the context can make the unit silent."""
    row = row_of(tried([UNIT], [graph_of(ALL_EXCEPT)], ToyProber({7: follows(b"except")}), rule_texts=12))
    assert row["fired"] == row["n_near_misses"] == row["n_context_near_misses"] == 12
    assert row["silent"] == row["context_silent"] == 0
    assert row["near_miss_tokens"] == [CONTEXT] * 12
    assert {VOCABULARY.form(text[-1]) for text in row["near_miss_ids"]} == {b"except"}


def test_a_rule_without_context_has_its_activating_token_changed_and_adds_nothing_to_the_counts_of_context():
    graph = graph_of((b"of",), ALL_EXCEPT)
    short, long = tried([UNIT], [graph], ToyProber({7: follows(b"of")}), rule_texts=6).tables["rule_tests"].to_dicts()
    assert short["near_miss_tokens"] == [ACTIVATING] * 6
    assert (short["silent"], short["n_context_near_misses"], short["context_silent"]) == (6, 0, 0)
    assert long["near_miss_tokens"] == [CONTEXT] * 6
    assert (long["silent"], long["n_context_near_misses"], long["context_silent"]) == (6, 6, 6)


def test_where_one_change_of_context_still_fires_the_activating_token_is_changed_in_its_turn_alone():
    """A second rule takes "all" one place further away, which is where the first one's moves to."""
    graph, held_out = graph_of(ALL_EXCEPT, (b"except", None, None, b"all")), text_of([" of", " the"])
    result = tried([UNIT], [graph], ToyProber({7: follows(b"except")}), held_out, rule_texts=12)
    near, far = result.tables["rule_tests"].to_dicts()
    assert near["near_miss_changes"] == [*CHANGES] * 4
    assert near["near_miss_tokens"] == [CONTEXT, ACTIVATING, CONTEXT] * 4
    assert (near["n_near_misses"], near["n_context_near_misses"]) == (12, 8)
    assert (near["silent"], near["context_silent"]) == (4, 0)
    for text, changed in zip(near["near_miss_ids"], near["near_miss_tokens"], strict=True):
        assert (VOCABULARY.form(text[-1]) == b"except") == (changed == CONTEXT)
    assert far["near_miss_tokens"] == [CONTEXT] * 12


def test_a_unit_that_needs_more_than_its_rule_does_not_fire_on_matches():
    needs_more = follows(*ALL_EXCEPT, b"never seen")
    row = row_of(tried([UNIT], [graph_of(ALL_EXCEPT)], ToyProber({7: needs_more})))
    assert (row["n_matches"], row["fired"], row["silent"]) == (4, 0, row["n_near_misses"])


def test_activations_are_those_of_the_last_token_times_the_sign_and_normalised():
    def place(tokens):
        return -np.arange(len(tokens), dtype=np.float64)

    unit = Unit(7, -1)
    row = row_of(tried([unit], [graph_of(ALL_EXCEPT, unit=unit)], ToyProber({7: place}), rule_texts=6))
    assert row["match_activations"] == [(len(text) - 1) / A_MAX for text in row["match_ids"]]
    assert row["near_miss_activations"] == [(len(text) - 1) / A_MAX for text in row["near_miss_ids"]]


@pytest.mark.parametrize(("strength", "fired"), [(2.0, 4), (1.99, 0)])
def test_a_text_fires_from_the_threshold_on(strength, fired):
    prober = ToyProber({7: follows(*ALL_EXCEPT, strength=strength)})
    assert row_of(tried([UNIT], [graph_of(ALL_EXCEPT)], prober))["fired"] == fired


def test_where_the_rule_takes_any_token_stands_what_stood_in_the_context():
    """In contexts that count upwards every token that was not replaced tells its place."""
    start, length = token(" except"), len(VOCABULARY.tokens) - token(" except")
    held_out = contexts_of([[start + i for i in range(length)]] * 2)
    forms = (b"mat", None, None, b"all", None)
    row = row_of(tried([UNIT], [graph_of((*forms, b"cat"))], ToyProber({7: follows()}), held_out, rule_texts=8))
    assert row["n_matches"] == 8
    for text in row["match_ids"]:
        kept = [i for i in range(1, len(text)) if len(text) - 1 - i not in (0, 3, 5)]
        joints = [i for i, j in pairwise(kept) if text[j] - text[i] != j - i]
        assert len(kept) >= 8 + 3
        assert len(joints) <= len(text) // length  # a context that is too short is followed by another run


def test_a_form_stands_for_its_tokens_by_how_often_they_occur_and_for_the_lowest_where_none_does():
    held_out = contexts_of([[token("All")] + [token(" all")] * 3 + [token(" of")] * 36] * 3)
    fresh = FreshText.of(held_out, VOCABULARY)
    generator = np.random.default_rng(0)
    drawn = [fresh.token_of(VOCABULARY.forms.index(b"all"), generator) for _ in range(2000)]
    assert set(drawn) == {token("All"), token(" all")}
    assert abs(drawn.count(token("All")) / 2000 - 0.25) < 0.05
    assert fresh.token_of(VOCABULARY.forms.index(b"except"), generator) == token(" except")
    unseen = FreshText.of(contexts_of([[token(" of")]]), VOCABULARY)
    assert unseen.token_of(VOCABULARY.forms.index(b"all"), generator) == token("All") < token(" all")


def test_a_rule_of_one_token_is_exchanged_followed_by_a_fresh_token_or_cut_off():
    row = row_of(tried([UNIT], [graph_of((b"except",))], ToyProber({7: follows(b"except")}), rule_texts=6))
    assert (row["fired"], row["silent"], row["n_near_misses"]) == (6, 6, 6)
    for match, near, change in zip(row["match_ids"], row["near_miss_ids"], row["near_miss_changes"], strict=True):
        if change == "removed":
            assert near == match[:-1]
        elif change == "moved":
            assert near[:-1] == match
            assert VOCABULARY.form(near[-1]) != b"except"
        else:
            assert near[:-1] == match[:-1]
            assert VOCABULARY.form(near[-1]) != b"except"


def test_where_a_shorter_path_fires_whatever_the_context_the_activating_token_is_changed():
    """Behind [except] the longer rule adds nothing: no change of its context can make a near miss."""
    graph = graph_of(ALL_EXCEPT, (b"except",))
    result = tried([UNIT], [graph], ToyProber({7: follows(b"except")}), rule_texts=12)
    rows = result.tables["rule_tests"].rows(named=True)
    long = next(row for row, rule in zip(rows, rule_rows(graph), strict=True) if len(rule["tokens"]) == 3)
    assert long["n_matches"] == 12
    assert long["n_near_misses"] == len(long["near_miss_ids"]) == 12
    assert long["near_miss_changes"] == [*CHANGES] * 4
    assert long["near_miss_tokens"] == [ACTIVATING] * 12
    assert (long["n_context_near_misses"], long["context_silent"], long["silent"]) == (0, 0, 12)
    assert all(VOCABULARY.form(text[-1]) != b"except" for text in long["near_miss_ids"])


def test_matches_on_which_a_longer_path_stays_silent_are_left_out():
    weak = graph_of((b"except", None, b"the"))
    weak = [row | ({"end_activation": 0.25} if row["end_count"] else {}) for row in weak]
    strong = [{**weak[0], "end_activation": 1.0, "end_count": 1}, *weak[1:]]
    held_out = text_of([" the"] * 9 + [" of"])
    result = tried([UNIT], [strong], ToyProber({7: follows(b"except")}), held_out, rule_texts=8)
    row = row_of(result)
    assert result.tables["rule_tests"].height == 1  # the weak rule does not predict firing
    assert row["n_matches"] == 8
    assert all(VOCABULARY.form(text[-3]) != b"the" for text in row["match_ids"])
    row = row_of(tried([UNIT], [strong], ToyProber({7: follows(b"except")}), text_of([" the"])))
    assert (row["n_matches"], row["fired"], row["n_near_misses"], row["silent"]) == (0, 0, 0, 0)


def test_what_still_matches_the_rule_is_no_near_miss_even_where_a_longer_path_stays_silent():
    """Of "the all all except" with one all removed the rule still matches, though the graph predicts silence there."""
    graph = graph_of((b"except", b"all"), (b"except", b"all", b"the"))
    graph[-1]["end_activation"] = 0.25
    held_out = text_of([" all", " the"])
    result = tried([UNIT], [graph], ToyProber({7: follows(b"except", b"all")}), held_out, rule_texts=12)
    row = row_of(result)
    assert (row["n_matches"], row["fired"]) == (12, 12)
    assert 0 < row["n_near_misses"] == row["silent"]


def test_context_that_nothing_else_can_stand_in_for_leaves_the_activating_token_to_be_changed():
    """In contexts of one form, exchanging and moving "all" needs another token, and removing it changes nothing."""
    graph = graph_of((b"except", b"all"))
    held_out = text_of([" all"])
    row = row_of(tried([UNIT], [graph], ToyProber({7: follows(b"except", b"all")}), held_out, rule_texts=12))
    assert row["n_matches"] == row["n_near_misses"] == row["silent"] == 12
    assert row["near_miss_tokens"] == [ACTIVATING] * 12
    assert (row["n_context_near_misses"], row["context_silent"]) == (0, 0)
    assert {VOCABULARY.form(text[-1]) for text in row["near_miss_ids"]} == {b"all"}


@pytest.mark.parametrize("path", [(b"all",), (b"all", b"all")])
def test_where_no_other_token_can_stand_in_anywhere_there_is_no_near_miss(path):
    row = row_of(tried([UNIT], [graph_of(path)], ToyProber({7: follows(*path)}), text_of([" all"]), rule_texts=5))
    assert (row["n_matches"], row["fired"]) == (5, 5)
    assert (row["n_near_misses"], row["silent"], row["n_context_near_misses"], row["context_silent"]) == (0, 0, 0, 0)
    assert row["near_miss_ids"] == row["near_miss_changes"] == row["near_miss_tokens"] == []


def test_rules_with_the_most_prompts_are_tested_and_of_equals_the_lower_number():
    paths = [(form,) for form in (b"of", b"them", b"the", b"a")]
    graph = graph_of(*paths, (b"them",), (b"a",), (b"a",))
    rules = {rule["rule_id"]: (rule["tokens"][0], rule["count"]) for rule in rule_rows(graph)}
    assert rules == {0: (b"of", 1), 1: (b"them", 2), 2: (b"the", 1), 3: (b"a", 3)}
    prober = ToyProber({7: follows()})
    chosen = {n: tried([UNIT], [graph], prober, tested_rules=n).tables["rule_tests"] for n in (0, 1, 2, 3, 9)}
    assert {n: table["rule_id"].to_list() for n, table in chosen.items()} == {
        0: [], 1: [3], 2: [1, 3], 3: [0, 1, 3], 9: [0, 1, 2, 3],
    }  # fmt: skip


def test_units_without_rules_have_no_rows_and_are_ok_and_the_model_is_not_asked():
    prober = ToyProber({})
    fresh = FreshText.of(HELD_OUT, VOCABULARY)
    result = try_rules([Unit(1, 1), Unit(2, -1)], *frames(), fresh, {}, prober, METHOD, EvaluationSettings())
    assert conform("rule_tests", result.tables["rule_tests"]).is_empty()
    assert [outcome.status for outcome in result.ledger.values()] == ["ok", "ok"]
    assert prober.calls == []


@pytest.mark.parametrize("rows", [[], [[], []]])
def test_contexts_without_tokens_are_an_error(rows):
    with pytest.raises(ValueError, match="held-out contexts"):
        tried([UNIT], [graph_of(ALL_EXCEPT)], ToyProber({7: follows()}), contexts_of(rows))


def test_an_activation_that_is_not_finite_fails_its_unit_alone():
    units, nan = [UNIT, Unit(8, 1)], follows(b"except", strength=np.nan)
    graphs = [graph_of(ALL_EXCEPT, unit=unit) for unit in units]
    result = tried(units, graphs, ToyProber({7: follows(b"except"), 8: nan}))
    assert [result.ledger[unit].status for unit in units] == ["ok", "failed"]
    assert result.tables["rule_tests"]["unit"].to_list() == [7]


MANY = [(ALL_EXCEPT, (b"of", b"every"), (b"them",)), ((b"cat", b"the"), ALL_EXCEPT), ((b"mat", None, None, b"sat"),)]


def test_rows_of_a_unit_do_not_depend_on_the_units_beside_it_nor_on_the_order_of_the_contexts():
    units = [Unit(3, 1), Unit(3, -1), Unit(9, 1)]
    graphs = [graph_of(*paths, unit=unit) for unit, paths in zip(units, MANY, strict=True)]
    neurons = {3: hash_neuron(1, 3), 9: hash_neuron(2, 4)}
    together = tried(units, graphs, ToyProber(neurons)).tables["rule_tests"]
    backwards = tried(units[::-1], graphs, ToyProber(neurons), HELD_OUT.reverse()).tables["rule_tests"]
    assert backwards.sort("unit", "sign", "rule_id").equals(together.sort("unit", "sign", "rule_id"))
    for unit in units:
        alone = tried([unit], graphs, ToyProber(neurons)).tables["rule_tests"]
        assert alone.equals(together.filter(unit=unit.number, sign=unit.sign))
        assert alone.height


def test_texts_of_a_rule_do_not_depend_on_the_rules_tested_beside_it():
    graph = graph_of(*MANY[0])
    few, many = (
        tried([UNIT], [graph], ToyProber({7: hash_neuron(1, 3)}), tested_rules=number).tables["rule_tests"]
        for number in (1, 3)
    )
    assert few.equals(many.filter(pl.col("rule_id") == few["rule_id"][0]))


@pytest.mark.parametrize(
    ("other", "unit", "layer"), [({"seed": 1}, (7, 1), 3), ({}, (7, 1), 4), ({}, (7, -1), 3), ({}, (8, 1), 3)]
)
def test_seed_layer_neuron_and_sign_give_other_texts_and_equal_ones_the_same(other, unit, layer):
    def texts(unit, layer=3, **evaluation):
        prober = ToyProber({7: follows(), 8: follows()}, layer)
        return row_of(tried([unit], [graph_of(ALL_EXCEPT, unit=unit)], prober, **evaluation))["match_ids"]

    assert texts(Unit(7, 1)) == texts(Unit(7, 1))
    assert texts(Unit(*unit), layer, **other) != texts(Unit(7, 1))


@given(st.integers(1, 9), st.integers(0, 100))
def test_turns_take_every_pair_once_before_any_comes_again(places, start):
    required = list(range(0, 2 * places, 2))
    taken = turns(required, start * 3 * places, 3 * places)
    assert sorted(taken) == sorted((change, back) for change in CHANGES for back in required)
    together = math.lcm(3, places)
    assert {change for change, _ in taken[:3]} == set(CHANGES)
    assert {back for _, back in taken[:places]} == set(required)
    assert turns(required, 0, together + 2)[together // 2 :] == turns(
        required, together // 2, together + 2 - together // 2
    )


def variants(match, forms, change, places):
    """Slow: all that a match can become by one change of a token at one of some places, counted from its end."""
    for back in places:
        place = len(match) - 1 - back
        others = [i for i in range(len(VOCABULARY.tokens)) if VOCABULARY.form(i) != forms[back]]
        if change == "removed":
            yield match[:place] + match[place + 1 :]
        elif change == "exchanged":
            yield from ([*match[:place], other, *match[place + 1 :]] for other in others)
        elif back == 0:
            yield from ([*match, other] for other in others)
        else:
            free = max(
                i for i in range(1, place) if len(match) - 1 - i >= len(forms) or forms[len(match) - 1 - i] is None
            )
            for other in others:
                yield [*match[:free], match[place], *match[free + 1 : place], other, *match[place + 1 :]]


FORM = st.sampled_from([b"except", b"all", b"every", b"of", b"the"])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(FORM, st.lists(st.none() | FORM, max_size=4), FORM), min_size=1, max_size=4),
    st.integers(0, 1000),
    st.integers(1, 6),
)
def test_matches_match_near_misses_do_not_and_differ_by_one_change_whatever_the_graph(drawn, seed, number):
    graph = graph_of(*((first, *middle, last) for first, middle, last in drawn))
    held_out = text_of([" of", " the", " cat", " except", " all"], seed, contexts=3, length=9)
    result = tried([UNIT], [graph], ToyProber({7: hash_neuron(seed, 4)}), held_out, rule_texts=number, seed=seed)
    table = conform("rule_tests", result.tables["rule_tests"])
    rules = {rule["rule_id"]: rule["tokens"] for rule in rule_rows(graph)}
    nodes = unit_frame("graph_nodes", graph)
    assert table["rule_id"].to_list() == sorted(rules)

    def predicted(text):
        return slow_predict(nodes, [VOCABULARY.form(one) for one in text])[0][-1]

    for row in table.iter_rows(named=True):
        forms = rules[row["rule_id"]]
        assert row["n_matches"] == len(row["match_ids"]) == number
        assert row["n_near_misses"] == len(row["near_miss_ids"]) == len(row["near_miss_changes"]) <= number
        assert len(row["near_miss_tokens"]) == row["n_near_misses"]
        for text in row["match_ids"]:
            assert text[0] == BOS
            assert BOS not in text[1:]
            assert 9 + len(forms) <= len(text) <= 17 + len(forms)
            assert matches(forms, text)
            assert predicted(text) == 1
        places = [back for back, form in enumerate(forms) if form is not None and back > 0]
        near_misses = list(zip(row["near_miss_ids"], row["near_miss_changes"], row["near_miss_tokens"], strict=True))
        for text, change, changed in near_misses:
            assert not matches(forms, text)
            assert predicted(text) == 0
            of = places if changed == CONTEXT else [0]
            assert any(text in variants(match, forms, change, of) for match in row["match_ids"])
        if places and len(near_misses) == number:  # none was left out, so that turns can be told
            for (change, back), (_, found, changed) in zip(
                turns(places, row["rule_id"] * number, number), near_misses, strict=True
            ):
                assert changed == ACTIVATING or found == change
                if change == "removed":  # the one change that leaves nothing to chance: all matches are tried
                    made = [text for match in row["match_ids"] for text in variants(match, forms, change, [back])]
                    works = [not matches(forms, text) and predicted(text) == 0 for text in made]
                    assert (changed == CONTEXT) == any(works)
        assert row["fired"] == sum(value >= 0.5 for value in row["match_activations"])
        silent = [value < 0.5 for value in row["near_miss_activations"]]
        of_context = [changed == CONTEXT for changed in row["near_miss_tokens"]]
        assert (row["silent"], row["n_context_near_misses"]) == (sum(silent), sum(of_context))
        assert row["context_silent"] == sum(a and b for a, b in zip(silent, of_context, strict=True))
