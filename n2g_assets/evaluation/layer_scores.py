"""Means over the units of a layer, one row a predictor and text: table ``layer_scores`` from ``document_scores``.

Two conventions stand side by side. ``f1`` is the mean over units whose F1 is defined; ``f1_all`` the mean over all
units asked for, where what is undefined, dead, failed or missing counts 0. An interval is that of the mean over draws
of documents: all units see the same draws (``poisson_weights``), and a unit that is undefined in a draw is left out
there; ``f1_all`` counts 0 what is undefined in the text itself, not what a draw happens to miss. The gain over
``token_lookup`` is taken draw by draw, in pairs.

Units are read block by block and only sums are kept: memory grows with predictors, texts and draws, not with units.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64, UInt8

from n2g_assets.core.tables import TABLES
from n2g_assets.evaluation.bootstrap import draw_scores, interval, poisson_weights
from n2g_assets.evaluation.document_counts import LEVELS, counts_of_rows

COMPARED_WITH = "token_lookup"
"""The predictor that ``f1_gain`` is measured against."""
HUNDREDTHS = 101
"""Length of ``layer_scores.levels_firing`` and ``levels_silent``."""


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
        blocks: rows of ``evaluation`` (the key, ``f1``, ``average_precision`` and ``n_firings`` are read) and of
            ``document_scores`` of some units each, every unit in one block.
        units_asked: units asked for in the layer, whatever became of them.
        draws: draws of documents behind the intervals.
        seed: of the draws.
        expected: predictors and texts that have a row even if no unit could be scored; they come first, in this order.

    Returns:
        The rows of table ``layer_scores`` without ``study`` and ``layer``.

    Raises:
        ValueError: a predictor and text has more units than were asked for.
    """
    sums = {pair: _Sums(_Mean(draws), _Mean(draws)) for pair in expected}
    of_text: dict[str, tuple[list[str], UInt8[np.ndarray, "draws documents"]]] = {}
    for evaluation, document_scores in blocks:
        for predictor, text, f1, average_precision, n_firings in evaluation.select(
            "predictor", "text", "f1", "average_precision", "n_firings"
        ).iter_rows():
            pair = sums.setdefault((predictor, text), _Sums(_Mean(draws), _Mean(draws)))
            pair.evaluated += 1
            pair.without_firing += n_firings == 0
            pair.f1.add_score(f1)
            pair.average_precision.add_score(average_precision)
        for (_, predictor, text), document_ids, counts in counts_of_rows(document_scores):
            if text not in of_text or of_text[text][0] != document_ids:
                of_text[text] = document_ids, poisson_weights(document_ids, draws, seed)
            pair = sums[predictor, text]
            f1_draws, precision_draws = draw_scores(counts, of_text[text][1])
            pair.f1.add_draws(f1_draws)
            pair.average_precision.add_draws(precision_draws)
            hundredths = counts.level * 100 // LEVELS
            pair.levels_firing += np.bincount(hundredths, counts.firing, HUNDREDTHS).astype(np.int64)
            pair.levels_silent += np.bincount(hundredths, counts.silent, HUNDREDTHS).astype(np.int64)
    for (predictor, text), pair in sums.items():
        if pair.evaluated > units_asked:
            raise ValueError(f"{predictor} on {text} has more units than the {units_asked} that were asked for")
    schema = TABLES["layer_scores"].schema
    schema = pl.Schema({name: schema[name] for name in schema if name not in ("study", "layer")})
    rows = [
        {"predictor": predictor, "text": text, **_row(pair, sums.get((COMPARED_WITH, text)), units_asked)}
        for (predictor, text), pair in sums.items()
    ]
    return pl.DataFrame({name: [row[name] for row in rows] for name in schema}, schema=schema)


class _Mean:
    """The mean of a score over the units where it is defined, and the same in every draw."""

    def __init__(self, draws: int) -> None:
        self.total = 0.0
        self.drawn_total: Float64[np.ndarray, " draws"] = np.zeros(draws)
        self.units = 0
        self.drawn_units: Int64[np.ndarray, " draws"] = np.zeros(draws, dtype=np.int64)

    def add_score(self, score: float | None) -> None:
        if score is not None:
            self.total += score
            self.units += 1

    def add_draws(self, draws: Float64[np.ndarray, " draws"]) -> None:
        defined = ~np.isnan(draws)
        self.drawn_total += np.where(defined, draws, 0)
        self.drawn_units += defined

    @property
    def mean(self) -> float | None:
        return self.total / self.units if self.units else None

    @property
    def drawn_means(self) -> Float64[np.ndarray, " draws"]:
        """NaN for a draw in which no unit is defined."""
        return np.where(self.drawn_units > 0, self.drawn_total / np.maximum(self.drawn_units, 1), np.nan)

    def drawn_means_of_all(self, asked: int) -> Float64[np.ndarray, " draws"]:
        """The same over all units asked for; a draw in which no unit is defined tells nothing but the mean itself."""
        drawn = self.drawn_means * (self.units / asked)
        return np.where(np.isnan(drawn), self.total / asked, drawn)


@dataclass
class _Sums:
    """Sums over the units of one predictor and text."""

    f1: _Mean
    average_precision: _Mean
    evaluated: int = 0
    without_firing: int = 0
    levels_firing: Int64[np.ndarray, " hundredths"] | int = 0
    levels_silent: Int64[np.ndarray, " hundredths"] | int = 0


def _row(sums: _Sums, lookup: _Sums | None, asked: int) -> dict[str, object]:
    """The columns of one predictor and text, given the sums of the token lookup on the same text."""
    f1_all, all_draws = sums.f1.total / asked, sums.f1.drawn_means_of_all(asked)
    gain, gain_draws = None, all_draws
    if lookup is not None and lookup.evaluated:
        gain = f1_all - lookup.f1.total / asked
        gain_draws = all_draws - lookup.f1.drawn_means_of_all(asked)
    return {
        "units": asked,
        "evaluated": sums.evaluated,
        "without_firing": sums.without_firing,
        **_with_interval("f1", sums.f1.mean, sums.f1.drawn_means),
        **_with_interval("f1_all", f1_all, all_draws),
        **_with_interval("average_precision", sums.average_precision.mean, sums.average_precision.drawn_means),
        **_with_interval("f1_gain", gain, gain_draws),
        "levels_firing": np.broadcast_to(sums.levels_firing, HUNDREDTHS).tolist(),
        "levels_silent": np.broadcast_to(sums.levels_silent, HUNDREDTHS).tolist(),
    }


def _with_interval(name: str, score: float | None, draws: Float64[np.ndarray, " draws"]) -> dict[str, float | None]:
    """A score and its interval as columns; all None where the score is."""
    low, high = (None, None) if score is None else interval(draws, score)
    return {name: score, f"{name}_low": low, f"{name}_high": high}
