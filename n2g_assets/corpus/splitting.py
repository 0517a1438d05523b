"""The one split of the documents into harvested and held-out ones, near-duplicates together.

1. Documents are compared without white space (``spelling``): those with the same text otherwise are near-duplicates.
2. Every run of 13 tokens of every document is hashed to 64 bits. Two documents are near-duplicates where the runs they
   share are at least a tenth of the runs of the shorter one.
3. Documents with too few runs for that are compared as wholes (``short_twins``): under 16 tokens they are
   near-duplicates where they differ in one place alone, of a quarter of their tokens at most; from 12 to 63 tokens
   where they share half of the longer one's runs of 4 tokens. What more than 8 of them share does not count.
4. Near-duplicates are joined into clusters; a cluster is named after the smallest ``document_id`` in it.
5. A cluster goes to one side as a whole, by a hash of its name. So a document keeps its side when others are added,
   unless it gains a near-duplicate. A cluster with more than half of all tokens is always harvested.

Why a share and not one shared run: source code quotes the same signatures, imports and licence lines, and speakers
quote one another. Joined by any run, 99 % of networkx, 98 % of django and 92 % of the speeches become one cluster each.
Leaving out runs that occur in many documents does not help: with only runs that exactly two documents share it is 99,
97 and 81 %, since every file quotes some other one. Joined by a share of 2, 5, 10 and 20 % of the shorter document, the
largest cluster of networkx is 84, 42, 6 and 3 %, that of django 77, 32, 8 and 4 %; a tenth is the smallest of these
that leaves no cluster larger than the held-out share. The runs that still lie on both sides are counted and reported
(``shared_run_share``).
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64, UInt64

from n2g_assets.corpus.spelling import Spelling, Tokens

NEAR_DUPLICATE_SHARE = 0.1
"""Share of the runs of the shorter document from which two documents are near-duplicates."""

_FEW, _SOME = 16, (12, 64)
"""Tokens of the documents that are compared as wholes, and of those that are compared by runs of ``_SHORT_RUN`` too:
one other token in 25, two in 38 or four in 64 can leave no run of 13 as it was."""
_SHORT_RUN, _SHORT_SHARE = 4, 0.5
"""One other token in 12 leaves 5 of 9 runs of 4, and seven in 63 leave half of them."""

_TEMPLATE = 8
"""Runs and wholes of short documents that more documents share are a template, which makes no twins: joined by them,
documents such as "The capital of ... is ..." would all lie on one side."""

_NEIGHBOURS = 31
"""A run pairs each document that holds it with this many of the next ones, in order of ``document_id``: all pairs up to
32 documents, and for runs in more documents a bound on the work that still chains copies together."""

_SALT = "split 205 "
"""Any text serves. On average over salts a fifth is held out, give or take 7 % in a sample of 0.3 million tokens. With
this one, chosen among 300 before any score was seen, it is 17 % of wikipedia, 18 % of django and 28 % of networkx."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Hashes = UInt64[np.ndarray, " runs"]
Indices = Int64[np.ndarray, " runs"]
Pair = tuple[int, int]
"""Two documents by their index, the smaller first."""


def find_runs(documents: Sequence[Tokens], run: int) -> tuple[Hashes, Indices]:
    """All distinct runs of ``run`` tokens of each document; a shorter document has none.

    Returns:
        For each run its hash and the index of the document that holds it, sorted by hash, then by document.
    """
    lengths = np.array([len(tokens) for tokens in documents], dtype=np.int64)
    tokens = np.concatenate([np.empty(0, np.int32), *documents]).astype(np.uint64)
    count = max(len(tokens) - run + 1, 0)
    owners = np.repeat(np.arange(len(documents)), lengths)
    hashes = _hash([tokens[offset : offset + count] for offset in range(run)], count)
    inside = owners[:count] == owners[len(owners) - count :]
    return _distinct(hashes[inside], owners[:count][inside])


