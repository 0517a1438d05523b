"""Encoders that the libraries themselves write, and compute with: ``make libraries`` installs them for that.

None is a dependency: they go beside what is here without their own, and sae-lens asks for a transformer-lens below 4.
"""

import importlib
import json
import os

import pytest
import torch

from n2g_assets.model.encoders.formats import read_encoder
from n2g_assets_tests.model.encoder_files import CASES, D_IN, D_OUT, LATENTS, TOP, inputs

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
ALL = torch.arange(LATENTS)


def library(name: str):
    """A library that is installed; skips without it, but where ``make libraries`` asks for it."""
    if os.environ.get("N2G_NEED_LIBRARIES"):
        return importlib.import_module(name)
    return pytest.importorskip(name, reason=f"make libraries runs it, with {name}", exc_type=ImportError)


def randomise(module: torch.nn.Module) -> None:
    """Draws all weights anew, so that no bias is 0 and no decoder the transpose of an encoder; thresholds above 0."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator) / 2
        parameter.data.copy_(drawn.abs() + 0.2 if "threshold" in name else drawn)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("transcode", [False, True])
def test_sparsify(transcode, skip, tmp_path):
    sparsify = library("sparsify")
    config = sparsify.SparseCoderConfig(num_latents=LATENTS, k=TOP, transcode=transcode, skip_connection=skip)
    theirs = sparsify.SparseCoder(D_IN, config)
    randomise(theirs)
    theirs.save_to_disk(tmp_path / "layers.7.mlp")

    ours, x = read_encoder(tmp_path, layer=7), inputs()
    y = inputs(seed=5) if transcode else x
    with torch.no_grad():
        kept = theirs.encode(x)
        wanted = torch.zeros(len(x), LATENTS).scatter_(1, kept.top_indices, kept.top_acts)
        whole = theirs(x, y)
    torch.testing.assert_close(ours.ask(ALL)(x), wanted, **CLOSE)
    torch.testing.assert_close(ours.reconstruct(x), whole.sae_out, **CLOSE)
    assert ours.unexplained(x, y) == pytest.approx(float(whole.fvu), rel=1e-5)


@pytest.mark.parametrize(
    ("module", "kind", "arguments"),
    [
        ("dictionary", "AutoEncoder", ()),
        ("dictionary", "AutoEncoderNew", ()),
        ("dictionary", "GatedAutoEncoder", ()),
        ("dictionary", "JumpReluAutoEncoder", ()),
        ("trainers.top_k", "AutoEncoderTopK", (TOP,)),
        ("trainers.batch_top_k", "BatchTopKSAE", (TOP,)),
        ("trainers.matryoshka_batch_top_k", "MatryoshkaBatchTopKSAE", (TOP, [10, LATENTS - 10])),
    ],
)
def test_dictionary_learning(module, kind, arguments, tmp_path):
    library("dictionary_learning")
    made = getattr(library(f"dictionary_learning.{module}"), kind)(D_IN, LATENTS, *arguments)
    randomise(made)
    if hasattr(made, "k"):
        made.threshold.fill_(0.8)
    torch.save(made.state_dict(), tmp_path / "ae.pt")
    trainer = {"dict_class": kind, "layer": 3, "submodule_name": "resid_post_layer_3", "k": TOP}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer}))

    theirs, _ = library("dictionary_learning.utils").load_dictionary(str(tmp_path), "cpu")
    ours, x = read_encoder(tmp_path), inputs()
    with torch.no_grad():
        wanted = theirs.encode(x)
        torch.testing.assert_close(ours.ask(ALL)(x), wanted, **CLOSE)
        torch.testing.assert_close(ours.reconstruct(x), theirs.decode(wanted), **CLOSE)


@pytest.mark.parametrize("jumps", [False, True])
@pytest.mark.parametrize("skips", [False, True])
def test_circuit_tracer(jumps, skips, tmp_path):
    transcoders = library("circuit_tracer.transcoder.single_layer_transcoder")
    jump = library("circuit_tracer.transcoder.activation_functions").JumpReLU(torch.zeros(LATENTS), 0.1)
    theirs = transcoders.SingleLayerTranscoder(
        D_IN, LATENTS, jump if jumps else torch.relu, 11, skip_connection=skips, dtype=torch.float32, device="cpu"
    )  # fmt: skip
    randomise(theirs)
    theirs.to_safetensors(str(tmp_path / "layer_11.safetensors"))
    hooks = "feature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\n"
    (tmp_path / "config.yaml").write_text(f"model_kind: transcoder_set\n{hooks}")

    ours, x = read_encoder(tmp_path, layer=11), inputs()
    with torch.no_grad():
        torch.testing.assert_close(ours.ask(ALL)(x), theirs.encode(x), **CLOSE)
        torch.testing.assert_close(ours.reconstruct(x), theirs(x), **CLOSE)


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "standard"},
        {"architecture": "standard", "apply_b_dec_to_input": False},
        {"architecture": "standard", "normalize_activations": "layer_norm"},
        {"architecture": "standard", "normalize_activations": "constant_norm_rescale"},
        {"architecture": "gated"},
        {"architecture": "jumprelu"},
        {"architecture": "topk", "k": TOP},
        {"architecture": "topk", "k": TOP, "rescale_acts_by_decoder_norm": True},
        {"architecture": "transcoder", "d_out": D_OUT},
        {"architecture": "skip_transcoder", "d_out": D_OUT},
        {"architecture": "jumprelu_transcoder", "d_out": D_OUT},
        {"architecture": "jumprelu_skip_transcoder", "d_out": D_OUT},
    ],
    ids=lambda config: "-".join(map(str, config.values())),
)
def test_sae_lens(config, tmp_path):
    library("sae_lens")
    registry = library("sae_lens.registry")
    made, settings = registry.get_sae_class(config["architecture"])
    centred = {"apply_b_dec_to_input": "transcoder" not in config["architecture"]}
    theirs = made(settings.from_dict({"d_in": D_IN, "d_sae": LATENTS, **centred, **config}))
    randomise(theirs)
    theirs.save_model(tmp_path)

    ours, x = read_encoder(tmp_path), inputs()
    with torch.no_grad():
        torch.testing.assert_close(ours.ask(ALL)(x), theirs.encode(x), **CLOSE)
        torch.testing.assert_close(ours.reconstruct(x), theirs(x), **CLOSE)


def test_sae_lens_saves_a_batch_top_k_as_jumprelu(tmp_path):
    sae_lens = library("sae_lens")
    trained = sae_lens.BatchTopKTrainingSAE(
        sae_lens.BatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=LATENTS, k=TOP, rescale_acts_by_decoder_norm=True)
    )
    randomise(trained)
    trained.topk_threshold = torch.tensor(0.7, dtype=torch.double)
    trained.save_inference_model(tmp_path)

    theirs, ours, x = sae_lens.SAE.load_from_disk(tmp_path), read_encoder(tmp_path), inputs()
    assert ours.architecture == "jumprelu"
    with torch.no_grad():
        torch.testing.assert_close(ours.ask(ALL)(x), theirs.encode(x), **CLOSE)
        torch.testing.assert_close(ours.reconstruct(x), theirs(x), **CLOSE)


@pytest.mark.parametrize("name", ["gemma_scope-res", "gemma_scope_2-transcoder"])
def test_circuit_tracer_reads_gemma_scope(name, tmp_path):
    """Its transcoders read and write vectors of one width."""
    case = CASES[name]
    case.write(tmp_path, case.drawn())
    ours, x = read_encoder(tmp_path), inputs()
    transcoders = library("circuit_tracer.transcoder.single_layer_transcoder")
    load = transcoders.load_gemma_scope_2_transcoder if "2" in name else transcoders.load_gemma_scope_transcoder
    theirs = load(str(ours.files[0]), case.layer, device=torch.device("cpu"))
    with torch.no_grad():
        torch.testing.assert_close(ours.ask(ALL)(x), theirs.encode(x), **CLOSE)
        torch.testing.assert_close(ours.reconstruct(x), theirs(x), **CLOSE)
