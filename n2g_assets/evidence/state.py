"""What a stream over the activations of a layer has to know before it starts, and what it keeps.

A *unit* here is an index: ``neuron`` for sign +1, ``d_mlp + neuron`` for sign -1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt64
from torch import Tensor

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
    offsets = (np.arange(len(lengths))[:, None] * context_length + positions[None, :])[there]
    chosen = np.sort(np.argsort(hashes, kind="stable")[:sample])
    return Layout(context_length, documents, offsets[chosen], hashes[chosen])


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _mix(numbers: UInt64[np.ndarray, " *n"]) -> Int64[np.ndarray, " *n"]:
    """The finaliser of splitmix64, cut to 63 bits."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _MIXERS[0]
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _MIXERS[1]
    return ((numbers ^ (numbers >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


# ------------------------------------------------------------------------------------------ what is kept
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


def units_of(neurons: Sequence[int], signs: Sequence[int], d_mlp: int) -> Int64[np.ndarray, " units"]:
    """The units of some neurons of a layer, of these signs, ascending."""
    chosen = np.unique(np.asarray(neurons, np.int64))
    return np.concatenate([chosen if sign == 1 else chosen + d_mlp for sign in sorted(set(signs), reverse=True)])
