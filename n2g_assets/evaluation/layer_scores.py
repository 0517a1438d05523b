"""Means over the units of a layer, one row a predictor and text: table ``layer_scores`` from ``document_scores``.

Two conventions stand side by side. ``f1`` is the mean over units whose F1 is defined; ``f1_all`` the mean over all
units asked for, where what is undefined, dead, failed or missing counts 0. An interval is that of the mean over draws
of documents: all units see the same draws (``poisson_weights``), and a unit that is undefined in a draw is left out
there; ``f1_all`` counts 0 what is undefined in the text itself, not what a draw happens to miss. The gain over
``token_lookup`` is taken draw by draw, in pairs.

Units are read block by block and only sums are kept: memory grows with predictors, texts and draws, not with units.
"""

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import polars as pl
from jaxtyping import Float64

from n2g_assets.evaluation.bootstrap import draw_graded_scores, draw_scores, interval, poisson_weights
from n2g_assets.evaluation.document_counts import LEVELS, counts_of_rows
from n2g_assets.method.results import unit_frame

COMPARED_WITH = "token_lookup"
"""The predictor that ``f1_gain`` is measured against."""
HUNDREDTHS = 101
"""Length of ``layer_scores.levels_firing`` and ``levels_silent``."""
_SCORES = ("f1", "average_precision", "pearson_r", "explained_variance")  # in the order in which they are drawn


def layer_scores(
    blocks: Iterable[tuple[pl.DataFrame, pl.DataFrame]],
    *,
    units_asked: int,
    draws: int,
    seed: int,
    expected: Iterable[tuple[str, str]] = (),
) -> pl.DataFrame:
    """The means of one layer.

    Args:
        blocks: rows of ``evaluation`` and of ``document_scores`` of some units each, every unit in one block.
        units_asked: units asked for in the layer, whatever became of them.
        draws: draws of documents behind the intervals.
        seed: of the draws.
        expected: predictors and texts that have a row even if no unit could be scored; they come first, in this order.

    Returns:
        The rows of table ``layer_scores`` without ``study`` and ``layer``.

    Raises:
        ValueError: a predictor and text has more units than were asked for.
    """
    sums = defaultdict(lambda: _Sums(draws), {pair: _Sums(draws) for pair in expected})
    weights_of = lru_cache(maxsize=8)(lambda document_ids: poisson_weights(document_ids, draws, seed))
    for evaluation, document_scores in blocks:
        told = evaluation.select("predictor", "text", "n_firings", *_SCORES)
        for predictor, text, n_firings, *scores in told.iter_rows():
            pair = sums[predictor, text]
            pair.evaluated += 1
            pair.without_firing += n_firings == 0
            pair.scores.add(np.array(scores, np.float64))
        for (_, _, predictor, text), document_ids, counts in counts_of_rows(document_scores):
            pair = sums[predictor, text]
            weights = weights_of(tuple(document_ids))
            pair.drawn.add(np.concatenate([draw_scores(counts, weights), draw_graded_scores(counts, weights)]))
            for part, tokens in enumerate((counts.firing, counts.silent)):
                pair.levels[part] += np.bincount(counts.levels * 100 // LEVELS, tokens, HUNDREDTHS).astype(np.int64)
    for (predictor, text), pair in sums.items():
        if pair.evaluated > units_asked:
            raise ValueError(f"{predictor} on {text} has more units than the {units_asked} that were asked for")
    rows = [
        {"predictor": predictor, "text": text, **_row(pair, sums.get((COMPARED_WITH, text)), units_asked)}
        for (predictor, text), pair in sums.items()
    ]
    return unit_frame("layer_scores", rows)


class _Mean:
    """Means over units, each over the units where it is defined (no NaN)."""

    def __init__(self, *shape: int) -> None:
        self.total, self.units = np.zeros(shape), np.zeros(shape, dtype=np.int64)

    def add(self, values: Float64[np.ndarray, "..."]) -> None:
        """Adds one unit."""
        defined = ~np.isnan(values)
        self.total += np.where(defined, values, 0)
        self.units += defined

    @property
    def mean(self) -> Float64[np.ndarray, "..."]:
        """NaN where no unit is defined."""
        return np.where(self.units > 0, self.total / np.maximum(self.units, 1), np.nan)


class _Sums:
    """Sums over the units of one predictor and text."""

    def __init__(self, draws: int) -> None:
        self.evaluated = self.without_firing = 0
        self.scores, self.drawn = _Mean(len(_SCORES)), _Mean(len(_SCORES), draws)  # and the same in every draw
        self.levels = np.zeros((2, HUNDREDTHS), dtype=np.int64)  # tokens that fire, and silent ones

    def f1_of_all(self, asked: int) -> tuple[float, Float64[np.ndarray, " draws"]]:
        """Mean F1 over all units asked for, and the same in every draw.

        A draw in which no unit is defined tells nothing but the mean itself.
        """
        score = float(self.scores.total[0]) / asked
        drawn = self.drawn.mean[0] * (self.scores.units[0] / asked)
        return score, np.where(np.isnan(drawn), score, drawn)


def _row(sums: _Sums, lookup: _Sums | None, asked: int) -> dict[str, object]:
    """The columns of one predictor and text, given the sums of the token lookup on the same text."""
    f1_all = sums.f1_of_all(asked)
    gain = (np.nan, f1_all[1])
    if lookup is not None and lookup.evaluated:
        lookup_f1, lookup_draws = lookup.f1_of_all(asked)
        gain = (f1_all[0] - lookup_f1, f1_all[1] - lookup_draws)
    defined = dict(zip(_SCORES, zip(sums.scores.mean.tolist(), sums.drawn.mean, strict=True), strict=True))
    row: dict[str, object] = {
        "units": asked, "evaluated": sums.evaluated, "without_firing": sums.without_firing,
        "levels_firing": sums.levels[0].tolist(), "levels_silent": sums.levels[1].tolist(),
    }  # fmt: skip
    for name, (mean, draws) in {**defined, "f1_all": f1_all, "f1_gain": gain}.items():
        score = None if np.isnan(mean) else mean
        row[name], (row[f"{name}_low"], row[f"{name}_high"]) = score, interval(draws, score)
    return row
