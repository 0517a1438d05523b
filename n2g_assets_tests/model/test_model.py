import pytest
import torch

from n2g_assets.core.errors import SettingsError, SourceError, SubjectError
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.model.hooks import boot_bridge
from n2g_assets.model.load import load_subject
from n2g_assets.model.sources import SubjectFiles
from n2g_assets_tests.tiny_models import BOS, END, SENTENCES, VOCABULARY, load_tiny, tiny_gpt2, tiny_llama, tiny_neox

BUILDERS = {"gpt2": tiny_gpt2, "llama": tiny_llama, "neox": tiny_neox}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: build(folder / name) for name, build in BUILDERS.items()}


@pytest.fixture(scope="module")
def models(files):
    return {name: load_tiny(one) for name, one in files.items()}


@pytest.fixture(scope="module")
def llama(models):
    return models["llama"]


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(2, VOCABULARY, (3, 12), generator=generator)
    prompts[:, 0] = 1
    return prompts


def load(files, hook="mlp.hook_post", mask_token="auto", **harvest):
    return load_subject(files, hook, HarvestSettings(**{"device": "cpu", **harvest}), mask_token)


def activations(model, tokens, *layers):
    read = {}
    model.run(tokens, {layer: lambda a, layer=layer: read.__setitem__(layer, a.clone()) for layer in layers})
    return read


def by_definition(name, plain, tokens):
    """What a unit of each layer is, from the outputs of the modules around it in a full forward pass."""
    blocks = {"gpt2": "transformer.h", "llama": "model.layers", "neox": "gpt_neox.layers"}[name]
    seen = {}
    handles = [
        module.register_forward_hook(lambda _m, _i, output, path=path: seen.__setitem__(path, output))
        for path, module in plain.named_modules()
        if path.startswith(blocks) and ".mlp." in path
    ]
    with torch.inference_mode():
        plain(tokens)
    for handle in handles:
        handle.remove()
    n_layers = len(plain.get_submodule(blocks))
    if name == "llama":
        return [
            torch.nn.functional.silu(seen[f"{blocks}.{layer}.mlp.gate_proj"]) * seen[f"{blocks}.{layer}.mlp.up_proj"]
            for layer in range(n_layers)
        ]
    return [seen[f"{blocks}.{layer}.mlp.act"] for layer in range(n_layers)]


@pytest.mark.parametrize("name", BUILDERS)
def test_hook_post_is_what_the_definition_of_a_unit_says(name, models, tokens):
    model = models[name]
    expected = by_definition(name, model.plain, tokens)
    read = activations(model, tokens, *range(model.n_layers))
    assert len(read) == len(expected) == model.n_layers
    for layer, values in enumerate(expected):
        torch.testing.assert_close(read[layer], values)


@pytest.mark.parametrize("name", BUILDERS)
def test_logits_are_those_of_transformers(name, files, models, tokens):
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(files[name].folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        torch.testing.assert_close(models[name].logits(tokens), reference(tokens).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", BUILDERS)
def test_logits_of_chosen_positions_are_rows_of_all_logits(name, models, tokens):
    chosen = models[name].logits(tokens, at=([0, 2, 2], [3, 11, 0]))
    torch.testing.assert_close(chosen, models[name].logits(tokens)[[0, 2, 2], [3, 11, 0]])


@pytest.mark.parametrize("name", BUILDERS)
def test_a_mask_and_positions_put_two_texts_behind_the_same_start(name, models, tokens):
    """The row: 4 shared tokens, then tokens 4 to 7 of text one, then those of text two."""
    model = models[name]
    both = torch.cat([tokens[:1, :4], tokens[:1, 4:8], tokens[1:2, 4:8]], dim=1)
    block = torch.tensor([0] * 4 + [1] * 4 + [2] * 4)
    seen = ((block[None] == 0) | (block[None] == block[:, None])) & torch.ones(12, 12).tril().bool()
    mask = torch.zeros(12, 12).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]])
    packed = model.logits(both, attention_mask=mask, position_ids=positions)[0]
    one = model.logits(tokens[:1, :8])[0]
    two = model.logits(torch.cat([tokens[:1, :4], tokens[1:2, 4:8]], dim=1))[0]
    torch.testing.assert_close(packed, torch.cat([one, two[4:]]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "gated", "activation"), [("gpt2", False, "gelu_new"), ("llama", True, "silu"), ("neox", False, "gelu")]
)
def test_shape_gate_and_activation_come_from_the_model(name, gated, activation, models):
    model = models[name]
    assert (model.facts["gated"], model.facts["activation"]) == (gated, activation)
    assert (model.d_mlp, model.facts["d_model"], model.d_vocab, model.max_context) == (48, 32, VOCABULARY, 128)
    assert model.hook.taps is not None, "the plain model is read, not the bridge"


def test_nothing_below_the_deepest_layer_runs(llama, tokens):
    ran = []
    handles = [
        llama.plain.get_submodule(f"model.layers.{layer}").register_forward_pre_hook(
            lambda *_, layer=layer: ran.append(layer)
        )
        for layer in range(3)
    ]
    activations(llama, tokens, 0, 1)
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]


def test_a_run_leaves_no_hook_and_no_trace(llama, tokens):
    before = llama.logits(tokens)
    activations(llama, tokens, 1)
    with pytest.raises(ZeroDivisionError):
        llama.run(tokens, {2: lambda _: 1 / 0})
    torch.testing.assert_close(llama.logits(tokens), before, atol=0, rtol=0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in llama.plain.modules())


def test_padding_on_the_right_changes_nothing_before_it(llama, tokens):
    padded = torch.cat([tokens, torch.zeros(3, 5, dtype=torch.long)], dim=1)
    torch.testing.assert_close(activations(llama, padded, 2)[2][:, :12], activations(llama, tokens, 2)[2])


