"""Scores against scikit-learn and numpy, and the bootstrap draw by draw."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    explained_variance_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from n2g_assets.core.units import Unit
from n2g_assets.evaluation.bootstrap import draw_graded_scores, draw_scores, poisson_weights
from n2g_assets.evaluation.document_counts import (
    DocumentCounts,
    count_documents,
    counts_of_rows,
    document_rows,
    levels_of,
)
from n2g_assets.evaluation.scores import score_row
from n2g_assets.method.results import unit_schema
from n2g_assets_tests.evaluation.slow_evaluation import slow_interval

DOCUMENTS = 5
THOUSANDTHS = st.integers(0, 1100).map(lambda n: n / 1000)
TIED = st.sampled_from([-0.25, 0.0, 0.0, 0.0, 0.1, 0.499, 0.5, 0.501, 0.7, 1.0, 1.5])
TOKENS = st.lists(
    st.tuples(st.one_of(TIED, THOUSANDTHS), st.one_of(TIED, THOUSANDTHS), st.integers(0, DOCUMENTS - 1)),
    min_size=1,
    max_size=60,
)
DTYPES = st.sampled_from([np.float32, np.float64])
WEIGHTS = poisson_weights([f"document {n}" for n in range(DOCUMENTS)], 40, 7)


def arrays(tokens, dtype=np.float64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    actual, predicted, documents = zip(*tokens, strict=True)
    return np.array(actual, dtype), np.array(predicted, dtype), np.array(documents, np.int32)


def text(seed: int, documents: int, tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Activations that fire now and then, and predictions that are right more often than not."""
    rng = np.random.default_rng(seed)
    actual = rng.normal(0, 0.1, tokens)
    fires = rng.random(tokens) < 0.2
    actual[fires] = rng.uniform(0.5, 1, fires.sum())
    predicted = np.where(rng.random(tokens) < 0.8, np.round(actual, 2), rng.choice([0, 0.3, 0.6], tokens))
    return actual.astype(np.float32), predicted.astype(np.float32), rng.integers(0, documents, tokens)


def score(actual, predicted, documents, weights=WEIGHTS, threshold=0.5) -> tuple[dict, DocumentCounts]:
    counts = count_documents(actual, predicted, documents, weights.shape[1], threshold)
    return score_row(actual, predicted, counts, weights, threshold), counts


def rounded(predicted: np.ndarray) -> np.ndarray:
    """Predictions in thousandths, rounded down but for what float32 cannot hold."""
    return np.clip(np.floor(predicted.astype(np.float64) * 1000 + 1e-3), 0, 1000)


def plain_scores(actual, predicted, threshold: float) -> dict[str, float | None]:
    """What scikit-learn and numpy say of the whole arrays; None by the definitions in the table's columns."""
    fires, alarm = actual >= threshold, predicted >= threshold
    wide, guess = actual.astype(np.float64), predicted.astype(np.float64)
    mass = np.maximum(wide, 0)
    return {
        "precision": precision_score(fires, alarm) if alarm.any() else None,
        "recall": recall_score(fires, alarm) if fires.any() else None,
        "f1": f1_score(fires, alarm) if (fires | alarm).any() else None,
        "auroc": roc_auc_score(fires, rounded(predicted)) if 0 < fires.sum() < len(fires) else None,
        "average_precision": average_precision_score(fires, rounded(predicted)) if fires.any() else None,
        "coverage_firings": np.mean(guess[fires] > 0) if fires.any() else None,
        "coverage_mass": mass[guess > 0].sum() / mass.sum() if mass.sum() else None,
        **plain_graded_scores(wide, guess),
    }


def plain_graded_scores(actual, predicted) -> dict[str, float | None]:
    constant, flat = np.ptp(actual) == 0, np.ptp(predicted) == 0
    return {
        "pearson_r": None if constant or flat else np.corrcoef(actual, predicted)[0, 1],
        "explained_variance": None if constant else explained_variance_score(actual, predicted),
    }


@settings(max_examples=40, deadline=None)
@given(TOKENS, DTYPES, st.sampled_from([0.5, 0.7, 0.3335]))
def test_equal_to_scikit_learn_and_numpy_on_the_whole_arrays(tokens, dtype, threshold):
    actual, predicted, documents = arrays(tokens, dtype)
    row, _ = score(actual, predicted, documents, threshold=threshold)
    fires, alarm = actual >= threshold, predicted >= threshold
    assert row["n_tokens"] == len(tokens)
    assert row["n_documents"] == len(set(documents))
    assert row["n_firings"] == fires.sum()
    assert row["n_firing_documents"] == len(set(documents[fires]))
    for name in ("f1", "average_precision"):
        assert (row[f"{name}_low"] is None) == (row[f"{name}_high"] is None) == (len(set(documents[fires])) < 5)
    assert row["true_positives"] == (fires & alarm).sum()
    assert row["false_positives"] == (~fires & alarm).sum()
    assert row["false_negatives"] == (fires & ~alarm).sum()
    assert row["true_negatives"] == (~fires & ~alarm).sum()
    for name, plain in plain_scores(actual, predicted, threshold).items():
        assert row[name] == (None if plain is None else pytest.approx(plain, abs=1e-9)), name


