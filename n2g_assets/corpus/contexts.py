"""Contexts: the windows of ``context_length`` token ids that the subject model reads.

A document of n tokens is cut into pieces of ``context_length - 1`` tokens that do not overlap, the last one shorter,
and BOS is put before each. A last piece under 8 tokens is dropped, unless it is all there is of the document.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int32

SHORTEST_PIECE = 8
"""Tokens; a shorter remainder of a longer document makes no context."""


def cut_contexts(
    tokens: Int32[np.ndarray, " tokens"], *, context_length: int, bos_id: int
) -> list[Int32[np.ndarray, " context"]]:
    """The contexts of one document, in order, BOS included in each; ``tokens`` are without it."""
    step = context_length - 1
    pieces = [tokens[start : start + step] for start in range(0, len(tokens), step)]
    if len(pieces) > 1 and len(pieces[-1]) < SHORTEST_PIECE:
        pieces.pop()
    bos = np.array([bos_id], dtype=np.int32)
    return [np.concatenate([bos, piece]).astype(np.int32, copy=False) for piece in pieces]
