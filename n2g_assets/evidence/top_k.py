"""The strongest entries of many rows at once, kept while entries stream in.

An *entry* is an activation and an offset: the number of a context times the context length, plus the position in it.
Both are packed into one int64 whose order is "larger activation first, then smaller offset", so that whatever is kept
is one tensor of numbers and every tie is broken by where it stands in the corpus.
"""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

EMPTY = torch.iinfo(torch.int64).min
"""The entry that stands where there is none: less than any other."""
LARGEST_OFFSET = 0xFFFFFFFF
"""Places above this cannot be packed."""


def pack(activations: Float32[Tensor, "*n"], offsets: Int64[Tensor, "*n"]) -> Int64[Tensor, "*n"]:
    """Entries whose order is "larger activation first, then smaller offset".

    Args:
        activations: Any but NaN; 0.0 and -0.0 are equal.
        offsets: From 0 to ``LARGEST_OFFSET``.
    """
    bits = (activations + 0.0).view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(torch.int64) << 32) | (LARGEST_OFFSET - offsets)


def unpack(entries: Int64[Tensor, "*n"]) -> tuple[Float32[Tensor, "*n"], Int64[Tensor, "*n"]]:
    """Activations and offsets of entries; of an empty one -inf and -1."""
    ordered = (entries >> 32).to(torch.int32)
    activations = (ordered >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(ordered).view(torch.float32)
    empty = entries == EMPTY
    offsets = (entries & LARGEST_OFFSET).neg_().add_(LARGEST_OFFSET)
    return activations.masked_fill_(empty, -torch.inf), offsets.masked_fill_(empty, -1)


def select(
    entries: Int64[Tensor, "units n"],
    keep: int,
    documents: Int64[Tensor, "units n"] | None = None,
    per_document: int = 1,
) -> tuple[Int64[Tensor, "units keep"], Int64[Tensor, "units keep"]]:
    """The ``keep`` strongest entries of each row, strongest first.

    Args:
        entries: All different in a row, but for empty ones; at least ``keep`` a row.
        keep: How many; rows that have fewer are filled up with empty entries.
        documents: Document of each entry; at most ``per_document`` entries of one are taken. None sets no cap.
        per_document: The cap.

    Returns:
        The entries, and where each stood in its row.
    """
    if documents is None:
        return entries.topk(keep, dim=1)
    ordered, order = entries.sort(dim=1, descending=True)
    same, by_document = documents.gather(1, order).sort(dim=1, stable=True)
    number = torch.arange(entries.shape[1], device=entries.device).expand_as(same)
    first = torch.ones_like(same, dtype=torch.bool)
    first[:, 1:] = same[:, 1:] != same[:, :-1]
    rank = number - torch.where(first, number, 0).cummax(dim=1).values
    over = torch.empty_like(first).scatter_(1, by_document, rank >= per_document)
    kept, chosen = ordered.masked_fill(over, EMPTY).topk(keep, dim=1)
    return kept, order.gather(1, chosen)


def documents_of(
    entries: Int64[Tensor, "*n"], documents: Int64[Tensor, " contexts"], context_length: int
) -> Int64[Tensor, "*n"]:
    """Document of each entry; -1 for empty ones."""
    contexts = unpack(entries)[1].div(context_length, rounding_mode="floor")
    return documents[contexts.clamp(min=0)].masked_fill(contexts < 0, -1)
