"""How well predicted activations tell firing from silent tokens (arXiv 2305.19911, section 4).

A token *fires* where its normalised activation reaches the threshold. The four counts are kept and everything else
follows from them, so that layers and studies can be pooled later. A measure that has no denominator is None, never 0:
whoever averages says what he does with it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Counts(NamedTuple):
    """Tokens by what they do (fire or not) and what was predicted; the measures are those of firing."""

    true_positives: int
    """Firing tokens that were predicted to fire."""
    false_positives: int
    """Silent tokens that were predicted to fire."""
    false_negatives: int
    """Firing tokens that were predicted silent."""
    true_negatives: int
    """Silent tokens that were predicted silent."""

    @property
    def precision(self) -> float | None:
        """Share of the predicted firings that fire; None where nothing was predicted to fire."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        """Share of the firings that were predicted; None where nothing fires."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None where nothing fires and nothing was predicted to."""
        return _share(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    @property
    def n_firings(self) -> int:
        """Tokens that fire."""
        return self.true_positives + self.false_negatives


def count_firings(
    activations: Float[np.ndarray, " tokens"], predicted: Float[np.ndarray, " tokens"], threshold: float
) -> Counts:
    """Counts firing and silent tokens against their prediction.

    Args:
        activations: true normalised activations.
        predicted: predicted normalised activations, token by token.
        threshold: share of a_max from which a token fires.

    Returns:
        The counts over all tokens given; position 0 of a context is left out by the caller.

    Raises:
        ValueError: the two differ in shape, or one holds a NaN, which would silently count as silence.
    """
    if activations.shape != predicted.shape:
        raise ValueError(f"{activations.shape} activations cannot be compared with {predicted.shape} predictions.")
    if np.isnan(activations).any() or np.isnan(predicted).any():
        raise ValueError("an activation or a prediction is NaN")
    fires, alarm = activations >= threshold, predicted >= threshold
    return Counts(
        true_positives=int(np.count_nonzero(fires & alarm)),
        false_positives=int(np.count_nonzero(~fires & alarm)),
        false_negatives=int(np.count_nonzero(fires & ~alarm)),
        true_negatives=int(np.count_nonzero(~fires & ~alarm)),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
