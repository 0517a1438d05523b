"""Streaming selection on the processor: one compiled pass over the activations of a batch (``kernels``).

Threads share the neurons out while torch's own wait; nothing depends on how many there are. Importing this module
imports numba, so others import it inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from n2g_assets.evidence.kernels import GROUP, Kept, PaddedBatch, cut_back, take_in
from n2g_assets.evidence.state import BOTH_SIGNS, LayerState, Layout, units_of
from n2g_assets.evidence.top_k import EMPTY

_PARTS = 4
"""Pieces of work a thread: so that none waits long for another that was interrupted."""


class ProcessorStream:
    """A ``LayerStream`` in the processor's memory; activations of another device are brought there."""

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
        """As :func:`n2g_assets.evidence.streaming.open_stream` describes it."""
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
        """Take in a batch of contexts; see ``LayerStream``."""
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
        """What was kept; see ``LayerStream``."""
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
    starts = range(0, n, step)
    if threads == 1:
        work(0, n)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda start: work(start, min(start + step, n)), starts):
            pass
