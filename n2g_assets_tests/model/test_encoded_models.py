"""A model whose units are latents: what its encoders read, predict and write, and both factors of a gated neuron."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from n2g_assets.core.errors import SubjectError
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.core.unit_settings import LocalEncoder
from n2g_assets.core.units import Unit
from n2g_assets.model.batching import TokenBudget
from n2g_assets.model.encoders.resolve import AUTO, resolve_encoders
from n2g_assets.model.load import VERIFICATION_TEXT, encoder_facts, load_subject
from n2g_assets.model.output import output_tokens
from n2g_assets.model.prober import LayerProber
from n2g_assets_tests.tiny_models import load_tiny, tiny_gemma, tiny_llama

LAYER, WIDTH, LATENTS = 1, 32, 20
PROMPTS = [np.array(ids, np.int32) for ids in ([1, 40, 41, 42], [1, 40, 41], [1, 300, 9, 40, 7, 12])]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"llama": tiny_llama(folder / "llama"), "gemma": tiny_gemma(folder / "gemma")}


def loaded(files, path: Path, hook: str = AUTO, layers: tuple[int, ...] = (LAYER,), dtype: str = "float32", **how: str):
    encoders = resolve_encoders(LocalEncoder(source="local", path=str(path)), layers, hook, study_folder=path.parent)
    return load_subject(
        files, encoders.hook, HarvestSettings(device="cpu"), "auto", dtype, encoders=encoders, **how
    )  # fmt: skip


def write_transcoder(folder: Path, d_out: int = WIDTH) -> dict[str, torch.Tensor]:
    """SAELens' layout, with a skip connection."""
    generator = torch.Generator().manual_seed(3)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator) / 8

    weights = {"W_enc": draw(WIDTH, LATENTS), "b_enc": draw(LATENTS), "W_dec": draw(LATENTS, d_out)}
    weights |= {"b_dec": draw(d_out), "W_skip": draw(d_out, WIDTH)}
    folder.mkdir()
    save_file(weights, folder / "sae_weights.safetensors")
    hooks = {"hook_name": f"blocks.{LAYER}.mlp.hook_in", "hook_name_out": f"blocks.{LAYER}.hook_mlp_out"}
    about = {"architecture": "skip_transcoder", "d_in": WIDTH, "d_out": d_out, "d_sae": LATENTS, "metadata": hooks}
    (folder / "cfg.json").write_text(json.dumps(about | {"apply_b_dec_to_input": False}))
    return weights


def test_a_transcoder_is_compared_with_the_hook_that_it_predicts(files, tmp_path):
    weights = write_transcoder(tmp_path / "transcoder")
    model = loaded(files["llama"], tmp_path / "transcoder")
    assert model.hook.name == "mlp.hook_in"
    (row,) = encoder_facts(model)
    text = [model.bos_id, *model.encode([VERIFICATION_TEXT])[0][: model.max_context - 1].tolist()]
    kept = {}
    mlp = model.plain.model.layers[LAYER].mlp
    handle = mlp.register_forward_hook(lambda _module, args, output: kept.update(read=args[0], written=output))
    with torch.inference_mode():
        model.plain(torch.tensor([text]))
    handle.remove()
    read, written = kept["read"][0, 1:], kept["written"][0, 1:]
    values = (read @ weights["W_enc"] + weights["b_enc"]).relu()
    left = written - (values @ weights["W_dec"] + weights["b_dec"] + read @ weights["W_skip"].t())
    wanted = left.square().sum() / (written - written.mean(0)).square().sum()
    assert row["unexplained"] == pytest.approx(float(wanted), rel=1e-4)
    assert row["active"] == pytest.approx(float((values > 0).sum(1).float().mean()))
    write_transcoder(tmp_path / "wide", d_out=WIDTH + 1)
    with pytest.raises(SubjectError, match="predicts vectors of 33 numbers, but hook_mlp_out of llama carries 32"):
        encoder_facts(loaded(files["llama"], tmp_path / "wide"))


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_what_a_transcoder_writes_goes_where_the_mlp_writes(name, files, tmp_path):
    weights = write_transcoder(tmp_path / "transcoder")
    model = loaded(files[name], tmp_path / "transcoder")
    rows = weights["W_dec"][[2, 5]]
    if name == "gemma" and model.targets["hook_mlp_out"].taps[LAYER].module.endswith("mlp"):
        rows = rows * (model.plain.model.layers[LAYER].post_feedforward_layernorm.weight + 1)
    _compare(name, model, rows)


