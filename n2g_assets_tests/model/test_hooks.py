"""What a pass of the plain model reads is TransformerLens' own hook value, and the pass ends there."""

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch

from n2g_assets.core.settings import HarvestSettings
from n2g_assets.model.hooks import boot_bridge, resolve_hook
from n2g_assets.model.load import load_subject
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

BUILDERS = {
    "llama": tiny_llama,
    "gpt2": tiny_gpt2,
    "neox": tiny_neox,
    "gemma": tiny_gemma,
    "gemma2": tiny_gemma2,
    "opt": tiny_opt,
    "solu": tiny_solu,
}
BLOCKS = {
    "llama": "model.layers",
    "gpt2": "transformer.h",
    "neox": "gpt_neox.layers",
    "gemma": "model.layers",
    "gemma2": "model.layers",
    "opt": "model.decoder.layers",
    "solu": "layers",
}
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.2}
"""Of the length of the vector at a position, where unrelated ones differ by 1.4; bfloat16 leaves out all but 8 bits."""


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    folder, files, loaded = tmp_path_factory.mktemp("models"), {}, {}

    def load_once(name, dtype="float32"):
        if name not in files:
            files[name] = BUILDERS[name](folder / name)
        if (name, dtype) not in loaded:
            harvest = HarvestSettings(device="cpu")
            loaded[name, dtype] = load_subject(files[name], "mlp.hook_post", harvest, "auto", dtype)
        return loaded[name, dtype], files[name]

    return load_once


@pytest.fixture
def tokens():
    """Longer than the windows of attention that Gemma has."""
    prompts = torch.randint(2, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(0))
    prompts[:, 0] = 1
    return prompts


def activations(model, tokens, layers):
    read = {}
    model.run(tokens, {layer: lambda a, layer=layer: read.__setitem__(layer, a.clone()) for layer in layers})
    return read


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", BUILDERS)
def test_what_is_read_at_every_layer_is_the_hook_value_of_transformer_lens(name, dtype, load, tokens):
    model, files = load(name, dtype)
    assert model.facts["attention"] == ("eager" if name in ("solu", "gemma2") else "sdpa")
    bridge = boot_bridge(model.plain, files.folder, model.tokenizer.transformers)
    layers = range(model.n_layers)
    for hook in ("mlp.hook_post", "mlp.hook_pre"):
        asked = replace(model, hook=resolve_hook(bridge, hook, model.plain, model.n_layers))
        assert asked.hook.taps is not None, "the plain model is read, not the bridge"
        names = [f"blocks.{layer}.{hook}" for layer in layers]
        with torch.inference_mode():
            _, theirs = bridge.run_with_cache(tokens, names_filter=names)
        ours = activations(asked, tokens, layers)
        assert list(ours) == list(layers)
        for layer, full_name in zip(layers, names, strict=True):
            expected = theirs[full_name].reshape(ours[layer].shape)  # OPT has no dimension of the batch
            assert ours[layer].dtype == expected.dtype == getattr(torch, dtype)
            apart = (ours[layer].float() - expected.float()).norm(dim=-1)
            length = expected.float().norm(dim=-1)
            assert float((apart / length).max()) < TOLERANCE[dtype], "at some position"


@pytest.mark.parametrize("name", BUILDERS)
def test_a_pass_ends_in_the_layer_that_is_asked_before_its_last_matrix_and_without_unembedding(name, load, tokens):
    model, _ = load(name)
    blocks = [model.plain.get_submodule(f"{BLOCKS[name]}.{layer}") for layer in range(model.n_layers)]
    outputs = [model.plain.get_submodule(model.hook.taps[layer].module) for layer in range(model.n_layers)]
    began, ended = [], []
    with ExitStack() as hooks:
        for module in model.plain.modules():
            hooks.enter_context(module.register_forward_pre_hook(lambda module, _: began.append(module)))
            hooks.enter_context(module.register_forward_hook(lambda module, *_: ended.append(module)))
        for layer in range(model.n_layers):
            began.clear()
            ended.clear()
            activations(model, tokens, [layer])
            assert [block for block in blocks if block in began] == blocks[: layer + 1]
            assert [block for block in blocks if block in ended] == blocks[:layer]
            assert [module for module in outputs if module in ended] == outputs[:layer]
            assert model.unembedding not in began
            assert [began.count(block) for block in blocks[: layer + 1]] == [1] * (layer + 1)
        began.clear()
        model.logits(tokens)
        assert began.count(model.unembedding) == 1, "the unembedding is what would have been seen"
