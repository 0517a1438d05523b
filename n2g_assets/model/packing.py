"""Packs prompts that begin alike into rows, so that their common beginning goes through the model once.

1. Prompts, sorted, are inserted one after another into a prefix tree; a full tree makes a row. Equal prompts share all.
2. A row holds the tokens of its tree in the order of insertion, so that a node's descendants follow it without a gap. A
   mask lets each token see only its ancestors and itself, and its position is its depth, so it is read as in a prompt
   of its own.
3. Rows of like length make a batch, as many as the token budget allows (``batching``).
4. What the model gives for a token of a prompt stands at the token's node.

Masked prompts and variants share everything left of the token that was changed, and all prompts share BOS, so that
short ones fill rows together. Every different prompt is a row of its own where the architecture ignores masks, or where
a prompt is longer than a window of the model's attention, which such a mask would replace.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from n2g_assets.method.compiled import compiled
from n2g_assets.model.batching import TokenBudget, on_host, ranges, run_batches, to_device

if TYPE_CHECKING:
    from n2g_assets.model.model import SubjectModel

ROW_TOKENS = 128
"""Largest number of tokens of a row, as attention grows with its square; a longer prompt has a row of its own."""


@dataclass(frozen=True)
class PackedBatch:
    """Rows that go through the model together, on its device, and where the tokens of their prompts stand."""

    tokens: Int64[Tensor, "row node"]
    inputs: dict[str, Tensor]
    """The mask and the positions that the model reads them with."""
    n_tokens: int
    """Padding not counted."""
    places: Int64[np.ndarray, " tokens"]
    """For each token of the batch's prompts its place among those of all prompts, one prompt behind another."""
    cells: Int64[np.ndarray, " tokens"]
    """Where it stands in ``tokens``, these flattened."""


@dataclass(frozen=True)
class Rows:
    """Prefix trees of prompts, one a row; nodes are numbered within their row."""

    nodes: Int64[np.ndarray, "3 nodes"]
    """Of each node its token, its depth, and the number of the node after its last descendant."""
    paths: Int64[np.ndarray, "2 tokens"]
    """Of each token of the prompts, row by row, its place among those of all prompts as given, and its node."""
    starts: Int64[np.ndarray, "2 rows+1"]
    """Where each row starts in ``nodes`` and in ``paths``."""

    def batch(self, rows: Int64[np.ndarray, " rows"], model: "SubjectModel") -> PackedBatch:
        """Some rows as the model reads them.

        Rows without branches need no mask and no positions: attention is causal, and padding follows the tokens.
        """
        starts = self.starts[:, rows]
        sizes, lengths = self.starts[:, rows + 1] - starts
        nodes, width = self.nodes[:, ranges(starts[0], sizes)], int(sizes.max())
        firsts = np.arange(0, len(rows) * width, width)
        grid = np.zeros((3, len(rows) * width), np.int64)
        grid[0], grid[2] = model.bos_id, np.tile(np.arange(1, width + 1), len(rows))
        grid[:, ranges(firsts, sizes)] = nodes
        tokens, depths, ends = to_device(grid.reshape(3, len(rows), width), model.device)
        inputs = {}
        if not np.array_equal(nodes[1][np.cumsum(sizes) - 1] + 1, sizes):
            least, node = torch.finfo(model.dtype).min, torch.arange(width, device=model.device)[:, None]
            causal = torch.full((width, width), least, dtype=model.dtype, device=model.device).triu_(1)
            mask = causal.masked_fill(node >= ends[:, None], least)  # [row, node, seen node]
            inputs = {"attention_mask": mask[:, None], "position_ids": depths}
        places, path = self.paths[:, ranges(starts[1], lengths)]
        return PackedBatch(tokens, inputs, nodes.shape[1], places, path + np.repeat(firsts, lengths))


def run_packed(
    prompts: Sequence[Int32[np.ndarray, " length"]],
    model: "SubjectModel",
    budget: TokenBudget,
    run: Callable[[PackedBatch], tuple[Tensor, ...]],
) -> Iterator[tuple[PackedBatch, list[np.ndarray]]]:
    """Runs prompts batch by batch, packed if none is longer than ``model.packs`` tokens.

    Yields:
        Each batch and what ``run`` gave for it, once the next has been launched (:func:`batching.on_host`). Where
        memory runs out, ``run`` is called again for a part of the same prompts.
    """
    rows = pack(prompts, ROW_TOKENS if max(map(len, prompts), default=0) <= model.packs else 0)

    def launch(numbers: Int64[np.ndarray, " rows"]) -> tuple[PackedBatch, tuple[Tensor, ...]]:
        batch = rows.batch(numbers, model)
        return batch, run(batch)

    yield from on_host(launched for _, launched in run_batches(np.diff(rows.starts[0]), budget, launch))


def pack(prompts: Sequence[Int32[np.ndarray, " length"]], row_tokens: int = ROW_TOKENS) -> Rows:
    """Rows of at most ``row_tokens`` nodes that hold every prompt once; a longer prompt has a row of its own."""
    tokens = np.concatenate([np.zeros(0, np.int32), *prompts])
    offsets = np.cumsum([0, *map(len, prompts)])
    in_order = tokens.astype(">u4").tobytes()  # bytes that sort as the numbers do
    keys = [in_order[start:end] for start, end in pairwise((4 * offsets).tolist())]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
    return Rows(*_grow(tokens, offsets, order, row_tokens))


@compiled
def _grow(
    tokens: Int32[np.ndarray, " tokens"],
    offsets: Int64[np.ndarray, " prompts+1"],
    order: Int64[np.ndarray, " prompts"],
    row_tokens: int,
) -> tuple[Int64[np.ndarray, "3 nodes"], Int64[np.ndarray, "2 tokens"], Int64[np.ndarray, "2 rows+1"]]:
    """The arrays of ``Rows``: prompts, whose tokens start at ``offsets``, are inserted in ``order``."""
    nodes, paths = np.empty((3, len(tokens)), np.int64), np.empty((2, len(tokens)), np.int64)
    starts = np.zeros((2, len(offsets)), np.int64)
    row, first, size, filled, before = -1, 0, 0, 0, tokens[:0]
    for number in order:
        prompt = tokens[offsets[number] : offsets[number + 1]]
        shared, most = 0, min(len(before), len(prompt))
        while shared < most and before[shared] == prompt[shared]:
            shared += 1
        if row < 0 or (shared < len(prompt) and size + len(prompt) - shared > row_tokens):
            row, first, size, shared = row + 1, first + size, 0, 0
        for depth in range(len(prompt)):
            paths[0, filled + depth] = offsets[number] + depth
            if depth < shared:
                paths[1, filled + depth] = paths[1, filled - len(before) + depth]
            else:
                paths[1, filled + depth] = size
                nodes[0, first + size], nodes[1, first + size] = prompt[depth], depth
                size += 1
        for depth in range(len(prompt)):
            nodes[2, first + paths[1, filled + depth]] = size
        filled, before = filled + len(prompt), prompt
        starts[0, row + 1], starts[1, row + 1] = first + size, filled
    return nodes[:, : first + size], paths, starts[:, : row + 2]
