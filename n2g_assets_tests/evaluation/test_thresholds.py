"""From which prediction on a unit is predicted to fire: the best on documents that were left out, and no other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.registry import TEXTS, THRESHOLDS
from n2g_assets.evaluation.material import UnitMaterial
from n2g_assets.evaluation.predictors import fit_predictors
from n2g_assets.evaluation.thresholds import Threshold, best_threshold, choose_thresholds, left_out_predictions
from n2g_assets.method.text import EncodedText
from n2g_assets_tests.evaluation.slow_baselines import slow_threshold
from n2g_assets_tests.evaluation.slow_evaluation import slow_left_out, unit_material
from n2g_assets_tests.evaluation.small_layer import METHOD, UNITS, SmallLayer, small_layer

UNIT = UNITS[0]
FIRING = METHOD.firing_threshold


@pytest.fixture(scope="module")
def layer() -> SmallLayer:
    return small_layer(1, preset="evidence")


@pytest.fixture(scope="module")
def material(layer) -> UnitMaterial:
    return unit_material(layer, UNIT)


# ------------------------------------------------------------------------------------------ the best one
def best(pairs) -> Threshold:
    actual, predicted = (np.array(values, np.float32) for values in zip(*pairs, strict=True))
    return best_threshold(actual, predicted, 0.5)


LEVELS = st.sampled_from([-0.5, 0.0, 0.125, 0.25, 0.375, 0.5, 1.0, 1.5])


@settings(deadline=None)
@given(st.lists(st.tuples(LEVELS, LEVELS), min_size=1, max_size=30))
def test_no_middle_between_two_predictions_is_better_and_none_as_good_is_larger(pairs):
    expected, f1 = slow_threshold(*zip(*pairs, strict=True), 0.5)
    found = best(pairs)
    assert (found.threshold, found.f1) == (expected, f1 if f1 is None else pytest.approx(f1))
    assert found.n_firings == sum(actual >= 0.5 for actual, _ in pairs)


def test_a_threshold_done_by_hand():
    """From .3 on two of three alarms are right and all firings found: F1 .8; from .6 on 2/3."""
    found = best([(1, 0.75), (0, 0.5), (0.5, 0.25), (0.49, 0.125), (0, 0)])
    assert found == Threshold((0.25 + 0.125) / 2, 0.8, 2)


def test_of_equals_the_largest_is_taken():
    assert best([(1, 1), (0, 0.75), (0, 0.5), (1, 0.25), (0, 0)]).threshold == 0.875


def test_where_nothing_fires_or_nothing_is_told_apart_it_is_the_firing_threshold():
    assert best([(0, 0.75), (0.25, 0.0)]) == Threshold(0.5, 0.0, 0)
    assert best([(0, 0.25), (0.25, 0.0)]) == Threshold(0.5, None, 0)
    assert best([(1, 0), (0, 0), (0, 0)]) == Threshold(0.5, 0.0, 1)
    assert best([(1, 1), (0, 1), (0, 1)]) == Threshold(0.5, 0.5, 1)


def test_neighbours_in_single_precision_are_told_apart():
    high = np.float32(0.3)
    low = np.nextafter(high, np.float32(0))
    found = best_threshold(np.array([1, 0], np.float32), np.array([high, low]), 0.5)
    assert (high >= found.threshold, low >= found.threshold, found.f1) == (True, False, 1.0)


# ------------------------------------------------------------------------------------------ left-out documents
@pytest.mark.parametrize(
    "name", ["token_lookup", "suffixes", "skip_bigram", "graph_shuffled", "always_zero", "graph", "combined"]
)
def test_each_document_is_predicted_by_a_fit_that_did_not_see_it(layer, material, name):
    [predictor] = fit_predictors([name], material).values()
    found = left_out_predictions(name, predictor, material)
    counted = material.harvest_labels.counted
    expected = np.concatenate(slow_left_out(layer, UNIT, name))
    assert found[counted] == pytest.approx(expected[counted], abs=1e-6)


@pytest.mark.parametrize("name", ["token_lookup", "suffixes", "skip_bigram", "graph_shuffled", "graph", "combined"])
def test_the_thresholds_of_every_predictor_are_the_best_of_a_full_search(layer, material, name):
    labels = material.harvest_labels
    train = {(row["context_id"]) for row in material.rows["top_examples"].iter_rows(named=True)}
    in_train = np.array([context in train for context in layer.harvest["context_id"]])
    in_train = in_train[material.shared.harvest().text.windows]
    fitted = fit_predictors([name], material)
    predicted = left_out_predictions(name, fitted[name], material)
    chosen = choose_thresholds(fitted, material)[name]
    for kind, where in (("ordinary", labels.counted), ("top", labels.counted & in_train)):
        expected, f1 = slow_threshold(labels.values[where].tolist(), predicted[where].tolist(), FIRING)
        assert chosen[kind].threshold == pytest.approx(expected, abs=1e-7)
        assert chosen[kind].f1 == pytest.approx(f1)
        assert chosen[kind].n_firings == np.count_nonzero(labels.values[where] >= FIRING) > 0
    assert chosen["ordinary"].n_firings > chosen["top"].n_firings


def test_the_two_folds_hold_each_document_once_and_near_duplicates_together(material):
    harvest = material.shared.harvest()
    folds = harvest.folds(material.shared.seed)
    assert sorted(folds[0] + folds[1]) == harvest.text.document_ids
    assert all(folds)
    assert any({"d0", "d1"} <= set(fold) for fold in folds)
    assert harvest.folds(1) != harvest.folds(2)


def test_what_is_left_out_is_gone_from_the_harvest_and_from_the_train_contexts(material):
    document = material.rows["top_examples"]["document_id"][0]
    rest = material.without([document])
    assert not rest.harvest_labels.counted[material.shared.harvest().inside([document])].any()
    assert 0 < rest.harvest_labels.counted.sum() < material.harvest_labels.counted.sum()
    kept = material.rows["top_examples"].filter(document_id=document)["rank"].to_list()
    for table in ("top_examples", "pruned_examples", "saliencies"):
        assert set(rest.rows[table]["rank"]) == set(material.rows[table]["rank"]) - set(kept)
    assert len(rest.train[1]) < len(material.train[1])
    assert rest.rows["graph_nodes"] is material.rows["graph_nodes"]


# ------------------------------------------------------------------------------------------ methods and predictors
class NotAsked:
    """A predictor that is not to be asked."""

    def predict(self, text: EncodedText) -> np.ndarray:
        raise AssertionError("it is asked")


def test_in_the_method_paper_nothing_is_fitted_and_all_are_the_firing_threshold(material):
    def not_read():
        raise AssertionError("the harvest is read")

    paper = replace(material, shared=replace(material.shared, preset="paper", harvest=not_read))
    found = choose_thresholds({"graph": NotAsked(), "ngram": NotAsked()}, paper)
    assert found == {name: dict.fromkeys(THRESHOLDS, Threshold(FIRING)) for name in ("graph", "ngram")}


def test_silence_stays_silence(material):
    found = choose_thresholds(fit_predictors(["always_zero"], material), material)["always_zero"]
    assert {own.threshold for own in found.values()} == {FIRING}


def test_the_text_top_has_a_kind_of_its_own():
    assert {text.name for text in TEXTS if text.threshold == "top"} == {"top"}
