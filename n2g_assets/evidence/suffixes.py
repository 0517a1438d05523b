"""Numbers of the runs of tokens that end at each position of a corpus, the same for all layers and units.

They are what a trie of suffixes with a mean for each unit is counted with (``evaluation/suffix_means.py``).

1. Positions are cut into partitions by ranges of the token that stands there, so that equal runs lie in one partition.
2. In a partition, as many tokens as fit are packed into 64 bits each, the nearest first; a sort of these keys brings
   equal runs of each length together. Where more tokens are left, the run's number takes the place of its tokens.
3. Each length counts its different runs through the sorted keys. Numbers of a later partition go on from there.

Partitions are numbered side by side in threads. Beside the corpus, what a thread works on and what waits to be written
take at most 200 bytes a position of a partition: 50 MB a thread, whatever the corpus's size, but for a token that alone
stands at more positions than a partition has. The files are mapped, so the system can take their pages back.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from n2g_assets.core.errors import CorpusError
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.files import new_map
from n2g_assets.storage.hashing import hash_json

LONGEST = 6
"""Tokens of the longest runs."""
PARTITION = 2**18
"""Positions of a partition at the most; a token that stands at more is one of its own."""
BYTES = 44
"""A token that numbers can take on disk, at the most."""
MOST_TOKENS = 2**31 - 1
"""Tokens of a corpus at the most: its runs have numbers of 32 bits, one of them for the sign."""
_CODE_VERSION, _KIND = "1", "suffixes"
_Ids = Int32[np.ndarray, " tokens"]
_Places = Int64[np.ndarray, " n"]
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
        CorpusError: It has more tokens than ``MOST_TOKENS``.
        StorageError: The disk is full, which is found before the work for all but the parents; or cannot be written.
    """
    if len(corpus.token_ids) > MOST_TOKENS:
        raise CorpusError(
            f"Units would learn from {len(corpus.token_ids):,} tokens, but runs of tokens can be numbered in "
            f"{MOST_TOKENS:,} at the most: lower harvest.max_tokens."
        )
    threads = threads or min(8, os.cpu_count() or 1)
    entry = cache.obtain(_KIND, _key(corpus), partial(_write, corpus, threads, partition))
    counts, numbers, parents = (np.load(entry.path(f"{name}.npy"), "r") for name in ("counts", "numbers", "parents"))
    return Suffixes(counts, numbers, np.split(parents, np.cumsum([0, *counts[1:-1]])))


def drop_suffix_numbers(corpus: TokenCorpus, cache: Cache) -> None:
    """Remove what ``suffix_numbers`` keeps of a corpus."""
    cache.remove(_KIND, _key(corpus))


def _key(corpus: TokenCorpus) -> str:
    parts = corpus.token_ids, corpus.starts
    return hash_json([_CODE_VERSION, *(hashlib.blake2b(np.ascontiguousarray(part).data).hexdigest() for part in parts)])


def _write(corpus: TokenCorpus, threads: int, partition: int, folder: Path) -> None:
    numbers = new_map(folder / "numbers.npy", (LONGEST, len(corpus.token_ids)), np.int32)
    places = new_map(folder / "places.npy", (len(corpus.token_ids),), np.int64)
    blocks = [slice(at, at + _BLOCK) for at in range(0, len(places), _BLOCK)]
    width = (int(corpus.token_ids.max(initial=0)) + 1).bit_length()
    parts, counts = _group(corpus.token_ids, blocks, partition, places), np.zeros(LONGEST, np.int64)
    with ThreadPoolExecutor(threads) as pool:
        for at in range(0, len(parts), 4 * threads):
            some = parts[at : at + 4 * threads]
            for part, (found, new) in zip(some, pool.map(partial(_number, corpus, width), some), strict=True):
                for row, own, before in zip(numbers, found, counts.astype(np.int32), strict=True):
                    row[part] = np.where(own < 0, -1, own + before)
                counts += new
    (folder / "places.npy").unlink()
    parents = new_map(folder / "parents.npy", (int(counts[1:].sum()),), np.int32)
    for of_length, row, shorter in zip(np.split(parents, np.cumsum(counts[1:-1])), numbers[1:], numbers, strict=False):
        for block in blocks:
            there = row[block] >= 0
            of_length[row[block][there]] = shorter[block][there]
    np.save(folder / "counts.npy", counts)


def _group(ids: _Ids, blocks: Sequence[slice], most: int, places: _Places) -> list[_Places]:
    """Fill ``places`` with all positions by partition, ascending in each; and where in it the partitions lie."""
    size = int(ids.max(initial=-1)) + 1
    totals = sum((np.bincount(ids[block], minlength=size) for block in blocks), np.zeros(size, np.int64))
    part_of, sizes = np.empty(size, np.uint16), [0]  # NumPy sorts numbers of 16 bits by their digits, which is fast
    for token_id, total in enumerate(totals.tolist()):
        if sizes[-1] and sizes[-1] + total > most:
            sizes.append(0)
        part_of[token_id] = len(sizes) - 1
        sizes[-1] += total
    ends = np.cumsum(sizes)
    free = ends - sizes
    for block in blocks:
        parts = part_of[ids[block]]
        here, order = np.bincount(parts, minlength=len(sizes)), np.argsort(parts, kind="stable")
        places[np.arange(len(order)) + np.repeat(free - np.cumsum(here) + here, here)] = order + block.start
        free += here
    return np.split(places, ends[:-1]) if len(ids) else []


def _number(
    corpus: TokenCorpus, width: int, places: _Places
) -> tuple[Int32[np.ndarray, "lengths n"], Int64[np.ndarray, " lengths"]]:
    """The numbers, from 0 on, of the runs that end at a partition's places, and how many runs of each length there are.

    ``width`` is how many bits hold any token id plus one; 0 is for what lies before a context.
    """
    ids, position = corpus.token_ids, places - corpus.starts[np.searchsorted(corpus.starts, places, "right") - 1]
    numbers, counts = np.empty((LONGEST, len(places)), np.int32), np.zeros(LONGEST, np.int64)
    key, done = (ids[places] - ids[places].min()).astype(np.uint64), 0
    while done < LONGEST:
        read = max(1, done)  # tokens that the key stands for
        longest = min(LONGEST, read + (64 - int(key.max()).bit_length()) // width)
        for back in range(read, longest):
            before = np.where(position >= back, ids.take(places - back, mode="clip") + 1, 0)
            key = (key << width) | before.astype(np.uint64)
        order = np.argsort(key)
        key, ordered = key[order], position[order]
        for length in range(done + 1, longest + 1):
            runs, there = key >> (width * (longest - length)), ordered >= length - 1
            new = there.copy()
            new[1:] &= runs[1:] != runs[:-1]
            numbers[length - 1, order] = np.where(there, np.cumsum(new, dtype=np.int32) - 1, -1)
            counts[length - 1] = np.count_nonzero(new)
        done, key = longest, (numbers[longest - 1] + 1).astype(np.uint64)
    return numbers, counts
