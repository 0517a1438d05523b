"""Baselines that learn from the harvest: by hand, and against dictionaries that follow the definitions run by run."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.errors import RowsError
from n2g_assets.evaluation.harvest import HarvestLabels
from n2g_assets.evaluation.predictors.skip_bigram import fit_skip_bigrams
from n2g_assets.evaluation.suffix_means import SuffixMeans
from n2g_assets_tests.evaluation.slow_baselines import slow_skip_bigrams, slow_suffixes
from n2g_assets_tests.evaluation.toy_harvest import (
    A_MAX,
    LETTERS,
    VOCABULARY,
    ToyHarvest,
    forms,
    harvests,
    ids,
    text_of,
    toy_harvest,
)
from n2g_assets_tests.method.toy import BOS


def fit_tokens(labels: HarvestLabels, shrinkage=(1.0, 1.0, 1.0, 1.0)) -> SuffixMeans:
    return SuffixMeans(labels.harvest.suffixes, labels, shrinkage)


def fit_forms(labels: HarvestLabels, shrinkage=(1.0, 1.0, 1.0, 1.0)) -> SuffixMeans:
    return SuffixMeans(labels.harvest.runs_of_forms, labels, shrinkage)


def fit_pairs(labels: HarvestLabels):
    return fit_skip_bigrams(labels, (1.0, 1.0))


EVERY_FIT = pytest.mark.parametrize("fit", [fit_tokens, fit_forms, fit_pairs])


# ------------------------------------------------------------------------------------------ harvest and evidence
def test_the_harvest_is_its_contexts_one_behind_another_by_token_form_and_cluster():
    harvest = toy_harvest({"x:0": "ab", "y:0": "a_", "z:0": "d"}, cluster_of={"x": "one", "z": "one"}).harvest
    assert harvest.text.encoded.positions.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert harvest.text.encoded.token_ids.tolist() == ids("ab") + ids("a_") + ids("d")
    assert harvest.text.encoded.forms[4] == harvest.text.encoded.forms[5] == VOCABULARY.form_ids[b"a"]
    assert harvest.inside({"z"}).tolist() == [True, True, True, False, False, False, True, True]
    assert harvest.inside({"unheard of"}).tolist() == [False] * 8
    assert harvest.inside_contexts(pl.Series(["z:0", "y:0"])).tolist() == [False] * 3 + [True] * 5
    tokens, bounds = harvest.by_cluster
    assert [sorted(part.tolist()) for part in np.split(tokens, bounds[1:-1])] == [[0, 1, 2, 6, 7], [3, 4, 5]]


def test_all_is_known_with_its_sign_but_bos_and_what_is_left_out():
    made = toy_harvest(
        {"x:0": "ab", "copy:0": "ab", "y:0": "ab", "z:0": "ab"},
        x=[9, 2, 2], copy=[9, -1, 2], y=[9, -3, 0.5], z=[-9, 1, 0],
        left_out=["x"], cluster_of={"x": "pair", "copy": "pair"},
    )  # fmt: skip
    assert made.labels.counted.tolist() == [False] * 6 + [False, True, True] * 2
    assert made.labels.values.tolist() == [0.0] * 6 + [0, -1.5, 0.25, 0, 0.5, 0]
    assert made.labels.mean == pytest.approx(-0.75 / 4)


def test_a_context_that_was_not_harvested_too_few_activations_and_a_nan_are_errors():
    harvest = toy_harvest({"x:0": "ab"}).harvest
    with pytest.raises(RowsError, match="q:7"):
        harvest.inside_contexts(pl.Series(["q:7"]))
    with pytest.raises(ValueError, match="2 activations"):
        HarvestLabels.of(harvest, np.zeros(2), 1.0, [])
    with pytest.raises(ValueError, match="NaN"):
        HarvestLabels.of(harvest, np.array([0, 1, np.nan]), 1.0, [])
    assert HarvestLabels.of(harvest, np.array([np.nan, 1, np.inf]), 1.0, ["x"]).mean == 0


@EVERY_FIT
def test_evidence_planted_in_a_document_that_is_left_out_changes_nothing(fit):
    contexts = {"x:0": "abcab", "y:0": "abab", "test:0": "gg", "copy:0": "gg"}
    clusters, strong = {"test": "pair", "copy": "pair"}, [("x:0", 2, 2.0), ("x:0", 5, -1.5), ("y:0", 2, 1.0)]
    plain = toy_harvest(contexts, strong, ["test"], clusters)
    planted = toy_harvest(
        contexts | {"test:0": "abcab", "copy:0": "abcdeab"},
        [*strong, ("test:0", 2, 2.0), ("copy:0", 2, 0.1), ("copy:0", 5, 2.0)], ["test"], clusters,
    )  # fmt: skip
    text = text_of("abcdeab", "cab", "b", "g", "de", "gg")
    predictions = [fit(one.labels).predict(text) for one in (plain, planted)]
    assert predictions[0].any()
    assert predictions[0].tolist() == predictions[1].tolist()


# ------------------------------------------------------------------------------------------ the baselines, by hand
ONE_UNIT = {"contexts": {"x:0": "ac", "y:0": "bc", "z:0": "ddacd"}, "strong": [("x:0", 2, 2.0), ("z:0", 4, 2.0)]}
"""c fires after a, and is silent after b; the mean over the nine tokens is 2/9."""
MEAN = 2 / 9
SILENT = {word: MEAN / (count + 1) for word, count in (("a", 2), ("b", 1), ("d", 3))}
"""Values of the tokens on which nothing happens."""


@pytest.mark.parametrize("fit", [fit_tokens, fit_forms])
def test_runs_count_and_shrink_towards_those_of_one_token_less(fit):
    predict = fit(toy_harvest(**ONE_UNIT).labels).predict
    c = (2 + MEAN) / (3 + 1)
    after_a, after_b = (2 + c) / (2 + 1), (0 + c) / (1 + 1)
    after_da = (1 + after_a) / (1 + 1)
    after_dda = (1 + after_da) / (1 + 1)
    contexts = {
        "c": c, "ac": after_a, "bc": after_b, "dac": after_da, "ddac": after_dda, "cddac": after_dda, "ec": c,
        "aec": c, "b": SILENT["b"], "e": MEAN,
    }  # fmt: skip
    text = text_of(*contexts)
    ends = np.append(np.flatnonzero(text.positions == 0)[1:], len(text)) - 1
    assert predict(text)[ends] == pytest.approx(list(contexts.values()), abs=1e-6)
    assert not predict(text)[text.positions == 0].any()
    shorter = fit(toy_harvest(**ONE_UNIT).labels, (1.0, 1.0)).predict(text_of("ddac"))
    assert shorter[-1] == pytest.approx(after_a, abs=1e-6)


def test_exact_tokens_tell_apart_what_forms_do_not():
    labels = toy_harvest({"x:0": "a", "y:0": "_"}, [("x:0", 1, 2.0), ("y:0", 1, -2.0)]).labels
    text = text_of("a", "_", "A")
    assert fit_tokens(labels).predict(text)[[1, 3, 5]].tolist() == [0.5, -0.5, 0]
    assert fit_forms(labels).predict(text)[[1, 3, 5]].tolist() == [0, 0, 0]


def test_skip_bigrams_take_the_pair_with_the_strongest_evidence():
    predict = fit_pairs(toy_harvest(**ONE_UNIT).labels).predict
    c = (2 + MEAN) / (3 + 1)
    up, down, far = (2 + c) / 3, (0 + c) / 2, (1 + c) / 2
    assert abs(up - c) > abs(down - c) > abs(far - c)
    contexts = {
        "c": c, "ac": up, "bc": down, "eac": up, "dec": far, "dac": up, "dbc": down, "bec": c, "b": SILENT["b"],
        "ddec": far, "e": MEAN,
    }  # fmt: skip
    text = text_of(*contexts)
    ends = np.append(np.flatnonzero(text.positions == 0)[1:], len(text)) - 1
    assert predict(text)[ends] == pytest.approx(list(contexts.values()), abs=1e-6)


def test_a_pair_is_found_up_to_eight_tokens_away():
    made = toy_harvest({"x:0": "aeeeeeeec", "y:0": "aeeeeeeeef", "z:0": "bbb"}, [("x:0", 9, 2.0), ("y:0", 10, 2.0)])
    skip = fit_pairs(made.labels)
    alone = skip.predict(text_of("c", "f"))[[1, 3]]
    far = skip.predict(text_of("abbbbbbbc", "abbbbbbbbf"))
    assert far[9] > alone[0]
    assert far[20] == alone[1]


@EVERY_FIT
def test_nothing_reaches_over_bos(fit):
    """Neither in the harvest, where a stands before c across contexts, nor in the text."""
    made = toy_harvest({"x:0": "a", "y:0": "c", "z:0": "ec"}, [("y:0", 1, 2.0)])
    predictor = fit(made.labels)
    alone = predictor.predict(text_of("c"))[1]
    assert alone > 0
    assert predictor.predict(text_of("ac"))[2] == alone
    across = predictor.predict(text_of("e", "c"))
    assert across[3] == alone
    assert across[[0, 2]].tolist() == [0, 0]
    assert predictor.predict(text_of("ec"))[2] < alone


@EVERY_FIT
def test_without_anything_that_counts_all_is_0(fit):
    silent = toy_harvest({"x:0": "abc", "y:0": ""})
    assert not fit(silent.labels).predict(text_of("abc")).any()
    nothing = toy_harvest({"x:0": "abc"}, [("x:0", 2, 2.0)], left_out=["x"])
    assert not fit(nothing.labels).predict(text_of("abc")).any()


def test_what_a_text_holds_is_looked_up_once_for_all_units():
    made = toy_harvest({"x:0": "abc", "y:0": "ab"})
    text, index = text_of("ab", "cb"), made.harvest.suffixes
    assert index.numbers(text) is index.numbers(text)
    assert made.harvest.pairs.numbers(text) is made.harvest.pairs.numbers(text)
    assert index.numbers(made.harvest.text.encoded) is index.suffixes.numbers


# ------------------------------------------------------------------------------------------ the baselines, second sight
CONTEXTS = st.lists(st.text(LETTERS, max_size=14), min_size=1, max_size=4)
SHRINKAGES = st.sampled_from([(0.25,), (0.25, 0.25, 0.25, 0.25), (0.5, 1.0, 2.0, 3.0, 3.0, 3.0)])
FEW = settings(deadline=None, max_examples=60)


@FEW
@given(harvests(), CONTEXTS, SHRINKAGES, st.booleans())
def test_runs_equal_the_definition_run_by_run(made, contexts, shrinkage, of_forms):
    fitted = (fit_forms if of_forms else fit_tokens)(made.labels, shrinkage)
    rows, read = made.rows(of_forms), forms if of_forms else list
    expected = [slow_suffixes(rows, read(ids(words)), shrinkage) for words in contexts]
    assert fitted.predict(text_of(*contexts)) == pytest.approx(np.concatenate(expected), abs=1e-6)
    own = np.concatenate([slow_suffixes(rows, read(tokens), shrinkage) for _, tokens in made.contexts.values()])
    assert fitted.predict(made.harvest.text.encoded) == pytest.approx(own, abs=1e-6)


@FEW
@given(harvests(), SHRINKAGES)
def test_left_out_predictions_are_those_of_a_fit_without_the_document_and_its_near_duplicates(made, shrinkage):
    expected = [
        slow_suffixes(made.rows(False, [document]), tokens, shrinkage) for document, tokens in made.contexts.values()
    ]
    counted = made.labels.counted
    found = fit_tokens(made.labels, shrinkage).left_out
    assert found[counted] == pytest.approx(np.concatenate(expected)[counted], abs=1e-6)
    assert not found[~counted].any()


@FEW
@given(harvests(), CONTEXTS, st.sampled_from([(0.25, 0.25), (0.5, 2.0)]))
def test_skip_bigrams_equal_the_definition_pair_by_pair(made, contexts, shrinkage):
    skip = fit_skip_bigrams(made.labels, shrinkage)
    rows = made.rows(True)
    expected = [slow_skip_bigrams(rows, forms(ids(words)), 8, shrinkage) for words in contexts]
    assert skip.predict(text_of(*contexts)) == pytest.approx(np.concatenate(expected), abs=1e-6)


def test_a_token_that_looks_like_bos_within_a_text_is_a_token_like_any_other():
    """Runs that hold the BOS of their context are no runs; those that hold its token further in are."""
    made = ToyHarvest(
        {"x:0": ("x", [BOS, BOS, 3]), "y:0": ("y", [BOS, 3])},
        {"x:0": [9.0, 0.0, A_MAX], "y:0": [9.0, 0.0]}, [], {},
    )  # fmt: skip
    rows = made.rows(False)
    fitted = fit_tokens(made.labels)
    for context in ([BOS, BOS, 3], [BOS, 3], [BOS, 3, BOS, 3]):
        text = toy_harvest({"q:0": ""})
        text.contexts["q:0"] = ("q", context)
        expected = slow_suffixes(rows, context, (1.0,) * 4)
        assert fitted.predict(text.harvest.text.encoded) == pytest.approx(expected, abs=1e-6)
