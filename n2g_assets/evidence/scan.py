"""The scan of a vocabulary: every token after short made-up prefixes, for what rare tokens do.

In each of ``ROUNDS`` rounds every token but BOS stands once at the end of a context of its own, after BOS and
``PREFIX`` tokens that are drawn by their frequency in the harvest. So nothing of any document is in it but how often
tokens are. Only the last token of a context says something of a unit.
"""

import hashlib

import numpy as np
import polars as pl

from n2g_assets.evidence.corpus import TokenCorpus

ROUNDS = 2
"""One for each half of the positions with which graphs grow (``method.classes``)."""
PREFIX = 2
SCAN_VERSION = 2
"""Raised when the contexts would be others."""
_TOGETHER = 4_096
"""Contexts of a document, as far as cutting into shards goes."""


def scan_contexts(harvest: TokenCorpus, d_vocab: int, bos_id: int) -> pl.DataFrame:
    """Rows (context_id, document_id, token_ids), those of each round together, in the order of the tokens.

    The names say by a hash which contexts they are, so that two corpora of a model do not share what is kept of one.
    """
    generator = np.random.default_rng(0)
    frequency = np.bincount(harvest.token_ids, minlength=d_vocab)[:d_vocab]
    frequency[bos_id] = 0
    tokens = np.setdiff1d(np.arange(d_vocab), [bos_id])
    prefixes = generator.choice(d_vocab, (ROUNDS * len(tokens), PREFIX), p=frequency / frequency.sum())
    rows = np.column_stack([np.full(len(prefixes), bos_id), prefixes, np.tile(tokens, ROUNDS)]).astype(np.int32)
    of_round, place = np.divmod(np.arange(len(rows)), len(tokens))
    name = f"scan-{hashlib.blake2b(rows.tobytes(), digest_size=8).hexdigest()}"
    documents = [f"{name}-{number}-{block:04d}" for number, block in zip(of_round, place // _TOGETHER, strict=True)]
    return pl.DataFrame({
        "context_id": [f"{name}:{index % _TOGETHER:04d}" for name, index in zip(documents, place, strict=True)],
        "document_id": documents,
        "token_ids": pl.Series(rows, dtype=pl.Array(pl.Int32, rows.shape[1])).cast(pl.List(pl.Int32)),
    })  # fmt: skip