@settings(max_examples=25, deadline=None)
@given(TOKENS, st.data())
def test_the_order_of_the_tokens_changes_no_score(tokens, data):
    whole, counts = score(*arrays(tokens))
    row, same = score(*arrays(data.draw(st.permutations(tokens))))
    for name, value in whole.items():
        assert row[name] == (None if value is None else pytest.approx(value, abs=1e-9)), name
    assert same.sums == pytest.approx(counts.sums, abs=1e-9)
    assert all(np.array_equal(value, getattr(same, name)) for name, value in vars(counts).items() if name != "sums")


@settings(max_examples=30, deadline=None)
@given(st.lists(TOKENS, min_size=1, max_size=3))
def test_counts_are_those_of_every_token_and_come_back_from_their_rows(texts):
    """Rows of several predictors together; a document without tokens has no row."""
    names, unit = [f"document {n}" for n in range(DOCUMENTS)], Unit(3, -1)
    found = {}
    for number, tokens in enumerate(texts):
        actual, predicted, documents = arrays(tokens)
        counts = count_documents(actual, predicted, documents, DOCUMENTS, 0.5)
        found[f"predictor {number}"] = counts
        cells = list(
            zip(documents.tolist(), rounded(predicted).astype(int).tolist(), (actual >= 0.5).tolist(), strict=True)
        )
        for document, level, firing, silent in zip(
            counts.document, counts.levels, counts.firing, counts.silent, strict=True
        ):
            assert (firing, silent) == (cells.count((document, level, True)), cells.count((document, level, False)))
        assert counts.firing.sum() + counts.silent.sum() == counts.n_tokens.sum() == len(tokens)
    frame = document_rows(unit, [(predictor, "random", names, counts) for predictor, counts in found.items()])
    assert frame.schema == unit_schema("document_scores")
    back = {key: (ids, counts) for key, ids, counts in counts_of_rows(frame.sample(fraction=1, shuffle=True, seed=0))}
    assert list(back) == [(*unit, predictor, "random") for predictor in found]
    for predictor, counts in found.items():
        ids, again = back[*unit, predictor, "random"]
        there = np.flatnonzero(counts.n_tokens)
        assert ids == [names[document] for document in there]
        assert np.array_equal(again.n_tokens, counts.n_tokens[there])
        assert np.array_equal(there[again.document], counts.document)
        assert again.total == counts.total
        assert np.array_equal(again.sums, counts.sums[there])
        for name in ("levels", "firing", "silent"):
            assert np.array_equal(getattr(again, name), getattr(counts, name))


@settings(max_examples=15, deadline=None)
@given(TOKENS, st.sampled_from([0.5, 0.3335]))
def test_every_draw_equals_scikit_learn_with_each_token_weighted_by_its_document(tokens, threshold):
    actual, predicted, documents = arrays(tokens)
    weights = WEIGHTS[:5]
    _, counts = score(actual, predicted, documents, weights, threshold)
    f1_draws, precision_draws = draw_scores(counts, weights)
    fires, alarm = actual >= threshold, predicted >= threshold
    for draw, of_documents in enumerate(weights):
        weight = of_documents[documents].astype(float)
        tells = weight @ fires if fires.any() else weight @ alarm  # a draw without any of its firings does not
        f1 = f1_score(fires, alarm, sample_weight=weight) if tells else math.nan
        assert f1_draws[draw] == pytest.approx(f1, nan_ok=True)
        precision = math.nan
        if weight @ fires:
            precision = average_precision_score(fires, rounded(predicted), sample_weight=weight)
        assert precision_draws[draw] == pytest.approx(precision, abs=1e-6, nan_ok=True)


