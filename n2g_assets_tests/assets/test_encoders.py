"""A study of latents, from its encoder's files to the page of a unit, beside a plain implementation in numpy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file
from starlette.testclient import TestClient

from n2g_assets import cli
from n2g_assets.assets import subject_model
from n2g_assets.assets.study import Study
from n2g_assets.core.errors import SourceError, SubjectError
from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.core.units import Unit
from n2g_assets.evidence.plan import entry_kind
from n2g_assets.explore.app import build_app
from n2g_assets.model.folder import model_identity
from n2g_assets.reading.measuring import Measuring
from n2g_assets.reading.study import open_study
from n2g_assets_tests.assets.studies import (
    check,
    no_progress,
    of_evidence,
    reused,
    rows_of,
    run_job,
    run_stage,
    run_stages,
    session_of,
    tiny_study,
    write_corpus,
)

LAYER, WIDTH, LATENTS, TOP = 1, 32, 24, 4
ASKED = [2, 7, 19]


def drawn(seed: int = 0) -> dict[str, torch.Tensor]:
    """Latents of different directions, with biases that keep most of them at 0."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(LATENTS, WIDTH, generator=generator)
    offset, bias = torch.randn(WIDTH, generator=generator) / 4, torch.rand(LATENTS, generator=generator) - 2
    return {"matrix": directions, "bias": bias, "offset": offset}


def write_topk(folder: Path, layer: int = LAYER, **config: object) -> Path:
    """Sparsify's layout."""
    weights = drawn()
    inside = folder / f"layers.{layer}"
    inside.mkdir(parents=True)
    named = {"encoder.weight": weights["matrix"], "encoder.bias": weights["bias"], "b_dec": weights["offset"]}
    save_file({**named, "W_dec": weights["matrix"].clone()}, inside / "sae.safetensors")
    settings = {"activation": "topk", "num_latents": LATENTS, "k": TOP, "d_in": WIDTH, "transcode": False}
    (inside / "cfg.json").write_text(json.dumps(settings | config))
    return folder


def write_relu(folder: Path) -> Path:
    """SAELens' layout."""
    weights = drawn()
    folder.mkdir(parents=True)
    matrix = weights["matrix"]
    named = {"W_enc": matrix.t().contiguous(), "W_dec": matrix / 32, "b_enc": weights["bias"], "b_dec": weights["offset"]}
    save_file(named, folder / "sae_weights.safetensors")
    about = {"hook_name": f"blocks.{LAYER}.hook_resid_post"}
    settings = {"architecture": "standard", "d_in": WIDTH, "d_sae": LATENTS, "metadata": about}
    (folder / "cfg.json").write_text(json.dumps(settings))
    return folder


def plainly(folder: Path, contexts: list[list[int]], *, top: int | None) -> list[np.ndarray]:
    """Each context's activations [token, latent] in double precision, 0 at position 0."""
    from transformers import AutoModelForCausalLM

    plain, weights = AutoModelForCausalLM.from_pretrained(folder / "model"), drawn()
    matrix, bias, offset = (weights[name].double().numpy() for name in ("matrix", "bias", "offset"))
    found = []
    for ids in contexts:
        kept: list[torch.Tensor] = []
        handle = plain.model.layers[LAYER].register_forward_hook(
            lambda _module, _args, output, kept=kept: kept.append(output[0] if isinstance(output, tuple) else output)
        )
        with torch.inference_mode():
            plain(torch.tensor([ids]))
        handle.remove()
        values = np.maximum((kept[0].reshape(len(ids), WIDTH).double().numpy() - offset) @ matrix.T + bias, 0)
        if top is not None:
            for row in values:
                row[np.argsort(-row)[top:]] = 0
        values[0] = 0
        found.append(values)
    return found


@dataclass(frozen=True)
class Kind:
    """An encoder, its study and what a run of it has left."""

    study: Study
    home: Path
    top: int | None


def latents_of(folder: Path, path: str, **changes: object) -> Study:
    units = {"encoder": {"source": "local", "path": path}}
    return tiny_study(folder, layers=[LAYER], neurons=ASKED, units=units, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("latents")
    write_corpus(folder / "corpus", stories=30)
    write_corpus(folder / "other", stories=2, first=1000)
    write_topk(folder / "topk")
    write_relu(folder / "relu")
    return folder


@pytest.fixture(scope="module")
def topk(folder) -> Kind:
    """A whole run, through Dagster, of the method ``evidence``."""
    study = of_evidence(latents_of(folder, "topk"))
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_job(study, folder / "home_topk", instance)
    assert result.success
    assert all(evaluation.passed or evaluation.check_name == "encoders_fit" for evaluation in
               result.get_asset_check_evaluations() if evaluation.severity == dg.AssetCheckSeverity.ERROR)
    return Kind(study, folder / "home_topk", TOP)


@pytest.fixture(scope="module")
def relu(folder) -> Kind:
    """All stages, of the paper's method."""
    study = latents_of(folder, "relu")
    run_stages(study, folder / "home_relu")
    return Kind(study, folder / "home_relu", None)


@pytest.mark.parametrize("name", ["topk", "relu"])
def test_activations_are_those_of_a_plain_implementation(name, folder, request):
    kind = request.getfixturevalue(name)
    contexts = rows_of(kind.home, "contexts", split="harvest")
    ids = contexts["token_ids"].to_list()
    found = plainly(folder, ids, top=kind.top)
    whole = np.concatenate([values[1:] for values in found])
    stats = {row["unit"]: row for row in rows_of(kind.home, "neuron_stats").to_dicts()}
    assert list(stats) == ASKED
    for latent, row in stats.items():
        assert row["n_tokens"] == len(whole)
        assert 0 < row["share_positive"] == pytest.approx((whole[:, latent] > 0).mean()), latent
        np.testing.assert_allclose([row["max"], row["mean"]], [whole[:, latent].max(), whole[:, latent].mean()], rtol=1e-5)
    by_context = dict(zip(contexts["context_id"].to_list(), found, strict=True))
    for row in rows_of(kind.home, "top_contexts").to_dicts():
        wanted = by_context[row["context_id"]][:, row["unit"]]
        np.testing.assert_allclose(row["activations"], wanted, atol=1e-5 * stats[row["unit"]]["max"])
