"""Packs prompts that begin alike into rows, so that their common beginning goes through the model once.

1. Prompts, sorted, are inserted one after another into a prefix tree; a full tree makes a row. Equal prompts share all.
2. A row holds the tokens of its tree, parents before children. A mask lets each token see only its ancestors and
   itself, and its position is its depth, so it is read as in a prompt of its own.
3. Rows of like length make a batch, as many as the token budget allows (``batching``).
4. What the model gives for a prompt stands at the nodes of its path.

Masked prompts and variants share everything left of the token that was changed, and all prompts share BOS, so that
short ones fill rows together. Every different prompt is a row of its own where the architecture ignores masks, or where
a prompt is longer than a window of the model's attention, which such a mask would replace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int32
from torch import Tensor

from n2g_assets.model.batching import Batch, TokenBudget, pad, run_batches

if TYPE_CHECKING:
    from n2g_assets.model.model import SubjectModel

ROW_TOKENS = 128
"""Largest number of tokens of a row, as attention grows with its square; a longer prompt has a row of its own."""

Places = list[tuple[int, int, list[int]]]
"""Where the prompts of a batch stand: the prompt's number, its row, and the nodes of its tokens in the row."""


@dataclass
class Row:
    """A prefix tree of prompts: for each node its token, its parent (-1 for the first) and its depth."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)
    """For each prompt, by its number, the nodes of its tokens."""


def run_packed(
    prompts: Sequence[Int32[np.ndarray, " length"]],
    model: SubjectModel,
    budget: TokenBudget,
    run: Callable[[Places, Tensor, dict[str, Tensor]], object],
) -> Iterator[int]:
    """Runs prompts batch by batch, packed if none is longer than ``model.packs`` tokens; yields each batch's tokens.

    ``run`` gets the places of a batch's prompts and what :func:`inputs_of` gives for its rows. Where memory runs out,
    it is called again for a part of the same prompts.
    """
    rows = pack(prompts, ROW_TOKENS if max(map(len, prompts), default=0) <= model.packs else 0)
    lengths = np.array([len(row.tokens) for row in rows], np.int64)

    def run_rows(batch: Batch) -> None:
        together = [rows[number] for number in batch]
        places = [(number, index, path) for index, row in enumerate(together) for number, path in row.paths.items()]
        run(places, *inputs_of(together, model.bos_id, model.dtype))

    for batch, _ in run_batches(lengths, budget, run_rows):
        yield int(lengths[batch].sum())


def pack(prompts: Sequence[Int32[np.ndarray, " length"]], row_tokens: int = ROW_TOKENS) -> list[Row]:
    """Rows of at most ``row_tokens`` nodes that hold every prompt once; a longer prompt has a row of its own."""
    rows: list[Row] = []
    previous: list[int] = []
    path: list[int] = []
    for number in sorted(range(len(prompts)), key=lambda i: prompts[i].tolist()):
        tokens = prompts[number].tolist()
        differing = (depth for depth, (old, new) in enumerate(zip(previous, tokens, strict=False)) if old != new)
        shared = next(differing, min(len(previous), len(tokens)))
        if not rows or (tokens != previous and len(rows[-1].tokens) + len(tokens) - shared > row_tokens):
            rows.append(Row())
            path, shared = [], 0
        row, path = rows[-1], path[:shared]
        for depth in range(shared, len(tokens)):
            row.parents.append(path[-1] if path else -1)
            path.append(len(row.tokens))
            row.tokens.append(tokens[depth])
            row.depths.append(depth)
        row.paths[number] = path
        previous = tokens
    return rows


def inputs_of(rows: Sequence[Row], pad_id: int, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    """Token ids [row, node] of a batch, and the mask (in ``dtype``) and positions that the model reads them with.

    Rows without branches need neither: attention is causal, and padding follows the tokens.
    """
    tokens = pad([np.array(row.tokens) for row in rows], pad_id)
    if all(len(row.tokens) == row.depths[-1] + 1 for row in rows):
        return tokens, {}
    seen = np.repeat(np.eye(tokens.shape[1], dtype=bool)[None], len(rows), axis=0)
    for tree, row in zip(seen, rows, strict=True):
        for node, parent in enumerate(row.parents):
            if parent >= 0:
                tree[node] |= tree[parent]
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~torch.from_numpy(seen), torch.finfo(dtype).min)
    return tokens, {"attention_mask": mask[:, None], "position_ids": pad([np.array(row.depths) for row in rows], 0)}
