"""Numbers of the runs of tokens that end at each position of a corpus, the same for all layers and units.

1. Positions are cut into partitions by ranges of the token that stands there, so that equal runs lie in one partition.
2. In a partition, as many tokens as fit are packed into 64 bits each, the nearest first; a sort of these keys brings
   equal runs of each length together. Where more tokens are left, the run's number takes the place of its tokens.
3. Each length counts its different runs through the sorted keys. Numbers of a later partition go on from there.

Partitions are numbered side by side in threads, as many at a time as there are threads. So beside the corpus memory
holds about 0.1 GB a thread, whatever the corpus's size, unless one token stands at more positions than a partition has.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64, UInt16

from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.files import new_map
from n2g_assets.storage.hashing import hash_json

LONGEST = 6
"""Tokens of the longest runs."""
PARTITION = 2**18
"""Positions of a partition at the most; a token that stands at more is one of its own."""
_CODE_VERSION = "1"
_BLOCK = 2**20
"""Tokens that are read at a time."""


@dataclass(frozen=True)
class Suffixes:
    """Runs of 1 to ``LONGEST`` tokens, memory-mapped. Item k - 1 of each field is of the runs of k tokens.

    A run lies in one context. BOS counts as its token: what stands at the start of a context differs from the same
    tokens further in. The runs that hold BOS are those at position k - 1 of a context, so a reader can pass them over.

    Runs are numbered in the order of their last token, then of the one before it, and so on. So the runs that extend
    the same shorter run to the left have numbers in a row.
    """

    counts: Int64[np.ndarray, " lengths"]
    """How many different runs there are; each of the numbers 0 to count - 1 is taken."""
    numbers: Int32[np.ndarray, "lengths tokens"]
    """The run that ends at each of the corpus's ``token_ids``; -1 where its context has fewer tokens up to there."""
    parents: Sequence[Int32[np.ndarray, " runs"]]
    """For each run, ascending, the number of the run without its first token; none for runs of one token."""


def suffix_numbers(
    corpus: TokenCorpus, cache: Cache, *, threads: int | None = None, partition: int = PARTITION
) -> Suffixes:
    """The numbers of a corpus's runs, made once and kept in the cache under the hash of its tokens and starts.

    Args:
        corpus: Token ids are not negative.
        cache: Where they are kept: 24 bytes a token, and up to 20 more for the parents.
        threads: Partitions that are numbered at a time; None: as many as there are cores, 8 at the most.
        partition: Positions of a partition at the most, which decides on time and memory alone.

    Raises:
        StorageError: The disk is full, which is found before the work for all but the parents; or cannot be written.
    """
    threads = threads or min(8, os.cpu_count() or 1)
    hashes = [hashlib.blake2b(np.ascontiguousarray(part)).hexdigest() for part in (corpus.token_ids, corpus.starts)]
    fill = partial(_write, corpus, threads, partition)
    entry = cache.obtain("suffixes", hash_json([_CODE_VERSION, *hashes]), fill)
    counts, numbers, parents = (np.load(entry.path(f"{name}.npy"), "r") for name in ("counts", "numbers", "parents"))
    return Suffixes(counts, numbers, np.split(parents, np.cumsum([0, *counts[1:-1]])))


