"""Counts and measures of firing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

from n2g_assets.evaluation.document_counts import Counts, count_documents

SHARES = st.lists(st.tuples(st.sampled_from([0, 0.25, 0.5, 0.75, 1]), st.sampled_from([0, 0.4, 0.5, 1])), max_size=30)


def count_firings(activations: np.ndarray, predicted: np.ndarray, threshold: float) -> Counts:
    return count_documents(activations, predicted, np.zeros(len(activations), int), 1, threshold).total


def test_counts_of_a_case_done_by_hand():
    activations = np.array([1.0, 0.5, 0.49, 0.0, 0.7, -0.3])
    predicted = np.array([0.9, 0.0, 0.50, 0.0, 0.5, 0.1])
    counts = count_firings(activations, predicted, 0.5)
    assert counts == Counts(true_positives=2, false_positives=1, false_negatives=1, true_negatives=2)
    assert (counts.precision, counts.recall, counts.f1, counts.n_firings) == (2 / 3, 2 / 3, 2 / 3, 3)


def test_a_token_may_be_predicted_to_fire_from_another_threshold_on_than_it_fires():
    activations, predicted = np.array([0.5, 0.5, 0.3, 0.0]), np.float32([0.3, -0.2, 0.3, -0.1])
    counts = [
        count_documents(activations, predicted, np.zeros(4, int), 1, 0.5, alarm).total for alarm in (0.3, -0.15, 0.5)
    ]
    assert counts == [Counts(1, 1, 1, 1), Counts(1, 2, 1, 0), Counts(0, 0, 2, 2)]


def test_what_has_no_denominator_is_none_and_not_zero():
    silent = count_firings(np.zeros(3), np.zeros(3), 0.5)
    assert (silent.precision, silent.recall, silent.f1) == (None, None, None)
    missed = count_firings(np.ones(3), np.zeros(3), 0.5)
    assert (missed.precision, missed.recall, missed.f1) == (None, 0.0, 0.0)
    false_alarm = count_firings(np.zeros(3), np.ones(3), 0.5)
    assert (false_alarm.precision, false_alarm.recall, false_alarm.f1) == (0.0, None, 0.0)


@given(SHARES, st.sampled_from([0.3, 0.5]))
def test_equal_to_scikit_learn(pairs, threshold):
    activations, predicted = np.array([a for a, _ in pairs], float), np.array([p for _, p in pairs], float)
    counts = count_firings(activations, predicted, threshold)
    assert sum(counts) == len(pairs)
    if not pairs:
        return
    fires, alarm = activations >= threshold, predicted >= threshold
    (tn, fp), (fn, tp) = confusion_matrix(fires, alarm, labels=[False, True])
    assert counts == (tp, fp, fn, tn)
    for score, name in ((precision_score, "precision"), (recall_score, "recall"), (f1_score, "f1")):
        theirs, ours = score(fires, alarm, zero_division=math.nan), getattr(counts, name)
        assert math.isnan(theirs) if ours is None else theirs == pytest.approx(ours)
