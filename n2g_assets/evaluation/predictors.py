"""The predictors that are scored beside one another, built for one unit from its rows.

| predictor | what it is |
| --- | --- |
| graph | the unit's token graph |
| token_lookup, ngram | means over the same train contexts by token, and by the n last tokens, n chosen on train |
| ngram_backoff, skip_bigram | rivals that learn from train contexts and the whole harvest without running the model |
| always_zero | never fires |
| graph_shuffled | control: the graph of another unit of the layer |
| graph_unaugmented | control: the graph without the paths of augmented variants |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

import numpy as np
from jaxtyping import Float32

from n2g_assets.core.units import Unit
from n2g_assets.method.text import EncodedText

PredictorName = Literal[
    "graph",
    "token_lookup",
    "ngram",
    "ngram_backoff",
    "skip_bigram",
    "always_zero",
    "graph_shuffled",
    "graph_unaugmented",
]
PREDICTORS: tuple[PredictorName, ...] = get_args(PredictorName)
"""Values of ``evaluation.predictor``, in order."""
PAPER_PREDICTORS: tuple[PredictorName, ...] = ("graph", "token_lookup", "ngram")
"""Those of the preset ``paper``."""


class Predictor(Protocol):
    """Says how strongly a unit activates on each token of a text."""

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Predicted normalised activation of every token; 0 at BOS and where it has nothing to say."""
        ...


def shuffled_partners(units: Sequence[Unit], seed: Sequence[int]) -> dict[Unit, Unit]:
    """For each unit another one, whose graph is its control; no unit is its own, each serves once.

    The units are put in a random order and each gets the next one's graph. It is empty for fewer than two units.
    """
    if len(units) < 2:
        return {}
    order = np.random.default_rng(np.random.SeedSequence(list(seed))).permutation(len(units)).tolist()
    return {units[one]: units[other] for one, other in zip(order, [*order[1:], order[0]], strict=True)}
