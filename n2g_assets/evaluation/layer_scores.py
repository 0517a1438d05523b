"""Means over the units of a layer, one row a predictor and text (table ``layer_scores``), unit by unit.

Two conventions stand side by side. ``f1`` is the mean over units whose F1 is defined; ``f1_all`` the mean over all
units asked for, where what is undefined, dead, failed or missing counts 0. An interval is that of the mean over draws
of documents: all units see the same draws (``poisson_weights``), and a unit that is undefined in a draw is left out
there; ``f1_all`` counts 0 what is undefined in the text itself, not what a draw happens to miss. The gain over
``token_lookup`` is taken draw by draw, in pairs.

Only running sums are kept: memory grows with predictors, texts and draws, not with units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64, Int64

from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.bootstrap import interval
from n2g_assets.evaluation.scores import HUNDREDTHS, Draws

COMPARED_WITH = "token_lookup"
"""The predictor that ``f1_gain`` is measured against."""


class LayerScores:
    """Running sums of the scores of a layer's units."""

    def __init__(
        self, units_asked: Mapping[str, int] | int, draws: int, expected: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Starts with no unit.

        Args:
            units_asked: units asked for in the layer, whatever became of them; by predictor where they differ.
            draws: draws of documents behind the intervals.
            expected: predictors and texts that have a row even if no unit could be scored.
        """
        self._asked = units_asked
        self._draws = draws
        self._sums: dict[tuple[str, str], _Sums] = {pair: _Sums(_Mean(draws), _Mean(draws)) for pair in expected}
        self._units: dict[Unit, None] = {}

    @property
    def units(self) -> set[Unit]:
        """Those that ``add_unit`` took in."""
        return set(self._units)

    def add_unit(self, unit: Unit, scored: Iterable[tuple[Mapping[str, Any], Draws]]) -> None:
        """Takes in all scores of a unit, each once however often it is given: ``evaluation`` rows and their draws.

        Raises:
            ValueError: as ``add`` does.
        """
        if unit in self._units:
            return
        for row, draws in scored:
            self.add(row["predictor"], row["text"], row, draws)
        self._units[unit] = None

    def add(self, predictor: str, text: str, row: Mapping[str, object], draws: Draws) -> None:
        """Takes in one unit's scores by one predictor on one text.

        Args:
            predictor: as in table ``evaluation``.
            text: as in table ``evaluation``.
            row: the unit's row from ``Scores.row``: ``f1``, ``average_precision`` and ``n_firings`` are read.
            draws: what came with the row.

        Raises:
            ValueError: another number of draws than the others have, or more units than were asked for.
        """
        if not len(draws.f1) == len(draws.average_precision) == self._draws:
            raise ValueError(f"{len(draws.f1)} draws of a unit cannot join a layer with {self._draws}")
        sums = self._sums.get((predictor, text)) or _Sums(_Mean(self._draws), _Mean(self._draws))
        asked = self._units_asked(predictor)
        if sums.evaluated >= asked:
            raise ValueError(f"{predictor} on {text} has more units than the {asked} that were asked for")
        self._sums[predictor, text] = sums
        sums.evaluated += 1
        sums.without_firing += row["n_firings"] == 0
        sums.f1.add(row["f1"], draws.f1)
        sums.average_precision.add(row["average_precision"], draws.average_precision)
        sums.levels_firing += draws.levels_firing
        sums.levels_silent += draws.levels_silent

    def sums(self) -> dict[str, np.ndarray]:
        """The running sums as plain arrays, for ``take_over``."""
        sums = list(self._sums.values())
        means = [(one.f1, one.average_precision) for one in sums]
        return {
            "pairs": np.array(list(self._sums), str).reshape(-1, 2),
            "units": np.array([tuple(unit) for unit in self._units], np.int64).reshape(-1, 2),
            "evaluated": np.array([(one.evaluated, one.without_firing) for one in sums], np.int64),
            "totals": np.array([[mean.total for mean in pair] for pair in means], np.float64),
            "defined": np.array([[mean.units for mean in pair] for pair in means], np.int64),
            "drawn_totals": np.array([[mean.drawn_total for mean in pair] for pair in means], np.float64),
            "drawn_units": np.array([[mean.drawn_units for mean in pair] for pair in means], np.int64),
            "levels": np.array([(one.levels_firing, one.levels_silent) for one in sums], np.int64),
        }

    def take_over(self, sums: Mapping[str, np.ndarray]) -> None:
        """Goes on from the sums of an interrupted run, in place of its own.

        Raises:
            KeyError, ValueError: these are not the sums of such a layer; its own are as they were then.
        """
        pairs = [(str(predictor), str(text)) for predictor, text in sums["pairs"]]
        found = {pair: _Sums(_Mean(self._draws), _Mean(self._draws)) for pair in pairs}
        for number, one in enumerate(found.values()):
            one.evaluated, one.without_firing = sums["evaluated"][number].tolist()
            one.levels_firing[:], one.levels_silent[:] = sums["levels"][number]
            for kind, mean in enumerate((one.f1, one.average_precision)):
                mean.total, mean.units = float(sums["totals"][number, kind]), int(sums["defined"][number, kind])
                mean.drawn_total[:] = sums["drawn_totals"][number, kind]
                mean.drawn_units[:] = sums["drawn_units"][number, kind]
        self._units = {Unit(neuron, sign): None for neuron, sign in sums["units"].tolist()}
        self._sums = found

    def frame(self) -> pl.DataFrame:
        """The rows of table ``layer_scores`` without ``study`` and ``layer``, in the order of first appearance."""
        schema = TABLES["layer_scores"].schema
        schema = pl.Schema({name: schema[name] for name in schema if name not in ("study", "layer")})
        rows = [self._row(predictor, text, sums) for (predictor, text), sums in self._sums.items()]
        return pl.DataFrame({name: [row[name] for row in rows] for name in schema}, schema=schema)

    def _row(self, predictor: str, text: str, sums: _Sums) -> dict[str, object]:
        asked = self._units_asked(predictor)
        all_draws = sums.f1.drawn_means_of_all(asked)
        return {
            "predictor": predictor,
            "text": text,
            "units": asked,
            "evaluated": sums.evaluated,
            "without_firing": sums.without_firing,
            **_with_interval("f1", sums.f1.mean, sums.f1.drawn_means),
            **_with_interval("f1_all", sums.f1.total / asked, all_draws),
            **_with_interval("average_precision", sums.average_precision.mean, sums.average_precision.drawn_means),
            **self._gain(predictor, text, sums.f1.total / asked, all_draws),
            "levels_firing": sums.levels_firing.tolist(),
            "levels_silent": sums.levels_silent.tolist(),
        }

    def _gain(
        self, predictor: str, text: str, f1_all: float, all_draws: Float64[np.ndarray, " draws"]
    ) -> dict[str, float | None]:
        lookup = self._sums.get((COMPARED_WITH, text))
        if lookup is None or not lookup.evaluated:
            return _with_interval("f1_gain", None, all_draws)
        asked = self._units_asked(COMPARED_WITH)
        return _with_interval(
            "f1_gain", f1_all - lookup.f1.total / asked, all_draws - lookup.f1.drawn_means_of_all(asked)
        )

    def _units_asked(self, predictor: str) -> int:
        if isinstance(self._asked, int):
            return self._asked
        if predictor not in self._asked:
            raise ValueError(f"it is not known how many units were asked for with {predictor}")
        return self._asked[predictor]


class _Mean:
    """The mean of a score over the units where it is defined, and the same in every draw."""

    def __init__(self, draws: int) -> None:
        self.total = 0.0
        self.drawn_total: Float64[np.ndarray, " draws"] = np.zeros(draws)
        self.units = 0
        self.drawn_units: Int64[np.ndarray, " draws"] = np.zeros(draws, dtype=np.int64)

    def add(self, score: object, draws: Float32[np.ndarray, " draws"]) -> None:
        if isinstance(score, float):
            self.total += score
            self.units += 1
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
    f1: _Mean
    average_precision: _Mean
    evaluated: int = 0
    without_firing: int = 0
    levels_firing: Int64[np.ndarray, " hundredths"] = field(default_factory=lambda: np.zeros(HUNDREDTHS, np.int64))
    levels_silent: Int64[np.ndarray, " hundredths"] = field(default_factory=lambda: np.zeros(HUNDREDTHS, np.int64))


def _with_interval(name: str, score: float | None, draws: Float64[np.ndarray, " draws"]) -> dict[str, float | None]:
    """A score and its interval as columns; all None where the score is."""
    low, high = (None, None) if score is None else interval(draws, score)
    return {name: score, f"{name}_low": low, f"{name}_high": high}