def _hash(columns: Iterable[UInt64[np.ndarray, " rows"]], n_rows: int) -> UInt64[np.ndarray, " rows"]:
    """A hash for each row of the columns."""
    hashes = np.zeros(n_rows, np.uint64)
    for column in columns:  # unsigned arithmetic wraps around
        hashes = hashes * _MULTIPLIER + column + np.uint64(1)
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _distinct(hashes: Hashes, owners: Indices) -> tuple[Hashes, Indices]:
    """Sorted by hash, then by owner, each once; the owners are given in order."""
    order = np.argsort(hashes, kind="stable")
    hashes, owners = hashes[order], owners[order]
    first = np.ones(len(hashes), dtype=bool)
    first[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    return hashes[first], owners[first]


def near_duplicates(
    hashes: Hashes, owners: Indices, share: float = NEAR_DUPLICATE_SHARE, *, of_longer: bool = False
) -> list[Pair]:
    """Pairs of documents, the smaller index first, whose shared runs are this share or more of the shorter one's.

    With ``of_longer`` they are a share of the longer one's.
    """
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
    whole = (np.maximum if of_longer else np.minimum)(per_document[left], per_document[right])
    near = n_shared >= share * whole
    return list(zip(left[near].tolist(), right[near].tolist(), strict=True))


def short_twins(documents: Sequence[Tokens]) -> list[Pair]:
    """Pairs of short documents that are the same as wholes but for little; longer documents are in none.

    Under 16 tokens both are hashed once without each span of up to a quarter of their tokens, one at least where they
    have three. So two are a pair where one such span, or none, taken out of each leaves the same.
    """
    lengths = np.array([len(tokens) for tokens in documents], dtype=np.int64)
    hashes, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for length in range(1, _FEW):
        few = np.flatnonzero(lengths == length)
        tokens = np.array([documents[index] for index in few.tolist()], dtype=np.uint64).reshape(len(few), length)
        widest = max(length // 4, 1) if length > 2 else 0
        spans = [(start, width) for width in range(1, widest + 1) for start in range(length - width + 1)]
        for start, width in [(0, 0), *spans] if len(few) else []:
            hashes.append(_hash(np.delete(tokens, slice(start, start + width), axis=1).T, len(few)))
            owners.append(few)
    all_owners = np.concatenate(owners)
    by_owner = np.argsort(all_owners, kind="stable")
    found = _distinct(np.concatenate(hashes)[by_owner], all_owners[by_owner])
    same_but_for_one_place = near_duplicates(*_without_templates(*found), 0)
    some = [tokens if _SOME[0] <= len(tokens) < _SOME[1] else tokens[:0] for tokens in documents]
    runs = _without_templates(*find_runs(some, _SHORT_RUN))
    return same_but_for_one_place + near_duplicates(*runs, _SHORT_SHARE, of_longer=True)


def _without_templates(hashes: Hashes, owners: Indices) -> tuple[Hashes, Indices]:
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    rare = counts[inverse] <= _TEMPLATE
    return hashes[rare], owners[rare]


def same_text(wholes: Sequence[int]) -> list[Pair]:
    """Pairs of documents of the same text without white space, by the hashes of these texts; all are linked."""
    return near_duplicates(*_distinct(np.array(wholes, np.uint64), np.arange(len(wholes))), 0)


def find_leaks(contexts: pl.DataFrame, run: int, spelling: Spelling) -> list[tuple[str, str]]:
    """Pairs (held-out or out-of-domain document, harvested document) of which one holds much of the other's text.

    It reads the windows that were cut, not the clusters that were stored. Much is twice the share of near-duplicates,
    so that windows dropped at the ends of documents raise no alarm; for the same reason only documents of one window
    are compared as short ones.
    """
    documents = contexts.group_by("document_id", "split", maintain_order=True).agg(
        pl.col("token_ids").list.slice(1).explode(), n_windows=pl.len()
    )
    ids, harvested = documents["document_id"].to_list(), (documents["split"] == "harvest").to_list()
    token_ids = [tokens.to_numpy().astype(np.int32) for tokens in documents["token_ids"]]
    forms = [spelling.forms(tokens) for tokens in token_ids]
    single = [tokens if n == 1 else tokens[:0] for tokens, n in zip(forms, documents["n_windows"], strict=True)]
    pairs = near_duplicates(*find_runs(forms, run), 2 * NEAR_DUPLICATE_SHARE) + short_twins(single)
    pairs += same_text([spelling.whole(tokens) for tokens in token_ids])
    return [
        (ids[right], ids[left]) if harvested[left] else (ids[left], ids[right])
        for left, right in dict.fromkeys(pairs)
        if harvested[left] != harvested[right]
    ]


def join_clusters(n_documents: int, pairs: Sequence[Pair]) -> Int64[np.ndarray, " documents"]:
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
    document_ids: Sequence[str],
    documents: Sequence[Tokens],
    *,
    held_out_share: float,
    run: int,
    spelling: Spelling,
) -> Split:
    """Clusters and sides of the documents.

    Args:
        document_ids: One id a document, all different; the result does not depend on the order of the documents.
        documents: Token ids of each document, BOS not included.
        held_out_share: Share of the clusters that is held out, in expectation.
        run: Length of a run in tokens.
        spelling: The vocabulary of the token ids.
    """
    order = np.argsort(np.array(document_ids, str))
    forms = [spelling.forms(documents[index]) for index in order]
    hashes, owners = find_runs(forms, run)
    pairs = near_duplicates(hashes, owners) + short_twins(forms)
    pairs += same_text([spelling.whole(documents[index]) for index in order])
    roots = join_clusters(len(order), pairs)
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
