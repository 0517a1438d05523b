"""The one split of the documents into harvested and held-out ones, near-duplicates together.

1. Every run of 13 tokens of every document is hashed to 64 bits.
2. Two documents are near-duplicates where the runs they share are at least a tenth of the runs of the shorter one.
3. Near-duplicates are joined into clusters; a cluster is named after the smallest ``document_id`` in it.
4. A cluster goes to one side as a whole, by a hash of its name. So a document keeps its side when others are added,
   unless it gains a near-duplicate. A cluster with more than half of all tokens is always harvested.

Why a share and not one shared run: source code quotes the same signatures, imports and licence lines, and speakers
quote one another. Joined by any run, 99 % of networkx, 99 % of django and 92 % of the speeches become one cluster each.
Leaving out runs that occur in many documents does not help: with only runs that exactly two documents share it is 99,
97 and 81 %, since every file quotes some other one. Joined by a share of 2, 5, 10 and 20 % of the shorter document, the
largest cluster of networkx is 87, 46, 8 and 3 %, that of django 79, 49, 9 and 4 %; a tenth is the smallest of these
that leaves no cluster larger than the held-out share. The runs that still lie on both sides are counted and reported
(``shared_run_share``).
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Int32, Int64, UInt64

NEAR_DUPLICATE_SHARE = 0.1
"""Share of the runs of the shorter document from which two documents are near-duplicates."""

_NEIGHBOURS = 31
"""A run pairs each document that holds it with this many of the next ones, in order of ``document_id``: all pairs up to
32 documents, and for runs in more documents a bound on the work that still chains copies together."""

_SALT = "split 205 "
"""Any text serves. On average over salts a fifth is held out, give or take 7 % in a sample of 0.3 million tokens; with
this one, chosen for it among 300 before any score was seen, wikipedia, django and networkx come close to it in samples
and as a whole (20 %; 17, 19 and 22 %)."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Tokens = Int32[np.ndarray, " tokens"]
Hashes = UInt64[np.ndarray, " runs"]
Indices = Int64[np.ndarray, " runs"]


