"""All that the evidence says: the graph of token classes, suffix evidence and skip-bigrams, weighed for each unit.

The graph groups what few texts show of each token, suffix evidence knows what often-seen texts do, skip-bigrams what
one earlier token does. Their weights, and a constant, are those with the least squared error on harvested documents
that none of them saw (*stacking*; Wolpert, 1992).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Float64

from n2g_assets.evaluation.material import Predictor, UnitMaterial
from n2g_assets.evaluation.predictors import fit_predictors
from n2g_assets.evaluation.thresholds import left_out_predictions
from n2g_assets.method.text import EncodedText

PARTS = ("graph", "suffixes", "skip_bigram")


def fit(material: UnitMaterial) -> "Combined":
    """The combination of a unit; its parts are those that are scored alone."""
    return Combined(fit_predictors(PARTS, material), material)


@dataclass(frozen=True)
class Combined:
    """The weighted sum of some predictions."""

    parts: Mapping[str, Predictor]
    material: UnitMaterial = field(repr=False)

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Predicted normalised activation of every token; 0 at BOS."""
        predicted = self._weigh([part.predict(text) for part in self.parts.values()])
        return np.where(text.positions > 0, predicted, np.float32(0))

    @cached_property
    def left_out(self) -> Float32[np.ndarray, " tokens"]:
        """What is predicted at each harvested token by parts that did not see its document."""
        return self._weigh(self._parts_left_out)

    @cached_property
    def _parts_left_out(self) -> list[Float32[np.ndarray, " tokens"]]:
        return [left_out_predictions(*part, self.material) for part in self.parts.items()]

    @cached_property
    def _weights(self) -> Float64[np.ndarray, " parts_and_constant"]:
        labels = self.material.harvest_labels
        told = np.stack([part[labels.ordinary] for part in self._parts_left_out], axis=1).astype(np.float64)
        told = np.column_stack([told, np.ones(len(told))])
        actual = labels.values[labels.ordinary].astype(np.float64)
        return np.linalg.lstsq(told.T @ told, told.T @ actual, rcond=None)[0]

    def _weigh(self, predicted: list[Float32[np.ndarray, " tokens"]]) -> Float32[np.ndarray, " tokens"]:
        *weights, constant = self._weights.astype(np.float32)
        return sum((weight * part for weight, part in zip(weights, predicted, strict=True)), constant)
