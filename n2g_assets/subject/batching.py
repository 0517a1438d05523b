"""Batches of prompts of like length, padded on the right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

_LIKE = 0.8
"""A prompt this much shorter than the longest of a batch waits for the next one, if the batch is large enough."""
_LARGE = 0.25
"""Share of ``batch_tokens`` from which a batch is large enough to be efficient."""


def batches(lengths: Int64[np.ndarray, " prompts"], batch_tokens: int) -> Iterator[Int64[np.ndarray, " batch"]]:
    """Numbers of prompts, the longest first, in batches.

    Args:
        lengths: Tokens of each prompt.
        batch_tokens: The most tokens of a batch, padding included; a longer prompt makes a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        rows = order[start : start + max(1, batch_tokens // longest)]
        like = int((lengths[rows] >= _LIKE * longest).sum())
        rows = rows[: max(like, int(np.ceil(_LARGE * batch_tokens / longest)))]
        yield rows
        start += len(rows)


def pad(prompts: Sequence[np.ndarray], pad_id: int) -> Int64[Tensor, "batch pos"]:
    """Prompts as one tensor, padded on the right."""
    tokens = np.full((len(prompts), max(map(len, prompts))), pad_id, dtype=np.int64)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    return torch.from_numpy(tokens)
