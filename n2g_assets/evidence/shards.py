"""The contexts that are read, cut into shards of whole documents, and the checkpoints of the harvest's shards.

A checkpoint is a cache entry with a ``LayerState`` and the ids of the shard's documents, one a layer. A later harvest
takes a shard over if all of its documents are in the corpus still, in the same order and with the same tokens;
documents that no shard covers become new shards. So a new document costs only its own forward pass, and a document that
went costs that of the documents it shared a shard with.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Int32, Int64

from n2g_assets.core.errors import CorpusError, StorageError
from n2g_assets.evidence.state import LayerState
from n2g_assets.evidence.top_k import LARGEST_OFFSET
from n2g_assets.storage.cache import Cache

_FILE = "state.safetensors"


@dataclass(frozen=True)
class TokenCorpus:
    """Contexts, numbered in their order; documents are numbered by their first context."""

    context_ids: pl.Series
    document_ids: list[str]
    """By the document's number."""
    documents: Int64[np.ndarray, " contexts"]
    """Number of the document of each context."""
    token_ids: Int32[np.ndarray, " tokens"]
    """All contexts one after another."""
    starts: Int64[np.ndarray, " contexts_and_end"]
    """Where each context starts in ``token_ids``."""

    @classmethod
    def from_frame(cls, contexts: pl.DataFrame) -> TokenCorpus:
        """From rows (context_id, document_id, token_ids), in corpus order."""
        names = contexts["document_id"].unique(maintain_order=True)
        numbers = pl.DataFrame({"document_id": names, "number": np.arange(len(names))})
        documents = contexts.select("document_id").join(numbers, on="document_id", how="left", maintain_order="left")
        lengths = contexts["token_ids"].list.len().to_numpy().astype(np.int64)
        return cls(
            contexts["context_id"],
            names.to_list(),
            documents["number"].to_numpy().astype(np.int64),
            contexts["token_ids"].explode().drop_nulls().to_numpy().astype(np.int32),
            np.concatenate([[0], np.cumsum(lengths)]),
        )

    def check_harvest(self, context_length: int) -> None:
        """Whether these contexts can be harvested.

        Raises:
            CorpusError: There is no context of two tokens or more, or there are too many tokens.
        """
        lengths = self.lengths
        if not len(lengths) or int(lengths.max()) < 2:
            raise CorpusError("The harvest has no text: add documents to the corpus, or lower harvest.held_out_share.")
        if int(lengths.max()) > context_length:
            raise CorpusError(
                f"A context has {int(lengths.max())} tokens, more than harvest.context_length ({context_length}): "
                "run the stage corpus_tokens again."
            )
        if len(lengths) * context_length > LARGEST_OFFSET:
            raise CorpusError(
                f"The harvest has {len(lengths)} contexts of {context_length} tokens, more than {LARGEST_OFFSET} "
                "positions: set max_tokens for its sources."
            )

    @cached_property
    def lengths(self) -> Int64[np.ndarray, " contexts"]:
        """Tokens of each context, BOS included."""
        return np.diff(self.starts)

    def tokens(self, context: int) -> Int32[np.ndarray, " pos"]:
        """Token ids of a context, BOS included."""
        return self.token_ids[self.starts[context] : self.starts[context + 1]]


@dataclass(frozen=True)
class Shard:
    """Whole documents of a corpus."""

    shard_id: str
    """Hash of its documents, contexts and tokens."""
    document_ids: tuple[str, ...]
    """In corpus order."""
    contexts: Int64[np.ndarray, " contexts"]
    """Numbers of their contexts, ascending."""
    n_tokens: int
    """Tokens, BOS included."""


def make_shard(corpus: TokenCorpus, documents: Sequence[int]) -> Shard:
    """The shard of these documents, given by their numbers, ascending."""
    contexts = np.flatnonzero(np.isin(corpus.documents, documents))
    names = tuple(corpus.document_ids[number] for number in documents)
    digest = hashlib.sha256(json.dumps(names).encode())
    for context_id, context in zip(corpus.context_ids.gather(contexts), contexts.tolist(), strict=True):
        digest.update(f"\n{context_id}\n".encode())
        digest.update(corpus.tokens(context).tobytes())
    return Shard(digest.hexdigest()[:24], names, contexts, int(corpus.lengths[contexts].sum()))


