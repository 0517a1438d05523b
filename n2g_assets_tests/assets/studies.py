"""Tiny studies that run for real, through Dagster or stage by stage: a tiny model and a corpus of generated stories."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from n2g_assets.assets import corpus_tokens, subject_model
from n2g_assets.assets.checks import check_results, checks_of
from n2g_assets.assets.resource import N2GResource
from n2g_assets.assets.session import Session
from n2g_assets.assets.study import RANGE_END, RANGE_START, Study
from n2g_assets.core.home import Home
from n2g_assets.core.settings import StudySettings
from n2g_assets.definitions import build_defs
from n2g_assets.storage.slices import SliceKey, SliceStore
from n2g_assets.storage.stages import StageReport
from n2g_assets.study import LAYER_STAGES
from n2g_assets_tests.storage.helpers import rows_of_all
from n2g_assets_tests.tiny_models import SENTENCES, tiny_llama

STORIES = 36
NIGHT = datetime(2026, 11, 26, 3, tzinfo=UTC)
"""When a schedule ticks."""
HARVEST = {"context_length": 32, "batch_tokens": 512, "shard_tokens": 2048, "strongest": 16, "device": "cpu"}


def write_corpus(folder: Path, stories: int = STORIES, first: int = 0) -> Path:
    """Text files, each a seeded shuffle of words of the sentences that the tokenizer knows."""
    folder.mkdir(parents=True, exist_ok=True)
    words = " ".join(SENTENCES).split()
    for number in range(first, first + stories):
        text = " ".join(random.Random(number).choices(words, k=90))
        (folder / f"story-{number:03d}.txt").write_text(text, encoding="utf-8")
    return folder


def tiny_study(folder: Path, *, name: str = "tiny", **changes: Any) -> Study:
    """A study of three layers and four neurons each; ``changes`` replace settings."""
    model = folder / "model"
    if not model.exists():
        tiny_llama(model)
    if not (folder / "corpus").exists():
        write_corpus(folder / "corpus")
        write_corpus(folder / "other", stories=4, first=1000)
    settings: dict[str, Any] = {
        "subject": {"source": "local", "path": str(model)},
        "corpus": [
            {"source": "files", "path": str(folder / "corpus")},
            {"source": "files", "path": str(folder / "other"), "kind": "speech", "role": "out_of_domain"},
        ],
        "layers": 3,
        "neurons": {"sample": 4},
        "harvest": HARVEST,
        "method": {
            "preset": "paper",
            "units_per_block": 2,
            "infill_candidates": 8,
            "infill_rescored": 4,
            "min_contexts_per_side": 2,
        },
        "evaluation": {"bootstrap_draws": 20, "tested_rules": 3, "rule_texts": 2, "reach_positions": 40},
    }
    return Study(name, folder, StudySettings(**(settings | changes)))


def changed(study: Study, **changes: Any) -> Study:
    """The study with some settings changed; ``room__name`` names a setting of a room such as ``method``."""
    settings = study.settings.model_dump()
    for name, value in changes.items():
        room, _, field = name.rpartition("__")
        (settings[room] if room else settings)[field] = value
    return Study(study.name, study.folder, StudySettings(**settings))


def of_evidence(study: Study) -> Study:
    """The study with the method ``evidence``, its first layer scanned; graphs grow as large as a tiny corpus tells."""
    return changed(study, method__preset="evidence", method__class_positions=4, harvest__scanned_layers=1)


# -------------------------------------------------------------------------------------------- without Dagster
def no_progress(_done: int, _total: int) -> None:
    pass


def session_of(study: Study, home: Path) -> Session:
    """A session as a step has it."""
    return Session(study, Home(home), logging.getLogger())


def run_stage(session: Session, name: str, layers: list[int] | None = None) -> dict[int, StageReport]:
    """A stage's work on some layers, all of them by default, as its step does it."""
    stage = LAYER_STAGES[name]
    layers = session.settings.layer_numbers if layers is None else layers
    if stage.prepare is not None:
        stage.prepare(session, layers, no_progress)
    return {layer: stage.work(session, layer, no_progress) for layer in layers}


