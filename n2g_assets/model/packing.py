"""Packs prompts that begin alike into rows, so that what they share goes through the model once.

1. Different prompts, sorted, are inserted one after another into a prefix tree; a full tree makes a row.
2. A row holds the tokens of its tree, parents before children. A mask lets each token see its ancestors and itself and
   nothing else, its position is its depth: so it is read as it would be in a prompt of its own.
3. A prompt's activations stand at the nodes of its path.

Masked prompts and variants share everything left of the token that was changed; all prompts share BOS, so that short
ones fill rows together. Where an architecture heeds no masks, every prompt is a row of its own; so it is where one of
them is longer than a window of the model's attention, which such a mask would replace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int32
from torch import Tensor

from n2g_assets.model.batching import is_out_of_memory, pad

if TYPE_CHECKING:
    from n2g_assets.model.model import SubjectModel

ROW_TOKENS = 128
"""Tokens of a row at the most: attention among them all grows with its square. A longer prompt has a row of its own."""
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
"""What models call, in their config, the tokens that some of their layers look back."""


@dataclass
class Row:
    """A prefix tree of prompts: for each node its token, its parent (-1 for the first) and its depth."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)
    """For each prompt, by its number, the nodes of its tokens."""

    @property
    def branches(self) -> bool:
        """Whether it holds more than one line of tokens."""
        return self.depths[-1] + 1 < len(self.tokens)


def rows_of(prompts: Sequence[Int32[np.ndarray, " length"]], model: SubjectModel) -> list[Row]:
    """Rows that hold every prompt once: packed if the model reads them so, else one a prompt."""
    if len(prompts) > 1 and max(map(len, prompts)) <= model.packs:
        return pack(prompts)
    return [
        Row(tokens.tolist(), list(range(-1, len(tokens) - 1)), list(range(len(tokens))), {i: list(range(len(tokens)))})
        for i, tokens in enumerate(prompts)
    ]


def pack(prompts: Sequence[Int32[np.ndarray, " length"]], row_tokens: int = ROW_TOKENS) -> list[Row]:
    """Rows of at most ``row_tokens`` nodes (more only for a longer prompt) that hold every prompt once."""
    rows: list[Row] = []
    previous: list[int] = []
    path: list[int] = []
    for number in sorted(range(len(prompts)), key=lambda i: prompts[i].tolist()):
        tokens = prompts[number].tolist()
        shared = _shared(previous, tokens)
        if not rows or len(rows[-1].tokens) + len(tokens) - shared > row_tokens:
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


def inputs_of(rows: Sequence[Row], model: SubjectModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Token ids [row, node] of a batch, and the mask and positions that the model reads them with.

    Rows without branches need neither: attention is causal, and what stands behind a row is padding.
    """
    tokens = pad([np.array(row.tokens) for row in rows], model.bos_id)
    if not any(row.branches for row in rows):
        return tokens, {}
    seen = np.repeat(np.eye(tokens.shape[1], dtype=bool)[None], len(rows), axis=0)
    for tree, row in zip(seen, rows, strict=True):
        for node, parent in enumerate(row.parents):
            if parent >= 0:
                tree[node] |= tree[parent]
    hidden = torch.zeros(seen.shape, dtype=model.dtype).masked_fill_(
        ~torch.from_numpy(seen), torch.finfo(model.dtype).min
    )
    positions = pad([np.array(row.depths) for row in rows], 0)
    return tokens, {
        "attention_mask": hidden[:, None].to(model.device),
        "position_ids": positions.to(model.device),
    }


def longest_packed(model: SubjectModel) -> int:
    """Tokens of the longest prompts that may be packed; 0 where packed and separate reading disagree on a few.

    Some architectures ignore masks or positions.
    """
    if model.bridge is not None:
        return 0
    longest = min(model.max_context, _window(model))
    ids = np.linspace(0, model.d_vocab - 1, min(longest, ROW_TOKENS // 2)).astype(np.int32)
    ids[0] = model.bos_id
    prompts = [ids, *(np.append(ids[:length], ids[1]) for length in range(1, len(ids), 1 + len(ids) // 4))]
    layer = model.hook.layers[-1]
    read: list[Tensor] = []
    rows = pack(prompts)
    try:
        tokens, inputs = inputs_of(rows, model)
        model.run(tokens, {layer: lambda found: read.append(found.float())}, **inputs)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        return 0
    model.run(pad(prompts, model.bos_id), {layer: lambda found: read.append(found.float())})
    for row, packed in zip(rows, read[0], strict=True):
        for number, path in row.paths.items():
            alone = read[1][number, 1 : len(path)]
            if not float((packed[path[1:]] - alone).abs().max()) <= model.rounding * float(alone.abs().max()):
                return 0
    return longest


def _window(model: SubjectModel) -> int:
    """Tokens that every layer looks back: those of the narrowest window that the model's config names."""
    config: Any = getattr(model.plain, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = [getattr(config, name, None) for name in _WINDOWS]
    return min((window for window in found if isinstance(window, int) and window > 0), default=model.max_context)


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two prompts have in common at their beginning."""
    for number, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return number
    return min(len(first), len(second))
