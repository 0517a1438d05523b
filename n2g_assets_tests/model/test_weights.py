"""The SoLU models of the paper, in TransformerLens' own format; the other formats are in test_model.py."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from n2g_assets.core.errors import SourceError
from n2g_assets_tests.tiny_models import VOCABULARY, load_tiny, tiny_solu


@pytest.fixture
def files(tmp_path):
    return tiny_solu(tmp_path / "solu")


def slow_solu_model(folder, tokens):
    """The model from its weights, head by head, in double precision: logits, and what each layer's units are."""
    weights = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}
    n_layers = json.loads((folder / "config.json").read_text())["n_layers"]

    def norm(x, w, b):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * w + b

    length = tokens.shape[1]
    stream = weights["embed.W_E"][tokens] + weights["pos_embed.W_pos"][:length]
    units = []
    for layer in range(n_layers):
        part = {
            name.removeprefix(f"blocks.{layer}."): w
            for name, w in weights.items()
            if name.startswith(f"blocks.{layer}.")
        }
        x = norm(stream, part["ln1.w"], part["ln1.b"])
        added = part["attn.b_O"]
        for head in range(4):
            q, k, v = (x @ part[f"attn.W_{name}"][head] + part[f"attn.b_{name}"][head] for name in "QKV")
            scores = q @ k.transpose(1, 2) / 8**0.5
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
            added = added + scores.softmax(-1) @ v @ part["attn.W_O"][head]
        stream = stream + added
        before = norm(stream, part["ln2.w"], part["ln2.b"]) @ part["mlp.W_in"] + part["mlp.b_in"]
        units.append(norm(before * before.softmax(-1), part["mlp.ln.w"], part["mlp.ln.b"]))
        stream = stream + units[-1] @ part["mlp.W_out"] + part["mlp.b_out"]
    final = norm(stream, weights["ln_final.w"], weights["ln_final.b"])
    return final @ weights["unembed.W_U"] + weights.get("unembed.b_U", 0), units


@pytest.mark.parametrize("bias", [True, False])
def test_a_solu_model_is_read_and_run_as_its_definition_says(bias, files):
    if not bias:
        weights = load_file(files.folder / "model.safetensors")
        del weights["unembed.b_U"]
        save_file(weights, files.folder / "model.safetensors")
    model = load_tiny(files)
    tokens = torch.randint(2, VOCABULARY, (2, 10), generator=torch.Generator().manual_seed(0))
    logits, units = slow_solu_model(files.folder, tokens)
    torch.testing.assert_close(model.logits(tokens).double(), logits, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(model.logits(tokens, at=([1], [4])).double(), logits[[1], [4]], atol=1e-3, rtol=1e-4)
    read = {}
    model.run(tokens, {layer: lambda a, layer=layer: read.__setitem__(layer, a.double()) for layer in range(2)})
    for layer in range(2):
        torch.testing.assert_close(read[layer], units[layer], atol=1e-4, rtol=1e-4)


def test_its_shape_and_activation_come_from_its_config(files):
    model = load_tiny(files)
    assert (model.facts["activation"], model.facts["gated"], model.d_mlp, model.n_layers, model.max_context) == (
        "solu_ln",
        False,
        48,
        2,
        128,
    )
    assert (model.d_vocab, model.facts["architecture"]) == (VOCABULARY, "NativeModel")
    assert model.hook.taps is not None


def test_weights_that_it_lacks_are_named(files):
    weights = load_file(files.folder / "model.safetensors")
    del weights["blocks.1.mlp.ln.w"]
    save_file(weights, files.folder / "model.safetensors")
    with pytest.raises(SourceError, match=r"lack 1 weights.*blocks\.1\.mlp\.ln\.weight"):
        load_tiny(files)


@pytest.mark.parametrize(("key", "says"), [("d_head", "has no d_head"), (None, "shortformer")])
def test_a_config_that_says_too_little_is_refused(key, says, files):
    config = json.loads((files.folder / "config.json").read_text())
    config |= {"shortformer_pos": True} if key is None else {}
    config.pop(key, None)
    (files.folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError, match=says):
        load_tiny(files)
