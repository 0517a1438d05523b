"""The loops of streaming selection on the processor, compiled; ``streaming`` calls them.

The neurons are worked on a group at a time, as many as fill a line of the processor's cache, so that the activations
are read from memory once. For each group:

1. its activations are gathered, a row a neuron, without position 0 and padding;
2. sums, sums of squares and counts of either sign are taken from a neuron's row, in float64, in any order;
3. for each sign the row becomes *keys*, integers in the order of the activations (the upper half of the entries of
   ``top_k``); blocks of positions whose largest key beats the unit's floor are read again, and what beats it joins
   the unit's strongest positions, which are cut back when they have doubled;
4. a context whose largest key beats the unit's weakest context takes its place, or, where its document has as many as
   it may, that of the document's weakest. That is the exchange that keeps the greedy base of a matroid.

Importing this module imports numba (``method.compiled``), so others import it inside functions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64

from n2g_assets.evidence.top_k import EMPTY, LARGEST_OFFSET
from n2g_assets.method.compiled import compiled

GROUP = 16
"""Neurons gathered together: float32 activations in a line of the cache."""
_BLOCK = 64
"""Positions looked through together."""
_ROOM = 4
"""New entries wait for a cut until they are this many times those that are kept."""
_NO_KEY = np.int32(np.iinfo(np.int32).min)
"""Less than the key of any activation but NaN."""
_TO_KEY = np.int32(0x7FFFFFFF)
_HALF = np.int64(32)


class Kept(NamedTuple):
    """What a stream holds, filled in by the kernels; the fields of ``LayerState``, and what speeds up the choice."""

    total: Float64[np.ndarray, " d_mlp"]
    squares: Float64[np.ndarray, " d_mlp"]
    positive: Int64[np.ndarray, " d_mlp"]
    negative: Int64[np.ndarray, " d_mlp"]
    strongest: Int64[np.ndarray, "units 2*strongest"]
    """Entries in no order, then what means nothing."""
    filled: Int64[np.ndarray, " units"]
    """How many of them there are."""
    floors: Int64[np.ndarray, " units"]
    """Entry that a new one has to beat."""
    contexts: Int64[np.ndarray, "units top_contexts"]
    """Entries in no order, empty ones anywhere."""
    documents: Int64[np.ndarray, "units top_contexts"]
    """The document of each; -1 where there is none."""
    context_floors: Int64[np.ndarray, " units"]
    """The weakest of them."""
    window_row: Int64[np.ndarray, " units"]
    """Row of a unit among the recorded ones; -1 where it is none."""
    windows: Float32[np.ndarray, "recorded top_contexts context_length"]


class PaddedBatch(NamedTuple):
    """A batch of contexts, padded on the right."""

    activations: Float32[np.ndarray, "batch pos d_mlp"]
    lengths: Int64[np.ndarray, " batch"]
    first_offsets: Int64[np.ndarray, " batch"]
    """Place of position 1 of each context."""
    documents: Int64[np.ndarray, " batch"]


# Loops run over indices: the compiler makes vector instructions of them, and not of loops over elements.
@compiled
def take_in(batch: PaddedBatch, kept: Kept, keep: int, per_document: int, start: int, end: int) -> None:
    """Takes in the neurons from ``start`` to before ``end`` of a batch."""
    d_mlp = batch.activations.shape[2]
    size = 0
    for length in batch.lengths:
        size += max(length - 1, 0)
    rows = np.empty((GROUP, size + GROUP), np.float32)  # longer, lest all rows fall on the same lines of the cache
    signed = np.empty(size, np.float32)
    bits, keys = signed.view(np.int32), np.empty(size, np.int32)
    found = np.empty((_ROOM + 1) * keep + _BLOCK + 1, np.int64)
    for first in range(start, end, GROUP):
        width = min(GROUP, end - first)
        _gather(batch.activations, batch.lengths, first, width, rows)
        for number in range(width):
            row, neuron = rows[number, :size], first + number
            total, squares = _add_up(row)
            positive, negative = _count_signs(row)
            kept.total[neuron] += total
            kept.squares[neuron] += squares
            kept.positive[neuron] += positive
            kept.negative[neuron] += negative
            for sign in (1, -1):
                _sign(row, sign, signed)
                _make_keys(bits, keys)
                unit = neuron if sign == 1 else d_mlp + neuron
                _choose_positions(batch, kept, keep, unit, keys, found)
                _choose_contexts(batch, kept, per_document, unit, neuron, sign, keys)


@compiled
def _gather(
    activations: Float32[np.ndarray, "batch pos d_mlp"],
    lengths: Int64[np.ndarray, " batch"],
    first: int,
    width: int,
    rows: Float32[np.ndarray, "group size"],
) -> None:
    """Fills in the activations of some neurons, a row a neuron, context after context, without BOS and padding."""
    at = 0
    for context in range(len(lengths)):
        whole = activations[context]
        for position in range(1, lengths[context]):
            if width == GROUP:  # a constant number of turns is much faster
                for number in range(GROUP):
                    rows[number, at] = whole[position, first + number]
            else:
                for number in range(width):
                    rows[number, at] = whole[position, first + number]
            at += 1


def _add_up(row: Float32[np.ndarray, " size"]) -> tuple[float, float]:
    """Sum and sum of squares, in any order."""
    total = squares = 0.0
    for at in range(len(row)):
        value = np.float64(row[at])
        total += value
        squares += value * value
    return total, squares


_add_up = compiled(_add_up, fastmath={"reassoc"})


@compiled
def _count_signs(row: Float32[np.ndarray, " size"]) -> tuple[np.int32, np.int32]:
    """How many are positive, and how many negative."""
    positive = negative = np.int32(0)
    for at in range(len(row)):
        positive += np.int32(row[at] > 0)
        negative += np.int32(row[at] < 0)
    return positive, negative


@compiled
def _sign(row: Float32[np.ndarray, " size"], sign: int, signed: Float32[np.ndarray, " size"]) -> None:
    """Fills in the row times the sign; -0.0 becomes 0.0."""
    zero = np.float32(0)
    if sign == 1:
        for at in range(len(row)):
            signed[at] = row[at] + zero
    else:
        for at in range(len(row)):
            signed[at] = zero - row[at]


@compiled
def _make_keys(bits: Int32[np.ndarray, " size"], keys: Int32[np.ndarray, " size"]) -> None:
    """Fills in integers in the order of the float32 numbers with these bits, as ``top_k.pack`` does."""
    for at in range(len(bits)):
        keys[at] = bits[at] ^ ((bits[at] >> np.int32(31)) & _TO_KEY)


@compiled
def _choose_positions(
    batch: PaddedBatch,
    kept: Kept,
    keep: int,
    unit: int,
    keys: Int32[np.ndarray, " size"],
    found: Int64[np.ndarray, " n"],
) -> None:
    """Adds what beats the floor to a unit's strongest positions.

    ``found`` is room to work in: new entries are written behind the place of those that the unit has.
    """
    row, held = kept.strongest[unit], kept.filled[unit]
    floor_key, floor_offset = _unpack(kept.floors[unit])
    n, at = held, 0
    for context in range(len(batch.lengths)):
        over = at + batch.lengths[context] - 1
        offset = batch.first_offsets[context]
        while at < over:
            block = keys[at : min(at + _BLOCK, over)]
            bound = floor_key - 1 if floor_offset >= offset else floor_key  # of equals the earlier wins
            if _largest(block) > bound:
                for number in range(len(block)):  # without a branch: written anyway, and counted if it beats the bound
                    found[n] = _pack(block[number], offset + number)
                    n += np.int64(block[number] > bound)
                if n >= (_ROOM + 1) * keep:
                    found[:held] = row[:held]
                    _keep_largest(found, n, keep)
                    n, held = keep, 0
                    kept.floors[unit] = found[:keep].min()
                    floor_key, floor_offset = _unpack(kept.floors[unit])
            at += len(block)
            offset += len(block)
    if n > len(row):
        found[:held] = row[:held]
        _keep_largest(found, n, keep)
        n, held = keep, 0
        kept.floors[unit] = found[:keep].min()
    row[held:n] = found[held:n]
    kept.filled[unit] = n


@compiled
def _choose_contexts(
    batch: PaddedBatch,
    kept: Kept,
    per_document: int,
    unit: int,
    neuron: int,
    sign: int,
    keys: Int32[np.ndarray, " size"],
) -> None:
    """Puts the contexts that are among a unit's strongest in their place."""
    entries, documents, at = kept.contexts[unit], kept.documents[unit], 0
    for context in range(len(batch.lengths)):
        inner = max(batch.lengths[context] - 1, 0)
        offset, document = batch.first_offsets[context], batch.documents[context]
        block = keys[at : at + inner]
        at += inner
        if not inner or _pack(_largest(block), offset) <= kept.context_floors[unit]:
            continue
        peak, key = 0, _largest(block)
        while block[peak] != key:
            peak += 1
        entry = _pack(key, offset + peak)
        slot = _slot(entries, documents, document, per_document)
        if entry <= entries[slot]:
            continue
        entries[slot], documents[slot] = entry, document
        kept.context_floors[unit] = entries.min()
        if kept.window_row[unit] >= 0:
            window = kept.windows[kept.window_row[unit], slot]
            window[inner + 1 :] = 0
            for position in range(inner + 1):
                window[position] = sign * batch.activations[context, position, neuron]


