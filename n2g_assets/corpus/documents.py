"""From corpus sources to documents and contexts, the two frames that a forward pass starts from.

1. Each source gives its texts in the order that ``sources`` defines. What comes as token ids is spelled out and checked
   (``token_ids``).
2. Nulls, empty texts and exact duplicates are dropped and counted; of duplicates the first one stays.
3. Texts are tokenised in batches; what comes as token ids is taken as it is. Each document is cut after the source's
   ``max_contexts`` windows. Reading stops with the document that reaches the source's ``max_tokens``, which is not cut
   for it.
4. ``splitting`` assigns the documents to the splits, ``contexts`` cuts the windows.

The tokenizer is handed in. The same sources give the same rows, whatever the batches. A corpus has to
fit into memory as token ids (4 bytes a token, as much again for the windows, and the 13-token runs while they are
compared); texts are held batch by batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int32

from n2g_assets.core.errors import CorpusError
from n2g_assets.core.home import Home
from n2g_assets.core.progress import Progress
from n2g_assets.core.settings import CorpusCut
from n2g_assets.core.sources import AnyCorpusSource
from n2g_assets.core.tables import TABLES
from n2g_assets.corpus.contexts import cut_contexts
from n2g_assets.corpus.rows import RawDocument
from n2g_assets.corpus.sources import (
    OpenSource,
    no_text,
    open_source,
    source_kind,
    source_label,
    source_place,
    text_sha256,
)
from n2g_assets.corpus.spelling import Spelling
from n2g_assets.corpus.splitting import split_documents
from n2g_assets.corpus.token_ids import Agreement, DocumentTokenizer, spell_out

DUPLICATES, EMPTY, NULL = "duplicate documents dropped", "empty documents dropped", "null documents dropped"
CLUSTERS, SHARED_RUNS = "clusters of near-duplicates", "share of held-out runs that the harvest holds too"
"""What ``Corpus.counts`` holds. Of duplicates the first one stays; a cluster has two or more near-duplicates."""

_BATCH_CHARACTERS = 400_000


@dataclass(frozen=True)
class Corpus:
    """The documents and contexts of a study, and what was counted while they were read."""

    documents: pl.DataFrame
    """Columns of the table ``documents`` without ``study``, sorted by ``document_id``."""
    contexts: pl.DataFrame
    """Columns of the table ``contexts`` without ``study``, sorted by document and number of the window."""
    counts: dict[str, float]
    """By what is counted, in words: documents dropped, and near-duplicates."""


class _Document(NamedTuple):
    row: dict[str, object]
    """Its row in the table ``documents``, as far as it is known before the split."""
    out_of_domain: bool
    tokens: Int32[np.ndarray, " tokens"]


def read_documents(
    sources: Sequence[AnyCorpusSource],
    *,
    study_folder: Path,
    home: Home,
    tokenizer: DocumentTokenizer,
    spelling: Spelling,
    bos_id: int,
    harvest: CorpusCut,
    needed_contexts: int,
    progress: Progress | None = None,
) -> Corpus:
    """Reads, tokenises, splits and cuts the corpus of a study.

    Args:
        sources: The study's corpus.
        study_folder: Folder that relative paths count from.
        home: Where fetched files and rendered texts are kept.
        tokenizer: Makes token ids of texts, and texts of token ids.
        spelling: The tokenizer's vocabulary, by which documents are compared.
        bos_id: Token id at position 0 of every context.
        harvest: How the corpus is cut and split.
        needed_contexts: Harvested contexts that the method needs at least.
        progress: Called with the tokens of a source that are taken, after every batch.

    Raises:
        CorpusError: A path is missing, a source is empty or not UTF-8, its token ids are not of this tokenizer, or the
            harvest is too small.
        SourceError: A source cannot be had or is damaged.
    """
    counts: dict[str, float] = {DUPLICATES: 0, EMPTY: 0, NULL: 0}
    seen: set[str] = set()
    taken: list[_Document] = []
    progress = progress or (lambda done, total: None)
    for source in sources:
        progress(0, source.max_tokens or 0)
        opened = open_source(source, study_folder=study_folder, home=home)
        longest = None if source.max_contexts is None else source.max_contexts * (harvest.context_length - 1)
        taken += _take(source, source_place(source, study_folder), opened, longest, tokenizer, seen, counts, progress)
    if not taken:
        raise CorpusError("The corpus has no documents: name at least one source under 'corpus' that holds text.")
    documents, shared_run_share = _split(taken, harvest, spelling)
    clusters = documents.group_by("cluster_id", pl.col("split") == "out_of_domain").len()
    counts |= {CLUSTERS: clusters.filter(pl.col("len") > 1).height, SHARED_RUNS: shared_run_share}
    contexts = _contexts(documents, taken, harvest.context_length, bos_id)
    n_harvested = contexts.filter(pl.col("split") == "harvest").height
    if n_harvested < needed_contexts:
        raise CorpusError(
            f"The corpus gives {n_harvested} harvested contexts of up to {harvest.context_length} tokens, fewer "
            f"than the {needed_contexts} that the method needs: add documents or raise 'max_tokens'."
        )
    return Corpus(documents, contexts, counts)


def _take(
    source: AnyCorpusSource,
    place: str,
    opened: OpenSource,
    longest: int | None,
    tokenizer: DocumentTokenizer,
    seen: set[str],
    counts: dict[str, float],
    progress: Progress,
) -> Iterator[_Document]:
    """The documents of one source up to its ``max_tokens``, tokenised, each cut after ``longest`` tokens."""
    label, limit, kind = source_label(source), source.max_tokens, source_kind(source)
    n_tokens = n_characters = n_texts = 0
    documents = spell_out(iter(opened.documents), tokenizer)
    agreement = Agreement(label)
    while limit is None or n_tokens < limit:
        # five characters a token are more than any tokenizer needs, so little is read beyond the limit
        room = _BATCH_CHARACTERS if limit is None else min(_BATCH_CHARACTERS, 5 * (limit - n_tokens))
        batch = [(text_sha256(document.text), document) for document in _next_batch(documents, room)]
        if not batch:
            break
        unseen = {sha256: each for sha256, each in batch if sha256 not in seen and each.text.strip()}
        token_ids = dict(zip(unseen, tokenizer.encode([each.text for each in unseen.values()]), strict=True))
        for sha256, each in unseen.items():
            if each.token_ids is not None:
                agreement.add(each, token_ids[sha256])
                token_ids[sha256] = each.token_ids
        agreement.check()
        for sha256, document in batch:
            if limit is not None and n_tokens >= limit:
                break
            if not document.text.strip():
                counts[NULL if document.is_null else EMPTY] += 1
                continue
            n_texts += 1
            if sha256 in seen:
                counts[DUPLICATES] += 1
                continue
            seen.add(sha256)
            tokens = np.asarray(token_ids[sha256][:longest], dtype=np.int32)
            if len(tokens) == 0:
                counts[EMPTY] += 1
                continue
            n_tokens += len(tokens)
            n_characters += document.size
            row: dict[str, object] = {
                "document_id": sha256[:16], "source": place, "name": document.name,
                "kind": document.kind or kind, "n_tokens": len(tokens), "sha256": sha256,
            }  # fmt: skip
            yield _Document(row, source.role == "out_of_domain", tokens)
        expected = n_tokens * opened.characters // max(n_characters, 1)
        progress(n_tokens, min(limit or expected, max(expected, n_tokens)) if opened.characters else limit or 0)
    if not n_texts:
        raise no_text(source)
    progress(n_tokens, n_tokens)


def _next_batch(documents: Iterator[RawDocument], room: int) -> Iterator[RawDocument]:
    """Documents until they have ``room`` characters, or five for each token."""
    for document in documents:
        yield document
        room -= document.size
        if room <= 0:
            return


def _split(taken: list[_Document], harvest: CorpusCut, spelling: Spelling) -> tuple[pl.DataFrame, float]:
    """The table ``documents``, and the share of the held-out runs that the harvest holds too."""
    schema = {name: dtype for name, dtype in TABLES["documents"].schema.items() if name != "study"}
    frames, shared_run_shares = [], []
    for out_of_domain in (False, True):  # each alone: text of another domain must move no harvested document
        group = [document for document in taken if document.out_of_domain == out_of_domain]
        frame = pl.DataFrame([document.row for document in group], schema=schema)
        split = split_documents(
            frame["document_id"].to_list(), [document.tokens for document in group],
            held_out_share=harvest.held_out_share, run=harvest.near_duplicate_run, spelling=spelling,
        )  # fmt: skip
        side = pl.Series(np.where(split.held_out, "held_out", "harvest"), dtype=pl.String)
        clusters = pl.Series(split.cluster_ids, dtype=pl.String)
        frames.append(frame.with_columns(cluster_id=clusters, split=pl.lit("out_of_domain") if out_of_domain else side))
        shared_run_shares.append(split.shared_run_share)
    return pl.concat(frames).sort("document_id"), shared_run_shares[0]


def _contexts(documents: pl.DataFrame, taken: list[_Document], context_length: int, bos_id: int) -> pl.DataFrame:
    """The table ``contexts``, in the order of the documents."""
    tokens = {document.row["document_id"]: document.tokens for document in taken}
    rows = [
        (f"{document_id}:{number}", document_id, split, window)
        for document_id, split in documents.select("document_id", "split").iter_rows()
        for number, window in enumerate(cut_contexts(tokens[document_id], context_length=context_length, bos_id=bos_id))
    ]
    context_ids, document_ids, splits, windows = zip(*rows, strict=True)
    token_ids = pl.Series(windows, dtype=pl.List(pl.Int32))
    return pl.DataFrame(
        {"context_id": context_ids, "document_id": document_ids, "split": splits, "token_ids": token_ids}
    )
