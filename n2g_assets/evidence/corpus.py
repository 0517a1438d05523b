"""The tokens that the model reads, and shards of them: whole documents."""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Int32, Int64

from n2g_assets.core.errors import CorpusError


@dataclass(frozen=True)
class TokenCorpus:
    """Contexts, numbered in their order; documents are numbered by their first context."""

    context_ids: pl.Series
    document_ids: list[str]
    documents: Int64[np.ndarray, " contexts"]
    """Number of the document of each context, ascending."""
    token_ids: Int32[np.ndarray, " tokens"]
    """All contexts one after another, BOS included."""
    starts: Int64[np.ndarray, " contexts_and_end"]
    """Where each context starts in ``token_ids``."""

    @classmethod
    def from_frame(cls, contexts: pl.DataFrame) -> "TokenCorpus":
        """From rows (context_id, document_id, token_ids); a ValueError if a document's contexts are not together."""
        names = contexts["document_id"].unique(maintain_order=True).to_list()
        documents = contexts["document_id"].rle_id().to_numpy().astype(np.int64)
        if len(names) <= documents.max(initial=-1):
            raise ValueError("The contexts of a document must stand one behind another.")
        lengths = contexts["token_ids"].list.len().to_numpy().astype(np.int64)
        return cls(
            contexts["context_id"],
            names,
            documents,
            contexts["token_ids"].explode().drop_nulls().to_numpy().astype(np.int32),
            np.concatenate([[0], np.cumsum(lengths)]),
        )

    def check_harvest(self, context_length: int) -> None:
        """Raise a CorpusError where no context has two tokens, or one has more than ``context_length``."""
        longest = int(self.lengths.max(initial=0))
        if longest < 2:
            raise CorpusError("The harvest has no text: add documents to the corpus, or lower harvest.held_out_share.")
        if longest > context_length:
            raise CorpusError(
                f"A context has {longest} tokens, more than harvest.context_length ({context_length}): "
                "run the stage corpus_tokens again."
            )

    def of_documents(self, document_ids: Collection[str]) -> "TokenCorpus":
        """The same without all other documents."""
        chosen = [number for number, name in enumerate(self.document_ids) if name in document_ids]
        contexts = np.flatnonzero(np.isin(self.documents, chosen))
        kept = np.repeat(np.isin(self.documents, chosen), self.lengths)
        return TokenCorpus(
            self.context_ids.gather(contexts),
            [self.document_ids[number] for number in chosen],
            np.searchsorted(chosen, self.documents[contexts]),
            self.token_ids[kept],
            np.concatenate([[0], np.cumsum(self.lengths[contexts])]),
        )

    @cached_property
    def lengths(self) -> Int64[np.ndarray, " contexts"]:
        """Tokens of each context, BOS included."""
        return np.diff(self.starts)

    @cached_property
    def positions(self) -> Int32[np.ndarray, " tokens"]:
        """Where each token stands in its context; BOS at 0."""
        return (np.arange(len(self.token_ids)) - np.repeat(self.starts[:-1], self.lengths)).astype(np.int32)

    def tokens(self, context: int) -> Int32[np.ndarray, " pos"]:
        """Token ids of a context, BOS included."""
        return self.token_ids[self.starts[context] : self.starts[context + 1]]


@dataclass(frozen=True)
class Shard:
    """Whole documents of a corpus."""

    shard_id: str
    """Hash of its documents, contexts and tokens."""
    document_ids: tuple[str, ...]
    contexts: Int64[np.ndarray, " contexts"]
    """Numbers of their contexts, ascending."""
    ranges: tuple[tuple[slice, slice], ...]
    """Runs of tokens, each as long as can be: where they stand in the corpus, and in the shard."""
    n_tokens: int


def make_shard(corpus: TokenCorpus, documents: Sequence[int]) -> Shard:
    """The shard of these documents, given by their numbers, ascending."""
    contexts = np.flatnonzero(np.isin(corpus.documents, documents))
    names = tuple(corpus.document_ids[number] for number in documents)
    digest = hashlib.sha256(json.dumps(names).encode())
    for context_id, context in zip(corpus.context_ids.gather(contexts), contexts.tolist(), strict=True):
        digest.update(f"\n{context_id}\n".encode())
        digest.update(corpus.tokens(context).tobytes())
    neighbours = np.split(contexts, np.flatnonzero(np.diff(contexts) > 1) + 1)
    spans = [slice(int(corpus.starts[run[0]]), int(corpus.starts[run[-1] + 1])) for run in neighbours]
    ends = np.cumsum([span.stop - span.start for span in spans]).tolist()
    ranges = tuple((span, slice(end - span.stop + span.start, end)) for span, end in zip(spans, ends, strict=True))
    return Shard(digest.hexdigest()[:24], names, contexts, ranges, ends[-1])
