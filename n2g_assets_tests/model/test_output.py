"""What a neuron writes is its row of the output matrix, through the weights of the norms and the unembedding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from n2g_assets.core.units import Unit
from n2g_assets.model import output
from n2g_assets.model.hooks import boot_bridge
from n2g_assets.model.output import DIRECTIONS, SHOWN, output_tokens
from n2g_assets_tests.tiny_models import (
    SPECIAL,
    VOCABULARY,
    load_tiny,
    save_tiny_model,
    tiny_gemma,
    tiny_gemma2,
    tiny_gpt2,
    tiny_llama,
    tiny_neox,
    tiny_opt,
    tiny_solu,
)

UNITS = [Unit(5, 1), Unit(0, -1), Unit(47, 1), Unit(5, -1)]


def tiny_olmo2(folder):
    """Norms behind attention and MLP alone, as Olmo 2 has them; its width is odd."""
    from transformers import Olmo2Config

    config = Olmo2Config(
        num_hidden_layers=2, hidden_size=33, intermediate_size=48, num_attention_heads=3, head_dim=12,
        max_position_embeddings=64, initializer_range=0.3, pad_token_id=0, **SPECIAL,
    )  # fmt: skip
    return save_tiny_model(folder, config)


def tiny_cohere(folder):
    """A LayerNorm without bias, attention and MLP side by side, logits scaled."""
    from transformers import CohereConfig

    config = CohereConfig(
        num_hidden_layers=2, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=64, initializer_range=0.3, pad_token_id=0, **SPECIAL,
    )  # fmt: skip
    return save_tiny_model(folder, config)


BUILDERS = {
    "gpt2": (tiny_gpt2, True), "llama": (tiny_llama, False), "neox": (tiny_neox, True), "opt": (tiny_opt, True),
    "gemma": (tiny_gemma, False), "gemma2": (tiny_gemma2, False), "solu": (tiny_solu, True),
    "olmo2": (tiny_olmo2, False), "cohere": (tiny_cohere, True),
}  # fmt: skip
"""Architectures, and whether their norms centre."""
BEHIND = {"gemma": "post_feedforward_layernorm", "gemma2": "post_feedforward_layernorm"}
BEHIND |= {"olmo2": "post_feedforward_layernorm"}


def scale(name, norm):
    """The weight of a norm: Gemma keeps it less 1."""
    return norm.weight + 1 if name.startswith("gemma") else norm.weight


@pytest.mark.parametrize("name", BUILDERS)
def test_the_tokens_are_those_of_transformer_lens_matrices(name, tmp_path, monkeypatch):
    build, centres = BUILDERS[name]
    files = build(tmp_path / name)
    model = load_tiny(files)
    bridge = boot_bridge(model.plain, files.folder, model.tokenizer.transformers)
    monkeypatch.setattr(output, "_BLOCK_ELEMENTS", 2 * VOCABULARY)
    layer = model.n_layers - 1
    found = output_tokens(model, layer, UNITS)
    with torch.inference_mode():
        rows = bridge.W_out[layer][[unit.number for unit in UNITS]]
        rows = rows * torch.tensor([[unit.sign] for unit in UNITS])
        if name in BEHIND:
            rows = rows * scale(name, model.plain.model.layers[layer].get_submodule(BEHIND[name]))
        if centres:
            rows = rows - rows.mean(dim=1, keepdim=True)
        effects = (rows * scale(name, bridge.ln_final)) @ bridge.W_U
        effects = (effects - effects.mean(dim=1, keepdim=True)).numpy()
    for unit, expected in zip(UNITS, effects, strict=True):
        order = np.argsort(-expected)
        for direction, ids in zip(DIRECTIONS, (order[:SHOWN], order[::-1][:SHOWN]), strict=True):
            mine = found.filter(unit=unit.number, sign=unit.sign, direction=direction)
            assert mine["rank"].to_list() == list(range(SHOWN))
            assert mine["token_id"].to_list() == ids.tolist()
            np.testing.assert_allclose(mine["effect"], expected[ids], rtol=1e-4)


def test_a_neuron_moves_the_logits_as_it_says(tmp_path):
    """Where the last norm divides by about the same, the model itself raises and lowers these tokens."""
    model = load_tiny(tiny_gpt2(tmp_path / "gpt2"))
    tokens = torch.tensor([[1, 5, 9, 30]])
    matrix = model.plain.get_submodule(model.hook.taps[2].module)

    def logits(more: float) -> torch.Tensor:
        def add(_module, args):
            changed = args[0].clone()
            changed[..., 7] += more
            return (changed,)

        with matrix.register_forward_pre_hook(add):
            return model.logits(tokens)[0, -1]

    moved = (logits(1e-2) - logits(-1e-2)) / 2e-2
    moved -= moved.mean()
    found = output_tokens(model, 2, [Unit(7, 1)])
    raised, lowered = (found.filter(direction=each)["token_id"].to_list() for each in DIRECTIONS)
    assert moved[raised].min() > moved.std() > 0
    assert moved[lowered].max() < -moved.std()


@pytest.mark.parametrize("hook", ["mlp.hook_pre", "hook_resid_post", "attn.hook_z"])
def test_a_hook_that_no_output_matrix_of_an_mlp_reads_has_none(hook, tmp_path):
    model = load_tiny(tiny_llama(tmp_path / "llama"), hook)
    assert output_tokens(model, 0, [Unit(0, 1)]).is_empty()


def test_a_step_that_is_no_norm_has_no_tokens(tmp_path):
    model = load_tiny(tiny_llama(tmp_path / "llama"))
    model.plain.model.norm.forward = torch.tanh
    assert output_tokens(model, 0, [Unit(0, 1)]).is_empty()