@pytest.mark.parametrize("hook", ["hook_resid_pre", "hook_resid_mid", "hook_mlp_out", "mlp.hook_pre"])
def test_other_hooks_are_read_in_the_plain_model_too(hook, files, tokens):
    for name in ("gpt2", "llama"):
        model = load(files[name], hook)
        assert model.hook.taps is not None
        assert activations(model, tokens, 2)[2].shape == (3, 12, model.d_mlp)


def test_a_hook_that_only_the_bridge_computes_is_read_through_it(files, tokens):
    model = load(files["gpt2"], "attn.hook_q")
    assert model.hook.taps is None
    assert model.bridge is not None
    read = activations(model, tokens, 0, 1)
    _, cache = model.bridge.run_with_cache(tokens)
    torch.testing.assert_close(read[1], cache["blocks.1.attn.hook_q"].flatten(2))
    assert set(read) == {0, 1}


def test_an_unknown_hook_is_named_with_the_nearest_and_all_there_are(files):
    with pytest.raises(SubjectError, match=r"no hook 'mlp\.hok_post'.*did you mean 'mlp\.hook_post'.*mlp\.hook_pre"):
        load(files["llama"], "mlp.hok_post")


@pytest.mark.parametrize("hook", ["attn.hook_pattern", "attn.hook_result"])
def test_a_hook_without_a_vector_a_position_is_refused(hook, files):
    with pytest.raises(SubjectError, match=rf"{hook}.*choose another"):
        load(files["llama"], hook)


def test_the_bridge_shares_the_weights_and_leaves_the_plain_model_alone(llama, files):
    modules = [(path, type(module)) for path, module in llama.plain.named_modules()]
    bridge = boot_bridge(llama.plain, files["llama"].folder, llama.tokenizer.transformers)
    assert {p.data_ptr() for p in llama.plain.parameters()} == {
        p.data_ptr() for p in bridge.original_model.parameters()
    }
    assert [(path, type(module)) for path, module in llama.plain.named_modules()] == modules
    assert llama.plain.config._attn_implementation == "sdpa"


def test_bfloat16_loads_and_gives_nearly_the_same(files, llama, tokens):
    half = load_subject(files["llama"], "mlp.hook_post", HarvestSettings(device="cpu"), "auto", "bfloat16")
    assert half.dtype == torch.bfloat16
    assert half.logits(tokens).dtype == torch.float32
    read, full = activations(half, tokens, 1)[1], activations(llama, tokens, 1)[1]
    assert read.dtype == torch.bfloat16
    assert (read.float() - full).norm() < 0.1 * full.norm()


def test_a_study_within_the_model_passes(llama):
    llama.check_study([0, 2], [0, 47], 128)
    llama.check_study([1], 48, 8)


@pytest.mark.parametrize(
    ("layers", "neurons", "length", "error", "says"),
    [
        ([0, 3], 4, 16, SubjectError, r"no layer 3 .*0 to 2"),
        ([0], [1, 48], 16, SubjectError, r"neuron 48.*48 neurons a layer.*0 to 47"),
        ([0], [-1], 16, SubjectError, r"neuron -1"),
        ([0], 49, 16, SubjectError, r"49 neurons a layer"),
        ([0], 4, 129, SettingsError, r"context_length is 129.*at most 128"),
    ],
)
def test_a_study_beyond_the_model_is_told_what_there_is(layers, neurons, length, error, says, llama):
    with pytest.raises(error, match=says):
        llama.check_study(layers, neurons, length)


def test_texts_become_ids_without_bos_and_special_tokens_in_them_stay_text(llama):
    ids = llama.encode([SENTENCES[0], f"a {END} b{BOS}"])
    assert [part.dtype.name for part in ids] == ["int32", "int32"]
    assert llama.bos_id not in ids[0]
    assert not {llama.bos_id, llama.mask_id} & set(ids[1].tolist())
    assert llama.tokenizer.backend.decode(ids[1].tolist(), skip_special_tokens=False) == f"a {END} b{BOS}"


def test_the_mask_is_end_of_text_or_the_token_that_was_named(files, llama):
    assert (llama.bos_id, llama.mask_id) == (1, 0)
    assert load(files["llama"], mask_token=BOS).mask_id == 1
    comma = load(files["llama"], mask_token=",").mask_id
    assert comma == llama.encode([","])[0][0]
    with pytest.raises(SettingsError, match=r"method\.mask_token 'zzz' is 3 tokens"):
        load(files["llama"], mask_token="zzz")


def test_a_device_that_is_not_there_is_refused(files):
    missing = "mps" if torch.cuda.is_available() else "cuda"  # no machine has both
    with pytest.raises(SettingsError, match=rf"harvest\.device is {missing}"):
        load(files["llama"], device=missing)


def test_damaged_weights_are_refused(tmp_path):
    damaged = tiny_llama(tmp_path / "damaged")
    weights = damaged.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(SourceError, match=r"damaged cannot be loaded"):
        load(damaged)


def test_missing_weights_are_refused_instead_of_drawn_at_random(tmp_path):
    from safetensors.torch import load_file, save_file

    partial = tiny_llama(tmp_path / "partial")
    weights = load_file(partial.folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, partial.folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SourceError, match=r"lack 1 weights.*model\.layers\.1\.mlp\.up_proj\.weight"):
        load(partial)


def test_a_damaged_tokenizer_is_refused(tmp_path):
    damaged = tiny_llama(tmp_path / "damaged")
    (damaged.folder / "tokenizer.json").write_text("{")
    with pytest.raises(SourceError, match=r"tokenizer in .*damaged cannot be loaded"):
        load(SubjectFiles(damaged.folder, "damaged", "local", "0"))
