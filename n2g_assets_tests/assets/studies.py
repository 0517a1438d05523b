"""Tiny studies that run through Dagster for real: a tiny model and a corpus of generated stories."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import dagster as dg

from n2g_assets.assets.resource import N2GResource
from n2g_assets.assets.study import RANGE_END, RANGE_START, Study
from n2g_assets.core.settings import StudySettings
from n2g_assets.definitions import build_defs
from n2g_assets_tests.tiny_models import SENTENCES, tiny_llama

STORIES = 36


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
        "harvest": {"context_length": 32, "batch_tokens": 512, "shard_tokens": 2048, "strongest": 16, "device": "cpu"},
        "method": {"units_per_block": 2, "infill_candidates": 8, "infill_rescored": 4, "min_contexts_per_side": 2},
        "evaluation": {"bootstrap_draws": 20, "tested_rules": 3, "rule_texts": 2},
    }
    return Study(name, folder, StudySettings(**(settings | changes)))


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
