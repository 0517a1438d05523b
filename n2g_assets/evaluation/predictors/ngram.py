"""Baseline: the mean activation of each run of n tokens over the train contexts, n chosen on them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from n2g_assets.evaluation.material import UnitMaterial
from n2g_assets.evaluation.runs import Runs, mean_graph, means, runs_up_to
from n2g_assets.method.predict import TokenGraph
from n2g_assets.method.text import EncodedText

SIZES = (2, 3, 4, 5)
"""The n that are tried."""


@dataclass(frozen=True)
class NGram:
    """Predicts the mean activation of the last n forms; 0 for a run that was never seen."""

    ngram_n: int
    graph: TokenGraph

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Predicted normalised activation of every token; 0 at positions 0 to n-1 of a context."""
        return self.graph.predict(text)


def fit(material: UnitMaterial) -> NGram:
    """The n-gram whose n tells firing best on train contexts that it has not seen."""
    return choose(*material.train, material.shared.method.firing_threshold)


def choose(text: EncodedText, activations: Float[np.ndarray, " tokens"], threshold: float) -> NGram:
    """Chooses n by leaving out each context in turn, and fits on all of them.

    Each context is predicted from the others; the n with the highest F1 of firing, pooled over all contexts, wins, the
    smaller of equals. An undefined F1 loses against a defined one.
    """
    runs = runs_up_to(text, max(SIZES))
    n = max(SIZES, key=lambda size: _leave_one_out_f1(text, activations, runs[size - 1], threshold))
    return NGram(n, mean_graph(text, activations, n))


def _leave_one_out_f1(
    text: EncodedText, activations: Float[np.ndarray, " tokens"], runs: Runs, threshold: float
) -> float:
    """F1 of firing; -1 where nothing fires and nothing is predicted to."""
    context = np.cumsum(text.positions == 0)
    predicted = np.zeros(len(text), np.float32)
    for left_out in np.unique(context):
        inside = context[runs.tokens] == left_out
        predicted[runs.tokens[inside]] = means(*runs.totals(activations, ~inside))[runs.numbers[inside]]
    counted = text.positions > 0
    fires, alarm = activations[counted] >= threshold, predicted[counted] >= threshold
    ends = np.count_nonzero(fires) + np.count_nonzero(alarm)
    return 2 * np.count_nonzero(fires & alarm) / ends if ends else -1.0