@pytest.mark.parametrize("name", ["llama", "gemma"])
@pytest.mark.parametrize("hook", ["mlp.hook_post", "attn.hook_z", "hook_resid_pre", "mlp.hook_out", "hook_attn_out"])
def test_what_directions_write_follows_the_hook(name, hook, files, tmp_path):
    width = 48 if hook == "mlp.hook_post" else WIDTH
    directions = torch.randn(6, width, generator=torch.Generator().manual_seed(1))
    np.save(tmp_path / "probes.npy", directions.numpy())
    model = loaded(files[name], tmp_path / "probes.npy", hook)
    block, rows = model.plain.model.layers[LAYER], directions[[2, 5]]
    if hook == "mlp.hook_post":
        rows = rows @ block.mlp.down_proj.weight.t()
    if hook == "attn.hook_z":
        rows = rows @ block.self_attn.o_proj.weight.t()
    behind = None if hook == "hook_resid_pre" else "feedforward" if hook.startswith("mlp") else "attention"
    tap = model.hook.taps[LAYER].module
    if name == "gemma" and behind and not tap.endswith("layernorm"):
        rows = rows * (getattr(block, f"post_{behind}_layernorm").weight + 1)
    _compare(name, model, rows)
    assert encoder_facts(model)[0]["unexplained"] is None


def _compare(name: str, model, rows: torch.Tensor) -> None:
    """The effects of latents 2 and 5, given what they add to the residual stream."""
    with torch.inference_mode():
        weight = model.plain.model.norm.weight + (1 if name == "gemma" else 0)
        effects = (rows * weight) @ model.plain.lm_head.weight.t()
        effects = effects - effects.mean(dim=1, keepdim=True)
    found = output_tokens(model, LAYER, [Unit(2, 1), Unit(5, -1)])
    for row, unit, sign in ((0, 2, 1), (1, 5, -1)):
        raised = found.filter(unit=unit, sign=sign, direction="raised").sort("rank")
        wanted = (sign * effects[row]).topk(10)
        np.testing.assert_allclose(raised["effect"], wanted.values.detach(), atol=1e-3)
        assert raised["token_id"].to_list() == wanted.indices.tolist()


def test_directions_that_reach_no_logits_write_none(files, tmp_path):
    np.save(tmp_path / "probes.npy", np.ones((6, WIDTH), np.float32))
    model = loaded(files["llama"], tmp_path / "probes.npy", "mlp.hook_in")
    assert output_tokens(model, LAYER, [Unit(2, 1)]).is_empty()


@pytest.mark.parametrize("bos", ["auto", "none"])
def test_probes_of_latents_are_packed_and_position_0_is_0(bos, files, tmp_path):
    weights = write_transcoder(tmp_path / "transcoder")
    model = loaded(files["llama"], tmp_path / "transcoder", bos=bos)
    first = model.bos_id
    prompts = [np.concatenate([[first], each[1:]]).astype(np.int32) for each in PROMPTS]
    found = LayerProber(model, LAYER, TokenBudget(512)).activations(prompts, [Unit(3, 1), Unit(3, -1), Unit(11, 1)])
    kept = []
    mlp = model.plain.model.layers[LAYER].mlp
    mlp.register_forward_hook(lambda _module, args, _output: kept.append(args[0][0]))
    for prompt, activations, (number, sign) in zip(prompts, found, ((3, 1), (3, -1), (11, 1)), strict=True):
        with torch.inference_mode():
            model.plain(torch.tensor([prompt[model.unread :].tolist()]))
        values = (kept.pop() @ weights["W_enc"] + weights["b_enc"]).relu()[:, number] * sign
        np.testing.assert_allclose(activations[1:], values[1 - model.unread :], atol=1e-5)
        assert activations[0] == 0


def test_latents_are_in_float32_whatever_the_model_computes_in(files, tmp_path):
    write_transcoder(tmp_path / "transcoder")
    model = loaded(files["llama"], tmp_path / "transcoder", dtype="bfloat16")
    found = model.read(torch.tensor([[1, 40, 41]]), LAYER, torch.tensor([5]))
    assert (found.dtype, found.shape) == (torch.float32, (1, 3, 1))


def test_both_factors_of_a_gated_neuron_are_units_of_their_own(files):
    """What the gate and the up projection give; their product, with the gate's activation, is the neuron."""
    tokens, asked = torch.tensor([[1, 40, 41, 42, 9, 300]]), torch.tensor([47, 0, 12])
    read = {}
    for hook in ("mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post"):
        model = load_tiny(files["llama"], hook)
        assert (model.d_mlp, model.hook.taps is not None) == (48, True)
        read[hook] = model.read(tokens, LAYER, asked)
        np.testing.assert_allclose(
            read[hook], model.read_layers(tokens, [LAYER])[LAYER][..., asked], atol=1e-6
        )  # fmt: skip
        assert model.packs > 0
    neurons = torch.nn.functional.silu(read["mlp.hook_pre"]) * read["mlp.hook_pre_linear"]
    np.testing.assert_allclose(neurons, read["mlp.hook_post"], atol=1e-5)
    assert {int(sign) for sign in torch.sign(read["mlp.hook_pre"]).unique()} == {-1, 1}