def plan_shards(corpus: TokenCorpus, store: ShardStore, layers: Sequence[int], shard_tokens: int) -> list[Shard]:
    """Shards that cover the corpus: those whose checkpoints can be taken over, and new ones for the rest.

    Where known shards overlap, those that save most of the forward pass win, then the larger ones.
    """
    fitting = []
    number_of = {document_id: number for number, document_id in enumerate(corpus.document_ids)}
    for shard_id, document_ids in store.known().items():
        numbers = [number_of.get(document_id, -1) for document_id in document_ids]
        if numbers and min(numbers) >= 0 and all(a < b for a, b in itertools.pairwise(numbers)):
            shard = make_shard(corpus, numbers)
            if shard.shard_id == shard_id:
                saved = shard.n_tokens * sum(store.has(layer, shard_id) for layer in layers)
                fitting.append((-saved, -shard.n_tokens, shard_id, numbers, shard))
    covered: set[int] = set()
    shards = []
    for _, _, _, numbers, shard in sorted(fitting, key=lambda each: each[:3]):
        if covered.isdisjoint(numbers):
            covered.update(numbers)
            shards.append(shard)
    shards += cut(corpus, [number for number in range(len(corpus.document_ids)) if number not in covered], shard_tokens)
    return sorted(shards, key=lambda shard: int(shard.contexts[0]))


def cut(corpus: TokenCorpus, documents: Iterable[int], shard_tokens: int) -> list[Shard]:
    """Shards of these documents; each is full before the document with which it would hold more tokens.

    A document that is longer stands alone. A shard depends on what stands before it alone.
    """
    sizes = np.bincount(corpus.documents, weights=corpus.lengths)
    groups: list[list[int]] = []
    held = np.inf
    for number in documents:
        if held + sizes[number] > shard_tokens:
            groups.append([])
            held = 0
        groups[-1].append(number)
        held += sizes[number]
    return [make_shard(corpus, group) for group in groups]


class ShardStore:
    """The checkpoints of one model, hook and setting of the harvest: one cache entry a shard and layer."""

    def __init__(self, cache: Cache, key: str) -> None:
        self.cache = cache
        self.kind = f"harvest/{key}"

    def known(self) -> dict[str, tuple[str, ...]]:
        """Every shard that has a checkpoint of any layer, with the ids of its documents."""
        return {about["shard"]: tuple(about["documents"]) for about in self.cache.listing(self.kind).values()}

    def has(self, layer: int, shard_id: str) -> bool:
        """Whether there is a whole checkpoint."""
        return self.cache.find(self.kind, _key(layer, shard_id)) is not None

    def read(self, layer: int, shard_id: str) -> LayerState:
        """The state of a shard.

        Raises:
            StorageError: The checkpoint is gone or damaged.
        """
        from safetensors.torch import load_file

        entry = self.cache.find(self.kind, _key(layer, shard_id))
        if entry is None:
            raise StorageError(
                f"The checkpoint of layer {layer} of shard {shard_id} is gone or damaged: materialize activation_cache "
                "again, which makes it anew."
            )
        return LayerState(**load_file(entry.path(_FILE)))

    def write(self, layer: int, shard: Shard, state: LayerState) -> None:
        """Writes a checkpoint.

        Raises:
            StorageError: The folder cannot be written, or the disk is full.
        """
        from safetensors.torch import save_file

        about = {"shard": shard.shard_id, "documents": list(shard.document_ids), "tokens": shard.n_tokens}
        key = _key(layer, shard.shard_id)
        self.cache.write(self.kind, key, lambda folder: save_file(state.tensors(), folder / _FILE), about)


def _key(layer: int, shard_id: str) -> str:
    return f"layer={layer}.{shard_id}"
