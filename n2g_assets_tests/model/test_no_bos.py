"""With ``bos: none`` every number is that of the bare text; position 0 of a context is not read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from n2g_assets.core.errors import SettingsError, SubjectError
from n2g_assets.core.settings import HarvestSettings, MethodSettings
from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit
from n2g_assets.model.batching import TokenBudget, pad
from n2g_assets.model.folder import model_identity
from n2g_assets.model.infill import InfillProposer
from n2g_assets.model.load import VERIFICATION_TEXT, load_subject
from n2g_assets.model.model import SubjectModel
from n2g_assets.model.prober import LayerProber
from n2g_assets.model.sources import SubjectFiles
from n2g_assets.model.tokens import SubjectTokenizer
from n2g_assets.model.vocabulary import vocabulary_from_rows, vocabulary_rows
from n2g_assets_tests.tiny_models import (
    BOS,
    END,
    VOCABULARY,
    load_tiny,
    tiny_gemma,
    tiny_gpt2,
    tiny_llama,
    tiny_opt,
    tiny_solu,
)

BARE = [[5, 90, 7, 300, 41, 2, 7, 7, 120], [5, 90, 8, 33], [12], [5, 90, 7, 300, 6, 2], [301, 90, 7, 300, 41]]
"""Texts, some of which begin alike."""
LAYER = 1


def load(files: SubjectFiles, hook: str = "mlp.hook_post", mask: str = "auto") -> SubjectModel:
    return load_subject(files, hook, HarvestSettings(device="cpu"), mask, bos="none")


def contexts(model: SubjectModel) -> list[np.ndarray]:
    return [np.array([model.bos_id, *text], np.int32) for text in BARE]


def of_bare_text(model: SubjectModel, text: list[int]) -> torch.Tensor:
    """The neurons of the layer in a plain forward pass of one text."""
    found = []
    down = ("mlp.down_proj", "mlp.c_proj", "mlp.fc_out", "mlp.out", "fc2")
    names = [name for name, _ in model.plain.named_modules() if name.endswith(tuple(f".{LAYER}.{end}" for end in down))]
    module = model.plain.get_submodule(names[0])
    hook = module.register_forward_pre_hook(lambda _module, args: found.append(args[0].reshape(len(text), -1)))
    try:
        with torch.inference_mode():
            model.plain(torch.tensor([text]))
    finally:
        hook.remove()
    return found[0]


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> SubjectModel:
    return load(tiny_llama(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2, tiny_opt, tiny_gemma, tiny_solu])
def test_activations_are_those_of_a_plain_forward_pass_of_the_bare_text(tmp_path, build):
    model = load(build(tmp_path / "tiny"))
    together = model.read_layers(pad(contexts(model), model.bos_id), [LAYER])[LAYER]
    prompts, units = contexts(model), [Unit(3, -1)] * len(BARE)
    probed = LayerProber(model, LAYER, TokenBudget(4096)).activations(prompts, units)
    for text, values, answer in zip(BARE, together, probed, strict=True):
        expected = of_bare_text(model, text)
        rounding = 1e-5 * float(expected.abs().max())
        assert not values[0].any()
        torch.testing.assert_close(values[1 : 1 + len(text)], expected, atol=rounding, rtol=0)
        assert answer[0] == 0
        np.testing.assert_allclose(answer[1:], -expected[:, 3], atol=rounding)


def test_packed_prompts_share_what_they_share_and_answer_as_one_by_one(llama):
    assert llama.packs
    prober, units = LayerProber(llama, LAYER, TokenBudget(4096)), [Unit(5, 1)] * len(BARE)
    answers = prober.activations(contexts(llama), units)
    assert prober.calls == 1
    assert prober.tokens == len({prompt[:length].tobytes() for prompt in contexts(llama) for length in range(1, 11)})
    alone = [LayerProber(llama, LAYER, TokenBudget(1)) for _ in BARE]
    for single, prompt, answer in zip(alone, contexts(llama), answers, strict=True):
        (expected,) = single.activations([prompt], [Unit(5, 1)])
        np.testing.assert_allclose(answer, expected, atol=1e-5 * np.abs(expected).max())


def test_a_hook_that_only_the_bridge_reads_sees_the_bare_text(tmp_path):
    files = tiny_gpt2(tmp_path / "tiny")
    model = load(files, "attn.hook_q")
    assert model.bridge is not None
    context = torch.from_numpy(contexts(model)[0].astype(np.int64))[None]
    name = f"blocks.{LAYER}.attn.hook_q"
    _, cache = model.bridge.run_with_cache(context[:, 1:], names_filter=[name])
    read = model.read_layers(context, [LAYER])[LAYER]
    assert not read[:, 0].any()
    torch.testing.assert_close(read[:, 1:], cache[name].flatten(2), atol=1e-6, rtol=0)


def test_logits_are_those_of_the_bare_text_and_there_are_none_at_position_0(llama):
    tokens = pad(contexts(llama)[:1], llama.bos_id)
    with torch.inference_mode():
        expected = llama.plain(tokens[:, 1:]).logits
    logits = llama.logits(tokens)
    assert not logits[:, 0].any()
    torch.testing.assert_close(logits[:, 1:], expected, atol=1e-6, rtol=0)
    chosen = llama.logits(tokens, at=(np.array([0, 0]), np.array([1, 9])))
    torch.testing.assert_close(chosen, expected[0, [0, 8]], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="tiny reads nothing at position 0"):
        llama.logits(tokens, at=(np.array([0, 0]), np.array([1, 0])))


def test_the_row_of_the_model_says_that_nothing_is_read_before_the_text(llama, tmp_path):
    row = llama.facts
    TABLES["subject_models"].conform(pl.DataFrame([{"study": "s", **row}]))
    assert (row["bos_id"], row["bos_token"], row["d_vocab"]) == (VOCABULARY, None, VOCABULARY)
    assert row["bos_reason"] == "the study's setting bos is none: the model reads nothing before the text"
    assert row["logit_difference"] < 1e-3
    ids = torch.from_numpy(llama.encode([VERIFICATION_TEXT])[0].astype(np.int64))[: llama.max_context - 1]
    with torch.inference_mode():
        surprise = torch.nn.functional.cross_entropy(llama.plain(ids[None]).logits[0, :-1], ids[1:])
    np.testing.assert_allclose(row["nats_per_token"], surprise, rtol=1e-5)
    assert model_identity(row) != model_identity(row | {"bos_id": 0})


def test_position_0_has_an_id_of_its_own_in_the_vocabulary(llama):
    vocabulary = llama.vocabulary(normalise=True)
    rows = vocabulary_rows(vocabulary)
    assert rows.row(-1, named=True) | {"normalised": None} == {
        "token_id": VOCABULARY, "token": b"<beginning>", "normalised": None, "text": "<beginning>",
    }  # fmt: skip
    assert (vocabulary.form_of == vocabulary.form_of[VOCABULARY]).sum() == 1
    again = vocabulary_from_rows(rows, bos_id=vocabulary.bos_id, mask_id=vocabulary.mask_id)
    assert (again.tokens, again.forms) == (vocabulary.tokens, vocabulary.forms)


def test_a_context_may_be_one_longer_than_what_the_model_reads(tmp_path):
    model = load(tiny_gpt2(tmp_path / "tiny", max_context=16))
    model.check_study([LAYER], [0], 17)
    text = list(range(2, 18))
    read = model.read_layers(torch.tensor([[model.bos_id, *text]]), [LAYER])[LAYER][0, 1:]
    torch.testing.assert_close(read, of_bare_text(model, text), atol=1e-5, rtol=0)
    with pytest.raises(SettingsError, match="is 18, but tiny reads at most 16 tokens: set it to 17 or less"):
        model.check_study([LAYER], [0], 18)


def test_infill_reads_the_mask_where_nothing_stands_before_the_first_token(llama):
    settings = MethodSettings(infill_candidates=20, infill_rescored=6, infill_right_tokens=3)
    proposer = InfillProposer(llama, llama.vocabulary(normalise=False), settings)
    prompt, masked = (np.array([llama.bos_id, *text], np.int32) for text in ([90, 7, 41], [llama.mask_id, 90, 7, 41]))
    ((first, second),) = proposer.propose([prompt], [[1, 2]])
    ((behind,),) = proposer.propose([masked], [[2]])
    assert first == behind
    with torch.inference_mode():
        left = llama.plain(torch.tensor([[90]])).logits[0, 0].log_softmax(0).numpy()
    likeliest = sorted((left[each.token_ids[0]] for each in second), reverse=True)
    able = proposer.allowed.numpy() & (np.arange(VOCABULARY) != 7)
    np.testing.assert_allclose(likeliest, np.sort(left[able])[:-21:-1], atol=1e-4)


def test_a_tokenizer_without_special_tokens_is_refused_with_two_cures(tmp_path):
    files = tiny_llama(tmp_path / "tiny")
    without_special_tokens(files.folder)
    with pytest.raises(SubjectError, match=r"name a token in the study's setting bos, or set it to none\.$"):
        SubjectTokenizer.load(files.folder, VOCABULARY)
    with pytest.raises(
        SettingsError, match=r"method\.mask_token is auto, but the tokenizer has neither .* 384 tokens: n"
    ):
        load(files)
    assert load(files, mask="e").facts["bos_token"] is None


def without_special_tokens(folder: Path) -> None:
    state = json.loads((folder / "tokenizer.json").read_text().replace(END, "<a>").replace(BOS, "<b>"))
    (folder / "tokenizer.json").write_text(json.dumps(state))
    (folder / "tokenizer_config.json").write_text("{}")


def test_the_mask_is_the_tokenizers_own_bos_where_it_has_no_other(tmp_path):
    folder = tiny_llama(tmp_path / "tiny").folder
    without_special_tokens(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<b>"}))
    assert SubjectTokenizer.load(folder, VOCABULARY, "none").mask_id("auto") == 1


def test_none_is_no_token_however_yaml_spells_it(tmp_path):
    folder = tiny_llama(tmp_path / "tiny").folder
    loaded = SubjectTokenizer.load(folder, VOCABULARY, "None")
    assert (loaded.bos.token, loaded.bos.token_id) == (None, VOCABULARY)
    assert replace(loaded.bos) == SubjectTokenizer.load(folder, VOCABULARY, "none").bos


def test_a_model_that_reads_its_bos_is_handed_the_very_tokens_and_gives_the_very_values(tmp_path):
    model = load_tiny(tiny_llama(tmp_path / "tiny"))
    tokens = torch.tensor([[model.bos_id, *BARE[0]]])
    read, inputs = model.as_read(tokens, position_ids=tokens)
    assert read is tokens
    assert inputs["position_ids"] is tokens
    assert torch.equal(model.read_layers(tokens, [LAYER])[LAYER][0], of_bare_text(model, tokens[0].tolist()))
    with torch.inference_mode():
        assert torch.equal(model.logits(tokens), model.plain(tokens).logits)


def test_the_bridge_leaves_the_tokenizer_as_it_is(tmp_path):
    """TransformerLens gives a tokenizer tokens that it lacks, and the mask would be one of these."""
    files = tiny_llama(tmp_path / "tiny")
    without_special_tokens(files.folder)
    (files.folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<b>"}))
    model = load_tiny(files)
    assert model.mask_id == model.bos_id == 1
    assert model.tokenizer.transformers.pad_token is None
