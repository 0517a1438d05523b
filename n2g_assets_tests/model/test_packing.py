"""Packed prompts give what they give one by one, and share what they have in common."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.units import Unit
from n2g_assets.model import model as models
from n2g_assets.model.batching import TokenBudget
from n2g_assets.model.packing import pack
from n2g_assets.model.prober import LayerProber
from n2g_assets_tests.tiny_models import load_tiny, tiny_gemma, tiny_gpt2, tiny_llama, tiny_neox

prompts_of_tokens = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(prompts_of_tokens, st.integers(1, 40))
def test_every_path_spells_its_prompt_and_no_prefix_of_a_row_stands_twice(prompts, row_tokens):
    arrays = [np.array(prompt, np.int32) for prompt in prompts]
    rows = pack(arrays, row_tokens)
    assert sorted(number for row in rows for number in row.paths) == list(range(len(prompts)))
    for row in rows:
        assert len(row.tokens) <= max(row_tokens, *(len(prompts[number]) for number in row.paths))
        for number, path in row.paths.items():
            assert [row.tokens[node] for node in path] == prompts[number]
            assert [row.parents[node] for node in path] == [-1, *path[:-1]]
            assert [row.depths[node] for node in path] == list(range(len(path)))
        prefixes = {tuple(prompts[n][:depth]) for n in row.paths for depth in range(1, len(prompts[n]) + 1)}
        assert len(row.tokens) == len(prefixes)


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2, tiny_neox])
def test_variants_of_a_prompt_cost_less_and_answer_the_same(tmp_path, build):
    model = load_tiny(build(tmp_path / "tiny"))
    assert model.packs
    rng = np.random.default_rng(0)
    prompt = np.array([model.bos_id, *rng.integers(2, 300, 19)], np.int32)
    variants = [prompt]
    for position in range(1, 20):
        variants.append(prompt.copy())
        variants[-1][position] = 7
    prober, unit = LayerProber(model, 1, TokenBudget(4096)), Unit(5, 1)
    together = prober.activations(variants, [unit] * len(variants))
    assert prober.tokens < 0.7 * sum(map(len, variants))
    for variant, answer in zip(variants, together, strict=True):
        alone = LayerProber(model, 1, TokenBudget(4096)).activations([variant], [unit])[0]
        np.testing.assert_allclose(answer, alone, atol=1e-4 * np.abs(alone).max())


def test_prompts_longer_than_an_attention_window_are_read_apart(tmp_path):
    model = load_tiny(tiny_gemma(tmp_path / "tiny"))
    assert model.packs == 8
    rng = np.random.default_rng(0)
    for length, packed in ((8, True), (9, False)):
        prompts = [np.array([model.bos_id, *rng.integers(2, 300, length - 1)], np.int32)]
        for position in range(1, length):
            prompts.append(prompts[0].copy())
            prompts[-1][position] = 7
        prober, units = LayerProber(model, 2, TokenBudget(4096)), [Unit(5, 1)] * length
        answers = prober.activations(prompts, units)
        assert (prober.tokens < sum(map(len, prompts))) == packed
        for prompt, answer in zip(prompts, answers, strict=True):
            alone = LayerProber(model, 2, TokenBudget(4096)).activations([prompt], [Unit(5, 1)])[0]
            np.testing.assert_allclose(answer, alone, atol=1e-4 * np.abs(alone).max())


def test_an_attention_window_that_no_config_names_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_WINDOWS", ())
    assert load_tiny(tiny_gemma(tmp_path / "tiny")).packs == 0


def test_a_hook_that_only_the_bridge_reads_is_not_packed(tmp_path):
    model = load_tiny(tiny_gpt2(tmp_path / "tiny"), hook="attn.hook_q")
    assert model.bridge is not None
    assert not model.packs
