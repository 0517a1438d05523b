"""Which contexts of a corpus are used: whole documents until a number of tokens is reached."""

from __future__ import annotations

import polars as pl


def first_documents(contexts: pl.DataFrame, max_tokens: int | None) -> pl.DataFrame:
    """The contexts of the first documents that together reach a number of tokens.

    Args:
        contexts: rows of ``contexts``, in the order of their documents' hashes, which is a random one.
        max_tokens: tokens to reach, BOS not counted; None takes all.
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

    Args:
        contexts: rows of ``contexts``.
        random_tokens: tokens of held-out documents, the text ``random``.
        out_of_domain_tokens: tokens of out-of-domain documents, the text ``out_of_domain``.
    """
    splits = {"random": ("held_out", random_tokens), "out_of_domain": ("out_of_domain", out_of_domain_tokens)}
    texts = {
        name: first_documents(contexts.filter(pl.col("split") == split), tokens)
        for name, (split, tokens) in splits.items()
    }
    return {name: frame for name, frame in texts.items() if frame.height}
