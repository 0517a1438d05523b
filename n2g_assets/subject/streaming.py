"""Streaming selection over activations: all neurons of one layer, both signs, one context at a time.

A *unit* here is an index: ``neuron`` for sign +1, ``d_mlp + neuron`` for sign -1. A stream reads the activations of a
context while they are still in the processor's cache, and never looks at position 0 or at padding:

1. sums, sums of squares and counts of either sign;
2. the rows of a fixed sample of positions, for quantiles: those with the smallest hashes, so that the sample does not
   depend on how the corpus is cut into shards;
3. the largest and smallest activation of every neuron in the context, and from them the units whose maximum beats what
   they hold already: only their columns are read again;
4. of those, the strongest positions (E a unit), and the context itself if it is among the unit's strongest contexts, at
   most a few of one document, with the activations at all of its positions for the units that are recorded.

What is held are the entries of ``leaders``. The strongest entries under a cap a document are the greedy base of a
matroid, so what a shard keeps is enough: merging shards gives exactly what one stream over all contexts would give.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt64
from torch import Tensor

from n2g_assets.subject.leaders import EMPTY, Leaders, documents_of, pack, select, unpack

_MIXERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_STEP = np.uint64(0x9E3779B97F4A7C15)


# ------------------------------------------------------------------------------------------ layout of a shard
@dataclass(frozen=True)
class Layout:
    """What a stream has to know of its contexts before it sees their activations."""

    context_length: int
    """Tokens of the longest context that may come, BOS included."""
    documents: Int64[np.ndarray, " contexts"]
    """A number for the document of each context, in corpus order."""
    sampled: Int64[np.ndarray, " sample"]
    """Places of the positions that are sampled, ascending."""
    priorities: Int64[np.ndarray, " sample"]
    """Their hashes: the smallest of the shard."""


def lay_out(
    context_ids: Sequence[str],
    documents: Int64[np.ndarray, " contexts"],
    lengths: Int64[np.ndarray, " contexts"],
    context_length: int,
    sample: int,
) -> Layout:
    """Choose the sampled positions of some contexts: the ``sample`` smallest hashes of (context, position).

    Args:
        context_ids: Contexts in corpus order.
        documents: A number for the document of each.
        lengths: Tokens of each, BOS included.
        context_length: Tokens of the longest context that may come.
        sample: Positions to sample.
    """
    seeds = np.array([_hash(context_id) for context_id in context_ids], dtype=np.uint64)
    positions = np.arange(1, context_length, dtype=np.int64)
    there = positions[None, :] < lengths[:, None]
    hashes = _mix(seeds[:, None] + positions.astype(np.uint64)[None, :] * _STEP)[there]
    places = (np.arange(len(lengths))[:, None] * context_length + positions[None, :])[there]
    chosen = np.sort(np.argsort(hashes, kind="stable")[:sample])
    return Layout(context_length, documents, places[chosen], hashes[chosen])


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _mix(numbers: UInt64[np.ndarray, " *n"]) -> Int64[np.ndarray, " *n"]:
    """The finaliser of splitmix64, cut to 63 bits."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _MIXERS[0]
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _MIXERS[1]
    return ((numbers ^ (numbers >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


# ------------------------------------------------------------------------------------------ the stream
@dataclass(frozen=True)
class LayerState:
    """What is kept of the activations of one layer over some contexts."""

    tokens: Int64[Tensor, ""]
    """Positions seen, position 0 not counted."""
    total: Float64[Tensor, " d_mlp"]
    """Sum of the activations."""
    squares: Float64[Tensor, " d_mlp"]
    """Sum of their squares."""
    positive: Int64[Tensor, " d_mlp"]
    """Positions with a positive activation."""
    negative: Int64[Tensor, " d_mlp"]
    """Positions with a negative activation."""
    strongest: Int64[Tensor, "units strongest"]
    """Strongest positions of every unit, strongest first."""
    contexts: Int64[Tensor, "units top_contexts"]
    """Peaks of the strongest contexts of every unit, strongest first."""
    recorded: Int64[Tensor, " recorded"]
    """Units, ascending, whose strongest contexts are kept with all their activations."""
    windows: Float32[Tensor, "recorded top_contexts context_length"]
    """Activations there, times the sign; 0 after the context's end."""
    priorities: Int64[Tensor, " sample"]
    """Hashes of the sampled positions."""
    sample: Float32[Tensor, "sample d_mlp"]
    """Activations at the sampled positions."""

    def tensors(self) -> dict[str, Tensor]:
        """The fields by name, as a checkpoint stores them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class LayerStream:
    """Streaming selection over one layer."""

    def __init__(
        self,
        d_mlp: int,
        layout: Layout,
        *,
        strongest: int,
        top_contexts: int,
        contexts_per_document: int,
        recorded: Sequence[int] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        """A stream that has seen nothing.

        Args:
            d_mlp: Neurons of the layer.
            layout: The contexts that will come, in any order.
            strongest: Strong positions kept for every unit.
            top_contexts: Strongest contexts kept for every unit.
            contexts_per_document: At most this many of them come from one document.
            recorded: Neurons whose strongest contexts are kept with all their activations, for both signs.
            device: Where the activations will be.
        """
        device = torch.device(device)
        length, units = layout.context_length, 2 * d_mlp
        neurons = torch.tensor(sorted(set(recorded)), dtype=torch.int64, device=device)
        self.d_mlp, self.context_length = d_mlp, length
        self.tokens = 0
        self.total = torch.zeros(d_mlp, dtype=torch.float64, device=device)
        self.squares, self.positive, self.negative = (torch.zeros_like(self.total) for _ in range(3))
        self.strongest = Leaders(units, strongest, max(length - 1, 1), length, device=device)
        self.contexts = Leaders(
            units,
            top_contexts,
            1,
            length,
            device=device,
            documents=torch.from_numpy(layout.documents).to(device),
            per_document=contexts_per_document,
            recorded=torch.cat([neurons, neurons + d_mlp]),
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
        first_place = context * self.context_length + 1
        maxima = torch.cat([inner.amax(dim=0), -inner.amin(dim=0)])
        strong, top = self.strongest.bounds(first_place), self._context_bounds(context, maxima, first_place)
        units = nonzero(maxima > torch.minimum(strong, top))
        columns = inner.index_select(1, units % self.d_mlp)
        columns[:, int((units < self.d_mlp).sum()) :].neg_()
        by_unit = columns.t().contiguous()
        winners = nonzero(maxima.index_select(0, units) > top.index_select(0, units))
        self._take_positions(units, by_unit, strong.index_select(0, units), first_place)
        if len(winners):
            self._take_context(units.index_select(0, winners), by_unit.index_select(0, winners), whole[0], first_place)

    def add_batch(
        self,
        contexts: Int64[np.ndarray, " batch"],
        activations: Float[Tensor, "batch pos d_mlp"],
        lengths: Int64[np.ndarray, " batch"],
    ) -> None:
        """Take in a batch of contexts, padded on the right.

        Args:
            contexts: Their numbers in the layout.
            activations: At all positions.
            lengths: Tokens of each context, BOS included.
        """
        if not self.tokens:
            self._raise_floors(activations[torch.from_numpy(lengths == lengths.max())][:, 1 : lengths.max()])
        for context, row, length in zip(contexts.tolist(), activations, lengths.tolist(), strict=True):
            self.add(context, row[:length])

    def _raise_floors(self, inner: Float[Tensor, "batch pos d_mlp"]) -> None:
        """Before the first batch, start from its own strongest positions instead of taking everything at first."""
        keep = self.strongest.keep
        by_neuron = inner.float().flatten(0, 1).t().contiguous()
        if by_neuron.shape[1] >= 2 * keep:
            weakest = torch.cat([kth_largest(by_neuron, keep), kth_largest(by_neuron.neg_(), keep)])
            self.strongest.floor.copy_(torch.nextafter(weakest, weakest.new_tensor(-torch.inf)))

    def _count(self, inner: Float32[Tensor, "pos d_mlp"]) -> None:
        scratch, ones = self.scratch[: len(inner)], self.ones[: len(inner)]
        self.tokens += len(inner)
        self.total += ones @ inner
        self.squares += ones @ torch.mul(inner, inner, out=scratch)
        self.positive += ones @ torch.gt(inner, 0, out=scratch)
        self.negative += ones @ torch.lt(inner, 0, out=scratch)

    def _context_bounds(
        self, context: int, maxima: Float32[Tensor, " units"], first_place: int
    ) -> Float32[Tensor, " units"]:
        """What a maximum has to exceed for its context to count: the floor, and the best before it of its document.

        ``best`` holds as many maxima as a document may have, of the contexts of this document that came just before,
        in order.
        """
        last, self.last_context = self.last_context, context
        if not 0 <= last < context or self.documents[last] != self.documents[context]:
            self.best.fill_(-torch.inf)
        bounds = torch.maximum(self.contexts.bounds(first_place), self.best[-1])
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
        first_place: int,
    ) -> None:
        found = nonzero(by_unit > bounds[:, None])
        rows = found.div(by_unit.shape[1], rounding_mode="floor")
        counts = torch.bincount(rows, minlength=len(units))
        ranks = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts).index_select(0, rows)
        places = found - rows * by_unit.shape[1] + first_place
        entries = pack(by_unit.view(-1).index_select(0, found), places)
        self.strongest.append(units.index_select(0, rows), ranks, entries)
        self.strongest.cut()

    def _take_context(
        self,
        units: Int64[Tensor, " n"],
        by_unit: Float32[Tensor, "n pos"],
        at_bos: Float32[Tensor, " d_mlp"],
        first_place: int,
    ) -> None:
        peaks = first_argmax(by_unit)
        slots = self.contexts.append(units, 0, pack(by_unit.gather(1, peaks[:, None])[:, 0], first_place + peaks))
        rows = self.contexts.window_row.index_select(0, units)
        mine = nonzero(rows >= 0)
        if len(mine):
            windows = by_unit.new_zeros(len(mine), self.context_length)
            neurons, positive = units[mine] % self.d_mlp, units[mine] < self.d_mlp
            windows[:, 0] = torch.where(positive, at_bos[neurons], -at_bos[neurons])
            windows[:, 1 : 1 + by_unit.shape[1]] = by_unit[mine]
            self.contexts.windows[rows[mine], slots[mine]] = windows
        self.contexts.cut()

    def finish(self) -> LayerState:
        """What was kept, on the processor's memory; the stream must not be used after it."""
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


# ------------------------------------------------------------------------------------------ searching
def nonzero(mask: Bool[Tensor, " *n"]) -> Int64[Tensor, " n"]:
    """Flat indices of what is true; on the processor NumPy finds them several times faster."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero().flatten()


def first_argmax(rows: Float32[Tensor, "n pos"]) -> Int64[Tensor, " n"]:
    """The first position of the maximum of each row; on the processor NumPy finds it several times faster."""
    return torch.from_numpy(rows.numpy().argmax(axis=1)) if rows.device.type == "cpu" else rows.argmax(dim=1)


def kth_largest(rows: Float32[Tensor, "n pos"], k: int) -> Float32[Tensor, " n"]:
    """The k-th largest number of each row; on the processor NumPy finds it several times faster."""
    if rows.device.type == "cpu":
        place = rows.shape[1] - k
        return torch.from_numpy(np.partition(rows.numpy(), place, axis=1)[:, place].copy())
    return rows.topk(k, dim=1, sorted=False).values.amin(dim=1)


# ------------------------------------------------------------------------------------------ merging
def merge(
    parts: Iterable[tuple[LayerState, Int64[np.ndarray, " contexts"]]],
    *,
    documents: Int64[np.ndarray, " contexts"],
    context_length: int,
    contexts_per_document: int,
    sample: int,
) -> LayerState:
    """One state from those of shards: what one stream over all their contexts would have kept.

    Args:
        parts: At least one state, each with the corpus numbers of its contexts, ascending; read one after another.
        documents: A number for the document of each context of the corpus.
        context_length: As in the shards.
        contexts_per_document: As in the shards.
        sample: Positions to sample, as in the shards.
    """
    numbers = torch.from_numpy(documents)
    merged: LayerState | None = None
    for part, contexts in parts:
        placed = _place(part, torch.from_numpy(contexts), context_length)
        merged = (
            placed
            if merged is None
            else _merge((merged, placed), numbers, context_length, contexts_per_document, sample)
        )
    assert merged is not None
    return merged


def _place(state: LayerState, contexts: Int64[Tensor, " contexts"], context_length: int) -> LayerState:
    def move(entries: Int64[Tensor, "units n"]) -> Int64[Tensor, "units n"]:
        activations, places = unpack(entries)
        numbers = contexts[places.clamp(min=0).div(context_length, rounding_mode="floor")]
        moved = pack(activations, numbers * context_length + places.clamp(min=0) % context_length)
        return torch.where(entries == EMPTY, EMPTY, moved)

    return replace(state, strongest=move(state.strongest), contexts=move(state.contexts))


def _merge(
    states: tuple[LayerState, LayerState],
    documents: Int64[Tensor, " contexts"],
    context_length: int,
    per_document: int,
    sample: int,
) -> LayerState:
    one, other = states
    strongest, _ = select(torch.cat([one.strongest, other.strongest], dim=1), one.strongest.shape[1])
    entries = torch.cat([one.contexts, other.contexts], dim=1)
    contexts, chosen = select(
        entries, one.contexts.shape[1], documents_of(entries, documents, context_length), per_document
    )
    recorded = one.recorded[torch.isin(one.recorded, other.recorded)]
    rows, other_rows = (torch.searchsorted(part.recorded, recorded) for part in (one, other))
    windows = torch.cat([one.windows[rows], other.windows[other_rows]], dim=1)
    windows = windows.gather(1, chosen[recorded][:, :, None].expand(-1, -1, context_length))
    windows = windows * (contexts[recorded] != EMPTY)[:, :, None]
    priorities, order = torch.cat([one.priorities, other.priorities]).sort(stable=True)
    return LayerState(
        one.tokens + other.tokens,
        one.total + other.total,
        one.squares + other.squares,
        one.positive + other.positive,
        one.negative + other.negative,
        strongest,
        contexts,
        recorded,
        windows,
        priorities[:sample],
        torch.cat([one.sample, other.sample])[order[:sample]],
    )
