"""Asset ``corpus_tokens``: sources become documents, split once, and documents become contexts of token ids."""

import time

import dagster as dg
import polars as pl

from n2g_assets.assets.metadata import asset_metadata, preview, rounded
from n2g_assets.assets.progress import Progress, progress
from n2g_assets.assets.session import Session, Study, failing_clearly
from n2g_assets.corpus.documents import read_documents, source_fingerprints
from n2g_assets.storage.slices import hash_json

_CODE_VERSION = "1"
_TABLES = ("contexts", "documents")
_HARVEST_SETTINGS = {"context_length", "held_out_share", "near_duplicate_run"}


def corpus_asset(study: Study) -> dg.AssetsDefinition:
    """The unpartitioned asset of the study's corpus."""

    @dg.asset(
        key=study.key("corpus_tokens"),
        group_name=study.name,
        backfill_policy=dg.BackfillPolicy.single_run(),  # or a range of layers cannot be asked for together with it
        description="The corpus as documents, split once into harvested, held-out and out-of-domain ones "
        "(near-duplicates stay together), and as contexts of token ids.",
        deps=[study.key("subject_model")],
        code_version=_CODE_VERSION,
        metadata=asset_metadata(_TABLES),
        kinds={"polars", "parquet"},
        required_resource_keys={"n2g"},
    )
    @failing_clearly()
    def corpus_tokens(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        began = time.monotonic()
        session = Session(study, context.resources.n2g.open(), context.log)
        with session.holding("corpus_tokens"):
            input_hash = _input_hash(session)
            reused = session.is_fresh(_TABLES, input_hash)
            if not reused:
                with progress(f"{study.name}/corpus_tokens", "tokens", context.log.info) as show:
                    _write(session, input_hash, show)
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
                "result": "reused" if reused else "computed",
                "seconds": round(time.monotonic() - began, 2),
                "documents": documents.height,
                **{name: rounded(value) for name, value in session.manifest("contexts").extra.items()},
                **{f"tokens {split}": count for split, count in sorted(splits.items())},
                "tokens by source": preview(tokens),
                "preview": preview(documents, ["source", "name", "kind", "split", "n_tokens"]),
            },
        )

    return corpus_tokens


def _input_hash(session: Session) -> str:
    settings = session.settings
    return hash_json(
        {
            "code_version": _CODE_VERSION,
            "model": session.model_hash,
            "sources": source_fingerprints(
                settings.corpus, study_folder=session.study.folder, downloads=session.home.downloads
            ),
            "harvest": settings.harvest.model_dump(include=_HARVEST_SETTINGS),
            "top_contexts": settings.method.top_contexts,
        }
    )


def _write(session: Session, input_hash: str, show: Progress) -> None:
    from n2g_assets.model.tokens import SubjectTokenizer

    settings = session.settings
    tokenizer = SubjectTokenizer.load(session.subject_files.folder)
    corpus = read_documents(
        settings.corpus,
        study_folder=session.study.folder,
        downloads=session.home.downloads,
        cache=session.home.cache,
        encode=tokenizer.encode,
        bos_id=session.model_row["bos_id"],
        harvest=settings.harvest,
        needed_contexts=settings.method.top_contexts,
        progress=lambda _source, done, expected: show(done, max(done, expected)),
    )
    session.write("documents", corpus.documents, input_hash=input_hash, code_version=_CODE_VERSION)
    counted = {
        "duplicate documents dropped": corpus.duplicates,
        "empty documents dropped": corpus.empty,
        "clusters of near-duplicates": corpus.clusters,
        "share of held-out runs that the harvest holds too": corpus.shared_run_share,
    }
    session.write("contexts", corpus.contexts, input_hash=input_hash, code_version=_CODE_VERSION, extra=counted)