def _write(corpus: TokenCorpus, threads: int, partition: int, folder: Path) -> None:
    ids = corpus.token_ids
    numbers = new_map(folder / "numbers.npy", (LONGEST, len(ids)), np.int32)
    blocks = [slice(at, at + _BLOCK) for at in range(0, len(ids), _BLOCK)]
    size = int(ids.max(initial=-1)) + 1
    totals = sum((np.bincount(ids[block], minlength=size) for block in blocks), np.zeros(size, np.int64))
    part_of = _partitions(totals, partition)
    held = np.bincount(part_of, weights=totals).astype(np.int64)
    ends = np.cumsum(held)
    places, free = new_map(folder / "places.npy", (len(ids),), np.int64), ends - held
    for block in blocks:
        parts = part_of[ids[block]]
        sizes = np.bincount(parts, minlength=len(ends))
        order = np.argsort(parts, kind="stable")
        places[np.arange(len(order)) + np.repeat(free - np.cumsum(sizes) + sizes, sizes)] = order + block.start
        free += sizes
    grouped = np.split(places, ends)[:-1]
    counts = np.zeros(LONGEST, np.int64)
    with ThreadPoolExecutor(threads) as pool:
        for at in range(0, len(grouped), 4 * threads):
            some = grouped[at : at + 4 * threads]
            found = list(pool.map(partial(_number, corpus, size.bit_length()), some))
            before = np.cumsum([counts, *(own for _, own in found)], 0)
            list(pool.map(partial(_put, numbers), some, (rows for rows, _ in found), before))
            counts = before[-1]
    (folder / "places.npy").unlink()
    parents = new_map(folder / "parents.npy", (int(counts[1:].sum()),), np.int32)
    for of_length, row, shorter in zip(np.split(parents, np.cumsum(counts[1:-1])), numbers[1:], numbers, strict=False):
        for block in blocks:
            there = row[block] >= 0
            of_length[row[block][there]] = shorter[block][there]
    np.save(folder / "counts.npy", counts)


def _partitions(totals: Int64[np.ndarray, " vocabulary"], most: int) -> UInt16[np.ndarray, " vocabulary"]:
    """The partition of each token id, ascending: as many ids as have ``most`` positions together, one at the least."""
    found, number, held = np.empty(len(totals), np.uint16), 0, 0
    for token_id, total in enumerate(totals.tolist()):
        if held and held + total > most:
            number, held = number + 1, 0
        found[token_id] = number
        held += total
    return found


def _number(
    corpus: TokenCorpus, width: int, places: Int64[np.ndarray, " n"]
) -> tuple[Int32[np.ndarray, "lengths n"], Int64[np.ndarray, " lengths"]]:
    """The numbers of the runs that end at some places, ascending, from 0 on; and how many runs of each length there are.

    ``width`` is how many bits hold any token id plus one; 0 is for what lies before a context.
    """
    ids = corpus.token_ids
    position = places - corpus.starts[np.searchsorted(corpus.starts, places, "right") - 1]
    numbers, counts = np.empty((LONGEST, len(places)), np.int32), np.zeros(LONGEST, np.int64)
    key, done = ids[places].astype(np.uint64), 0
    lowest = key.min()
    key -= lowest
    bits = int(key.max()).bit_length()
    while done < LONGEST:
        read = max(1, done)  # tokens that the key stands for
        longest = min(LONGEST, read + (64 - bits) // width)
        for back in range(read, longest):
            before = np.where(position >= back, ids.take(places - back, mode="clip") + 1, 0)
            key = (key << width) | before.astype(np.uint64)
        order = np.argsort(key)
        key, ordered = key[order], position[order]
        for length in range(done + 1, longest + 1):
            runs = key >> (width * (longest - length))
            there = ordered >= length - 1
            new = there.copy()
            new[1:] &= runs[1:] != runs[:-1]
            numbers[length - 1, order] = np.where(there, np.cumsum(new, dtype=np.int32) - 1, -1)
            counts[length - 1] = np.count_nonzero(new)
        done, bits = longest, int(counts[longest - 1]).bit_length()
        key = (numbers[longest - 1] + 1).astype(np.uint64)
    return numbers, counts


def _put(
    numbers: Int32[np.ndarray, "lengths tokens"],
    places: Int64[np.ndarray, " n"],
    found: Int32[np.ndarray, "lengths n"],
    before: Int64[np.ndarray, " lengths"],
) -> None:
    """Write a partition's numbers, which go on from ``before``."""
    for row, own, first in zip(numbers, found, before.astype(np.int32), strict=True):
        row[places] = np.where(own < 0, -1, own + first)
