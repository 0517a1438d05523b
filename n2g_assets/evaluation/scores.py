"""How well one predictor tells one unit's activations on one text: every score of the table ``evaluation``.

Ranking scores are made of counts by document and level (``document_counts``); correlation, calibration and coverage
come from the activations themselves. 95 % intervals are made of counts and sums by document and the draws of documents
(``bootstrap``). A score that is not defined is None.
"""

import numpy as np
from jaxtyping import Float, Float64, UInt8

from n2g_assets.evaluation.bootstrap import FEWEST_DOCUMENTS, draw_graded_scores, draw_scores, interval
from n2g_assets.evaluation.document_counts import LEVELS, DocumentCounts, levels_of

CALIBRATION_BINS = 11
"""Predicted 0 or less, (0, .1), [.1, .2) and so on; the last is [.9, and more."""


def score_row(
    actual: Float[np.ndarray, " tokens"],
    predicted: Float[np.ndarray, " tokens"],
    counts: DocumentCounts,
    weights: UInt8[np.ndarray, "draws documents"],
    threshold: float,
) -> dict[str, object]:
    """The scores of one unit, predictor and text.

    ``actual`` and ``predicted`` are normalised activations of all tokens but those at position 0, ``counts`` what
    ``count_documents`` makes of them.

    Returns:
        The columns of table ``evaluation`` from ``n_tokens`` to ``calibration_actual``.

    Raises:
        ValueError: the weights are not for these documents.
    """
    total = counts.total
    auroc, average_precision = _ranking(counts)
    truth, guess = actual.astype(np.float64), predicted.astype(np.float64)
    pearson_r, explained_variance = _linear(truth, guess)
    none = np.zeros((2, 0))
    firing = draw_scores(counts, weights) if counts.n_firing_documents >= FEWEST_DOCUMENTS else none
    graded = draw_graded_scores(counts, weights) if counts.n_documents >= FEWEST_DOCUMENTS else none
    f1_low, f1_high = interval(firing[0], total.f1)
    average_precision_low, average_precision_high = interval(firing[1], average_precision)
    pearson_r_low, pearson_r_high = interval(graded[0], pearson_r)
    explained_variance_low, explained_variance_high = interval(graded[1], explained_variance)
    covered, mass = guess > 0, np.maximum(truth, 0)
    covered_firings = int(np.count_nonzero((actual >= threshold) & covered))
    bins = np.where(covered, 1 + np.minimum(levels_of(predicted) * 10 // LEVELS, CALIBRATION_BINS - 2), 0)
    return {
        "n_tokens": int(counts.n_tokens.sum()), "n_documents": counts.n_documents,
        "n_firings": total.n_firings, "n_firing_documents": counts.n_firing_documents, **total._asdict(),
        "precision": total.precision, "recall": total.recall,
        "f1": total.f1, "f1_low": f1_low, "f1_high": f1_high, "auroc": auroc,
        "average_precision": average_precision, "average_precision_low": average_precision_low,
        "average_precision_high": average_precision_high,
        "pearson_r": pearson_r, "pearson_r_low": pearson_r_low, "pearson_r_high": pearson_r_high,
        "explained_variance": explained_variance, "explained_variance_low": explained_variance_low,
        "explained_variance_high": explained_variance_high,
        "coverage_firings": covered_firings / total.n_firings if total.n_firings else None,
        "coverage_mass": float(mass @ covered / mass.sum()) if mass.any() else None,
        "calibration_tokens": np.bincount(bins, minlength=CALIBRATION_BINS).tolist(),
        "calibration_predicted": np.bincount(bins, guess, CALIBRATION_BINS).tolist(),
        "calibration_actual": np.bincount(bins, truth, CALIBRATION_BINS).tolist(),
    }  # fmt: skip


def _linear(
    truth: Float64[np.ndarray, " tokens"], guess: Float64[np.ndarray, " tokens"]
) -> tuple[float | None, float | None]:
    """Pearson's r, and 1 - Var(truth - guess) / Var(truth); None where what divides is constant."""
    if not len(truth):
        return None, None
    # Shifted by the first value, so that a constant has a sum of squares of exactly 0.
    truth, guess = truth - truth[0], guess - guess[0]
    truth, guess = truth - truth.mean(), guess - guess.mean()
    of_truth, both, of_guess = float(truth @ truth), float(truth @ guess), float(guess @ guess)
    spread = of_truth**0.5 * of_guess**0.5
    correlation = float(np.clip(both / spread, -1, 1)) if spread > 0 else None
    return correlation, (2 * both - of_guess) / of_truth if of_truth > 0 else None


def _ranking(counts: DocumentCounts) -> tuple[float | None, float | None]:
    """AUROC and average precision of the levels; None where not defined.

    The two are scikit-learn's ``roc_auc_score`` and ``average_precision_score`` to the last digit, from the counts of
    alarms at every level; each of these would check its arguments for longer than it counts.
    """
    firing, silent = (np.bincount(counts.levels, tokens, LEVELS + 1)[::-1] for tokens in (counts.firing, counts.silent))
    there = (firing + silent) > 0
    true, false = np.cumsum(firing[there]), np.cumsum(silent[there])
    if not len(true) or not true[-1]:
        return None, None
    found = np.diff(true, prepend=0) / true[-1]
    average_precision = float(found @ (true / (true + false)))
    if not false[-1]:
        return None, average_precision
    return float(np.trapezoid(np.append(0, true / true[-1]), np.append(0, false / false[-1]))), average_precision