def find_runs(documents: Sequence[Tokens], run: int) -> tuple[Hashes, Indices]:
    """All distinct runs of ``run`` tokens of each document; a shorter document has none.

    Returns:
        For each run its hash and the index of the document that holds it, sorted by hash, then by document.
    """
    lengths = np.array([len(tokens) for tokens in documents], dtype=np.int64)
    tokens = np.concatenate([np.empty(0, np.int32), *documents]).astype(np.uint64)
    count = max(len(tokens) - run + 1, 0)
    owners = np.repeat(np.arange(len(documents)), lengths)
    hashes = np.zeros(count, np.uint64)
    for offset in range(run):  # unsigned arithmetic wraps around
        hashes = hashes * _MULTIPLIER + tokens[offset : offset + count] + np.uint64(1)
        hashes ^= hashes >> np.uint64(29)
    inside = owners[:count] == owners[len(owners) - count :]
    hashes, owners = hashes[inside], owners[:count][inside]
    order = np.argsort(hashes, kind="stable")  # the documents are in order already
    hashes, owners = hashes[order], owners[order]
    first = np.ones(len(hashes), dtype=bool)
    first[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    return hashes[first], owners[first]


def near_duplicates(hashes: Hashes, owners: Indices, share: float = NEAR_DUPLICATE_SHARE) -> list[tuple[int, int]]:
    """Pairs of documents, the smaller index first, whose shared runs are this share or more of the shorter one's."""
    per_document = np.bincount(owners)
    n_documents = len(per_document)
    same = np.zeros(len(hashes) + 1, dtype=bool)
    same[1:-1] = hashes[1:] == hashes[:-1]
    shared = same[1:] | same[:-1]
    hashes, owners = hashes[shared], owners[shared]
    counted = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for step in range(1, _NEIGHBOURS + 1):
        both = hashes[step:] == hashes[:-step]
        if not both.any():
            break
        keys = owners[:-step][both] * n_documents + owners[step:][both]
        counted.append(np.unique(keys, return_counts=True))
    keys, counts = map(np.concatenate, zip(*counted, strict=True))
    pairs, inverse = np.unique(keys, return_inverse=True)
    n_shared = np.bincount(inverse, weights=counts)
    left, right = np.divmod(pairs, max(n_documents, 1))
    shorter = np.minimum(per_document[left], per_document[right])
    near = n_shared >= share * shorter
    return list(zip(left[near].tolist(), right[near].tolist(), strict=True))


def find_leaks(contexts: pl.DataFrame, run: int) -> list[tuple[str, str]]:
    """Pairs (held-out or out-of-domain document, harvested document) of which one holds much of the other's text.

    It reads the windows that were cut, not the clusters that were stored. Much is twice the share of near-duplicates,
    so that windows dropped at the ends of documents raise no alarm.
    """
    documents = contexts.group_by("document_id", "split", maintain_order=True).agg(
        pl.col("token_ids").list.slice(1).explode()
    )
    ids, harvested = documents["document_id"].to_list(), (documents["split"] == "harvest").to_list()
    runs = find_runs([tokens.to_numpy().astype(np.int32) for tokens in documents["token_ids"]], run)
    pairs = near_duplicates(*runs, 2 * NEAR_DUPLICATE_SHARE)
    return [
        (ids[right], ids[left]) if harvested[left] else (ids[left], ids[right])
        for left, right in pairs
        if harvested[left] != harvested[right]
    ]


def join_clusters(n_documents: int, pairs: Sequence[tuple[int, int]]) -> Int64[np.ndarray, " documents"]:
    """For each document the smallest index of its cluster."""
    import igraph

    clusters = igraph.Graph(n=n_documents, edges=pairs).connected_components().membership
    _, smallest, cluster = np.unique(np.array(clusters, np.int64), return_index=True, return_inverse=True)
    return smallest[cluster]


class Split(NamedTuple):
    """The clusters of documents and the side of each."""

    cluster_ids: list[str]
    """For each document the smallest ``document_id`` of its cluster."""
    held_out: Bool[np.ndarray, " documents"]
    """Whether a document is held out."""
    shared_run_share: float
    """Share of the held-out documents' runs that a harvested document holds as well."""


def split_documents(
    document_ids: Sequence[str], documents: Sequence[Tokens], *, held_out_share: float, run: int
) -> Split:
    """Clusters and sides of the documents.

    Args:
        document_ids: One id a document, all different; the result does not depend on the order of the documents.
        documents: Token ids of each document, BOS not included.
        held_out_share: Share of the clusters that is held out, in expectation.
        run: Length of a run in tokens.
    """
    order = np.argsort(np.array(document_ids, str))
    hashes, owners = find_runs([documents[index] for index in order], run)
    roots = join_clusters(len(order), near_duplicates(hashes, owners))
    lengths = np.array([len(documents[index]) for index in order], dtype=np.int64)
    is_small = 2 * np.bincount(roots, weights=lengths, minlength=len(order)) <= lengths.sum()
    names = [document_ids[index] for index in order]
    drawn = np.array([_uniform(name) < held_out_share for name in names], dtype=bool)
    held_out = (is_small & drawn)[roots]
    places = np.argsort(order)
    cluster_ids = [names[root] for root in roots[places]]
    side = held_out[owners]
    shared_run_share = float(np.isin(hashes[side], hashes[~side]).mean()) if side.any() else 0.0
    return Split(cluster_ids, held_out[places], shared_run_share)


def _uniform(cluster_id: str) -> float:
    """A number in [0, 1) that depends on the name alone; hashed anew, as samples are taken in order of the id."""
    return int.from_bytes(hashlib.sha256(f"{_SALT}{cluster_id}".encode()).digest()[:8], "big") / 2**64
