"""What a token graph has to beat: predictors that only remember what stood in the train contexts.

``TokenLookup`` remembers the mean activation of every token, ``NGram`` that of every run of n tokens. Both see the
same train contexts as the graph, whole windows with their activations, and match tokens by the same forms; neither
asks the model anything. Position 0 (BOS) is no evidence, gets no prediction, and no n-gram reaches over it. What
was never seen is predicted silent (0).

Forms are indices into ``Vocabulary.forms``; activations are normalised.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int32, Int64

from n2g_assets.evaluation.metrics import count_firings

NGRAM_SIZES = (2, 3, 4, 5)
"""The n that ``NGram.choose`` tries."""

_BITS = 32


class TokenLookup:
    """Predicts for each token the mean activation of its form over the train contexts."""

    def fit(
        self, contexts: Sequence[Int32[np.ndarray, " length"]], activations: Sequence[Float[np.ndarray, " length"]]
    ) -> TokenLookup:
        """Learns from train contexts: their forms and normalised activations at all positions, BOS at 0."""
        self._grams = _Grams(contexts, 1)
        self._means = self._grams.means(_joined(activations))
        return self

    def predict(self, forms: Int32[np.ndarray, " length"]) -> Float32[np.ndarray, " length"]:
        """Predicted normalised activation at every position of one context; 0 at position 0."""
        return _recall(self._means, self._grams.find(forms))


class NGram:
    """Predicts the mean activation of the last n forms that end at a position, for one fixed n."""

    def __init__(self, n: int) -> None:
        self.n = n

    @classmethod
    def choose(
        cls,
        contexts: Sequence[Int32[np.ndarray, " length"]],
        activations: Sequence[Float[np.ndarray, " length"]],
        threshold: float,
    ) -> NGram:
        """The n that tells firing best on train contexts it has not seen, fitted on all of them.

        Each train context is left out in turn and predicted from the others; the n with the highest F1 of firing,
        pooled over all that were left out, wins, the smaller of equals. An undefined F1 loses against a defined one.

        Args:
            contexts: forms of the train contexts, BOS at position 0.
            activations: their normalised activations.
            threshold: share of a_max from which a token fires.
        """
        scores = []
        for n in NGRAM_SIZES:
            f1 = _leave_one_out_f1(contexts, activations, n, threshold)
            scores.append(-1.0 if f1 is None else f1)
        return cls(NGRAM_SIZES[int(np.argmax(scores))]).fit(contexts, activations)

    def fit(
        self, contexts: Sequence[Int32[np.ndarray, " length"]], activations: Sequence[Float[np.ndarray, " length"]]
    ) -> NGram:
        """Learns from train contexts: their forms and normalised activations at all positions, BOS at 0."""
        self._grams = _Grams(contexts, self.n)
        self._means = self._grams.means(_joined(activations))
        return self

    def predict(self, forms: Int32[np.ndarray, " length"]) -> Float32[np.ndarray, " length"]:
        """Predicted normalised activation at every position of one context; 0 at positions 0 to n-1."""
        return _recall(self._means, self._grams.find(forms))


class _Grams:
    """Numbers every run of n forms that occurs in some contexts; -1 is a run that does not, or reaches over BOS.

    A run of k forms is the pair (number of its first k-1 forms, last form), so n sorted arrays of pairs are all it
    takes to find any run again.
    """

    def __init__(self, contexts: Sequence[Int32[np.ndarray, " length"]], n: int) -> None:
        lengths = [len(context) for context in contexts]
        position = np.concatenate([np.arange(length) for length in lengths] or [np.zeros(0, dtype=np.int64)])
        self.context: Int64[np.ndarray, " tokens"] = np.repeat(np.arange(len(lengths)), lengths)
        self._levels: list[Int64[np.ndarray, " runs"]] = []
        self.after_bos: Bool[np.ndarray, " tokens"] = position >= 1
        forms = _joined(contexts).astype(np.int64)
        self.numbers = np.where(self.after_bos, 0, -1)
        for k in range(1, n + 1):
            pairs, reaches = _lengthened(self.numbers, forms, k)
            level, numbers = np.unique(pairs[reaches], return_inverse=True)
            self.numbers = np.full(len(forms), -1)
            self.numbers[reaches] = numbers
            self._levels.append(level)

    @property
    def seen(self) -> Bool[np.ndarray, " tokens"]:
        """Where, in the contexts given, a run ends."""
        return self.numbers >= 0

    def means(
        self, values: Float64[np.ndarray, " tokens"], where: Bool[np.ndarray, " tokens"] | None = None
    ) -> Float64[np.ndarray, " runs"]:
        """Mean value over the places at which each run ends; 0 for one that has none."""
        where = self.seen if where is None else self.seen & where
        size, runs = len(self._levels[-1]), self.numbers[where]
        count = np.bincount(runs, minlength=size)
        return np.bincount(runs, weights=values[where], minlength=size) / np.maximum(count, 1)

    def find(self, forms: Int32[np.ndarray, " length"]) -> Int64[np.ndarray, " length"]:
        """Number of the run that ends at each position of one context."""
        numbers = np.where(np.arange(len(forms)) >= 1, 0, -1)
        for k, level in enumerate(self._levels, start=1):
            pairs, reaches = _lengthened(numbers, forms.astype(np.int64), k)
            numbers = np.full(len(forms), -1)
            if len(level):
                place = np.minimum(np.searchsorted(level, pairs), len(level) - 1)
                numbers = np.where(reaches & (level[place] == pairs), place, -1)
        return numbers


def _lengthened(
    numbers: Int64[np.ndarray, " tokens"], forms: Int64[np.ndarray, " tokens"], k: int
) -> tuple[Int64[np.ndarray, " tokens"], Bool[np.ndarray, " tokens"]]:
    """Pairs (number of the run of k-1 that ends one position before, form), and where there is such a run."""
    if k == 1:
        return forms, numbers >= 0
    before = np.concatenate([np.full(min(1, len(numbers)), -1), numbers[:-1]])
    return (before << _BITS) | forms, (before >= 0) & (numbers >= 0)


def _leave_one_out_f1(
    contexts: Sequence[Int32[np.ndarray, " length"]],
    activations: Sequence[Float[np.ndarray, " length"]],
    n: int,
    threshold: float,
) -> float | None:
    grams, values = _Grams(contexts, n), _joined(activations)
    predicted = np.zeros(len(values), dtype=np.float32)
    for left_out in range(len(contexts)):
        inside = grams.context == left_out
        predicted[inside] = _recall(grams.means(values, ~inside), grams.numbers[inside])
    return count_firings(values[grams.after_bos], predicted[grams.after_bos], threshold).f1


def _recall(
    means: Float64[np.ndarray, " runs"], numbers: Int64[np.ndarray, " tokens"]
) -> Float32[np.ndarray, " tokens"]:
    return np.append(means, 0.0)[numbers].astype(np.float32)


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    joined = np.concatenate(parts) if len(parts) else np.zeros(0)
    return joined if np.issubdtype(joined.dtype, np.integer) else joined.astype(np.float64)
