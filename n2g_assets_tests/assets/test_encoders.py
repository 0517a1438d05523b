"""A study of latents, from its encoder's files to the page of a unit, beside a plain implementation in numpy."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from starlette.testclient import TestClient

from n2g_assets import cli
from n2g_assets.assets import corpus_tokens, subject_model
from n2g_assets.assets.study import Study
from n2g_assets.core.errors import StorageError
from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings, StudySettings
from n2g_assets.core.units import Unit
from n2g_assets.evidence.kept import Held, Pairs
from n2g_assets.evidence.plan import entry_kind
from n2g_assets.evidence.store import read_evidence
from n2g_assets.explore.app import build_app
from n2g_assets.model.folder import model_identity
from n2g_assets.model.load import VERIFICATION_TEXT
from n2g_assets.reading.database import Database
from n2g_assets.reading.measuring import Measuring
from n2g_assets.reading.study import open_study
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.hashing import hash_json
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
    named = {
        "W_enc": matrix.t().contiguous(),
        "W_dec": matrix / 32,
        "b_enc": weights["bias"],
        "b_dec": weights["offset"],
    }
    save_file(named, folder / "sae_weights.safetensors")
    about = {"hook_name": f"blocks.{LAYER}.hook_resid_post"}
    settings = {"architecture": "standard", "d_in": WIDTH, "d_sae": LATENTS, "metadata": about}
    (folder / "cfg.json").write_text(json.dumps(settings))
    return folder


def carried_by(folder: Path, contexts: list[list[int]]) -> list[np.ndarray]:
    """What the residual stream behind the layer carries, in plain transformers, a context at a time: [token, width]."""
    from transformers import AutoModelForCausalLM

    plain, found = AutoModelForCausalLM.from_pretrained(folder / "model"), list[np.ndarray]()
    plain.model.layers[LAYER].register_forward_hook(
        lambda _module, _args, output: found.append((output[0] if isinstance(output, tuple) else output).numpy())
    )
    with torch.inference_mode():
        for ids in contexts:
            plain(torch.tensor([ids]))
    return [each.reshape(-1, WIDTH).astype(np.float64) for each in found]


def plainly(folder: Path, contexts: list[list[int]], *, top: int | None) -> list[np.ndarray]:
    """Each context's activations [token, latent] in double precision, 0 at position 0."""
    matrix, bias, offset = (drawn()[name].double().numpy() for name in ("matrix", "bias", "offset"))
    found = []
    for carried in carried_by(folder, contexts):
        values = np.maximum((carried - offset) @ matrix.T + bias, 0)
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
    units = {"encoder": {"source": "local", "path": path, "neuronpedia": "tiny/{layer}-" + path}}
    return tiny_study(folder, **{"layers": [LAYER], "neurons": ASKED, "units": units, **changes})


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
    assert all(
        evaluation.passed or evaluation.check_name == "encoders_fit"
        for evaluation in result.get_asset_check_evaluations()
        if evaluation.severity == dg.AssetCheckSeverity.ERROR
    )
    return Kind(study, folder / "home_topk", TOP)


@pytest.fixture(scope="module")
def relu(folder) -> Kind:
    """All stages, of the paper's method."""
    study = latents_of(folder, "relu")
    run_stages(study, folder / "home_relu")
    return Kind(study, folder / "home_relu", None)


@pytest.fixture(scope="module")
def two_layers(folder) -> Kind:
    """Model and corpus of a study of two layers, whose encoders are in one folder."""
    for layer in (0, LAYER):
        write_topk(folder / "two", layer)
    study, home = latents_of(folder, "two", layers=[0, LAYER]), folder / "home_two"
    session = session_of(study, home)
    subject_model.materialize(session)
    corpus_tokens.materialize(session, no_progress)
    return Kind(study, home, TOP)


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
        np.testing.assert_allclose(
            [row["max"], row["mean"]], [whole[:, latent].max(), whole[:, latent].mean()], rtol=1e-5
        )
    by_context = dict(zip(contexts["context_id"].to_list(), found, strict=True))
    for row in rows_of(kind.home, "top_contexts").to_dicts():
        wanted = by_context[row["context_id"]][:, row["unit"]]
        np.testing.assert_allclose(row["activations"], wanted, atol=1e-5 * stats[row["unit"]]["max"])


