"""95 % intervals by a Poisson bootstrap over documents.

Each draw gives every document a Poisson(1) weight (Chamandy et al., "Estimating uncertainty for massive data streams",
2012; Efron and Tibshirani, 1993). The weights come of a seed and the document's id alone: a document weighs the same
for every unit, predictor, text and block, so that differences of predictors and means over units keep their pairing.

Units that fire rarely do so in few documents. A draw in which none of these is taken knows nothing of the unit: it is
left out, of the unit's interval and of the mean over units. To count it 0 would pull every interval below its score.
Of a unit whose firing tokens lie in fewer than ``FEWEST_DOCUMENTS`` documents no interval is given: resampling so few
documents says nothing of those that were not seen.

A graded activation needs no firing: correlation and explained variance have an interval wherever the text has that many
documents. A draw in which the prediction is constant has no correlation and is left out.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Float64, UInt8

from n2g_assets.evaluation.document_counts import DocumentCounts

FEWEST_DOCUMENTS = 5
"""Documents from which a unit's score has an interval: for scores of firing, documents with a firing token."""

_DRAWS_AT_ONCE = 128  # their sums stay in the processor's cache
_CONSTANT = 1e-9  # of the mean square: no more is left of a variance of 0 after rounding


def poisson_weights(document_ids: Sequence[str], draws: int, seed: int) -> UInt8[np.ndarray, "draws documents"]:
    """How often each document is drawn: Poisson(1) from a generator of its own, seeded by ``seed`` and its id.

    The first of more draws are the same.
    """
    columns = [_weights_of(document_id, draws, seed) for document_id in document_ids]
    return np.stack(columns, axis=1) if columns else np.zeros((draws, 0), dtype=np.uint8)


@lru_cache(maxsize=4096)
def _weights_of(document_id: str, draws: int, seed: int) -> UInt8[np.ndarray, " draws"]:
    of_id = hashlib.blake2b(document_id.encode(), digest_size=16).digest()
    generator = np.random.default_rng(np.random.SeedSequence((seed, int.from_bytes(of_id, "little"))))
    weights = generator.poisson(1.0, draws).astype(np.uint8)
    weights.flags.writeable = False
    return weights


def interval(draws: Float[np.ndarray, " draws"], score: float | None) -> tuple[float, float] | tuple[None, None]:
    """The 95 % interval of a score, from its draws that are defined (no NaN); None twice where none or no score is.

    Percentiles are corrected for the bias of the draws (Efron's BC): where most draws lie below the score, as they do
    for F1 on sparse text, higher percentiles are taken. An interval always holds its score.
    """
    defined = draws[~np.isnan(draws)]
    if score is None or not len(defined):
        return None, None
    normal, n = NormalDist(), len(defined)
    tolerance = 1e-6 * max(1.0, abs(score))  # draws may be kept in float32
    below = np.count_nonzero(defined < score - tolerance)
    tied = np.count_nonzero(np.abs(defined - score) <= tolerance)
    bias = normal.inv_cdf(min(max((below + tied / 2) / n, 1 / (2 * n)), 1 - 1 / (2 * n)))
    places = [(n - 1) * normal.cdf(2 * bias + normal.inv_cdf(share)) for share in (0.025, 0.975)]
    low, high = np.interp(places, np.arange(n), np.sort(defined))  # np.quantile takes twice as long
    return min(float(low), score), max(float(high), score)


def draw_scores(
    counts: DocumentCounts, weights: UInt8[np.ndarray, "draws documents"]
) -> Float64[np.ndarray, "scores draws"]:
    """F1 (row 0) and average precision (row 1) in every draw; NaN where not defined.

    Where the unit fires in the text, a draw without any of those firings says nothing of it and is not defined.

    Average precision changes only where firing tokens are: the sum over levels of the share of firings found there
    times the precision down to there. So one column a level that holds any firing token is enough, each with the
    document's tokens from that level upwards.

    Raises:
        ValueError: the weights are not for these documents.
    """
    documents = len(counts.n_tokens)
    _check_weights(counts, weights)
    levels = np.unique(counts.levels[counts.firing > 0])
    n = len(levels)
    # Columns run from the highest level downwards; a silent token counts from the first firing level at or below it.
    column = n - np.searchsorted(levels, counts.levels, side="right")
    found, taken = (
        np.bincount(counts.document * (n + 1) + column, tokens, documents * (n + 1)).reshape(documents, n + 1)[:, :n]
        for tokens in (counts.firing, counts.firing + counts.silent)
    )
    hits = counts.true_positives
    of_documents = np.stack([hits, hits + counts.false_positives, hits + counts.false_negatives], axis=1)
    table = np.hstack([found.cumsum(axis=1), taken.cumsum(axis=1), of_documents])
    # Whole numbers below 2**24 are exact in float32, in which the product takes half the time.
    exact = int(counts.n_tokens.sum()) * int(weights.max(initial=0)) < 2**24
    table = table.astype(np.float32 if exact else np.float64)
    parts = [
        _scores_of_draws((weights[start : start + _DRAWS_AT_ONCE] @ table).astype(np.float64), n)
        for start in range(0, len(weights), _DRAWS_AT_ONCE)
    ]
    return np.concatenate(parts, axis=1)


def draw_graded_scores(
    counts: DocumentCounts, weights: UInt8[np.ndarray, "draws documents"]
) -> Float64[np.ndarray, "scores draws"]:
    """Pearson's r (row 0) and explained variance (row 1) in every draw; NaN where what divides is constant.

    Raises:
        ValueError: the weights are not for these documents.
    """
    _check_weights(counts, weights)
    n, *sums = (weights @ np.column_stack([counts.n_tokens, counts.sums])).T
    with np.errstate(invalid="ignore", divide="ignore"):
        actual, predicted, actual_square, predicted_square, product = (values / n for values in sums)
        of_actual, of_predicted = actual_square - actual**2, predicted_square - predicted**2
        of_actual[of_actual <= _CONSTANT * actual_square] = np.nan
        spread = np.where(of_predicted > _CONSTANT * predicted_square, of_actual * of_predicted, np.nan) ** 0.5
        both = product - actual * predicted
        return np.stack([np.clip(both / spread, -1, 1), (2 * both - of_predicted) / of_actual])


def _check_weights(counts: DocumentCounts, weights: UInt8[np.ndarray, "draws documents"]) -> None:
    documents = len(counts.n_tokens)
    if weights.ndim != 2 or weights.shape[1] != documents:
        raise ValueError(f"weights of shape {weights.shape} do not weigh {documents} documents")


def _scores_of_draws(drawn: Float64[np.ndarray, "draws columns"], n: int) -> Float64[np.ndarray, "scores draws"]:
    """The scores of draws, given what each found and took down to n levels, and its counts."""
    found, taken, (true_positives, alarms, firings) = drawn[:, :n], drawn[:, n : 2 * n], drawn[:, 2 * n :].T
    firings = np.where(firings > 0, firings, np.nan) if n else firings
    area = found.copy()
    area[:, 1:] -= found[:, :-1]
    area *= found
    area /= np.maximum(taken, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([2 * true_positives / (alarms + firings), area.sum(axis=1) / firings])
