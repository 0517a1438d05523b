"""Attention heads as units: their activations are what plain modules and TransformerLens say that each adds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from n2g_assets.core.errors import SubjectError
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.core.unit_settings import HEADS, HEADS_HOOK
from n2g_assets.core.units import Unit
from n2g_assets.model.batching import TokenBudget
from n2g_assets.model.encoders.heads import HeadsOfLayers
from n2g_assets.model.hooks import boot_bridge
from n2g_assets.model.load import encoder_facts, load_subject
from n2g_assets.model.output import output_tokens
from n2g_assets.model.prober import LayerProber
from n2g_assets_tests.tiny_models import (
    VOCABULARY,
    tiny_gemma,
    tiny_gemma2,
    tiny_gpt2,
    tiny_llama,
    tiny_neox,
    tiny_opt,
    tiny_solu,
)

LAYER, N_HEADS, D_HEAD = 1, 4, 8
PROJECTIONS = {
    tiny_llama: "model.layers.1.self_attn.o_proj",
    tiny_gpt2: "transformer.h.1.attn.c_proj",
    tiny_neox: "gpt_neox.layers.1.attention.dense",
    tiny_gemma: "model.layers.1.self_attn.o_proj",
    tiny_gemma2: "model.layers.1.self_attn.o_proj",
    tiny_opt: "model.decoder.layers.1.self_attn.out_proj",
    tiny_solu: "layers.1.attn.o",
}
"""The output matrix of attention in a layer of each architecture."""
SPLIT = (tiny_llama, tiny_gpt2, tiny_neox, tiny_gemma)
"""Whose ``hook_result`` TransformerLens' bridge gives."""


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    folder, files, loaded = tmp_path_factory.mktemp("models"), {}, {}

    def load_once(make, dtype="float32", layers=(0, LAYER)):
        if make not in files:
            files[make] = make(folder / make.__name__)
        key = (make, dtype, layers)
        if key not in loaded:
            harvest, heads = HarvestSettings(device="cpu"), HeadsOfLayers(layers)
            loaded[key] = load_subject(files[make], HEADS_HOOK, harvest, "auto", dtype, encoders=heads)
        return loaded[key], files[make]

    return load_once


@pytest.fixture
def tokens():
    prompts = torch.randint(2, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(0))
    prompts[:, 0] = 1
    return prompts


def plainly(model, module: str, tokens) -> tuple[torch.Tensor, torch.Tensor]:
    """What each head makes of its values alone, less the bias, [head, batch, pos, d_model]; and the bias."""
    found = {}
    matrix = model.plain.get_submodule(module)

    def keep(_module, args, gave):
        found["read"], found["gave"] = args[0].clone(), gave.clone()

    with torch.inference_mode(), matrix.register_forward_hook(keep):
        model.plain(tokens, use_cache=False)
    with torch.inference_mode():
        bias = matrix(torch.zeros_like(found["read"]))
        parts = []
        for head in range(N_HEADS):
            alone = torch.zeros_like(found["read"])
            own = slice(head * D_HEAD, (head + 1) * D_HEAD)
            alone[..., own] = found["read"][..., own]
            parts.append(matrix(alone) - bias)
    added = torch.stack(parts).reshape(N_HEADS, *tokens.shape, -1)
    gave = found["gave"].reshape(added.shape[1:])
    torch.testing.assert_close(added.sum(dim=0) + bias.reshape(gave.shape), gave, atol=1e-5, rtol=1e-5)
    return added, bias


@pytest.mark.parametrize("make", PROJECTIONS, ids=lambda make: make.__name__)
def test_activations_are_the_lengths_of_what_heads_add_without_the_bias(make, load, tokens):
    model, _ = load(make)
    wanted = plainly(model, PROJECTIONS[make], tokens)[0].norm(dim=-1).permute(1, 2, 0)
    asked = torch.tensor([3, 0, 0, 2])
    found = model.read(tokens, LAYER, asked)
    assert found.dtype == torch.float32
    largest = float(wanted[:, 1:].max())
    assert largest > 0.1
    assert float((found[:, 1:] - wanted[:, 1:][..., asked]).abs().max()) < 1e-5 * largest
    assert not found[:, 0].any()
    assert model.n_units(LAYER) == N_HEADS


