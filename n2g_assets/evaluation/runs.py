"""Runs of tokens in a text, and graphs that remember a mean activation for every run.

A run is a sequence of forms that ends at a token and does not reach over BOS. A run of n forms is a path of n exact
nodes in a token graph, the last form first, so that a fitted n-gram is a graph whose paths all end at depth n.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int32, Int64

from n2g_assets.method.predict import TokenGraph
from n2g_assets.method.text import EncodedText


@dataclass(frozen=True)
class Runs:
    """The different runs of k forms that end at some tokens of a text: one level of a trie that reads backwards."""

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
        """By run, the sum of ``values`` over the tokens at which it ends (or those of ``where``), and their count."""
        tokens, numbers = (self.tokens, self.numbers) if where is None else (self.tokens[where], self.numbers[where])
        size = len(self.forms)
        return np.bincount(numbers, weights=values[tokens], minlength=size), np.bincount(numbers, minlength=size)


def runs_at(
    text: EncodedText, k: int, tokens: Int64[np.ndarray, " tokens"], shorter: Int64[np.ndarray, " tokens"]
) -> Runs:
    """The runs of k forms that end at these tokens, but for tokens from which k forms would reach over BOS.

    ``shorter`` tells which run of k-1 forms ends at each of them.
    """
    reaching = text.positions[tokens] >= k
    tokens, shorter = tokens[reaching], shorter[reaching]
    pairs, numbers = np.unique((shorter + 1) * text.n_forms + text.forms[tokens - (k - 1)], return_inverse=True)
    return Runs(pairs // text.n_forms - 1, pairs % text.n_forms, tokens, numbers)


def runs_of_one(text: EncodedText, tokens: Int64[np.ndarray, " tokens"]) -> Runs:
    """The runs of one form that end at these tokens; BOS has none."""
    return runs_at(text, 1, tokens, np.full(len(tokens), -1))


def runs_up_to(text: EncodedText, n: int) -> list[Runs]:
    """The runs of 1, 2, .. n forms that end at any token but BOS."""
    levels = [runs_of_one(text, np.arange(len(text)))]
    for k in range(2, n + 1):
        levels.append(runs_at(text, k, levels[-1].tokens, levels[-1].numbers))
    return levels


def trie_of(levels: Sequence[Runs]) -> tuple[Int32[np.ndarray, " nodes"], Int32[np.ndarray, " nodes"]]:
    """Parents and forms of the nodes of a trie whose depths are runs of 1, 2, .. forms, level by level."""
    sizes = [len(level.forms) for level in levels]
    parents = [level.parents + sum(sizes[: max(0, depth - 1)]) for depth, level in enumerate(levels)]
    forms = [level.forms for level in levels]
    return np.concatenate(parents).astype(np.int32), np.concatenate(forms).astype(np.int32)


def mean_graph(text: EncodedText, activations: Float[np.ndarray, " tokens"], n: int) -> TokenGraph:
    """The graph that predicts, after each run of n forms, the mean activation seen there; 0 after any other run.

    ``activations`` are normalised, one a token of the text; those of BOS are not read.

    Raises:
        ValueError: there are not as many activations as tokens.
    """
    if len(activations) != len(text):
        raise ValueError(f"{len(activations)} activations do not belong to a text of {len(text)} tokens.")
    levels = runs_up_to(text, n)
    parents, forms = trie_of(levels)
    values = np.full(len(forms), np.nan, np.float32)
    values[len(forms) - len(levels[-1].forms) :] = means(*levels[-1].totals(activations))
    return TokenGraph.from_nodes(parents, forms, values, text.n_forms)


def means(sums: Float64[np.ndarray, " runs"], counts: Int64[np.ndarray, " runs"]) -> Float64[np.ndarray, " runs"]:
    """Means; 0 where there is nothing."""
    return sums / np.maximum(counts, 1)
