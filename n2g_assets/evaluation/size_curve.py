"""How good the best graph of so many rules is: table ``size_curve``, for graphs of token classes.

A graph of each size has thresholds of its own, chosen as those of any predictor (``thresholds``) on what graphs of that
size, grown without a document, say of it.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from n2g_assets.core.registry import TEXTS, named
from n2g_assets.evaluation.document_counts import count_documents
from n2g_assets.evaluation.material import UnitMaterial
from n2g_assets.evaluation.predictors.graph import ClassPredictor
from n2g_assets.evaluation.scores import score_row
from n2g_assets.evaluation.texts import DocumentText
from n2g_assets.evaluation.thresholds import thresholds_of

SIZES = (3, 5, 10, 30, 100)
"""Numbers of rules that are scored, as far as graphs grow so large."""

_SCORES = ("pearson_r", "explained_variance", "average_precision", "f1")
_COLUMNS = [f"{score}{end}" for score in _SCORES for end in ("", "_low", "_high")]


class SizeCurve:
    """Scores one unit's graphs of every size; without a graph of token classes it has no rows."""

    def __init__(self, predictor: object, material: UnitMaterial) -> None:
        self._graph = predictor.graph if isinstance(predictor, ClassPredictor) else None
        self._material, self.rows = material, list[dict[str, Any]]()
        if isinstance(predictor, ClassPredictor):
            self._sizes = [size for size in SIZES if size <= material.shared.method.max_rules]
            left_out = predictor.left_out_by_size(self._sizes)
            self._thresholds = [thresholds_of(predicted, material) for predicted in left_out]

    def add(
        self, text: DocumentText, tokens_of: dict[str, Bool[np.ndarray, " tokens"]],
        actual: Float[np.ndarray, " tokens"], weights: UInt8[np.ndarray, "draws documents"],
    ) -> None:  # fmt: skip
        """Scores the tokens of a text under each of the names that they are scored by."""
        if self._graph is None:
            return
        firing = self._material.shared.method.firing_threshold
        guesses = self._graph.predict_sizes(text.encoded.token_ids, text.encoded.positions, self._sizes)
        for place, guess in enumerate(guesses):
            for name, tokens in tokens_of.items():
                alarm = self._thresholds[place][named(TEXTS)[name].threshold].threshold
                pair = actual[tokens], guess[tokens]
                counts = count_documents(*pair, text.documents[tokens], len(text.document_ids), firing, alarm)
                scores = score_row(*pair, counts, weights, firing)
                self.rows.append({
                    **self._material.unit.key(), "text": name, "n_rules": self._sizes[place], "threshold": alarm,
                    **{column: scores[column] for column in _COLUMNS},
                })  # fmt: skip
