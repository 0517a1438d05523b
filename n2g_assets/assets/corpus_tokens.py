"""Asset ``corpus_tokens``: sources become documents, split once, and documents become contexts of token ids."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import polars as pl

from n2g_assets.assets.check_kinds import Check, check_results, check_specs
from n2g_assets.assets.metadata import asset_metadata, preview, rounded
from n2g_assets.assets.progress import progress
from n2g_assets.assets.resource import failing_clearly
from n2g_assets.assets.session import Session
from n2g_assets.assets.study import Study
from n2g_assets.core.progress import Progress
from n2g_assets.core.settings import CorpusCut
from n2g_assets.corpus.documents import read_documents
from n2g_assets.corpus.sources import source_fingerprints
from n2g_assets.storage.slices import hash_json

_CODE_VERSION = "2"
_TABLES = ("contexts", "documents")


def corpus_asset(study: Study, checks: Sequence[Check]) -> dg.AssetsDefinition:
    """The unpartitioned asset of the study's corpus."""

    @dg.asset(
        key=study.key("corpus_tokens"),
        group_name=study.name,
        backfill_policy=dg.BackfillPolicy.single_run(),  # or a range of layers cannot be asked for together with it
        description="The corpus as documents, split once into harvested, held-out and out-of-domain ones "
        "(near-duplicates stay together), and as contexts of token ids.",
        deps=[study.key("subject_model")],
        code_version=_CODE_VERSION,
        check_specs=check_specs(study, "corpus_tokens", checks),
        metadata=asset_metadata(_TABLES),
        kinds={"polars", "parquet"},
        required_resource_keys={"n2g"},
    )
    @failing_clearly()
    def corpus_tokens(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        session = Session(study, context.resources.n2g.open(), context.log)
        with progress(f"{study.name}/corpus_tokens", "tokens", context.log.info) as show:
            result, seconds = materialize(session, show)
        counted = session.manifest("contexts").extra
        documents, contexts = session.read("documents"), session.read("contexts")
        tokens = (
            documents.group_by("split", "source")
            .agg(pl.len().alias("documents"), pl.col("n_tokens").sum())
            .sort("split", "source")
        )
        splits = dict(documents.group_by("split").agg(pl.col("n_tokens").sum()).iter_rows())
        return dg.MaterializeResult(
            data_version=dg.DataVersion(session.manifest("contexts").content_hash),
            metadata={
                "dagster/row_count": contexts.height,
                "result": result,
                "seconds": seconds,
                "documents": documents.height,
                **{name: rounded(value) for name, value in counted.items()},
                **{f"tokens {split}": count for split, count in sorted(splits.items())},
                "held-out share of tokens": rounded(_held_out_share(splits)),
                "tokens by source": preview(tokens),
                "preview": preview(documents, ["source", "name", "kind", "split", "n_tokens"]),
            },
            check_results=list(check_results(session, "corpus_tokens", checks)),
        )

    return corpus_tokens


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


def _held_out_share(tokens: Mapping[str, int]) -> float:
    return tokens.get("held_out", 0) / max(tokens.get("held_out", 0) + tokens.get("harvest", 0), 1)


def _input_hash(session: Session, cut: CorpusCut) -> str:
    settings = session.settings
    return hash_json(
        {
            "code_version": _CODE_VERSION,
            "model": session.model_hash,
            "sources": source_fingerprints(settings.corpus, study_folder=session.study.folder, home=session.home),
            "cut": cut.hashed(),
            "top_contexts": settings.method.top_contexts,
        }
    )


def _write(session: Session, cut: CorpusCut, input_hash: str, show: Progress) -> None:
    from n2g_assets.model.tokens import SubjectTokenizer

    began = time.monotonic()
    settings = session.settings
    tokenizer = SubjectTokenizer.load(session.subject_files.folder)
    corpus = read_documents(
        settings.corpus,
        study_folder=session.study.folder,
        home=session.home,
        encode=tokenizer.encode,
        bos_id=session.model_row["bos_id"],
        harvest=cut,
        needed_contexts=settings.method.top_contexts,
        progress=lambda done, total: show(done, max(done, total)),
    )
    common: dict[str, Any] = {
        "input_hash": input_hash,
        "code_version": _CODE_VERSION,
        "seconds": time.monotonic() - began,
    }
    session.write("documents", corpus.documents, **common)
    counted = {
        "duplicate documents dropped": corpus.duplicates,
        "empty documents dropped": corpus.empty,
        "clusters of near-duplicates": corpus.clusters,
        "share of held-out runs that the harvest holds too": corpus.shared_run_share,
    }
    session.write("contexts", corpus.contexts, **common, extra=counted)
