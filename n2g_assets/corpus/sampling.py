"""Which contexts of a corpus are used: whole documents until a number of tokens is reached."""

from __future__ import annotations

import polars as pl


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


def harvested_contexts(contexts: pl.DataFrame, max_tokens: int | None) -> pl.DataFrame:
    """The contexts of the harvest; ``max_tokens`` as in ``first_documents``."""
    return first_documents(contexts.filter(pl.col("split") == "harvest"), max_tokens)


def held_out_texts(contexts: pl.DataFrame, random_tokens: int, out_of_domain_tokens: int) -> dict[str, pl.DataFrame]:
    """The contexts of each text that no graph is built from; a text without documents is left out.

    Text ``random`` is the first ``random_tokens`` of the held-out documents, ``out_of_domain`` likewise.
    """
    asked = [("random", "held_out", random_tokens), ("out_of_domain", "out_of_domain", out_of_domain_tokens)]
    texts = {name: first_documents(contexts.filter(pl.col("split") == split), n) for name, split, n in asked}
    return {name: frame for name, frame in texts.items() if frame.height}
