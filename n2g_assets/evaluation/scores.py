"""How well one predictor tells one unit's activations on one text: every score of the table ``evaluation``, streamed.

1. ``Scores.add`` takes the text piece by piece and keeps what does not grow with its length: for each document, how
   many tokens were predicted at which level and fired or not; moments; calibration bins; coverage.
2. ``Scores.row`` turns that into counts, ranking scores (as scikit-learn's, on levels weighted by their tokens),
   correlation, and 95 % intervals (``bootstrap``).

The *level* of a prediction is the prediction rounded down to thousandths, within 0 to 1000. What is less than a
millionth below a thousandth counts as that thousandth, since float32 holds most thousandths a little too low. Levels
serve ranking, calibration bins and drawn curves. Whether a token is predicted to fire is never read off a level but
asked of the prediction itself, in its own precision: float32 0.7 reaches a threshold of 0.7.

Activations are normalised. Position 0 of a context is left out by the caller. A score that is not defined is None.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int64, UInt8

from n2g_assets.evaluation.bootstrap import FEWEST_DOCUMENTS, Cells, draw_scores, interval
from n2g_assets.evaluation.metrics import Counts

LEVELS = 1000
"""Levels of a prediction in the unit interval; the last one holds 1 and more."""
HUNDREDTHS = 101
"""Length of ``Draws.levels_firing`` and ``Draws.levels_silent``."""
CALIBRATION_BINS = 11
"""Predicted 0 or less, (0, .1), [.1, .2) and so on; the last is [.9, and more."""

_Where = Int64[np.ndarray, " telling"] | slice

_SLACK = 1e-3  # of a level: a millionth of a_max
_CODES = 4 * (LEVELS + 1)  # level, predicted to fire, fires


@dataclass(frozen=True)
class Draws:
    """What a layer's means need of one unit, predictor and text."""

    f1: Float32[np.ndarray, " draws"]
    """F1 of firing in every draw of documents; NaN where it is not defined there."""
    average_precision: Float32[np.ndarray, " draws"]
    """Average precision in every draw; NaN where it is not defined there."""
    levels_firing: Int64[np.ndarray, " hundredths"]
    """Firing tokens by their prediction in hundredths, 0 to 100."""
    levels_silent: Int64[np.ndarray, " hundredths"]
    """Silent tokens by their prediction in hundredths, 0 to 100."""


class Scores:
    """Accumulates the scores of one unit, predictor and text; memory is bounded by documents times levels."""

    def __init__(self, n_documents: int, threshold: float) -> None:
        """Starts with no token.

        Args:
            n_documents: documents of the text, numbered from 0.
            threshold: share of a_max from which a token fires, above 0.
        """
        if not threshold > 0:
            raise ValueError(f"a firing threshold of {threshold} would call tokens without a prediction firing")
        self._threshold = float(threshold)
        self._tokens = np.zeros(n_documents, dtype=np.int64)
        self._levels = _Tally()
        self._moments = _Moments()
        self._bins = np.zeros((3, CALIBRATION_BINS))
        self._covered = 0
        self._mass = np.zeros(2)

    def add(
        self,
        actual: Float[np.ndarray, " tokens"],
        predicted: Float[np.ndarray, " tokens"],
        documents: Int[np.ndarray, " tokens"],
    ) -> None:
        """Takes in some tokens; a document's tokens may come in several pieces and in any order.

        Args:
            actual: true normalised activations.
            predicted: predicted normalised activations.
            documents: number of each token's document.

        Raises:
            ValueError: the three differ in shape, one holds a number that is not finite, or a document has no
                number below ``n_documents``; nothing is taken in then.
        """
        if not actual.shape == predicted.shape == documents.shape or actual.ndim != 1:
            raise ValueError(
                f"{actual.shape} activations, {predicted.shape} predictions and {documents.shape} documents differ"
            )
        if not len(actual):
            return
        truth, guess = actual.astype(np.float64), predicted.astype(np.float64)
        total = float(truth.sum())
        if not (np.isfinite(total) and np.isfinite(guess.sum())):
            raise ValueError("an activation or a prediction is NaN or infinite")
        tokens = np.bincount(documents, minlength=len(self._tokens))
        if len(tokens) > len(self._tokens):
            raise ValueError(f"document {len(tokens) - 1} is not among {len(self._tokens)} documents")

        fires, covered = actual >= self._threshold, guess > 0
        # Silent tokens without a prediction are most of a text and all alike: they are what is left over.
        telling: _Where = np.flatnonzero(fires | covered)
        if 2 * np.count_nonzero(covered) > len(truth):
            telling = slice(None)
        level = _levels_of(guess[telling])
        alarm = predicted[telling] >= self._threshold
        code = 4 * level + 2 * alarm + fires[telling]
        self._levels.add(documents[telling].astype(np.int64) * _CODES + code)
        self._tokens += tokens
        self._moments.add(truth, guess)
        self._add_bins(truth, guess, telling, level)
        self._covered += int(np.count_nonzero(fires & covered))
        mass = np.maximum(truth, 0)
        self._mass += (mass.sum(), mass @ covered)

    def row(self, weights: UInt8[np.ndarray, "draws documents"]) -> tuple[dict[str, object], Draws]:
        """The scores of all tokens so far.

        Args:
            weights: how often each draw takes each document (``poisson_weights``).

        Returns:
            The columns of table ``evaluation`` from ``n_tokens`` to ``calibration_actual``, and the draws.

        Raises:
            ValueError: the weights are not for these documents.
        """
        if weights.ndim != 2 or weights.shape[1] != len(self._tokens):
            raise ValueError(f"weights of shape {weights.shape} do not weigh {len(self._tokens)} documents")
        cells = self._cells()
        counts = _counted(cells)
        auroc, average_precision = _ranking(cells)
        f1_draws, precision_draws = draw_scores(cells, weights)
        firing_documents = len(np.unique(cells.document[cells.fires & (cells.tokens > 0)]))
        enough = firing_documents >= FEWEST_DOCUMENTS
        nothing = (None, None)
        f1_low, f1_high = interval(f1_draws, counts.f1) if enough and counts.f1 is not None else nothing
        precision_low, precision_high = (
            interval(precision_draws, average_precision) if enough and average_precision is not None else nothing
        )
        mass, covered_mass = self._mass
        row: dict[str, object] = {
            "n_tokens": int(self._tokens.sum()),
            "n_documents": int(np.count_nonzero(self._tokens)),
            "n_firings": counts.n_firings,
            "n_firing_documents": firing_documents,
            **counts._asdict(),
            "precision": counts.precision,
            "recall": counts.recall,
            "f1": counts.f1,
            "f1_low": f1_low,
            "f1_high": f1_high,
            "auroc": auroc,
            "average_precision": average_precision,
            "average_precision_low": precision_low,
            "average_precision_high": precision_high,
            "pearson_r": self._moments.correlation,
            "explained_variance": self._moments.explained_variance,
            "coverage_firings": self._covered / counts.n_firings if counts.n_firings else None,
            "coverage_mass": float(covered_mass / mass) if mass > 0 else None,
            "calibration_tokens": self._bins[0].astype(np.int64).tolist(),
            "calibration_predicted": self._bins[1].tolist(),
            "calibration_actual": self._bins[2].tolist(),
        }
        firing, silent = (
            np.bincount(cells.level[side] // 10, cells.tokens[side], HUNDREDTHS).astype(np.int64)
            for side in (cells.fires, ~cells.fires)
        )
        return row, Draws(f1_draws.astype(np.float32), precision_draws.astype(np.float32), firing, silent)

    def _add_bins(
        self,
        truth: Float64[np.ndarray, " tokens"],
        guess: Float64[np.ndarray, " tokens"],
        telling: _Where,
        level: Int64[np.ndarray, " telling"],
    ) -> None:
        truth_told, guess_told = truth[telling], guess[telling]
        bins = np.where(guess_told > 0, 1 + np.minimum(level // 100, CALIBRATION_BINS - 2), 0)
        self._bins[0] += np.bincount(bins, minlength=CALIBRATION_BINS)
        self._bins[1] += np.bincount(bins, guess_told, CALIBRATION_BINS)
        self._bins[2] += np.bincount(bins, truth_told, CALIBRATION_BINS)
        rest = len(truth) - len(level)
        if rest:
            self._bins[:, 0] += (rest, guess.sum() - guess_told.sum(), truth.sum() - truth_told.sum())

    def _cells(self) -> Cells:
        """All tokens, those that were left over included, as counts."""
        keys, tokens = self._levels.totals()
        document, code = keys // _CODES, keys % _CODES
        told = np.bincount(document, tokens, len(self._tokens)).astype(np.int64)
        rest = self._tokens - told
        silent = np.flatnonzero(rest)
        code = np.concatenate([code, np.zeros(len(silent), dtype=np.int64)])
        return Cells(
            document=np.concatenate([document, silent]),
            level=code // 4,
            alarm=code % 4 >= 2,
            fires=code % 2 == 1,
            tokens=np.concatenate([tokens, rest[silent]]),
        )


class _Tally:
    """Counts keys; what was added lately waits unmerged, never more of it than twice what is merged."""

    def __init__(self) -> None:
        self._keys: list[Int64[np.ndarray, " keys"]] = [np.zeros(0, dtype=np.int64)]
        self._counts: list[Int64[np.ndarray, " keys"]] = [np.zeros(0, dtype=np.int64)]
        self._waiting = 0

    def add(self, keys: Int64[np.ndarray, " tokens"]) -> None:
        distinct, counts = _distinct(keys)
        self._keys.append(distinct)
        self._counts.append(counts)
        self._waiting += len(distinct)
        if self._waiting > max(_CODES, 2 * len(self._keys[0])):
            self.totals()

    def totals(self) -> tuple[Int64[np.ndarray, " keys"], Int64[np.ndarray, " keys"]]:
        """The distinct keys in order, and how often each was added."""
        if len(self._keys) > 1:
            keys, counts = _distinct(np.concatenate(self._keys), np.concatenate(self._counts))
            self._keys, self._counts, self._waiting = [keys], [counts], 0
        return self._keys[0], self._counts[0]


class _Moments:
    """Means and centred products of two sequences, merged piece by piece (Chan, Golub and LeVeque, 1979).

    Both are shifted by their first value, so that a constant sequence has a sum of squares of exactly 0.
    """

    def __init__(self) -> None:
        self._n = 0
        self._shift = np.zeros(2)
        self._mean = np.zeros(2)
        self._products = np.zeros((2, 2))

    def add(self, truth: Float64[np.ndarray, " tokens"], guess: Float64[np.ndarray, " tokens"]) -> None:
        if not self._n:
            self._shift[:] = truth[0], guess[0]
        truth, guess = truth - self._shift[0], guess - self._shift[1]
        mean = np.array([truth.mean(), guess.mean()])
        truth -= mean[0]
        guess -= mean[1]
        both = truth @ guess
        n = self._n + len(truth)
        step = mean - self._mean
        self._products += [[truth @ truth, both], [both, guess @ guess]]
        self._products += np.outer(step, step) * (self._n * len(truth) / n)
        self._mean += step * (len(truth) / n)
        self._n = n

    @property
    def correlation(self) -> float | None:
        """Pearson's r; None where one of the two is constant."""
        (truth, both), (_, guess) = self._products.tolist()
        spread = truth**0.5 * guess**0.5
        return float(np.clip(both / spread, -1, 1)) if spread > 0 else None

    @property
    def explained_variance(self) -> float | None:
        """1 - Var(actual - predicted) / Var(actual); None where the actual activation is constant."""
        (truth, both), (_, guess) = self._products.tolist()
        return (2 * both - guess) / truth if truth > 0 else None


def _levels_of(predicted: Float64[np.ndarray, " tokens"]) -> Int64[np.ndarray, " tokens"]:
    return np.minimum(np.clip(predicted, 0, 1) * LEVELS + _SLACK, LEVELS).astype(np.int64)


def _distinct(
    keys: Int64[np.ndarray, " keys"], counts: Int64[np.ndarray, " keys"] | None = None
) -> tuple[Int64[np.ndarray, " distinct"], Int64[np.ndarray, " distinct"]]:
    """The distinct keys in order and the sum of their counts (1 each where none are given)."""
    if not len(keys):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    if counts is None:
        keys = np.sort(keys)
    else:
        order = np.argsort(keys, kind="stable")
        keys, counts = keys[order], counts[order]
    starts = np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1])
    sums = np.diff(starts, append=len(keys)) if counts is None else np.add.reduceat(counts, starts)
    return keys[starts], sums


def _counted(cells: Cells) -> Counts:
    of = np.bincount(2 * cells.alarm + cells.fires, cells.tokens, 4).astype(np.int64).tolist()
    return Counts(true_positives=of[3], false_positives=of[2], false_negatives=of[1], true_negatives=of[0])


def _ranking(cells: Cells) -> tuple[float | None, float | None]:
    """AUROC and average precision of the levels; None where not defined.

    The two are scikit-learn's ``roc_auc_score`` and ``average_precision_score`` to the last digit, from the counts of
    alarms at every level; each of these would check its arguments for longer than it counts.
    """
    kinds, tokens = _distinct(2 * cells.level + cells.fires, cells.tokens)
    level, fires = kinds[::-1] // 2, kinds[::-1] % 2
    if not fires.any():
        return None, None
    lasts = np.append(level[1:] != level[:-1], True)  # of each level, the highest first
    true, false = (np.cumsum(tokens[::-1] * of)[lasts].astype(np.float64) for of in (fires, 1 - fires))
    found = np.diff(true, prepend=0) / true[-1]
    average_precision = float(found @ (true / (true + false)))
    if not false[-1]:
        return None, average_precision
    return float(np.trapezoid(np.append(0, true / true[-1]), np.append(0, false / false[-1]))), average_precision
