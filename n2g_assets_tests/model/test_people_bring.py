"""Models as people bring them: read rightly, or refused in one sentence that names what is wrong with them."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from n2g_assets.core.errors import N2GError, SettingsError, SourceError, SubjectError
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.core.sources import LocalSubject
from n2g_assets.core.units import Unit
from n2g_assets.model.batching import TokenBudget
from n2g_assets.model.folder import hash_model, weight_files
from n2g_assets.model.load import load_subject
from n2g_assets.model.prober import LayerProber
from n2g_assets.model.sources import SubjectFiles, resolve_subject
from n2g_assets_tests.tiny_models import (
    BOS,
    END,
    SENTENCES,
    SPECIAL,
    VOCABULARY,
    load_tiny,
    save_tiny_model,
    tiny_gemma2,
    tiny_llama,
    tiny_opt,
    tiny_solu,
)


def again(files: SubjectFiles) -> SubjectFiles:
    """The same folder, as it is read after a change."""
    return SubjectFiles(files.folder, files.name, "local", hash_model(files.folder))


def change_weights(files: SubjectFiles, change) -> SubjectFiles:
    weights = load_file(files.folder / "model.safetensors")
    change(weights)
    save_file(weights, files.folder / "model.safetensors", metadata={"format": "pt"})
    return again(files)


def change_config(files: SubjectFiles, **changes) -> SubjectFiles:
    path = files.folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return again(files)


def refusal(files: SubjectFiles, kind=SourceError, **options) -> str:
    """The sentence with which a model is refused."""
    with pytest.raises(kind) as raised:
        load_subject(files, "mlp.hook_post", HarvestSettings(device="cpu"), "auto", **options)
    said = str(raised.value)
    assert len(said.splitlines()) == 1
    assert len(said) < 700, said
    return said


# -------------------------------------------------------------------------------------------- attention, experts
@pytest.mark.parametrize("build", [tiny_gemma2, tiny_opt])
def test_a_units_values_are_the_same_packed_together_and_alone(build, tmp_path):
    model = load_tiny(build(tmp_path / "tiny"))
    prompts = [[1, 5, 9, 14], [1, 5, 9, 20, 21], [1, 30]]
    (whole,) = [model.read_layers(torch.tensor([[1, 5, 9, 20, 21]]), [1])[1][0]]
    prober = LayerProber(model, 1, TokenBudget(64))

    found = prober.activations([torch.tensor(each).numpy().astype("int32") for each in prompts], [Unit(3, 1)] * 3)
    torch.testing.assert_close(torch.from_numpy(found[1])[1:], whole[1:, 3], atol=1e-4, rtol=1e-4)


def test_attention_scores_beyond_the_cap_are_capped(tmp_path):
    """The same weights without the cap compute something else, so it bites; with it, they agree with the bridge."""
    capped = load_tiny(tiny_gemma2(tmp_path / "capped"))
    free = load_tiny(tiny_gemma2(tmp_path / "free", cap=None))
    tokens = torch.arange(1, 33)[None]
    apart = (capped.read_layers(tokens, [2])[2] - free.read_layers(tokens, [2])[2]).abs()
    assert float(apart.max()) > 0.1
    assert capped.facts["attention"] == "eager"
    assert capped.facts["logit_difference"] < 1e-5


def tiny_experts(folder):
    from transformers import MixtralConfig

    config = MixtralConfig(
        num_hidden_layers=2, hidden_size=32, intermediate_size=32, num_attention_heads=4, num_key_value_heads=2,
        num_local_experts=4, num_experts_per_tok=2, **SPECIAL,
    )  # fmt: skip
    return save_tiny_model(folder, config)


def test_the_output_of_a_mixture_of_experts_is_never_called_neurons(tmp_path):
    files = tiny_experts(tmp_path / "experts")
    for hook in ("mlp.hook_post", "mlp.hook_pre"):
        with pytest.raises(SubjectError, match=rf"has no neurons at '{hook}'.* such as hook_mlp_out"):
            load_tiny(files, hook)
    assert load_tiny(files, "hook_mlp_out").d_mlp == 32


def test_a_hook_that_failed_is_not_what_the_message_recommends(tmp_path, monkeypatch):
    files = tiny_llama(tmp_path / "tiny")
    monkeypatch.setattr("n2g_assets.model.load.WIDTHS", ("hidden_size",))
    said = refusal(files, SubjectError)
    assert "has 48 values a position, but config.json says that a layer has 32 neurons" in said
    assert "such as hook_mlp_out" in said


# -------------------------------------------------------------------------------------------- config and weights
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": 1_000_000}, "asks for 1,000,000 layers, but the safetensors hold 3"),
        ({"num_hidden_layers": 10**9}, "asks for 1,000,000,000 layers, but the safetensors hold 3"),
        ({"num_hidden_layers": -1}, "asks for -1 layers"),
        ({"transformers_weights": "other.safetensors"}, "names another file of weights (transformers_weights)"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "is of a quantised model"),
        ({"intermediate_size": 10**8}, "weights, but the safetensors hold"),
        ({"vocab_size": 10**9}, "weights, but the safetensors hold"),
        (
            {"model_type": "tomorrows_model"},
            "has the model_type 'tomorrows_model', of which transformers has no causal",
        ),
        ({"model_type": "vit"}, "has the model_type 'vit', of which transformers has no causal model"),
        (
            {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}},
            "relies on code that comes with it (auto_map), which is never run",
        ),
        ({"hidden_size": "many"}, "config.json in"),
        ({"num_attention_heads": 0}, "config.json in"),
    ],
)
def test_a_config_that_does_not_fit_is_what_the_message_names(changes, says, tmp_path):
    said = refusal(change_config(tiny_llama(tmp_path / "tiny"), **changes))
    assert says in said
    assert "tokenizer" not in said


@pytest.mark.parametrize(
    "text", ["{", "[]", "3", "null", "[" * 100_000, "\ufeff{}", '{"model_type": 7}', '{"model_type": []}']
)
def test_a_broken_config_is_not_blamed_on_the_tokenizer(text, tmp_path):
    files = tiny_llama(tmp_path / "tiny")
    (files.folder / "config.json").write_text(text, encoding="utf-8")
    said = refusal(again(files))
    assert f"config.json in {files.folder}" in said
    assert "tokenizer" not in said


def test_a_million_layers_of_the_papers_format_are_refused_before_they_are_built(tmp_path):
    assert "asks for 1,000,000 layers" in refusal(change_config(tiny_solu(tmp_path / "tiny"), n_layers=1_000_000))


def test_weights_that_are_no_numbers_are_named_with_their_row(tmp_path):
    def spoil(weights):
        weights["model.layers.1.mlp.up_proj.weight"][7] = math.nan

    said = refusal(change_weights(tiny_llama(tmp_path / "tiny"), spoil))
    assert "The weights model.layers.1.mlp.up_proj.weight in" in said
    assert "hold 32 values that are no finite numbers, the first in row 7" in said


def test_weights_that_overflow_are_named(tmp_path):
    def spoil(weights):
        weights["model.layers.1.mlp.down_proj.weight"] *= 1e38

    said = refusal(change_weights(tiny_llama(tmp_path / "tiny"), spoil), SubjectError)
    assert "no finite numbers, the first behind the matrix model.layers.1.mlp.down_proj" in said


def test_a_layer_of_zeros_is_read_as_zeros(tmp_path):
    def clear(weights):
        for name in weights:
            if "layers.1." in name:
                weights[name].zero_()

    model = load_tiny(change_weights(tiny_llama(tmp_path / "tiny"), clear))
    assert not model.read_layers(torch.arange(8)[None], [1])[1].any()


def test_a_tied_model_whose_file_holds_another_unembedding_is_read_as_the_file_says_with_a_warning(tmp_path, caplog):
    files = tiny_llama(tmp_path / "tiny")
    load_tiny(files)
    assert not caplog.records

    def conflict(weights):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1

    model = load_tiny(change_weights(files, conflict))
    torch.testing.assert_close(model.unembedding.weight, model.plain.get_input_embeddings().weight + 1)
    assert any("the safetensors hold two that differ" in record.getMessage() for record in caplog.records)


def test_a_tied_model_whose_file_holds_the_unembedding_alone_is_read(tmp_path):
    files = tiny_llama(tmp_path / "tiny")
    expected = load_tiny(files).plain.get_input_embeddings().weight

    def rename(weights):
        weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")

    torch.testing.assert_close(load_tiny(change_weights(files, rename)).plain.get_input_embeddings().weight, expected)


def test_every_shard_that_the_index_names_is_part_of_the_models_identity(tmp_path):
    files = tiny_llama(tmp_path / "tiny")
    weights = load_file(files.folder / "model.safetensors")
    (files.folder / "model.safetensors").unlink()
    named = {
        name: f"{'first' if number % 2 else 'weights_of_the'}-shard.safetensors" for number, name in enumerate(weights)
    }
    for shard in set(named.values()):
        save_file(
            {name: weights[name] for name in weights if named[name] == shard}, files.folder / shard,
            metadata={"format": "pt"},
        )  # fmt: skip
    index = {"metadata": {"total_size": 0}, "weight_map": named}
    (files.folder / "model.safetensors.index.json").write_text(json.dumps(index))

    def resolved() -> SubjectFiles:
        return resolve_subject(LocalSubject(source="local", path=str(files.folder)), study_folder=tmp_path, home=None)

    before = resolved()
    assert {path.name for path in weight_files(files.folder)} == set(named.values())
    assert load_tiny(before).d_mlp == 48
    for shard in set(named.values()):
        tensors = load_file(files.folder / shard)
        next(iter(tensors.values())).add_(1)
        save_file(tensors, files.folder / shard, metadata={"format": "pt"})
        assert resolved().file_sha256 != before.file_sha256
        before = resolved()
    index["weight_map"] = dict.fromkeys(named, "../elsewhere.safetensors")
    (files.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(N2GError, match=r"names no safetensors beside it: put the right file there\.$"):
        resolved()
    with pytest.raises(N2GError, match=r"beside it: put the whole model there anew, with its config\.json and saf"):
        weight_files(files.folder)
    (files.folder / "model.safetensors.index.json").write_text("{")
    with pytest.raises(N2GError, match=r"has a damaged model\.safetensors\.index\.json: put the right file there\.$"):
        resolved()


# -------------------------------------------------------------------------------------------- tokenizers
def add_token(files: SubjectFiles, token_id: int, content: str) -> SubjectFiles:
    path = files.folder / "tokenizer.json"
    state = json.loads(path.read_text())
    state["added_tokens"].append(dict(state["added_tokens"][0], id=token_id, content=content, special=False))
    path.write_text(json.dumps(state))
    return again(files)


def test_an_added_token_without_an_embedding_is_read_as_the_text_that_it_is(tmp_path):
    model = load_tiny(add_token(tiny_llama(tmp_path / "tiny"), VOCABULARY + 3, "river"))
    ids = model.encode(["The river was brown."])[0]
    assert ids.max() < VOCABULARY
    assert model.tokenizer.backend.decode(ids.tolist()) == "The river was brown."


def test_a_tokenizer_of_another_model_is_refused_by_the_token_that_has_no_embedding(tmp_path):
    from n2g_assets.model.tokens import SubjectTokenizer

    tokenizer = SubjectTokenizer.load(tiny_llama(tmp_path / "tiny").folder, 270)
    with pytest.raises(SubjectError, match=r"the number \d+, but the model has embeddings for 270 tokens"):
        tokenizer.encode(list(SENTENCES))
    beyond = tokenizer.backend.id_to_token(300)
    for name in (tokenizer.mask_id, lambda token: SubjectTokenizer.load(tmp_path / "tiny", 270, token)):
        with pytest.raises(SettingsError, match="is a token without an embedding in this model"):
            name(beyond)


def test_the_token_at_position_0_is_recorded_with_its_reason_and_can_be_chosen(tmp_path):
    files = tiny_llama(tmp_path / "tiny")
    facts = load_tiny(files).facts
    assert (facts["bos_id"], facts["bos_token"], facts["bos_reason"]) == (1, BOS, "BOS of the tokenizer")

    def load(bos: str):
        return load_subject(files, "mlp.hook_post", HarvestSettings(device="cpu"), "auto", bos=bos)

    named = load(END).facts
    assert (named["bos_id"], named["bos_token"]) == (0, END)
    assert named["bos_reason"] == "the study's setting bos names it"
    with pytest.raises(SettingsError, match=r"bos 'no such token' is .* tokens of this model: give the text of one"):
        load("no such token")
    (files.folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    facts = load_tiny(again(files)).facts
    assert (facts["bos_id"], facts["bos_reason"]) == (0, "end of sequence of the tokenizer, which has no BOS")


def test_sizes_that_a_config_does_not_give_as_one_number_are_measured(tmp_path):
    """OpenELM and Gemma 3n list them by layer."""
    from n2g_assets.model.load import _measure_width

    model = load_tiny(tiny_llama(tmp_path / "tiny"))
    for size, window in (([48, 48, 48], [8, 8, 8]), (None, 0), (True, True), ({}, {})):
        vars(model.plain.config).update(intermediate_size=size, sliding_window=window)  # past what transformers checks
        vars(model).pop("packs", None)
        assert (_measure_width(model), model.packs) == (48, 128)
