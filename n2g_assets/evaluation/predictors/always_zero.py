"""Control: predicts silence everywhere."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from n2g_assets.evaluation.material import UnitMaterial
from n2g_assets.method.text import EncodedText


class AlwaysZero:
    """Predicts 0."""

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Zeros."""
        return np.zeros(len(text), np.float32)


def fit(material: UnitMaterial) -> AlwaysZero:
    """It remembers nothing."""
    return AlwaysZero()
