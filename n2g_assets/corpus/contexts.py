"""Contexts: the windows of ``context_length`` token ids that the subject model reads, and which of them are used.

A document of n tokens is cut into pieces of ``context_length - 1`` tokens that do not overlap, the last one shorter,
and BOS is put before each. A last piece under 8 tokens is dropped, unless it is all there is of the document.
"""

import numpy as np
import polars as pl
from jaxtyping import Int32

SHORTEST_PIECE = 8
"""Tokens; a shorter remainder of a longer document makes no context."""


def cut_contexts(
    tokens: Int32[np.ndarray, " tokens"], *, context_length: int, bos_id: int
) -> list[Int32[np.ndarray, " context"]]:
    """The contexts of one document, in order, BOS included in each; ``tokens`` are without it."""
    step = context_length - 1
    pieces = [tokens[start : start + step] for start in range(0, len(tokens), step)]
    if len(pieces) > 1 and len(pieces[-1]) < SHORTEST_PIECE:
        pieces.pop()
    return [np.concatenate([[bos_id], piece], dtype=np.int32) for piece in pieces]


def first_documents(contexts: pl.DataFrame, max_tokens: int | None) -> pl.DataFrame:
    """The contexts of the first documents that together reach a number of tokens, BOS not counted; None takes all.

    ``contexts`` are in the order of their documents' hashes, which is a random one.
    """
    if max_tokens is None:
        return contexts
    per_document = contexts.group_by("document_id", maintain_order=True).agg(
        n_tokens=(pl.col("token_ids").list.len().cast(pl.Int64) - 1).sum()
    )
    before = pl.col("n_tokens").cum_sum() - pl.col("n_tokens")
    return contexts.join(per_document.filter(before < max_tokens), on="document_id", how="semi", maintain_order="left")


def held_out_texts(contexts: pl.DataFrame, random_tokens: int, out_of_domain_tokens: int) -> dict[str, pl.DataFrame]:
    """The contexts of each text that no graph is built from; a text without documents is left out.

    Text ``random`` is the first ``random_tokens`` of the held-out documents, ``out_of_domain`` likewise.
    """
    asked = [("random", "held_out", random_tokens), ("out_of_domain", "out_of_domain", out_of_domain_tokens)]
    texts = {name: first_documents(contexts.filter(pl.col("split") == split), n) for name, split, n in asked}
    return {name: frame for name, frame in texts.items() if frame.height}
