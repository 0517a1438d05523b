"""Asset ``subject_model``: fetches, converts, loads and verifies the model."""

import json
import time
from dataclasses import asdict
from importlib.metadata import version

import dagster as dg
import polars as pl

from n2g_assets.assets.metadata import asset_metadata, preview, rounded
from n2g_assets.assets.session import Session, Study, failing_clearly
from n2g_assets.core.settings import NeuronSample
from n2g_assets.storage.slices import hash_json

_CODE_VERSION = "1"
_TABLES = ("subject_models", "vocabulary", "studies")
_PACKAGES = (
    "n2g_assets",
    "torch",
    "transformers",
    "transformer-lens",
    "tokenizers",
    "polars",
    "duckdb",
    "dagster",
    "numpy",
    "numba",
    "scikit-learn",
)


def subject_asset(study: Study) -> dg.AssetsDefinition:
    """The unpartitioned asset of the study's subject model."""

    @dg.asset(
        key=study.key("subject_model"),
        group_name=study.name,
        backfill_policy=dg.BackfillPolicy.single_run(),  # or a range of layers cannot be asked for together with it
        description="The language model whose units are explained: fetched, checked against its sha256, verified to "
        "give the same logits and activations in transformers and in TransformerLens.",
        code_version=_CODE_VERSION,
        metadata=asset_metadata(_TABLES),
        kinds={"torch", "huggingface"},
        required_resource_keys={"n2g"},
    )
    @failing_clearly()
    def subject_model(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        began = time.monotonic()
        session = Session(study, context.resources.n2g.open(), context.log)
        with session.holding("subject_model"):
            input_hash = _input_hash(session)
            reused = session.is_fresh(_TABLES, input_hash)
            if not reused:
                _write(session, input_hash)
        row = session.model_row
        return dg.MaterializeResult(
            data_version=dg.DataVersion(session.model_hash),
            metadata={
                "dagster/row_count": 1,
                "result": "reused" if reused else "computed",
                "seconds": round(time.monotonic() - began, 2),
                **{name: rounded(value) for name, value in row.items() if name != "study"},
                "preview": preview(session.read("vocabulary").drop("study").slice(1000)),
            },
        )

    return subject_model


def _input_hash(session: Session) -> str:
    settings = session.settings
    return hash_json(
        {
            "code_version": _CODE_VERSION,
            "file_sha256": session.subject_files.file_sha256,
            "settings": settings.model_dump(mode="json"),
            "versions": {name: version(name) for name in _PACKAGES},
        }
    )


def _write(session: Session, input_hash: str) -> None:
    from n2g_assets.model.vocabulary import build_vocabulary, vocabulary_rows

    settings = session.settings
    model = session.load_subject(settings.harvest.dtype)
    selection = settings.neurons
    if isinstance(selection, NeuronSample):
        neurons: int | list[int] = selection.sample
    else:
        neurons = list(range(model.d_mlp)) if selection == "all" else selection
    model.check_study(settings.layer_numbers, neurons, settings.harvest.context_length)
    vocabulary = build_vocabulary(
        model.tokenizer,
        model.d_vocab,
        normalise=settings.method.normalise_tokens,
        bos_id=model.bos_id,
        mask_id=model.mask_id,
    )
    if settings.method.proposer == "masked_lm":
        from n2g_assets.model.masked_lm import MaskedLMProposer

        MaskedLMProposer(settings.method.masked_lm, model, vocabulary)  # if it cannot be had, now rather than later
    versions = {name: version(name) for name in _PACKAGES}
    rows = {
        "subject_models": pl.DataFrame([asdict(model.facts)]),
        "vocabulary": vocabulary_rows(vocabulary),
        "studies": pl.DataFrame(
            {
                "settings": [settings.model_dump_json()],
                "versions": [json.dumps(versions, sort_keys=True)],
                "control_of": [settings.control_of],
            },
            schema_overrides={"control_of": pl.String},
        ),
    }
    for table, frame in rows.items():
        session.write(table, frame, input_hash=input_hash, code_version=_CODE_VERSION)