def run_stages(study: Study, home: Path, layers: list[int] | None = None) -> dict[str, dict[int, StageReport]]:
    """All stages of a study, without checks, database or report."""
    session = session_of(study, home)
    subject_model.materialize(session)
    corpus_tokens.materialize(session, no_progress)
    return {name: run_stage(session, name, layers) for name in study.stages}


def reused(reports: dict[int, StageReport]) -> dict[int, bool]:
    """By layer, whether everything was there already."""
    return {layer: report.reused for layer, report in reports.items()}


def check(study: Study, home: Path, asset: str, name: str, layers: list[int] | None = None) -> dg.AssetCheckResult:
    """What one check says of a home."""
    session = session_of(study, home)
    found = [one for one in checks_of(study, asset) if one.name == name]
    keys = {key: layer for key, layer in study.partition_layers.items() if layers is None or layer in layers}
    (result,) = check_results(session, asset, found, keys if asset in study.stages else None)
    return result


def rows_of(home: Path, table: str, study: str = "tiny", **where: Any) -> pl.DataFrame:
    """All rows of a table's slices."""
    frame = rows_of_all(SliceStore(Home(home)), table, study)
    return frame.filter(**where) if where else frame


def rewrite(
    home: Path, table: str, layer: int | None, change: Callable[[pl.DataFrame], pl.DataFrame], study: str = "tiny"
) -> None:
    """Replace a slice by a changed one that is whole in itself."""
    store = SliceStore(Home(home))
    key = SliceKey(table, study, layer)
    before = store.manifest(key)
    assert before is not None
    store.write(
        key, change(store.read(key)), input_hash=before.input_hash, code_version=before.code_version,
        unit_hashes=before.unit_hashes, extra=before.extra,
    )  # fmt: skip


def planted(contexts: pl.DataFrame) -> pl.DataFrame:
    """The text of a held-out document stands inside a harvested one."""
    held_out = contexts.filter(pl.col("split") == "held_out")["document_id"][0]
    harvested = contexts.filter(pl.col("split") == "harvest")["document_id"][0]
    copied = contexts.filter(pl.col("document_id") == held_out).with_columns(
        document_id=pl.lit(harvested),
        split=pl.lit("harvest"),
        context_id=pl.lit(harvested + ":9") + pl.int_range(pl.len()).cast(pl.String),
    )
    return pl.concat([contexts, copied])


# -------------------------------------------------------------------------------------------- through Dagster
def definitions_of(study: Study, home: Path) -> dg.Definitions:
    """A fresh code location with one study and a home of its own."""
    return build_defs([study], resources={"n2g": N2GResource(home=str(home))})


def run_job(
    study: Study,
    home: Path,
    instance: dg.DagsterInstance,
    layers: tuple[str, str] | None = None,
    *,
    raise_on_error: bool = True,
) -> dg.ExecuteInProcessResult:
    """One run of the study's job over a range of layers (all of them by default)."""
    keys = list(study.partition_layers)
    first, last = layers or (keys[0], keys[-1])
    return (
        definitions_of(study, home)
        .resolve_job_def(study.name)
        .execute_in_process(
            instance=instance, tags={RANGE_START: first, RANGE_END: last}, raise_on_error=raise_on_error
        )
    )


def metadata_of(result: dg.ExecuteInProcessResult, stage: str) -> dict[str | None, dict[str, Any]]:
    """By partition, the metadata of what a run materialized of one stage."""
    found = {}
    for event in result.get_asset_materialization_events():
        materialization = event.step_materialization_data.materialization
        if materialization.asset_key.path[1] == stage:
            found[materialization.partition] = {key: value.value for key, value in materialization.metadata.items()}
    return found
