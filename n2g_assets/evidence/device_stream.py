"""Streaming selection in torch operations, for activations that lie on cuda; one context at a time.

1. sums, sums of squares and counts of either sign;
2. the rows of the sampled positions;
3. the largest and smallest activation of every neuron in the context, and from them the units whose maximum beats what
   they hold already: only their columns are read again;
4. of those, the strongest positions (E a unit), and the context itself if it is among the unit's strongest contexts, at
   most a few of one document, with the activations at all of its positions for the units that are recorded.

For all other devices the same is done by ``processor_stream``: on the processor that is several times faster, and mps
lacks the float64 in which the sums are taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from n2g_assets.evidence.state import BOTH_SIGNS, LayerState, Layout, units_of
from n2g_assets.evidence.top_k import EMPTY, TopK, pack


class DeviceStream:
    """A ``LayerStream`` whose tensors stay on the device."""

    def __init__(
        self,
        d_mlp: int,
        layout: Layout,
        strongest: int,
        top_contexts: int,
        contexts_per_document: int,
        recorded: Sequence[int],
        device: torch.device,
        *,
        signs: Sequence[int] = BOTH_SIGNS,
    ) -> None:
        """As :func:`n2g_assets.evidence.streaming.open_stream` describes it."""
        length, units = layout.context_length, 2 * d_mlp
        self.d_mlp, self.context_length = d_mlp, length
        self.tokens = 0
        self.total = torch.zeros(d_mlp, dtype=torch.float64, device=device)
        self.squares, self.positive, self.negative = (torch.zeros_like(self.total) for _ in range(3))
        self.strongest = TopK(units, strongest, max(length - 1, 1), length, device=device)
        self.contexts = TopK(
            units,
            top_contexts,
            1,
            length,
            device=device,
            documents=torch.from_numpy(layout.documents).to(device),
            per_document=contexts_per_document,
            recorded=torch.from_numpy(units_of(recorded, signs, d_mlp)).to(device),
        )
        self.documents = layout.documents
        self.last_context, self.best = -1, torch.full((contexts_per_document, units), -torch.inf, device=device)
        self.priorities = torch.from_numpy(layout.priorities)
        self.sample = torch.zeros(len(layout.sampled), d_mlp, device=device)
        self.sampled = layout.sampled
        self.ones = torch.ones(length, device=device)
        self.scratch = torch.empty(length, d_mlp, device=device)

    def add(self, context: int, activations: Float[Tensor, "pos d_mlp"]) -> None:
        """Take in one context.

        Args:
            context: Its number in the layout; each comes once.
            activations: At all of its positions, position 0 included, without padding.
        """
        whole = activations.float()
        if len(whole) < 2:
            return
        inner = whole[1:]
        self._count(inner)
        low, high = np.searchsorted(self.sampled, [context * self.context_length, (context + 1) * self.context_length])
        if high > low:
            self.sample[low:high] = whole[torch.from_numpy(self.sampled[low:high] % self.context_length)]
        first_offset = context * self.context_length + 1
        maxima = torch.cat([inner.amax(dim=0), -inner.amin(dim=0)])
        strong, top = self.strongest.bounds(first_offset), self._context_bounds(context, maxima, first_offset)
        units = _nonzero(maxima > torch.minimum(strong, top))
        columns = inner.index_select(1, units % self.d_mlp)
        columns[:, int((units < self.d_mlp).sum()) :].neg_()
        by_unit = columns.t().contiguous()
        winners = _nonzero(maxima.index_select(0, units) > top.index_select(0, units))
        self._take_positions(units, by_unit, strong.index_select(0, units), first_offset)
        if len(winners):
            self._take_context(units.index_select(0, winners), by_unit.index_select(0, winners), whole[0], first_offset)

    def add_batch(
        self,
        contexts: Int64[np.ndarray, " batch"],
        activations: Float[Tensor, "batch pos d_mlp"],
        lengths: Int64[np.ndarray, " batch"],
    ) -> None:
        """Take in a batch of contexts; see ``LayerStream``."""
        if not self.tokens:
            self._raise_floors(activations[torch.from_numpy(lengths == lengths.max())][:, 1 : lengths.max()])
        for context, row, length in zip(contexts.tolist(), activations, lengths.tolist(), strict=True):
            self.add(context, row[:length])

    def _raise_floors(self, inner: Float[Tensor, "batch pos d_mlp"]) -> None:
        """Before the first batch, start from its own strongest positions instead of taking everything at first."""
        keep = self.strongest.keep
        by_neuron = inner.float().flatten(0, 1).t().contiguous()
        if by_neuron.shape[1] >= 2 * keep:
            weakest = torch.cat([_kth_largest(by_neuron, keep), _kth_largest(by_neuron.neg_(), keep)])
            self.strongest.floor.copy_(torch.nextafter(weakest, weakest.new_tensor(-torch.inf)))

    def _count(self, inner: Float32[Tensor, "pos d_mlp"]) -> None:
        scratch, ones = self.scratch[: len(inner)], self.ones[: len(inner)]
        self.tokens += len(inner)
        self.total += ones @ inner
        self.squares += ones @ torch.mul(inner, inner, out=scratch)
        self.positive += ones @ torch.gt(inner, 0, out=scratch)
        self.negative += ones @ torch.lt(inner, 0, out=scratch)

    def _context_bounds(
        self, context: int, maxima: Float32[Tensor, " units"], first_offset: int
    ) -> Float32[Tensor, " units"]:
        """What a maximum has to exceed for its context to count: the floor, and the best before it of its document.

        ``best`` holds as many maxima as a document may have, of the contexts of this document that came just before,
        in order.
        """
        last, self.last_context = self.last_context, context
        if not 0 <= last < context or self.documents[last] != self.documents[context]:
            self.best.fill_(-torch.inf)
        bounds = torch.maximum(self.contexts.bounds(first_offset), self.best[-1])
        for best in self.best:
            lower = torch.minimum(best, maxima)
            torch.maximum(best, maxima, out=best)
            maxima = lower
        return bounds

    def _take_positions(
        self,
        units: Int64[Tensor, " n"],
        by_unit: Float32[Tensor, "n pos"],
        bounds: Float32[Tensor, " n"],
        first_offset: int,
    ) -> None:
        found = _nonzero(by_unit > bounds[:, None])
        rows = found.div(by_unit.shape[1], rounding_mode="floor")
        counts = torch.bincount(rows, minlength=len(units))
        ranks = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts).index_select(0, rows)
        offsets = found - rows * by_unit.shape[1] + first_offset
        entries = pack(by_unit.view(-1).index_select(0, found), offsets)
        self.strongest.append(units.index_select(0, rows), ranks, entries)
        self.strongest.cut()

    def _take_context(
        self,
        units: Int64[Tensor, " n"],
        by_unit: Float32[Tensor, "n pos"],
        at_bos: Float32[Tensor, " d_mlp"],
        first_offset: int,
    ) -> None:
        peaks = by_unit.argmax(dim=1)
        slots = self.contexts.append(units, 0, pack(by_unit.gather(1, peaks[:, None])[:, 0], first_offset + peaks))
        rows = self.contexts.window_row.index_select(0, units)
        recorded = _nonzero(rows >= 0)
        if len(recorded):
            windows = by_unit.new_zeros(len(recorded), self.context_length)
            neurons, positive = units[recorded] % self.d_mlp, units[recorded] < self.d_mlp
            windows[:, 0] = torch.where(positive, at_bos[neurons], -at_bos[neurons])
            windows[:, 1 : 1 + by_unit.shape[1]] = by_unit[recorded]
            self.contexts.windows[rows[recorded], slots[recorded]] = windows
        self.contexts.cut()

    def finish(self) -> LayerState:
        """What was kept; see ``LayerStream``."""
        self.strongest.cut(everything=True)
        self.contexts.cut(everything=True)
        keep = self.contexts.keep
        state = LayerState(
            torch.tensor(self.tokens),
            self.total,
            self.squares,
            self.positive.long(),
            self.negative.long(),
            self.strongest.entries[:, : self.strongest.keep],
            self.contexts.entries[:, :keep],
            self.contexts.recorded,
            self.contexts.windows[:, :keep]
            * (self.contexts.entries[self.contexts.recorded, :keep] != EMPTY)[:, :, None],
            self.priorities,
            self.sample,
        )
        return LayerState(**{name: tensor.cpu().contiguous() for name, tensor in state.tensors().items()})


def _nonzero(mask: Bool[Tensor, " *n"]) -> Int64[Tensor, " n"]:
    """Flat indices of what is true."""
    return mask.flatten().nonzero().flatten()


def _kth_largest(rows: Float32[Tensor, "n pos"], k: int) -> Float32[Tensor, " n"]:
    return rows.topk(k, dim=1, sorted=False).values.amin(dim=1)
