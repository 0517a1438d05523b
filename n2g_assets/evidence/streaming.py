"""Streaming selection over activations: all neurons of one layer, both signs, while the model runs.

A *unit* here is an index: ``neuron`` for sign +1, ``d_mlp + neuron`` for sign -1. A stream never looks at position 0 or
at padding, and keeps of a layer:

1. sums, sums of squares and counts of either sign;
2. the rows of a fixed sample of positions, for quantiles: those with the smallest hashes, so that the sample does not
   depend on how the corpus is cut into shards;
3. the strongest positions of every unit (E a unit);
4. its strongest contexts, at most a few of one document, with the activations at all of their positions for the units
   that are recorded.

Two streams do this with one result, and :func:`open_stream` chooses: ``device_stream`` leaves the activations on cuda
and works with torch operations; ``processor_stream`` brings those of any other device into the processor's memory and
reads them once, in compiled loops.

What is held are the entries of ``leaders``. The strongest entries under a cap a document are the greedy base of a
matroid, so what a shard keeps is enough: merging shards gives exactly what one stream over all contexts would give.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, UInt64
from torch import Tensor

from n2g_assets.evidence.leaders import EMPTY, documents_of, pack, select, unpack

BOTH_SIGNS = (1, -1)
"""The signs that are recorded where none are named."""
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


class LayerStream(Protocol):
    """Streaming selection over one layer."""

    def add_batch(
        self,
        contexts: Int64[np.ndarray, " batch"],
        activations: Float[Tensor, "batch pos d_mlp"],
        lengths: Int64[np.ndarray, " batch"],
    ) -> None:
        """Take in a batch of contexts, padded on the right.

        Args:
            contexts: Their numbers in the layout; each comes once.
            activations: At all positions, position 0 included.
            lengths: Tokens of each context, BOS included.
        """

    def finish(self) -> LayerState:
        """What was kept, on the processor's memory; the stream must not be used after it."""


def open_stream(
    d_mlp: int,
    layout: Layout,
    *,
    strongest: int,
    top_contexts: int,
    contexts_per_document: int,
    recorded: Sequence[int] = (),
    signs: Sequence[int] = BOTH_SIGNS,
    device: torch.device,
) -> LayerStream:
    """A stream that has seen nothing.

    Args:
        d_mlp: Neurons of the layer.
        layout: The contexts that will come, in any order.
        strongest: Strong positions kept for every unit.
        top_contexts: Strongest contexts kept for every unit.
        contexts_per_document: At most this many of them come from one document.
        recorded: Neurons whose strongest contexts are kept with all their activations.
        signs: The signs of them for which this is done.
        device: Where the activations will be.
    """
    if device.type == "cuda":
        from n2g_assets.evidence.device_stream import DeviceStream

        return DeviceStream(
            d_mlp, layout, strongest, top_contexts, contexts_per_document, recorded, device, signs=signs
        )
    from n2g_assets.evidence.processor_stream import ProcessorStream

    return ProcessorStream(d_mlp, layout, strongest, top_contexts, contexts_per_document, recorded, signs=signs)


def units_of(neurons: Sequence[int], signs: Sequence[int], d_mlp: int) -> Int64[np.ndarray, " units"]:
    """The units of some neurons of a layer, of these signs, ascending."""
    chosen = np.unique(np.asarray(neurons, np.int64))
    return np.concatenate([chosen if sign == 1 else chosen + d_mlp for sign in sorted(set(signs), reverse=True)])


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
        if consecutive:  # a later place is a lower entry
            return torch.where(entries == EMPTY, EMPTY, entries - shift) if shift else entries
        activations, places = unpack(entries)
        numbers = contexts[places.clamp(min=0).div(context_length, rounding_mode="floor")]
        moved = pack(activations, numbers * context_length + places.clamp(min=0) % context_length)
        return torch.where(entries == EMPTY, EMPTY, moved)

    shift = int(contexts[0]) * context_length
    consecutive = int(contexts[-1] - contexts[0]) == len(contexts) - 1
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
