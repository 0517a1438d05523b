"""Saliency: how much of an activation is lost when one token is masked (paper section 3.3).

1. Make one masked prompt for every kept token k (BOS never): the prompt with token k replaced by the mask token.
2. I_k(j) = 1 - a(prompt with k masked, j) / a(prompt, j) for every activating position j; the same masked prompts serve
   all j. A token after j cannot influence j, so its importance is 0.
3. Where a(prompt, j) is not positive, no share of it can be lost: all importances for that j are 0.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int, Int32


def masked_prompts(token_ids: Int32[np.ndarray, " length"], mask_id: int) -> Int32[np.ndarray, "kept length"]:
    """One prompt for every kept token: row k-1 has ``mask_id`` at position k."""
    masked = np.tile(token_ids, (len(token_ids) - 1, 1))
    masked[np.arange(len(masked)), np.arange(1, len(token_ids))] = mask_id
    return masked


def importance_rows(
    activations: Float32[np.ndarray, " length"],
    masked: Float32[np.ndarray, "kept length"],
    positions: Int[np.ndarray, " activating"],
) -> Float32[np.ndarray, "activating length"]:
    """I_k(j) for every activating position j (rows) and every position k (columns; 0 for BOS and for k > j).

    ``activations`` are a(prompt, ·), row k-1 of ``masked`` is a(prompt with k masked, ·); no position is 0.
    """
    rows = np.zeros((len(positions), len(activations)), np.float32)
    for row, position in zip(rows, positions, strict=True):
        whole = float(activations[position])
        if whole > 0:
            row[1 : position + 1] = 1 - masked[:position, position].astype(np.float64) / whole
    return rows
