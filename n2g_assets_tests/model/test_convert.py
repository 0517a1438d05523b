import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from n2g_assets.core.errors import SourceError
from n2g_assets.model.convert import convert_gguf
from n2g_assets.model.tokens import SubjectTokenizer
from n2g_assets_tests.tiny_models import SENTENCES, VOCABULARY, load_tiny, tiny_llama, write_tiny_gguf


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


def converted(tmp_path, files, kind="F32", **changes):
    gguf_file, folder = tmp_path / "model.gguf", tmp_path / "converted"
    write_tiny_gguf(gguf_file, files.folder, kind, **changes)
    folder.mkdir()
    convert_gguf(gguf_file, folder)
    return folder


def logits(folder, change=lambda weight: weight):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data = change(parameter.data)
    tokens = torch.randint(0, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model(tokens).logits


def test_an_unquantised_llama_keeps_its_logits_to_the_bit(tmp_path, llama):
    assert torch.equal(logits(converted(tmp_path, llama)), logits(llama.folder))


def test_half_precision_weights_keep_the_logits_of_the_rounded_model(tmp_path, llama):
    rounded = logits(llama.folder, lambda weight: weight.half().float())
    assert torch.equal(logits(converted(tmp_path, llama, "F16")), rounded)


def test_quantised_weights_give_the_logits_of_the_dequantised_model(tmp_path):
    def q8(weight):
        """Q8_0 by its definition: 32 weights share a half-precision scale, the largest becomes 127."""
        blocks = weight.reshape(-1, 32)
        scale = blocks.abs().amax(dim=1, keepdim=True) / 127
        return ((blocks / scale).round() * scale.half().float()).reshape(weight.shape)

    wide = tiny_llama(tmp_path / "wide", d_mlp=64)
    torch.testing.assert_close(logits(converted(tmp_path, wide, "Q8_0")), logits(wide.folder, q8), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "quantisation"), [("F32", None), ("F16", None), ("BF16", None), ("Q8_0", "Q8_0")])
def test_the_quantisation_of_the_weights_is_known(kind, quantisation, tmp_path):
    write_tiny_gguf(tmp_path / "model.gguf", tiny_llama(tmp_path / "wide", d_mlp=64).folder, kind)
    (tmp_path / "converted").mkdir()
    assert convert_gguf(tmp_path / "model.gguf", tmp_path / "converted") == quantisation


def test_the_tokenizer_and_its_special_tokens_survive(tmp_path, llama):
    folder = converted(tmp_path, llama)
    ours, theirs = (SubjectTokenizer.load(each, VOCABULARY) for each in (folder, llama.folder))
    for a, b in zip(ours.encode(SENTENCES), theirs.encode(SENTENCES), strict=True):
        assert a.tolist() == b.tolist()
    assert (ours.bos.token_id, ours.mask_id("auto")) == (1, 0)
    assert AutoTokenizer.from_pretrained(folder).bos_token == "<|begin|>"


def test_the_folder_loads_as_a_subject_model(tmp_path, llama):
    from dataclasses import replace

    model = load_tiny(replace(llama, folder=converted(tmp_path, llama)))
    assert (model.facts["gated"], model.facts["activation"], model.d_mlp, model.max_context) == (True, "silu", 48, 128)


def test_smollm_splits_digits_one_by_one_before_anything_else(tmp_path, llama):
    from tokenizers import pre_tokenizers

    folder = converted(tmp_path, llama, tokenizer__ggml__pre="smollm")
    split = SubjectTokenizer.load(folder, VOCABULARY).backend.pre_tokenizer
    assert isinstance(split, pre_tokenizers.PreTokenizer)
    assert [piece for piece, _ in split.pre_tokenize_str("in  1987")] == ["in", "ĠĠ", "1", "9", "8", "7"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"general__architecture": "gemma3"}, "architecture 'gemma3'"),
        ({"llama__block_count": None}, "no 'llama.block_count'"),
        ({"llama__rope__scaling__type": "yarn"}, "scaled rotary"),
        ({"llama__expert_count": 8}, "experts"),
        ({"llama__rope__dimension_count": 4}, "rotary positions on a part"),
        ({"tokenizer__ggml__model": "llama"}, "a tokenizer of the kind 'llama'"),
        ({"tokenizer__ggml__pre": "qwen2"}, "splits text as 'qwen2'"),
    ],
)
def test_what_would_be_converted_wrongly_is_refused(changes, says, tmp_path, llama):
    with pytest.raises(SourceError, match=says):
        converted(tmp_path, llama, **changes)


def test_a_truncated_file_is_refused(tmp_path, llama):
    gguf_file = tmp_path / "model.gguf"
    write_tiny_gguf(gguf_file, llama.folder)
    whole = gguf_file.read_bytes()
    for size in (0, 10, 2000, len(whole) - 5000):
        gguf_file.write_bytes(whole[:size])
        with pytest.raises(SourceError, match="fetch it anew"):
            convert_gguf(gguf_file, tmp_path)


def test_nothing_but_data_is_written(tmp_path, llama):
    folder = converted(tmp_path, llama)
    assert {p.name for p in folder.iterdir()} == {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
