"""Intervals against a slow definition, draws of a known shape, texts of which the true score is known, and weights."""

import math
from statistics import NormalDist

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from n2g_assets.core.units import Unit
from n2g_assets.evaluation.bootstrap import interval, poisson_weights
from n2g_assets.evaluation.document_counts import DocumentCounts, document_rows
from n2g_assets.evaluation.layer_scores import layer_scores
from n2g_assets_tests.evaluation.slow_evaluation import slow_interval

SCORES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 1000).map(lambda n: n / 1000))
DRAWS = st.lists(st.one_of(st.just(math.nan), SCORES), min_size=1, max_size=40)
NORMAL = np.array([NormalDist().inv_cdf((n + 0.5) / 20_000) for n in range(20_000)])
"""Draws that lie as a standard normal does."""


@given(DRAWS, SCORES, st.sampled_from([np.float32, np.float64]))
def test_equal_to_a_slow_bias_correction_and_never_without_the_score(draws, score, dtype):
    found, slow = interval(np.array(draws, dtype), score), slow_interval(np.array(draws, dtype), score)
    if slow[0] is None:
        assert found == (None, None)
        return
    assert found == pytest.approx(slow, abs=1e-6)
    low, high = found
    assert low <= score <= high
    assert all(isinstance(end, float) for end in found)


@pytest.mark.parametrize("bias", [-0.5, -0.25, 0.0, 0.25, 0.5])
def test_draws_that_lie_too_low_move_the_interval_up_by_as_much_and_too_high_ones_down(bias):
    """Of a normal around score + bias the corrected interval is the one around score - bias, for which it stands."""
    low, high = interval(0.5 + 0.1 * (NORMAL + bias), 0.5)
    assert (low, high) == pytest.approx((0.5 + 0.1 * (-bias - 1.96), 0.5 + 0.1 * (-bias + 1.96)), abs=2e-3)


@given(st.floats(-0.5, 0.5), st.integers(2, 5))
def test_a_scale_that_is_bent_bends_the_interval_alike(bias, power):
    """What is corrected is where draws lie, not how far away: no shape of the draws has to be assumed."""
    draws = 2 + 0.2 * (NORMAL[5::10] + bias)
    straight, bent = interval(draws, 2.0), interval(draws**power, 2.0**power)
    assert bent == pytest.approx([end**power for end in straight], rel=3e-3)


def test_a_score_beyond_all_draws_ends_the_interval_and_one_among_equal_draws_is_all_of_it():
    draws = np.linspace(0.2, 0.4, 101)
    low, high = interval(draws, 0.9)
    assert (low, high) == (pytest.approx(0.4, abs=0.01), 0.9)
    assert interval(draws, 0.0) == (0.0, pytest.approx(0.2, abs=0.01))
    assert interval(np.full(9, 0.3), 0.3) == (0.3, 0.3)
    assert interval(np.full(9, 0.7, np.float32), 0.7) == pytest.approx((0.7, 0.7), abs=1e-7)


def test_ties_with_the_score_stand_half_on_either_side_also_where_draws_were_rounded():
    draws = np.repeat([0.1, 0.7, 0.9], [10, 80, 10])
    assert interval(draws, 0.7) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])))
    rounded = draws.astype(np.float32)
    assert float(rounded[10]) != 0.7
    assert interval(rounded, 0.7) == pytest.approx(interval(draws, 0.7), abs=1e-6)


def test_undefined_draws_are_left_out():
    assert interval(np.array([math.nan, 1.0, 3.0, math.nan]), 2.0) == pytest.approx((1.05, 2.95))
    assert interval(np.full(3, math.nan), 0.5) == interval(np.zeros(0), 0.5) == (None, None)


def f1_of(right, alarms, firings):
    return 2 * right / (alarms + firings)


def test_about_95_of_100_intervals_of_a_mean_on_dense_text_hold_what_all_text_would_give():
    """Documents differ: in each, every unit fires and is found as often as the document's ease has it."""
    generator = np.random.default_rng(0)
    documents, units, repetitions, n_draws, tokens = 40, 3, 200, 200, 60
    # Ease is even between .2 and 1 (mean .6). Of 60 tokens 20 % fire; alarms are right as often as ease, wrong 1 in 10.
    truth = f1_of(0.2 * 0.6, 0.2 * 0.6 + 0.8 * 0.1, 0.2)
    names, held, above = [f"d{n}" for n in range(documents)], 0, 0
    for seed in range(repetitions):
        ease = generator.uniform(0.2, 1, documents)
        rows, counted = [], []
        for number in range(units):
            firings = generator.binomial(tokens, 0.2, documents)
            right = generator.binomial(firings, ease)
            wrong = generator.binomial(tokens - firings, 0.1)
            rows.append((float(f1_of(right.sum(), right.sum() + wrong.sum(), firings.sum())), int(firings.sum())))
            counts = DocumentCounts(
                np.full(documents, tokens), right, wrong, firings - right,
                document=np.arange(documents), levels=np.zeros(documents, int), firing=firings, silent=tokens - firings,
                sums=np.zeros((documents, 5)),
            )  # fmt: skip
            counted.append(document_rows(Unit(number, 1), [("graph", "random", names, counts)]))
        evaluation = pl.DataFrame(rows, schema=["f1", "n_firings"], orient="row").with_columns(
            predictor=pl.lit("graph"), text=pl.lit("random"),
            **dict.fromkeys(("average_precision", "pearson_r", "explained_variance"), pl.lit(None, pl.Float64)),
        )  # fmt: skip
        [row] = layer_scores([(evaluation, pl.concat(counted))], units_asked=units, draws=n_draws, seed=seed).to_dicts()
        held += row["f1_low"] <= truth <= row["f1_high"]
        above += row["f1_low"] > truth
    assert 0.88 * repetitions <= held <= 0.99 * repetitions
    assert above <= 0.08 * repetitions  # few on either side
    assert repetitions - held - above <= 0.08 * repetitions


def test_a_documents_weights_depend_on_its_id_and_the_seed_alone():
    three = poisson_weights(["a", "b", "c"], 50, 3)
    assert three.dtype == np.uint8
    assert three.shape == (50, 3)
    assert np.array_equal(poisson_weights(["c", "a"], 50, 3), three[:, [2, 0]])
    assert np.array_equal(poisson_weights(["b"], 200, 3)[:50], three[:, [1]])
    assert not np.array_equal(poisson_weights(["b"], 50, 4), three[:, [1]])
    assert not np.array_equal(three[:, 0], three[:, 1])
    assert poisson_weights([], 5, 0).shape == (5, 0)


def test_weights_are_poisson_with_mean_1_and_documents_do_not_go_together():
    weights = poisson_weights([str(n) for n in range(200)], 500, 0).astype(float)
    assert weights.mean() == pytest.approx(1, abs=0.02)
    assert weights.var() == pytest.approx(1, abs=0.03)
    assert (weights == 0).mean() == pytest.approx(math.exp(-1), abs=0.01)
    between = np.corrcoef(weights.T)[np.triu_indices(200, 1)]
    assert abs(between.mean()) < 0.01
