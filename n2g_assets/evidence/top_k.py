"""The strongest entries of many rows at once, kept while entries stream in.

An *entry* is an activation and an offset: the number of a context times the context length, plus the position in it.
Both are packed into one int64 whose order is "larger activation first, then smaller offset", so that whatever is kept
is one tensor of numbers and every tie is broken by where it stands in the corpus.
"""

from __future__ import annotations

import numpy as np
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


def unpack_array(entries: Int64[np.ndarray, " n"]) -> tuple[Float32[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Activations and offsets of entries that are not empty, as arrays, by one thread: quick on a busy machine too."""
    ordered = (entries >> 32).astype(np.int32)
    activations = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(np.float32)
    return activations, LARGEST_OFFSET - (entries & LARGEST_OFFSET)


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


class TopK:
    """The strongest entries of every unit, kept while entries stream in.

    Each unit has a row of slots. New entries are appended to it; when it may overflow it is cut back to the strongest
    ``keep``, and the weakest of them becomes the floor that a new entry has to beat.
    """

    def __init__(
        self,
        units: int,
        keep: int,
        slack: int,
        context_length: int,
        *,
        device: torch.device,
        documents: Int64[Tensor, " contexts"] | None = None,
        per_document: int = 1,
        recorded: Int64[Tensor, " recorded"] | None = None,
    ) -> None:
        """Empty rows.

        Args:
            units: Number of rows.
            keep: Entries that count in a row.
            slack: The most entries that one call appends to a row.
            context_length: What an offset is divided by to give the number of its context.
            device: Where the rows live.
            documents: For each context its document, for a cap a document; None sets none.
            per_document: The cap.
            recorded: Units whose entries each carry a window of ``context_length`` activations.
        """
        self.keep, self.slack, self.context_length = keep, slack, context_length
        self.documents, self.per_document = documents, per_document
        self.recorded = torch.zeros(0, dtype=torch.int64, device=device) if recorded is None else recorded
        self.width = 2 * keep + slack
        self.entries = torch.full((units, self.width), EMPTY, device=device)
        self.filled = torch.zeros(units, dtype=torch.int64, device=device)
        self.floor = torch.full((units,), -torch.inf, device=device)
        self.floor_offset = torch.full((units,), -1, dtype=torch.int64, device=device)
        self.last_offset = -1
        self.window_row = torch.full((units,), -1, dtype=torch.int64, device=device)
        self.window_row[self.recorded] = torch.arange(len(self.recorded), device=device)
        self.windows = torch.zeros(len(self.recorded), self.width, context_length, device=device)

    def bounds(self, first_offset: int) -> Float32[Tensor, " units"]:
        """What an activation has to exceed to count, if it stands at ``first_offset`` or later.

        An activation that equals the floor counts only where it may stand earlier than what the floor belongs to.
        """
        if first_offset > self.last_offset:
            self.last_offset = first_offset
            return self.floor
        below = torch.nextafter(self.floor, self.floor.new_tensor(-torch.inf))
        return torch.where(self.floor_offset > first_offset, below, self.floor)

    def append(
        self, units: Int64[Tensor, " n"], ranks: Int64[Tensor, " n"] | int, entries: Int64[Tensor, " n"]
    ) -> Int64[Tensor, " n"]:
        """Append entries, at most ``slack`` a unit, and return the slot of each.

        Args:
            units: Unit of each.
            ranks: Its number among those of its unit; 0 where no unit has two.
            entries: The entries.
        """
        slots = self.filled[units] + ranks
        self.entries.view(-1)[units * self.width + slots] = entries
        self.filled += torch.bincount(units, minlength=len(self.filled))
        return slots

    def cut(self, *, everything: bool = False) -> None:
        """Where a row may overflow at the next call, cut the fuller rows back to the strongest; or all rows."""
        if not everything and int(self.filled.max()) <= self.width - self.slack:
            return
        rows = (self.filled >= (0 if everything else self.keep + (self.width - self.slack - self.keep) // 2)).nonzero()
        rows = rows.flatten()
        entries = self.entries[rows]
        documents = None if self.documents is None else documents_of(entries, self.documents, self.context_length)
        if documents is None and not everything:  # in any order: sorting is most of the work
            kept, chosen = entries.topk(self.keep, dim=1, sorted=False)
        else:
            kept, chosen = select(entries, self.keep, documents, self.per_document)
        self.entries[rows] = EMPTY
        self.entries[rows, : self.keep] = kept
        self.filled[rows] = (kept != EMPTY).sum(dim=1)
        self.floor[rows], self.floor_offset[rows] = unpack(kept.amin(dim=1))
        held = self.window_row[rows]
        recorded = held >= 0
        if bool(recorded.any()):
            index = chosen[recorded][:, :, None].expand(-1, -1, self.context_length)
            self.windows[held[recorded], : self.keep] = self.windows[held[recorded]].gather(1, index)


def documents_of(
    entries: Int64[Tensor, "*n"], documents: Int64[Tensor, " contexts"], context_length: int
) -> Int64[Tensor, "*n"]:
    """Document of each entry; -1 for empty ones."""
    contexts = unpack(entries)[1].div(context_length, rounding_mode="floor")
    return documents[contexts.clamp(min=0)].masked_fill(contexts < 0, -1)
