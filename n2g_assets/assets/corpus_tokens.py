"""Stage ``corpus_tokens``: sources become documents, split once, and documents become contexts of token ids."""

from typing import Any

import dagster as dg
import polars as pl

from n2g_assets.assets.metadata import preview, rounded
from n2g_assets.assets.progress import progress
from n2g_assets.assets.session import Session
from n2g_assets.assets.stage import WholeStage
from n2g_assets.core.progress import Progress
from n2g_assets.core.settings import CorpusCut
from n2g_assets.corpus.documents import read_documents
from n2g_assets.corpus.sources import source_fingerprints
from n2g_assets.corpus.spelling import Spelling
from n2g_assets.storage.hashing import hash_json


def _work(session: Session) -> dg.MaterializeResult:
    with progress(f"{session.study.name}/corpus_tokens", "tokens", session.log.info) as show:
        reused = materialize(session, show)
    manifest, documents = session.manifest("contexts"), session.read("documents")
    sources = documents.group_by("split", "source").agg(pl.len().alias("documents"), pl.col("n_tokens").sum())
    splits = dict(documents.group_by("split").agg(pl.col("n_tokens").sum()).iter_rows())
    held_out, harvested = splits.get("held_out", 0), splits.get("harvest", 0)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(manifest.content_hash),
        metadata={
            "dagster/row_count": manifest.rows,
            "result": "reused" if reused else "computed",
            "seconds": round(manifest.seconds, 2),
            "documents": documents.height,
            **{name: rounded(value) for name, value in manifest.extra.items()},
            **{f"tokens {split}": count for split, count in sorted(splits.items())},
            "held-out share of tokens": rounded(held_out / max(held_out + harvested, 1)),
            "tokens by source": preview(sources.sort("split", "source")),
            "preview": preview(documents.select("source", "name", "kind", "split", "n_tokens")),
        },
    )


def materialize(session: Session, show: Progress) -> bool:
    """Brings documents and contexts up to date; says whether they were so already."""
    settings, folder = session.settings, session.study.folder
    cut = settings.harvest.part(CorpusCut)
    counted: dict[str, Any] = {}

    def rows() -> dict[str, pl.DataFrame]:
        from n2g_assets.model.tokens import SubjectTokenizer

        tokenizer = SubjectTokenizer.load(session.subject_files.folder, session.model_row["d_vocab"], settings.bos)
        corpus = read_documents(
            settings.corpus, study_folder=folder, home=session.home,
            tokenizer=tokenizer, spelling=Spelling(session.vocabulary.tokens), bos_id=tokenizer.bos.token_id,
            harvest=cut, needed_contexts=settings.method.top_contexts,
            progress=lambda done, total: show(done, max(done, total)),
        )  # fmt: skip
        counted.update(corpus.counts)
        return {"documents": corpus.documents, "contexts": corpus.contexts}

    with session.holding("corpus_tokens"):
        inputs = {
            "code_version": STAGE.code_version, "model": session.model_hash, "cut": cut.hashed(),
            "sources": source_fingerprints(settings.corpus, study_folder=folder, home=session.home),
            "top_contexts": settings.method.top_contexts,
        }  # fmt: skip
        return session.bring_up_to_date(
            STAGE.tables, rows, input_hash=hash_json(inputs), code_version=STAGE.code_version, extra=counted
        )


STAGE = WholeStage(
    name="corpus_tokens",
    description="The corpus as documents, split once into harvested, held-out and out-of-domain ones "
    "(near-duplicates stay together), and as contexts of token ids.",
    code_version="3",
    work=_work,
    tables=("contexts", "documents"),
    upstream=("subject_model",),
    kinds={"polars", "parquet"},
)
