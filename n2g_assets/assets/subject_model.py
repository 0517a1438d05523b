"""Asset ``subject_model``: fetches, converts, loads and verifies the model."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import dagster as dg
import polars as pl

from n2g_assets.assets.check_kinds import Check
from n2g_assets.assets.metadata import preview, rounded
from n2g_assets.assets.session import Session
from n2g_assets.assets.study import Study
from n2g_assets.assets.whole import whole_asset
from n2g_assets.core.settings import NeuronSample
from n2g_assets.storage.hashing import hash_json

_CODE_VERSION = "2"
_TABLES = ("subject_models", "vocabulary")
_USED = ("torch", "transformers", "transformer-lens", "tokenizers")
"""Libraries that this stage compares with one another: another version of one is another verification."""
_RECORDED = ("n2g_assets", *_USED, "polars", "duckdb", "dagster", "numpy", "numba")
"""Libraries whose versions ``studies`` records."""


@dataclass(frozen=True)
class _Asked:
    """What this stage is handed of the settings: all of it enters the hash."""

    subject: dict[str, Any]
    hook: str
    layers: list[int]
    neurons: int | list[int] | None
    """The neurons, or how many are sampled a layer; None for all."""
    context_length: int
    dtype: str
    mask_token: str
    normalise_tokens: bool
    masked_lm: str | None
    """The content hash of the masked language model, where one proposes substitutes."""

    @classmethod
    def of(cls, session: Session) -> _Asked:
        settings, method = session.settings, session.settings.method
        neurons = settings.neurons
        return cls(
            subject=settings.subject.model_dump(),
            hook=settings.hook,
            layers=settings.layer_numbers,
            neurons=neurons.sample if isinstance(neurons, NeuronSample) else None if neurons == "all" else neurons,
            context_length=settings.harvest.context_length,
            dtype=settings.harvest.dtype,
            mask_token=method.mask_token,
            normalise_tokens=method.normalise_tokens,
            masked_lm=session.proposer_identity,
        )


def subject_asset(study: Study, checks: Sequence[Check]) -> dg.AssetsDefinition:
    """The asset of the study's subject model."""
    return whole_asset(
        study, "subject_model", _work,
        description="The language model whose units are explained: fetched, checked against its sha256, verified to "
        "give the same logits and activations in transformers and in TransformerLens.",
        tables=(*_TABLES, "studies"), checks=checks, code_version=_CODE_VERSION, kinds={"torch", "huggingface"},
    )  # fmt: skip


def _work(session: Session) -> dg.MaterializeResult:
    result, seconds = materialize(session)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(session.model_hash),
        metadata={
            "dagster/row_count": 1,
            "result": result,
            "seconds": seconds,
            **{name: rounded(value) for name, value in session.model_row.items() if name != "study"},
            "preview": preview(session.read("vocabulary").drop("study").slice(1000)),
        },
    )


def materialize(session: Session) -> tuple[str, float]:
    """Brings the model's tables and the study's row up to date.

    Returns:
        ``reused`` or ``computed``, and the seconds that computing took.
    """
    with session.holding("subject_model"):
        asked = _Asked.of(session)
        input_hash = _input_hash(session, asked)
        result = "reused" if session.is_fresh(_TABLES, input_hash) else "computed"
        if result == "computed":
            _write(session, asked, input_hash)
        _record_study(session)
    return result, round(session.manifest(_TABLES[0]).seconds, 2)


def _input_hash(session: Session, asked: _Asked) -> str:
    inputs = {"code_version": _CODE_VERSION, "file_sha256": session.subject_files.file_sha256}
    return hash_json(inputs | {"settings": asdict(asked), "versions": {name: version(name) for name in _USED}})


def _write(session: Session, asked: _Asked, input_hash: str) -> None:
    from n2g_assets.model.vocabulary import vocabulary_rows

    began = time.monotonic()
    model = session.load_subject(asked.dtype)
    neurons = list(range(model.d_mlp)) if asked.neurons is None else asked.neurons
    model.check_study(asked.layers, neurons, asked.context_length)
    vocabulary = model.vocabulary(normalise=asked.normalise_tokens)
    if asked.masked_lm is not None:
        from n2g_assets.model.masked_lm import MaskedLMProposer

        MaskedLMProposer(session.masked_lm.folder, model, vocabulary)  # if it cannot be had, now rather than later
    rows = {"vocabulary": vocabulary_rows(vocabulary), "subject_models": pl.DataFrame([model.facts])}
    seconds = time.monotonic() - began
    for table, frame in rows.items():
        session.write(table, frame, input_hash=input_hash, code_version=_CODE_VERSION, seconds=seconds)


def _record_study(session: Session) -> None:
    """The row of ``studies``: all settings and versions, a slice of its own on which nothing depends."""
    settings = session.settings.model_dump_json()
    versions = json.dumps({name: version(name) for name in _RECORDED}, sort_keys=True)
    input_hash = hash_json([_CODE_VERSION, settings, versions])
    if session.is_fresh(["studies"], input_hash):
        return
    row = {"settings": [settings], "versions": [versions], "control_of": [session.settings.control_of]}
    frame = pl.DataFrame(row, schema_overrides={"control_of": pl.String})
    session.write("studies", frame, input_hash=input_hash, code_version=_CODE_VERSION)
