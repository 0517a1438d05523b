"""Asset ``corpus_tokens``: sources become documents, split once, and documents become contexts of token ids."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import dagster as dg
import polars as pl

from n2g_assets.assets.check_kinds import Check
from n2g_assets.assets.metadata import preview, rounded
from n2g_assets.assets.progress import progress
from n2g_assets.assets.session import Session
from n2g_assets.assets.study import Study
from n2g_assets.assets.whole import whole_asset
from n2g_assets.core.progress import Progress
from n2g_assets.core.settings import CorpusCut
from n2g_assets.corpus.documents import read_documents
from n2g_assets.corpus.sources import source_fingerprints
from n2g_assets.storage.hashing import hash_json

_CODE_VERSION = "2"
_TABLES = ("contexts", "documents")


def corpus_asset(study: Study, checks: Sequence[Check]) -> dg.AssetsDefinition:
    """The asset of the study's corpus."""
    return whole_asset(
        study, "corpus_tokens", _work,
        description="The corpus as documents, split once into harvested, held-out and out-of-domain ones "
        "(near-duplicates stay together), and as contexts of token ids.",
        deps=["subject_model"], tables=_TABLES, checks=checks, code_version=_CODE_VERSION, kinds={"polars", "parquet"},
    )  # fmt: skip


def _work(session: Session) -> dg.MaterializeResult:
    with progress(f"{session.study.name}/corpus_tokens", "tokens", session.log.info) as show:
        result, seconds = materialize(session, show)
    manifest, documents = session.manifest("contexts"), session.read("documents")
    sources = documents.group_by("split", "source").agg(pl.len().alias("documents"), pl.col("n_tokens").sum())
    splits = dict(documents.group_by("split").agg(pl.col("n_tokens").sum()).iter_rows())
    held_out, harvested = splits.get("held_out", 0), splits.get("harvest", 0)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(manifest.content_hash),
        metadata={
            "dagster/row_count": manifest.rows,
            "result": result,
            "seconds": seconds,
            "documents": documents.height,
            **{name: rounded(value) for name, value in manifest.extra.items()},
            **{f"tokens {split}": count for split, count in sorted(splits.items())},
            "held-out share of tokens": rounded(held_out / max(held_out + harvested, 1)),
            "tokens by source": preview(sources.sort("split", "source")),
            "preview": preview(documents, ["source", "name", "kind", "split", "n_tokens"]),
        },
    )


def materialize(session: Session, show: Progress) -> tuple[str, float]:
    """Brings documents and contexts up to date.

    Returns:
        ``reused`` or ``computed``, and the seconds that computing took.
    """
    with session.holding("corpus_tokens"):
        cut = session.settings.harvest.part(CorpusCut)
        input_hash = _input_hash(session, cut)
        result = "reused" if session.is_fresh(_TABLES, input_hash) else "computed"
        if result == "computed":
            _write(session, cut, input_hash, show)
    return result, round(session.manifest(_TABLES[0]).seconds, 2)


def _input_hash(session: Session, cut: CorpusCut) -> str:
    settings = session.settings
    inputs = {
        "code_version": _CODE_VERSION, "model": session.model_hash, "cut": cut.hashed(),
        "sources": source_fingerprints(settings.corpus, study_folder=session.study.folder, home=session.home),
        "top_contexts": settings.method.top_contexts,
    }  # fmt: skip
    return hash_json(inputs)


def _write(session: Session, cut: CorpusCut, input_hash: str, show: Progress) -> None:
    from n2g_assets.model.tokens import SubjectTokenizer

    began = time.monotonic()
    settings = session.settings
    tokenizer = SubjectTokenizer.load(session.subject_files.folder)
    corpus = read_documents(
        settings.corpus, study_folder=session.study.folder, home=session.home, encode=tokenizer.encode,
        bos_id=session.model_row["bos_id"], harvest=cut, needed_contexts=settings.method.top_contexts,
        progress=lambda done, total: show(done, max(done, total)),
    )  # fmt: skip
    seconds = time.monotonic() - began
    common: dict[str, Any] = {"input_hash": input_hash, "code_version": _CODE_VERSION, "seconds": seconds}
    session.write("documents", corpus.documents, **common)
    counted = {
        "duplicate documents dropped": corpus.duplicates,
        "empty documents dropped": corpus.empty,
        "clusters of near-duplicates": corpus.clusters,
        "share of held-out runs that the harvest holds too": corpus.shared_run_share,
    }
    session.write("contexts", corpus.contexts, **common, extra=counted)
