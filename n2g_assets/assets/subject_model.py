"""Stage ``subject_model``: fetches, converts, loads and verifies the model."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from n2g_assets.assets.metadata import preview, rounded
from n2g_assets.assets.proposer import masked_lm, proposer_identity
from n2g_assets.assets.session import Session
from n2g_assets.assets.stage import WholeStage
from n2g_assets.core.errors import SettingsError
from n2g_assets.core.sources import LocalSubject, SubjectSettings, portable_path
from n2g_assets.core.tables import TABLES
from n2g_assets.core.unit_settings import NeuronSample
from n2g_assets.storage.files import write_atomically
from n2g_assets.storage.hashing import hash_json
from n2g_assets.storage.slices import SliceKey

if TYPE_CHECKING:
    from n2g_assets.model.model import SubjectModel

_USED = ("torch", "transformers", "transformer-lens", "tokenizers")
"""Libraries that this stage compares with one another: another version of one is another verification."""
_RECORDED = ("n2g_assets", *_USED, "polars", "duckdb", "dagster", "numpy", "numba")
"""Libraries whose versions ``studies`` records."""


def _work(session: Session) -> dg.MaterializeResult:
    reused, encoders = materialize(session), session.model_row.get("encoders", {})
    return dg.MaterializeResult(
        data_version=dg.DataVersion(":".join([session.model_hash, *(row["sha256"] for row in encoders.values())])),
        metadata={
            "dagster/row_count": 1,
            "result": "reused" if reused else "computed",
            "seconds": round(session.manifest("subject_models").seconds, 2),
            **{name: rounded(value) for name, value in session.model_row.items() if name not in ("study", "encoders")},
            **_encoder_metadata(session),
            "preview": preview(session.read("vocabulary").drop("study").slice(1000)),
        },
    )


def _encoder_metadata(session: Session) -> dict[str, Any]:
    """What is told of the encoders, where the study has some."""
    return {} if session.encoders is None else {"encoders": preview(session.read("encoders").drop("study"))}


def materialize(session: Session) -> bool:
    """Brings the model's tables and the study's row up to date; says whether the model's were so already."""
    with session.holding("subject_model"):
        reused = _verify(session)
        _record_study(session)
    return reused


def _verify(session: Session) -> bool:
    settings, method = session.settings, session.settings.method
    chosen, context_length = settings.neurons, settings.harvest.context_length
    neurons = chosen.sample if isinstance(chosen, NeuronSample) else None if chosen == "all" else chosen
    asked: dict[str, Any] = {
        "subject": _portable(settings.subject, session.study.folder),
        "hook": session.hook,
        "bos": settings.bos,
        "layers": settings.layer_numbers,
        "neurons": neurons,
        "context_length": context_length,
        "dtype": settings.harvest.dtype,
        "mask_token": method.mask_token,
        "normalise_tokens": method.normalise_tokens,
        "masked_lm": proposer_identity(session),
    }
    if session.encoders is not None:
        asked["encoders"] = session.encoders.identity

    def rows() -> dict[str, pl.DataFrame]:
        from n2g_assets.model.vocabulary import vocabulary_rows

        arithmetic = {"dtype": settings.harvest.dtype}
        model = session.load_subject(settings.harvest.dtype)
        model.check_study(settings.layer_numbers, neurons or [], context_length)
        if "negative" in settings.signs and any(each.sparse for each in model.encoders.values()):
            raise SettingsError("signs names negative, but latents are never below 0: leave signs out.")
        vocabulary = model.vocabulary(normalise=method.normalise_tokens)
        if method.proposer == "masked_lm":
            from n2g_assets.model.masked_lm import MaskedLMProposer

            MaskedLMProposer(masked_lm(session).folder, model, vocabulary)  # if it cannot be had, now rather than later
        row = {name: value for name, value in model.facts.items() if name != "encoders"}
        made = {"vocabulary": vocabulary_rows(vocabulary), "subject_models": pl.DataFrame([row | arithmetic])}
        return made | ({"encoders": _encoder_rows(model)} if "encoders" in tables else {})

    inputs = {
        "code_version": STAGE.code_version, "file_sha256": session.subject_files.file_sha256, "settings": asked,
        "versions": {name: version(name) for name in _USED},
    }  # fmt: skip
    had_encoders = session.store.manifest(SliceKey("encoders", session.study.name)) is not None
    tables = ["subject_models", "vocabulary", *["encoders"] * (had_encoders or settings.units is not None)]
    return session.bring_up_to_date(tables, rows, input_hash=hash_json(inputs), code_version=STAGE.code_version)


def _encoder_rows(model: "SubjectModel") -> pl.DataFrame:
    """The rows of ``encoders``; none where the study has none any more."""
    from n2g_assets.model.load import encoder_facts

    schema = {name: dtype for name, dtype in TABLES["encoders"].schema.items() if name != "study"}
    rows = [{name: row[name] for name in schema} for row in encoder_facts(model)]
    return pl.DataFrame(rows, schema=schema)


def _portable(subject: SubjectSettings, folder: Path) -> dict[str, Any]:
    """The settings of the subject, which are the same wherever the study is mounted."""
    where = {"path": portable_path(subject.path, folder)} if isinstance(subject, LocalSubject) else {}
    return subject.model_dump() | where


def _record_study(session: Session) -> None:
    """The row of ``studies``, a slice on which nothing depends: all settings and versions; and the study's folder."""
    settings = session.settings.model_dump_json()
    versions = json.dumps({name: version(name) for name in _RECORDED}, sort_keys=True)
    row = {"settings": [settings], "versions": [versions], "control_of": [session.settings.control_of]}
    rows = {"studies": pl.DataFrame(row, schema_overrides={"control_of": pl.String})}
    folder, beside = str(session.study.folder.absolute()), session.home.folders / session.study.name
    if not beside.is_file() or beside.read_text(encoding="utf-8") != folder:
        write_atomically(beside, lambda temporary: temporary.write_text(folder, encoding="utf-8"))
    input_hash = hash_json([STAGE.code_version, settings, versions])
    session.bring_up_to_date(["studies"], lambda: rows, input_hash=input_hash, code_version=STAGE.code_version)


STAGE = WholeStage(
    name="subject_model",
    description="The language model whose units are explained: fetched, checked against its sha256, verified to "
    "give the same logits and activations in transformers and in TransformerLens.",
    code_version="2",
    work=_work,
    runs_model=True,
    tables=("subject_models", "encoders", "vocabulary", "studies"),
    kinds={"torch", "huggingface"},
)