def test_a_whole_run_ends_in_graphs_scores_a_database_and_a_report(topk):
    assert set(rows_of(topk.home, "graph_nodes")["unit"]) == set(ASKED)
    scores = rows_of(topk.home, "evaluation", predictor="graph", text="random")
    assert scores["unit"].to_list() == ASKED
    assert scores["pearson_r"].is_not_null().all()
    study = open_study("tiny", Home(topk.home))
    assert study.word == "latent"
    assert repr(study.unit(LAYER, 7)).startswith("<Unit layer 1, latent 7 of study tiny")
    report = (Home(topk.home).reports / "tiny.html").read_text(encoding="utf-8")
    assert "layer 1, latent" in report.lower()
    assert "neuron 7" not in report.lower()


def test_the_encoders_row_says_what_it_is_and_leaves_unexplained(topk, folder):
    (row,) = rows_of(topk.home, "encoders").to_dicts()
    session = session_of(topk.study, topk.home)
    encoder = session.encoders.by_layer[LAYER]
    assert (row["layer"], row["name"], row["format"]) == (LAYER, "topk", "sparsify")
    assert (row["n_latents"], row["d_in"], row["top"], row["sparse"]) == (LATENTS, WIDTH, TOP, True)
    assert row["sha256"] == encoder.sha256
    model = session.subject()
    text = [model.bos_id, *model.encode([VERIFICATION_TEXT])[0][: model.max_context - 1].tolist()]
    carried = carried_by(folder, [text])[0][1:]
    (values,) = plainly(folder, [text], top=TOP)
    weights = {name: each.double().numpy() for name, each in drawn().items()}
    left = carried - (values[1:] @ weights["matrix"] + weights["offset"])
    variance = ((carried - carried.mean(axis=0)) ** 2).sum()
    assert row["unexplained"] == pytest.approx((left**2).sum() / variance, rel=1e-4)
    assert row["active"] == pytest.approx((values[1:] > 0).sum(axis=1).mean())
    assert rows_of(topk.home, "subject_models")["hook"].to_list() == ["hook_resid_post"]


def test_what_latents_write_is_their_row_of_the_decoder(topk, folder):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(folder / "model")
    with torch.inference_mode():
        effects = (drawn()["matrix"] * plain.model.norm.weight) @ plain.lm_head.weight.t()
        effects = effects - effects.mean(dim=1, keepdim=True)
    rows = rows_of(topk.home, "output_tokens", direction="raised")
    for latent in ASKED:
        found = rows.filter(unit=latent).sort("rank")
        wanted = effects[latent].topk(len(found))
        np.testing.assert_allclose(found["effect"], wanted.values, atol=1e-4)
        assert found["token_id"].to_list() == wanted.indices.tolist()


def test_the_page_of_a_latent_names_its_encoder_and_what_it_is(topk):
    client = TestClient(build_app(Database(Home(topk.home).database)))
    page = client.get(f"/study/tiny/{LAYER}/7")
    assert page.status_code == 200
    (row,) = rows_of(topk.home, "encoders").to_dicts()
    for said in (
        "Layer 1, latent 7",
        "One of 24 latents of <code>topk</code>",
        "sparsify",
        row["sha256"][:12],
        "decoder",
        'href="https://www.neuronpedia.org/tiny/1-topk/7"',
    ):
        assert said in page.text
    assert "neuron 7" not in page.text
    assert "units are latents of" in client.get("/study/tiny").text
    assert client.get("/study/tiny/1/7/similar").status_code == 200
    twin = client.get(f"/api/study/tiny/{LAYER}/7").json()
    assert twin["encoder"]["sha256"] == row["sha256"]
    assert client.get("/api/study/tiny").json()["encoders"][str(LAYER)]["n_latents"] == LATENTS


