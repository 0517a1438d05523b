"""From which prediction on a unit is predicted to fire: its own threshold for each predictor and kind of text.

In the method ``paper`` it is the threshold from which the unit itself fires. In the method ``evidence``, where
predictions are means and so lie below the peaks that they stand for, it is chosen on harvested documents:

1. The documents are cut into two folds, near-duplicates together. The predictor is fitted on each fold and predicts the
   other one. One that is a mean for each run of tokens leaves out each document in turn instead
   (``SuffixMeans.left_out``).
2. On those predictions the threshold with the best F1 of firing is taken: for ``ordinary`` over all tokens of documents
   that may be learnt from, for ``top`` over those of the unit's train contexts. What is predicted least is never said
   to fire.

Every predictor of ours is treated alike, controls too, and no test document is looked at. Somebody else's explanation
predicts on the texts that are scored alone, so that of it too the threshold is the unit's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from n2g_assets.core.registry import THRESHOLDS, ThresholdKind
from n2g_assets.evaluation.document_counts import Counts
from n2g_assets.evaluation.material import Predictor, UnitMaterial
from n2g_assets.evaluation.predictors import fit_predictors


@dataclass(frozen=True)
class Threshold:
    """A threshold, and how it did where it was chosen."""

    threshold: float
    """Prediction from which a token is predicted to fire."""
    f1: float | None = None
    """F1 of firing on the left-out documents; None where it is not defined, or none was read."""
    n_firings: int | None = None
    """Firing tokens there; None where none was read."""


def choose_thresholds(
    predictors: Mapping[str, Predictor], material: UnitMaterial
) -> dict[str, dict[ThresholdKind, Threshold]]:
    """By predictor and kind of text, its threshold for the unit that it was fitted on."""
    given = material.shared.method.firing_threshold
    return {
        name: dict.fromkeys(THRESHOLDS, Threshold(given))
        if material.shared.preset == "paper" or getattr(predictor, "from_outside", False)
        else thresholds_of(left_out_predictions(name, predictor, material), material)
        for name, predictor in predictors.items()
    }


def thresholds_of(predicted: Float32[np.ndarray, " tokens"], material: UnitMaterial) -> dict[ThresholdKind, Threshold]:
    """The thresholds of what is predicted of each harvested token by something that did not see its document."""
    labels, examples = material.harvest_labels, material.rows["top_examples"]["context_id"]
    train = material.shared.harvest().inside_contexts(examples)
    tokens: dict[ThresholdKind, Bool[np.ndarray, " tokens"]] = {
        "top": labels.counted & train, "ordinary": labels.ordinary,
    }  # fmt: skip
    firing = material.shared.method.firing_threshold
    return {kind: best_threshold(labels.values[where], predicted[where], firing) for kind, where in tokens.items()}


def left_out_predictions(name: str, predictor: Predictor, material: UnitMaterial) -> Float32[np.ndarray, " tokens"]:
    """What a predictor says of each token of a document that may be learnt from, by fits that did not see it."""

    def predict() -> Float32[np.ndarray, " tokens"]:
        harvest = material.shared.harvest()
        predicted = np.zeros(len(harvest.text.encoded), np.float32)
        for documents in harvest.folds(material.shared.seed):
            fitted = fit_predictors([name], material.without(documents))
            inside = harvest.inside(documents)
            if name in fitted:
                predicted[inside] = fitted[name].predict(harvest.text.encoded)[inside]
        return predicted

    known = getattr(predictor, "left_out", None)
    return material.once(f"left-out predictions of {name}", predict) if known is None else known


def best_threshold(
    actual: Float[np.ndarray, " tokens"], predicted: Float32[np.ndarray, " tokens"], firing_threshold: float
) -> Threshold:
    """The threshold with the best F1 of firing: in the middle between two neighbouring predictions, of equals the last.

    Where nothing fires, or all predictions are equal, it is the firing threshold.
    """
    ordered, fires = np.sort(predicted), np.sort(predicted[actual >= firing_threshold])
    if not len(fires) or ordered[0] == ordered[-1]:
        return _at(firing_threshold, ordered, fires)
    # Further alarms down to the next firing token are all false: the best lowest alarm is on a firing one.
    lowest = np.unique(fires[fires > ordered[0]])
    lowest = lowest if len(lowest) else ordered[-1:]  # what is predicted least is never said to fire
    hits, alarms = (len(tokens) - np.searchsorted(tokens, lowest) for tokens in (fires, ordered))
    f1 = 2 * hits / (alarms + len(fires))
    best = lowest[np.flatnonzero(f1 == f1.max())[-1]]
    below = ordered[np.searchsorted(ordered, best) - 1]
    middle = (below + best) / 2
    return _at(float(middle if middle > below else best), ordered, fires)


def _at(threshold: float, ordered: Float32[np.ndarray, " tokens"], fires: Float32[np.ndarray, " firings"]) -> Threshold:
    """A threshold and its F1, given the predictions of all tokens and of those that fire, ascending."""
    hits, alarms = (int(np.count_nonzero(tokens >= threshold)) for tokens in (fires, ordered))
    return Threshold(threshold, Counts(hits, alarms - hits, len(fires) - hits, 0).f1, len(fires))
