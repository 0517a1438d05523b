"""Streaming selection over activations: all neurons of one layer, both signs, while the model runs.

A *unit* here is an index: ``neuron`` for sign +1, ``d_mlp + neuron`` for sign -1. A stream never looks at position 0 or
at padding, and keeps of a layer:

1. sums, sums of squares and counts of either sign;
2. the rows of a fixed sample of positions, for quantiles: those with the smallest hashes, so that the sample does not
   depend on how the corpus is cut into shards;
3. the strongest positions of every unit (E a unit);
4. its strongest contexts, at most a few of one document, with the activations at all of their positions for the units
   that are recorded.

Activations of any device are read once, in the processor's memory, by compiled loops (``kernels``): 30 layers of 1,536
neurons at 2,100 to 2,300 tokens a second of one core, where torch operations on an H200 reached 1,400 to 2,000. The
copy from a GPU is not in that figure. Threads share the neurons out while torch's own wait; nothing depends on how many
there are.

What is held are the entries of ``top_k``. The strongest entries under a cap a document are the greedy base of a
matroid, so what a shard keeps is enough: merging shards gives exactly what one stream over all contexts would give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import reduce

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from n2g_assets.evidence.kernels import GROUP, Kept, PaddedBatch, cut_back, take_in
from n2g_assets.evidence.state import BOTH_SIGNS, LayerState, Layout, units_of
from n2g_assets.evidence.top_k import EMPTY, documents_of, select, unpack

_PARTS = 4
"""Pieces of work a thread: so that none waits long for another that was interrupted."""


class LayerStream:
    """Streaming selection over one layer."""

    def __init__(
        self,
        d_mlp: int,
        layout: Layout,
        strongest: int,
        top_contexts: int,
        contexts_per_document: int,
        recorded: Sequence[int],
        *,
        signs: Sequence[int] = BOTH_SIGNS,
    ) -> None:
        """A stream that has seen nothing.

        Args:
            d_mlp: Neurons of the layer.
            layout: The contexts that will come, in any order.
            strongest: Strong positions kept for every unit.
            top_contexts: Strongest contexts kept for every unit.
            contexts_per_document: At most this many of them come from one document.
            recorded: Neurons whose strongest contexts are kept with all their activations.
            signs: The signs of them for which this is done.
        """
        units = 2 * d_mlp
        self.layout = layout
        self.recorded = units_of(recorded, signs, d_mlp)
        self.keep, self.per_document = strongest, contexts_per_document
        self.tokens = 0
        self.sample = np.zeros((len(layout.sampled), d_mlp), np.float32)
        window_row = np.full(units, -1, np.int64)
        window_row[self.recorded] = np.arange(len(self.recorded))
        self.kept = Kept(
            total=np.zeros(d_mlp),
            squares=np.zeros(d_mlp),
            positive=np.zeros(d_mlp, np.int64),
            negative=np.zeros(d_mlp, np.int64),
            strongest=np.empty((units, 2 * strongest), np.int64),
            filled=np.zeros(units, np.int64),
            floors=np.full(units, EMPTY),
            contexts=np.full((units, top_contexts), EMPTY),
            documents=np.full((units, top_contexts), -1, np.int64),
            context_floors=np.full(units, EMPTY),
            window_row=window_row,
            windows=np.zeros((len(self.recorded), top_contexts, layout.context_length), np.float32),
        )

    def add_batch(
        self,
        contexts: Int64[np.ndarray, " batch"],
        activations: Float[Tensor, "batch pos d_mlp"],
        lengths: Int64[np.ndarray, " batch"],
    ) -> None:
        """Take in a batch of contexts, padded on the right.

        Args:
            contexts: Their numbers in the layout; each comes once.
            activations: At all positions, position 0 included; on any device.
            lengths: Tokens of each context, BOS included.
        """
        length, values = self.layout.context_length, activations.float().cpu().contiguous().numpy()
        self.tokens += int(np.maximum(lengths - 1, 0).sum())
        offsets = contexts * length
        lows, highs = np.searchsorted(self.layout.sampled, [offsets, offsets + length])
        for row, low, high in zip(values, lows, highs, strict=True):
            self.sample[low:high] = row[self.layout.sampled[low:high] % length]
        batch = PaddedBatch(values, lengths, offsets + 1, self.layout.documents[contexts])
        _share_out(
            values.shape[2], lambda start, end: take_in(batch, self.kept, self.keep, self.per_document, start, end)
        )

    def finish(self) -> LayerState:
        """What was kept; the stream must not be used after it."""
        kept = self.kept
        _share_out(len(kept.floors), lambda start, end: cut_back(kept, self.keep, start, end))
        strongest, contexts = (np.sort(entries)[:, ::-1] for entries in (kept.strongest[:, : self.keep], kept.contexts))
        order = np.argsort(kept.contexts[self.recorded], axis=1)[:, ::-1]
        arrays = (
            np.array(self.tokens),
            kept.total,
            kept.squares,
            kept.positive,
            kept.negative,
            strongest,
            contexts,
            self.recorded,
            np.take_along_axis(kept.windows, order[:, :, None], axis=1),
            self.layout.priorities,
            self.sample,
        )
        return LayerState(*(torch.from_numpy(array.copy()) for array in arrays))  # in order, strides positive


def _share_out(n: int, work: Callable[[int, int], None]) -> None:
    """Has ``work`` done from 0 to n, in whole groups, by as many threads as torch uses, which wait meanwhile."""
    threads = torch.get_num_threads()
    step = GROUP * max(1, -(-n // (GROUP * _PARTS * threads)))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda start: work(start, min(start + step, n)), range(0, n, step)))


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
    placed = (_place(part, torch.from_numpy(contexts), context_length) for part, contexts in parts)
    return reduce(lambda one, other: _merge(one, other, numbers, context_length, contexts_per_document, sample), placed)


def _place(state: LayerState, contexts: Int64[Tensor, " contexts"], context_length: int) -> LayerState:
    """The state with the numbers that its contexts have in the corpus."""

    def move(entries: Int64[Tensor, "units n"]) -> Int64[Tensor, "units n"]:
        local = unpack(entries)[1].clamp(min=0) // context_length
        moved = entries - (contexts[local] - local) * context_length  # a later place is a lower entry
        return torch.where(entries == EMPTY, EMPTY, moved)

    return replace(state, strongest=move(state.strongest), contexts=move(state.contexts))


def _merge(
    one: LayerState,
    other: LayerState,
    documents: Int64[Tensor, " contexts"],
    context_length: int,
    per_document: int,
    sample: int,
) -> LayerState:
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