def test_a_latent_predicts_a_text_and_is_measured_on_it(topk, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("N2G_HOME", str(topk.home))
    monkeypatch.chdir(tmp_path)  # paths count from the study's folder, wherever one asks
    assert cli.main(["predict", "--study", "tiny", "--layer", str(LAYER), "--unit", "7", "--json", "the river"]) == 0
    assert len(json.loads(capsys.readouterr().out)) > 0
    study = open_study("tiny", Home(topk.home))
    token_ids = rows_of(topk.home, "contexts")["token_ids"][0].to_numpy()
    found = Measuring()(study.unit(LAYER, 7), token_ids)
    (wanted,) = plainly(folder, [token_ids.tolist()], top=TOP)
    np.testing.assert_allclose(found, wanted[:, 7], atol=1e-4)


def test_rare_firings_are_kept_as_pairs_that_say_the_same_as_rows(relu, tmp_path):
    session = session_of(relu.study, relu.home)
    model, corpus = session.subject(), session.corpus
    layers, settings = {LAYER: list(range(LATENTS))}, session.settings.harvest
    facts = model.facts["encoders"][LAYER]
    sizes, found = {}, {}
    for sparse in (True, False):
        model.facts["encoders"] = {LAYER: {**facts, "sparse": sparse}}
        cache = Cache(Home(tmp_path / str(sparse)))
        kept = read_evidence(model, corpus, layers, settings, cache=cache)
        found[sparse] = kept.rows(LAYER, layers[LAYER])
        again = read_evidence(model, corpus, layers, settings, cache=cache)
        assert again.tokens_run == 0
        np.testing.assert_array_equal(again.of_unit(LAYER, Unit(5, -1)), -found[sparse][5])
        files = list((tmp_path / str(sparse)).rglob("activations.npy"))
        sizes[sparse] = sum(file.stat().st_size for file in files) - 128 * len(files)
    model.facts["encoders"] = {LAYER: facts}
    np.testing.assert_array_equal(found[True], found[False])
    assert 0 < np.count_nonzero(found[True]) < found[True].size / 2
    assert sizes == {True: 8 * np.count_nonzero(found[True]), False: 4 * found[True].size}


@pytest.mark.parametrize("kinds", [{0: True, LAYER: True}, {0: True, LAYER: False}, {0: False, LAYER: True}])
def test_layers_are_read_in_one_pass_whether_they_are_sparse_or_not(kinds, two_layers, tmp_path):
    session = session_of(two_layers.study, two_layers.home)
    model, corpus = session.subject(), session.corpus
    facts = model.facts["encoders"]
    asked = {0: [7], LAYER: ASKED}
    alone = {layer: session.evidence(corpus, [layer], no_progress).rows(layer, asked[layer]) for layer in asked}
    model.facts["encoders"] = {layer: {**facts[layer], "sparse": sparse} for layer, sparse in kinds.items()}
    together = read_evidence(model, corpus, asked, session.text_settings, cache=Cache(Home(tmp_path)))
    model.facts["encoders"] = facts
    for layer, rows in alone.items():
        assert rows.any()
        np.testing.assert_allclose(together.rows(layer, asked[layer]), rows, atol=1e-5)


def test_a_coarse_harvest_measures_the_strongest_latents_again(two_layers, folder, tmp_path):
    harvest = {**two_layers.study.settings.harvest.model_dump(), "dtype": "bfloat16", "evidence_dtype": "int8"}
    home = tmp_path / "home"
    shutil.copytree(two_layers.home, home, ignore=shutil.ignore_patterns("locks"))
    session = session_of(latents_of(folder, "two", layers=[0, LAYER], harvest=harvest), home)
    subject_model.materialize(session)
    run_stage(session, "activation_cache", [LAYER])
    contexts = session.contexts
    found = dict(zip(contexts["context_id"], plainly(folder, contexts["token_ids"].to_list(), top=TOP), strict=True))
    for row in session.read("top_contexts", LAYER).filter(rank=0).to_dicts():
        wanted = max(values[:, row["unit"]].max() for values in found.values())
        assert row["activation"] == pytest.approx(wanted, rel=1e-4)


def test_pairs_may_be_none(tmp_path):
    pairs = Pairs(tmp_path / "7.npy", 2)
    pairs.add(np.arange(3), np.arange(3), np.empty((0, 2), np.int64), np.empty(0, np.float32), 4)
    path, how = pairs.finish("int8")
    read = Held.of(path, {"neurons": [4, 9], **how}).opened(np.dtype(np.int8), 3)
    np.testing.assert_array_equal(read(1), np.zeros(3))


def test_new_latents_cost_a_pass_for_them_alone_and_another_encoder_all(relu, folder, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(relu.home, home, ignore=shutil.ignore_patterns("locks"))
    session = session_of(relu.study, home)
    assert subject_model.materialize(session)
    assert reused(run_stage(session, "activation_cache")) == {LAYER: True}
    other = session_of(latents_of(folder, "topk"), home)
    with pytest.raises(StorageError, match="subject model of study 'tiny' has changed"):
        other.subject()
    assert not subject_model.materialize(other)
    fresh = session_of(other.study, home)
    assert reused(run_stage(fresh, "activation_cache")) == {LAYER: False}
    neurons = session_of(tiny_study(folder, layers=[LAYER], neurons=ASKED), home)
    assert not subject_model.materialize(neurons)
    assert rows_of(home, "encoders").is_empty()


def test_nothing_changes_where_there_is_no_encoder():
    """The keys of evidence, of models and of settings are those of the version before encoders."""
    facts = {"file_sha256": "ab", "hook": "mlp.hook_post", "bos_id": 1, "mask_id": 2}
    assert entry_kind(facts, HarvestSettings(), 7) == "evidence/4fae7ccc227f313f0f2a8ec50f4abf1b/7"
    assert model_identity(facts) == model_identity(facts, 7) == "ab:mlp.hook_post:1:2"
    least = {"subject": {"source": "local", "path": "model"}, "corpus": [{"source": "files", "path": "texts"}]}
    settings = StudySettings(**least, layers=2)
    assert hash_json(settings.model_dump(mode="json")) == "aee1386120dd859c3d570c02b4e331b0"
    with_encoder = {**facts, "encoders": {7: {"sha256": "cd"}}}
    assert entry_kind(with_encoder, HarvestSettings(), 7) != entry_kind(facts, HarvestSettings(), 7)
    assert entry_kind(with_encoder, HarvestSettings(), 8) == entry_kind(facts, HarvestSettings(), 8)
    assert model_identity(with_encoder, 7) == "ab:mlp.hook_post:1:2:cd"


def test_settings_with_an_encoder_survive_being_written_and_read():
    least = {"subject": {"source": "local", "path": "model"}, "corpus": [{"source": "files", "path": "texts"}]}
    units = {"encoder": {"source": "hub", "name": "google/gemma-scope-2b-pt-res", "path": "layer_20/width_16k"}}
    settings = StudySettings(**least, layers=2, units=units)
    assert (settings.hook, settings.word) == ("auto", "latent")
    assert StudySettings(**json.loads(settings.model_dump_json())) == settings
    assert StudySettings(**least, layers=2, units=units, hook="mlp.hook_out").hook == "mlp.hook_out"


def test_an_encoder_of_another_model_is_warned_of(topk):
    said = check(topk.study, topk.home, "subject_model", "encoders_fit")
    (row,) = rows_of(topk.home, "encoders").to_dicts()
    assert row["unexplained"] > 1  # its weights are random
    assert not said.passed
    assert said.severity == dg.AssetCheckSeverity.WARN
    assert "leaves" in said.description
