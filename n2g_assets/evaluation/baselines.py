"""What a token graph has to beat: predictors that only remember what stood in the train contexts.

``TokenLookup`` remembers the mean activation of every token, ``NGram`` that of every run of n tokens. Both see the
same train contexts as the graph, whole windows with their activations, and match tokens by the same forms; neither
asks the model anything. Position 0 (BOS) is no evidence, gets no prediction, and no run reaches over it. What was
never seen is predicted silent (0). ``AlwaysZero`` remembers nothing.

A run of n forms is a path of n exact nodes in a token graph, the last form first, so a fitted n-gram *is* a graph
whose paths all end at depth n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int32, Int64

from n2g_assets.evaluation.metrics import count_firings
from n2g_assets.method.predict import TokenGraph
from n2g_assets.method.text import EncodedText

NGRAM_SIZES = (2, 3, 4, 5)
"""The n that ``NGram.choose`` tries."""


class AlwaysZero:
    """Predicts silence."""

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Zeros."""
        return np.zeros(len(text), np.float32)


class NGram:
    """Predicts the mean activation of the last n forms that end at a position, for one fixed n."""

    def __init__(self, n: int) -> None:
        self.n = n

    @classmethod
    def choose(cls, text: EncodedText, activations: Float[np.ndarray, " tokens"], threshold: float) -> NGram:
        """The n that tells firing best on train contexts it has not seen, fitted on all of them.

        Each train context is left out in turn and predicted from the others; the n with the highest F1 of firing,
        pooled over all that were left out, wins, the smaller of equals. An undefined F1 loses against a defined one.

        Args:
            text: the train contexts.
            activations: normalised activation of every token of them.
            threshold: share of a_max from which a token fires.
        """
        runs = runs_up_to(text, np.flatnonzero(text.positions > 0), max(NGRAM_SIZES))
        scores = [_leave_one_out_f1(text, activations, runs[n - 1], threshold) for n in NGRAM_SIZES]
        best = int(np.argmax([-1.0 if f1 is None else f1 for f1 in scores]))
        return cls(NGRAM_SIZES[best]).fit(text, activations)

    def fit(self, text: EncodedText, activations: Float[np.ndarray, " tokens"]) -> NGram:
        """Learns from train contexts and the normalised activation of every token of them, BOS's never read.

        Raises:
            ValueError: there are not as many activations as tokens.
        """
        if len(activations) != len(text):
            raise ValueError(f"{len(activations)} activations do not belong to a text of {len(text)} tokens.")
        runs = runs_up_to(text, np.flatnonzero(text.positions > 0), self.n)
        parents, forms = trie_of(runs)
        values = np.full(len(forms), np.nan, np.float32)
        values[len(forms) - len(runs[-1].forms) :] = _means(*runs[-1].totals(activations))
        self.graph = TokenGraph.from_nodes(parents, forms, values, forms_of(text))
        return self

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Predicted normalised activation of every token; 0 at positions 0 to n-1 of a context."""
        return self.graph.predict(text)


class TokenLookup(NGram):
    """Predicts for each token the mean activation of its form over the train contexts: runs of one."""

    def __init__(self) -> None:
        super().__init__(1)


@dataclass(frozen=True)
class Runs:
    """The different runs of k forms that end at some tokens of a text and do not reach over BOS.

    A run is the pair (the run of its last k-1 forms, its first form): one level of a trie that reads backwards.
    """

    parents: Int64[np.ndarray, " runs"]
    """The run of the last k-1 forms, as its number among those; -1 for runs of one."""
    forms: Int64[np.ndarray, " runs"]
    """The first form of the run."""
    tokens: Int64[np.ndarray, " ends"]
    """Tokens at which a run ends."""
    numbers: Int64[np.ndarray, " ends"]
    """Which run ends there."""

    def totals(
        self, values: Float[np.ndarray, " tokens"], where: Bool[np.ndarray, " ends"] | None = None
    ) -> tuple[Float64[np.ndarray, " runs"], Int64[np.ndarray, " runs"]]:
        """Sum of ``values`` over the tokens at which each run ends, or those ``where`` says, and how many these are."""
        tokens, numbers = (self.tokens, self.numbers) if where is None else (self.tokens[where], self.numbers[where])
        size = len(self.forms)
        return np.bincount(numbers, weights=values[tokens], minlength=size), np.bincount(numbers, minlength=size)


def runs_of_one(text: EncodedText, tokens: Int64[np.ndarray, " tokens"]) -> Runs:
    """The forms of some tokens, none of them BOS."""
    return _runs(text, 1, tokens, np.full(len(tokens), -1))


def one_longer(text: EncodedText, runs: Runs, k: int, where: Bool[np.ndarray, " ends"] | None = None) -> Runs:
    """The runs of k forms that end where runs of k-1 do, or at those of them that ``where`` says."""
    where = text.positions[runs.tokens] >= k if where is None else where & (text.positions[runs.tokens] >= k)
    return _runs(text, k, runs.tokens[where], runs.numbers[where])


def runs_up_to(text: EncodedText, tokens: Int64[np.ndarray, " tokens"], n: int) -> list[Runs]:
    """The runs of 1, 2, .. n forms that end at some tokens, none of them BOS."""
    levels = [runs_of_one(text, tokens)]
    for k in range(2, n + 1):
        levels.append(one_longer(text, levels[-1], k))
    return levels


def forms_of(text: EncodedText) -> int:
    """Number of forms of the vocabulary that a text is encoded with."""
    return len(text.starts) - 1


def trie_of(levels: Sequence[Runs]) -> tuple[Int32[np.ndarray, " nodes"], Int32[np.ndarray, " nodes"]]:
    """Parents and forms of the nodes of a trie whose depths are runs of 1, 2, .. forms, level by level."""
    sizes = [len(level.forms) for level in levels]
    parents = [level.parents + sum(sizes[: max(0, depth - 1)]) for depth, level in enumerate(levels)]
    return (
        np.concatenate(parents).astype(np.int32),
        np.concatenate([level.forms for level in levels]).astype(np.int32),
    )


def _runs(text: EncodedText, k: int, tokens: Int64[np.ndarray, " ends"], shorter: Int64[np.ndarray, " ends"]) -> Runs:
    n_forms = forms_of(text)
    pairs, numbers = np.unique((shorter + 1) * n_forms + text.forms[tokens - (k - 1)], return_inverse=True)
    return Runs(pairs // n_forms - 1, pairs % n_forms, tokens, numbers)


def _leave_one_out_f1(
    text: EncodedText, activations: Float[np.ndarray, " tokens"], runs: Runs, threshold: float
) -> float | None:
    context = np.cumsum(text.positions == 0)
    predicted = np.zeros(len(text), np.float32)
    for left_out in range(1, context[-1] + 1 if len(context) else 1):
        inside = context[runs.tokens] == left_out
        predicted[runs.tokens[inside]] = _means(*runs.totals(activations, ~inside))[runs.numbers[inside]]
    counts = text.positions > 0
    return count_firings(activations[counts], predicted[counts], threshold).f1


def _means(sums: Float64[np.ndarray, " runs"], counts: Int64[np.ndarray, " runs"]) -> Float64[np.ndarray, " runs"]:
    """Means; 0 where there is nothing."""
    return sums / np.maximum(counts, 1)
