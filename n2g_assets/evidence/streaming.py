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

What is held are the entries of ``top_k``. The strongest entries under a cap a document are the greedy base of a
matroid, so what a shard keeps is enough: merging shards gives exactly what one stream over all contexts would give.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from n2g_assets.evidence.state import BOTH_SIGNS, LayerState, Layout
from n2g_assets.evidence.top_k import EMPTY, documents_of, pack, select, unpack


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
        activations, offsets = unpack(entries)
        numbers = contexts[offsets.clamp(min=0).div(context_length, rounding_mode="floor")]
        moved = pack(activations, numbers * context_length + offsets.clamp(min=0) % context_length)
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
