"""Rows of the tables ``neuron_stats``, ``activations`` and ``top_contexts`` from what was kept of a layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from jaxtyping import Int64
from torch import Tensor

from n2g_assets.evidence.shards import TokenCorpus
from n2g_assets.evidence.state import LayerState
from n2g_assets.evidence.top_k import EMPTY, unpack

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Those of ``neuron_stats.quantiles``."""


@dataclass(frozen=True)
class LayerHarvest:
    """What was harvested of one layer: all neurons, both signs, without the columns study and layer."""

    neuron_stats: pl.DataFrame
    activations: pl.DataFrame
    top_contexts: pl.DataFrame


def frames_of(state: LayerState, corpus: TokenCorpus, context_length: int) -> LayerHarvest:
    """All rows of a layer."""
    activations, *_ = _entry_rows(state.strongest, corpus, context_length, "position")
    top, present, numbers = _entry_rows(state.contexts, corpus, context_length, "peak")
    lists = _windows(state, present, corpus.lengths[numbers], context_length)
    return LayerHarvest(_stats(state), activations, top.with_columns(activations=lists))


def _entry_rows(
    entries: Int64[Tensor, "units n"], corpus: TokenCorpus, context_length: int, position: str
) -> tuple[pl.DataFrame, np.ndarray, Int64[np.ndarray, " rows"]]:
    """Rows of the entries, unit by unit; which entries they are; and the number of each row's context."""
    present = (entries != EMPTY).numpy()
    activations, offsets = (part.numpy() for part in unpack(entries[entries != EMPTY]))
    units, ranks = np.nonzero(present)
    numbers = offsets // context_length
    d_mlp = entries.shape[0] // 2
    frame = pl.DataFrame(
        {
            "unit": (units % d_mlp).astype(np.int32),
            "sign": np.where(units < d_mlp, 1, -1).astype(np.int8),
            "rank": ranks.astype(np.int32),
            "context_id": corpus.context_ids.gather(numbers),
            position: (offsets % context_length).astype(np.int32),
            "activation": activations,
        }
    )
    return frame, present, numbers


def _windows(
    state: LayerState, present: np.ndarray, lengths: Int64[np.ndarray, " rows"], context_length: int
) -> pl.Series:
    """For each top context, its activations where its unit is recorded, else NULL."""
    units, ranks = np.nonzero(present)
    recorded = state.recorded.numpy()
    held = np.isin(units, recorded)
    windows = state.windows.numpy()[np.searchsorted(recorded, units[held]), ranks[held]]
    values = windows[np.arange(context_length)[None, :] < lengths[held][:, None]]
    offsets = np.concatenate([[0], np.cumsum(np.where(held, lengths, 0))])
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values, pa.float32()), mask=pa.array(~held))
    return pl.Series("activations", lists, dtype=pl.List(pl.Float32))


def _stats(state: LayerState) -> pl.DataFrame:
    tokens, d_mlp = int(state.tokens), len(state.total)
    mean = state.total.numpy() / tokens
    std = np.sqrt(np.maximum(state.squares.numpy() / tokens - mean**2, 0))
    by_neuron = np.ascontiguousarray(state.sample.numpy().T)
    by_neuron.sort(axis=1)  # with what follows less than half the time of quantiles alone
    quantiles = np.quantile(by_neuron, QUANTILES, axis=1, overwrite_input=True).T.astype(np.float64)
    return pl.DataFrame(
        {
            "unit": np.tile(np.arange(d_mlp, dtype=np.int32), 2),
            "sign": np.repeat(np.array([1, -1], dtype=np.int8), d_mlp),
            "n_tokens": np.full(2 * d_mlp, tokens),
            "mean": np.concatenate([mean, -mean]),
            "std": np.tile(std, 2),
            "max": unpack(state.contexts[:, 0])[0].double().numpy(),
            "share_positive": torch.cat([state.positive, state.negative]).numpy() / tokens,
            "quantiles": pl.Series(np.concatenate([quantiles, -quantiles[:, ::-1]])).cast(pl.List(pl.Float64)),
        }
    )