@pytest.mark.parametrize("make", SPLIT, ids=lambda make: make.__name__)
def test_they_are_those_of_transformer_lens(make, load, tokens):
    model, files = load(make)
    bridge = boot_bridge(model.plain, files.folder, model.tokenizer.transformers)
    bridge.cfg.use_attn_result = True
    with torch.inference_mode():
        _, cache = bridge.run_with_cache(tokens, names_filter=[f"blocks.{LAYER}.attn.hook_result"])
    wanted = cache[f"blocks.{LAYER}.attn.hook_result"].norm(dim=-1)[:, 1:]
    found = model.read(tokens, LAYER, torch.arange(N_HEADS))[:, 1:]
    assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.max())


def test_a_bias_counts_for_no_head(load, tokens):
    model, _ = load(tiny_gpt2)
    assert plainly(model, PROJECTIONS[tiny_gpt2], tokens)[1].any(), "there is one"


def test_only_asked_heads_are_computed(load):
    model, _ = load(tiny_llama)
    inputs, took = torch.randn(30, N_HEADS * D_HEAD), {}
    for asked in ([2], list(range(N_HEADS))):
        lengths = model.encoders[LAYER].ask(torch.tensor(asked))
        with FlopCounterMode(display=False) as counter:
            lengths(inputs)
        took[len(asked)] = counter.get_total_flops()
    assert took[N_HEADS] == N_HEADS * took[1] == 2 * 30 * N_HEADS * D_HEAD * D_HEAD


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2], ids=lambda make: make.__name__)
def test_a_prober_says_the_same_of_packed_prompts(make, load, tokens):
    model, _ = load(make)
    whole = model.read(tokens, LAYER, torch.arange(N_HEADS)).numpy()
    prompts = [row[:length].astype(np.int32) for row in tokens.numpy() for length in (2, 7, 20)]
    for head in range(N_HEADS):
        found = LayerProber(model, LAYER, TokenBudget(256)).activations(prompts, [Unit(head, 1)] * len(prompts))
        for number, each in enumerate(found):
            np.testing.assert_allclose(each, whole[number // 3, : len(each), head], atol=1e-4)


def test_in_bfloat16_they_are_about_the_same(load, tokens):
    exact, coarse = (
        load(tiny_llama, dtype)[0].read(tokens, LAYER, torch.arange(N_HEADS)) for dtype in ("float32", "bfloat16")
    )
    assert 0 < float((exact - coarse).abs().max()) < 0.1 * float(exact.max())


def test_their_row_names_the_model_that_they_are_of(load):
    model, files = load(tiny_llama)
    first, second = encoder_facts(model)
    assert first == second | {"layer": 0}
    said = {"name": "tiny_llama", "source": "local", "architecture": HEADS, "n_latents": N_HEADS, "d_in": 32}
    assert said.items() <= first.items()
    assert (first["sha256"], first["sparse"], first["unexplained"]) == (files.file_sha256, False, None)
    assert first["active"] == N_HEADS


def test_they_raise_no_tokens(load):
    model, _ = load(tiny_llama)
    assert output_tokens(model, LAYER, [Unit(0, 1)]).is_empty()


def test_the_weights_are_those_of_the_model_and_take_no_memory_of_their_own(load):
    model, _ = load(tiny_llama)
    weight = model.plain.get_submodule(PROJECTIONS[tiny_llama]).weight
    assert model.encoders[LAYER].matrix.data_ptr() == weight.data_ptr()


def test_heads_and_layers_that_are_not_there_are_said_in_one_sentence(load):
    model, _ = load(tiny_neox, layers=(LAYER, 7))
    with pytest.raises(SubjectError, match="does not have head 4: it has 4 heads a layer, so choose from 0 to 3"):
        model.check_study([LAYER], [0, 4], 16)
    with pytest.raises(SubjectError, match="does not have 9 heads a layer"):
        model.check_study([LAYER], 9, 16)
    with pytest.raises(SubjectError, match="has no layer 7 with the hook"):
        model.check_study([7], [0], 16)


def test_attention_whose_output_is_no_matrix_has_no_heads(load):
    model, files = load(tiny_llama)
    bridge = boot_bridge(model.plain, files.folder, model.tokenizer.transformers)
    HeadsOfLayers((LAYER,)).of(model, bridge)
    bridge.blocks[LAYER].attn.o.original_component.forward = torch.tanh
    with pytest.raises(SubjectError, match="has no output matrix in layer 1 that reads its heads: choose another"):
        HeadsOfLayers((LAYER,)).of(model, bridge)


def test_a_hook_of_another_width_carries_no_heads(load):
    model, _ = load(tiny_llama)
    with pytest.raises(SubjectError, match="carries 33 values in layer 1, which are not those of 4 heads"):
        replace(model, d_mlp=33).check_study([LAYER], [0], 16)