@settings(max_examples=25, deadline=None)
@given(TOKENS, DTYPES)
def test_every_draw_of_a_graded_score_is_that_of_its_tokens_drawn_as_often_as_their_document(tokens, dtype):
    """Predictions below 0 count as they are; a draw without any token, or with a constant, is not defined."""
    actual, predicted, documents = arrays(tokens, dtype)
    predicted = -predicted
    wide, guess = actual.astype(np.float64), predicted.astype(np.float64)
    _, counts = score(actual, predicted, documents)
    for weights, r, explained in zip(WEIGHTS, *draw_graded_scores(counts, WEIGHTS), strict=True):
        drawn = np.repeat(np.arange(len(tokens)), weights[documents])
        plain = plain_graded_scores(wide[drawn], guess[drawn]) if len(drawn) else {}
        for name, value in (("pearson_r", r), ("explained_variance", explained)):
            slow = plain.get(name)
            assert value == pytest.approx(math.nan if slow is None else slow, abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize("offset", [0.0, 0.5, -3.0])
def test_plain_sums_are_enough_for_ten_digits_where_the_mean_is_a_hundred_times_the_spread(offset):
    actual, predicted, documents = text(5, 30, 40_000)
    actual, predicted = 0.1 * actual.astype(np.float64) + offset, 0.1 * predicted.astype(np.float64) - offset
    weights = poisson_weights([str(n) for n in range(30)], 5, 0)
    drawn = draw_graded_scores(count_documents(actual, predicted, documents, 30, 0.5), weights)
    for of_documents, r, explained in zip(weights, *drawn, strict=True):
        taken = np.repeat(np.arange(len(actual)), of_documents[documents])
        assert r == pytest.approx(np.corrcoef(actual[taken], predicted[taken])[0, 1], abs=1e-10)
        assert explained == pytest.approx(explained_variance_score(actual[taken], predicted[taken]), abs=1e-10)


def test_every_draw_equals_scikit_learn_with_many_levels_and_the_same_with_many_more_tokens():
    actual, predicted, documents = text(0, 30, 5000)
    weights = poisson_weights([str(n) for n in range(30)], 140, 0)  # more draws than are worked on at once
    counts = count_documents(actual, predicted, documents, 30, 0.5)
    few = draw_scores(counts, weights)
    fires, level = actual >= 0.5, rounded(predicted)
    plain = [average_precision_score(fires, level, sample_weight=weight[documents]) for weight in weights]
    assert few[1] == pytest.approx(plain, abs=1e-6)
    parts = {name: value if name in ("document", "levels") else 1200 * value for name, value in vars(counts).items()}
    many = draw_scores(DocumentCounts(**parts), weights)
    assert np.allclose(few, many, atol=1e-6)


def test_draws_are_exact_beyond_the_whole_numbers_that_float32_holds():
    actual, predicted, documents = text(4, DOCUMENTS, 400)
    row, counts = score(actual, predicted, documents)
    large = 3_000_001  # odd: float32 cannot hold its multiples
    parts = {name: value if name in ("document", "levels") else large * value for name, value in vars(counts).items()}
    [f1], [precision] = draw_scores(DocumentCounts(**parts), np.ones((1, DOCUMENTS), np.uint8))
    assert f1 == pytest.approx(row["f1"], rel=1e-12)
    assert precision == pytest.approx(row["average_precision"], rel=1e-12)


def test_a_case_done_by_hand():
    actual = np.array([0.9, 0.6, 0.2, 0.0, -0.4], np.float32)
    predicted = np.array([0.95, 0.0, 0.55, 0.05, 0.0], np.float32)
    weights = np.array([[1, 1], [2, 0], [0, 3]], np.uint8)
    row, counts = score(actual, predicted, np.array([0, 0, 1, 1, 1]), weights)
    assert (row["true_positives"], row["false_positives"]) == (1, 1)
    assert (row["false_negatives"], row["true_negatives"]) == (1, 2)
    assert row["coverage_firings"] == 0.5
    assert row["coverage_mass"] == pytest.approx(1.1 / 1.7)
    assert row["calibration_tokens"] == [2, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert row["calibration_predicted"] == pytest.approx([0, 0.05, 0, 0, 0, 0, 0.55, 0, 0, 0, 0.95])
    assert row["calibration_actual"] == pytest.approx([0.2, 0, 0, 0, 0, 0, 0.2, 0, 0, 0, 0.9])
    # Firing tokens are found at level 950 (1 of 1 taken) and at level 0 (2 of 5).
    assert row["average_precision"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 5)
    # Of 6 pairs of a firing and a silent token, 3 are in order and 1 is tied.
    assert row["auroc"] == pytest.approx((3 + 0.5) / 6)
    f1_draws, precision_draws = draw_scores(counts, weights)
    assert f1_draws == pytest.approx([0.5, 2 / 3, math.nan], nan_ok=True)  # the last draw has no firing token
    assert precision_draws == pytest.approx([0.7, 1.0, math.nan], nan_ok=True)
    assert (counts.document.tolist(), counts.levels.tolist()) == ([0, 0, 1, 1, 1], [0, 950, 0, 50, 550])
    assert (counts.firing.tolist(), counts.silent.tolist()) == ([1, 1, 0, 0, 0], [0, 0, 1, 1, 1])


def test_float32_thousandths_keep_their_level_and_no_rounding_crosses_the_threshold():
    predicted = (np.arange(1001) / 1000).astype(np.float32)
    actual = np.zeros(1001, np.float32)
    for threshold in (0.5, 0.7, 0.3335):
        row, _ = score(actual, predicted, np.zeros(1001, int), threshold=threshold)
        assert row["false_positives"] == np.count_nonzero(np.arange(1001) >= threshold * 1000)
        assert levels_of(predicted).tolist() == list(range(1001))
        assert row["calibration_tokens"] == [1, 99, *[100] * 8, 101]
    below = np.nextafter(np.array([0.5, 0.7], np.float32), np.float32(0))
    for threshold, prediction in zip((0.5, 0.7), below, strict=True):
        pair = np.array([prediction, threshold], np.float32)
        assert score(np.zeros(2), pair, np.zeros(2, int), threshold=threshold)[0]["false_positives"] == 1


def test_what_is_not_defined_is_none_and_its_interval_too():
    nothing, ones = np.zeros(5), np.ones(5)
    documents = np.arange(5)
    row, counts = score(nothing, nothing, documents)
    undefined = {name for name, value in row.items() if value is None}
    of_f1, of_precision, of_r, of_explained = (
        {f"{name}{end}" for end in ("", "_low", "_high")}
        for name in ("f1", "average_precision", "pearson_r", "explained_variance")
    )
    graded, coverage = of_r | of_explained, {"coverage_firings", "coverage_mass"}
    assert undefined == {"precision", "recall", "auroc"} | of_f1 | of_precision | graded | coverage
    assert np.isnan(draw_scores(counts, WEIGHTS)).all()
    assert np.isnan(draw_graded_scores(counts, WEIGHTS)).all()
    missed, _ = score(ones, nothing, documents)
    assert {name for name, value in missed.items() if value is None} == {"precision", "auroc"} | graded
    assert (missed["f1"], missed["recall"], missed["average_precision"]) == (0.0, 0.0, 1.0)
    assert (missed["f1_low"], missed["f1_high"], missed["average_precision_low"]) == (0.0, 0.0, 1.0)
    alarms, _ = score(nothing, ones, documents)
    assert (alarms["f1"], alarms["precision"], alarms["recall"]) == (0.0, 0.0, None)
    assert (alarms["f1_low"], alarms["n_firing_documents"]) == (None, 0)
    mixed, counts = score(np.array([1.0, 0, 0, 0, 0]), np.full(5, 0.1), documents)
    assert [mixed[name] for name in sorted(of_r)] == [None] * 3
    assert mixed["auroc"] == 0.5
    assert [mixed[name] for name in sorted(of_explained)] == pytest.approx([0, 0, 0])
    assert np.isnan(draw_graded_scores(counts, WEIGHTS)[0]).all()


def test_without_any_token_all_scores_are_none():
    row, counts = score(np.zeros(0), np.zeros(0), np.zeros(0, int))
    assert (row["n_tokens"], row["n_documents"], row["true_negatives"], row["f1"]) == (0, 0, 0, None)
    assert row["calibration_tokens"] == [0] * 11
    assert np.isnan(draw_scores(counts, WEIGHTS)).all()
    assert np.isnan(draw_graded_scores(counts, WEIGHTS)).all()


def test_the_row_has_the_columns_of_the_table_evaluation_from_tokens_to_calibration():
    columns = list(unit_schema("evaluation"))
    row, _ = score(*text(0, DOCUMENTS, 50))
    assert list(row) == columns[columns.index("n_tokens") : columns.index("calibration_actual") + 1]


def test_moments_survive_a_large_common_offset():
    actual, predicted, documents = text(1, DOCUMENTS, 3000)
    actual, predicted = actual.astype(np.float64), predicted.astype(np.float64)
    near, _ = score(actual, predicted, documents)
    row, _ = score(actual + 1e6, predicted + 1e6, documents)
    assert row["pearson_r"] == pytest.approx(near["pearson_r"], abs=1e-7)
    assert row["explained_variance"] == pytest.approx(near["explained_variance"], abs=1e-7)


def test_a_constant_that_binary_numbers_round_is_constant():
    row, _ = score(np.full(44, 0.1), np.linspace(0, 1, 44), np.zeros(44, int))
    assert (row["pearson_r"], row["explained_variance"]) == (None, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_other_shapes_are_refused(bad):
    pair, zeros = np.zeros(2), np.zeros(2, int)
    for values in ((np.array([bad, 0]), pair), (pair, np.array([0, bad]))):
        with pytest.raises(ValueError, match="NaN"):
            count_documents(*values, zeros, 2, 0.5)
    with pytest.raises(ValueError, match="differ"):
        count_documents(pair, np.zeros(3), zeros, 2, 0.5)
    with pytest.raises(ValueError, match="document 2"):
        count_documents(pair, pair, np.array([0, 2]), 2, 0.5)
    with pytest.raises(ValueError, match="threshold"):
        count_documents(pair, pair, zeros, 2, 0.0)
    for draw in (draw_scores, draw_graded_scores):
        with pytest.raises(ValueError, match="weigh"):
            draw(count_documents(pair, pair, zeros, 2, 0.5), np.ones((1, 3), np.uint8))


def test_intervals_hold_the_score_and_narrow_with_more_documents():
    widths = []
    for documents in (10, 200):
        weights = poisson_weights([f"d{n}" for n in range(documents)], 400, 0)
        row, _ = score(*text(2, documents, 40 * documents), weights)
        for name in ("f1", "average_precision", "pearson_r", "explained_variance"):
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        widths.append(row["f1_high"] - row["f1_low"])
    assert widths[1] < widths[0] / 2


def test_the_interval_of_f1_is_as_wide_as_that_of_a_plain_resampling_of_documents():
    documents = 60
    actual, predicted, document = text(3, documents, 2400)
    row, _ = score(actual, predicted, document, poisson_weights([f"d{n}" for n in range(documents)], 2000, 0))
    rng, f1s = np.random.default_rng(0), []
    fires, alarm = actual >= 0.5, predicted >= 0.5
    tp, ends = (np.bincount(document, of, documents) for of in (fires & alarm, fires.astype(int) + alarm))
    for _ in range(2000):
        drawn = rng.integers(0, documents, documents)
        f1s.append(2 * tp[drawn].sum() / ends[drawn].sum())
    low, high = slow_interval(f1s, 2 * tp.sum() / ends.sum())
    assert (row["f1_low"], row["f1_high"]) == pytest.approx((low, high), abs=0.1 * (high - low))


@pytest.mark.parametrize(("firing", "has_interval"), [(0, False), (1, False), (4, False), (5, True), (9, True)])
def test_a_score_has_an_interval_where_five_documents_hold_a_firing_token(firing, has_interval):
    """Documents without one do not help, however many there are, nor do many firing tokens in one document."""
    document = np.repeat(np.arange(20), 30)
    actual = ((document < firing) & (np.arange(600) % 30 < 10)).astype(np.float32)
    predicted = np.where(np.arange(600) % 30 < 8, np.float32(0.75), 0) * (document < 12)
    weights = poisson_weights([f"d{n}" for n in range(20)], 100, 0)
    row, counts = score(actual, predicted, document, weights)
    assert (row["n_firing_documents"], row["n_documents"], row["n_firings"]) == (firing, 20, 10 * firing)
    ends = [row[f"{name}_{end}"] for name in ("f1", "average_precision") for end in ("low", "high")]
    assert [end is not None for end in ends] == [has_interval] * 4
    assert row["f1"] is not None
    if firing:  # what the layer's means need is there all the same
        assert np.isfinite(draw_scores(counts, weights)).any(axis=1).all()


@pytest.mark.parametrize(("documents", "has_interval"), [(4, False), (5, True)])
def test_a_graded_score_has_an_interval_on_five_documents_whether_the_unit_fires_or_not(documents, has_interval):
    actual = np.random.default_rng(0).normal(0, 0.1, 40 * documents)
    weights = poisson_weights([f"d{n}" for n in range(documents)], 100, 0)
    row, _ = score(actual, np.maximum(actual, 0), np.arange(len(actual)) % documents, weights)
    assert (row["n_firings"], row["f1_low"], row["average_precision_low"]) == (0, None, None)
    for name in ("pearson_r", "explained_variance"):
        assert row[name] is not None
        assert (row[f"{name}_low"] is not None) == (row[f"{name}_high"] is not None) == has_interval
        assert not has_interval or row[f"{name}_low"] < row[name] < row[f"{name}_high"]


@settings(max_examples=20, deadline=None)
@given(TOKENS)
def test_no_warning_is_given(tokens):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        score(*arrays(tokens))
