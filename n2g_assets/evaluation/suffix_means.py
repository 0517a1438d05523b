"""The mean activation of a unit after every run of the last tokens: a back-off n-gram on all of the harvest.

A run of k tokens that ends at C tokens that count, with activations that sum to S, has the value
``(S + s_k * value of the run without its first token) / (C + s_k)``; runs of one token are pulled towards the mean over
all tokens that count. The value at a position is that of the longest run that was seen at a token that counts.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int32, Int64

from n2g_assets.evaluation.harvest import HarvestLabels
from n2g_assets.evaluation.indexes import SuffixIndex
from n2g_assets.method.text import EncodedText


class _Level(NamedTuple):
    """The runs of one length, and what a unit does where they end and count."""

    numbers: Int32[np.ndarray, " tokens"]
    """The run at each token."""
    sums: Float64[np.ndarray, " runs"]
    counts: Int32[np.ndarray, " runs"]


@dataclass(frozen=True)
class SuffixMeans:
    """Runs of a unit with their values, ready to predict."""

    index: SuffixIndex
    labels: HarvestLabels
    shrinkage: Sequence[float]
    """By length of a run, the occurrences that the value of the shorter run counts for."""

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Predicted normalised activation of every token, the overall mean where nothing is known; 0 at BOS."""
        from n2g_assets.evaluation.loops import look_up

        predicted = np.where(text.positions > 0, np.float32(self.labels.mean), np.float32(0))
        first = np.cumsum([0, *self.index.suffixes.counts[: len(self.shrinkage) - 1]])
        look_up(self.index.numbers(text), text.positions, self._values, first, predicted)
        return predicted

    @cached_property
    def left_out(self) -> Float32[np.ndarray, " tokens"]:
        """What is predicted at each harvested token that counts, as if its own cluster of documents were not there."""
        from n2g_assets.evaluation.loops import leave_out

        tokens, bounds = self.labels.harvest.by_cluster
        values, positions = self.labels.values, self.labels.harvest.text.encoded.positions
        sums, counts = (
            np.add.reduceat(of_token[tokens], bounds[:-1])
            for of_token in (values.astype(np.float64), self.labels.counted.astype(np.int64))
        )
        means = (sums.sum() - sums) / np.maximum(counts.sum() - counts, 1)
        expected = np.empty(len(values))
        expected[tokens] = np.repeat(means, np.diff(bounds))
        where = self.labels.counted.copy()
        for back, (shrinkage, level) in enumerate(zip(self.shrinkage, self._levels(), strict=True)):
            where &= positions > back
            leave_out(tokens, bounds, *level, where, values, shrinkage, expected)
        return np.where(self.labels.counted, expected, 0).astype(np.float32)

    @cached_property
    def _values(self) -> Float32[np.ndarray, " runs"]:
        """The value of each run, shorter ones first; NaN where it was not seen at a token that counts."""
        value: Float[np.ndarray, " runs"] = np.array([self.labels.mean])
        found = []
        for back, (shrinkage, (_, sums, counts)) in enumerate(zip(self.shrinkage, self._levels(), strict=True)):
            shorter = value[self.index.suffixes.parents[back] if back else 0]
            value = shrunk(sums, counts, shorter, shrinkage)
            found.append(value.astype(np.float32))
        return np.concatenate(found)

    def _levels(self) -> Iterator["_Level"]:
        suffixes, labels = self.index.suffixes, self.labels
        for back in range(len(self.shrinkage)):
            numbers, count = suffixes.numbers[back], int(suffixes.counts[back])
            where = labels.counted & (labels.harvest.text.encoded.positions > back)
            yield _Level(numbers, *totals([numbers], where, labels.values, count))


def totals(
    rows: Iterable[Int32[np.ndarray, " tokens"]],
    where: Bool[np.ndarray, " tokens"],
    values: Float32[np.ndarray, " tokens"],
    size: int,
) -> tuple[Float64[np.ndarray, " n"], Int32[np.ndarray, " n"]]:
    """By number below ``size``, the sum of ``values`` over the tokens ``where`` that have it, and their count.

    Each of the rows gives every token a number; -1 is none.
    """
    from n2g_assets.evaluation.loops import add_up

    sums, counts = np.zeros(size), np.zeros(size, np.int32)
    for numbers in rows:
        add_up(numbers, where, values, sums, counts)
    return sums, counts


def shrunk(
    sums: Float64[np.ndarray, " n"],
    counts: Int32[np.ndarray, " n"] | Int64[np.ndarray, " n"],
    towards: Float[np.ndarray, " n"] | float,
    shrinkage: float,
) -> Float64[np.ndarray, " n"]:
    """Means that are pulled towards others, as ``shrinkage`` more occurrences would; NaN where there is nothing."""
    return np.where(counts > 0, (sums + shrinkage * towards) / (counts + shrinkage), np.nan)