@compiled
def _slot(
    entries: Int64[np.ndarray, " top_contexts"],
    documents: Int64[np.ndarray, " top_contexts"],
    document: int,
    per_document: int,
) -> int:
    """Whose place a new context of a document would take: the weakest, or its document's weakest if that is full."""
    weakest = weakest_same = same = 0
    for slot in range(len(entries)):
        if entries[slot] < entries[weakest]:
            weakest = slot
        if documents[slot] == document:
            if not same or entries[slot] < entries[weakest_same]:
                weakest_same = slot
            same += 1
    return weakest if same < per_document else weakest_same


@compiled
def cut_back(kept: Kept, keep: int, start: int, end: int) -> None:
    """Leaves the strongest positions of some units at the start of their rows, and empty entries after them."""
    for unit in range(start, end):
        filled = kept.filled[unit]
        if filled > keep:
            _keep_largest(kept.strongest[unit], filled, keep)
        kept.strongest[unit, filled:] = EMPTY


@compiled
def _keep_largest(entries: Int64[np.ndarray, " size"], n: int, keep: int) -> None:
    """Orders the first n entries, all different, so that the ``keep`` largest come first, by quickselect."""
    low, high = np.int64(0), np.int64(n)
    while low < keep < high and high - low > 1:
        one, two, three = entries[low], entries[(low + high) // 2], entries[high - 1]
        pivot = max(min(one, two), min(max(one, two), three))
        middle = np.int64(low)
        for at in range(low, high):  # without a branch, which the processor could not foretell
            entry = entries[at]
            entries[at] = entries[middle]
            entries[middle] = entry
            middle += np.int64(entry >= pivot)
        if middle <= keep:
            low = middle
            continue
        for at in range(low, middle):
            if entries[at] == pivot:
                entries[at], entries[middle - 1] = entries[middle - 1], pivot
                break
        high = middle - 1


@compiled
def _largest(keys: Int32[np.ndarray, " size"]) -> np.int32:
    largest = _NO_KEY
    for at in range(len(keys)):
        largest = max(largest, keys[at])
    return largest


@compiled
def _pack(key: int | np.int32, offset: int) -> np.int64:
    return (np.int64(key) << _HALF) | (LARGEST_OFFSET - offset)


@compiled
def _unpack(entry: np.int64) -> tuple[np.int64, np.int64]:
    """Key and offset; an empty entry stands before everything."""
    if entry == EMPTY:
        return np.int64(_NO_KEY), np.int64(-1)
    return entry >> _HALF, LARGEST_OFFSET - (entry & LARGEST_OFFSET)
