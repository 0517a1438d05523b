"""Packed prompts give what they give one by one, and share what they have in common."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.units import Unit
from n2g_assets.model import batching
from n2g_assets.model import model as models
from n2g_assets.model.batching import TokenBudget
from n2g_assets.model.packing import pack
from n2g_assets.model.prober import LayerProber
from n2g_assets_tests.tiny_models import load_tiny, tiny_gemma, tiny_gpt2, tiny_llama, tiny_neox

prompts_of_tokens = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=30)


def slow_rows(prompts: list[list[int]], row_tokens: int) -> list[tuple[list[tuple[int, ...]], list[int]]]:
    """By row its nodes, each written as the beginning of a prompt that ends there, and the numbers of its prompts."""
    rows: list[tuple[list[tuple[int, ...]], list[int]]] = []
    for number in sorted(range(len(prompts)), key=prompts.__getitem__):
        beginnings = [tuple(prompts[number][:length]) for length in range(1, len(prompts[number]) + 1)]
        new = [each for each in beginnings if not rows or each not in rows[-1][0]]
        if not rows or (new and len(rows[-1][0]) + len(new) > row_tokens):
            rows.append(([], []))
            new = beginnings
        rows[-1][0].extend(new)
        rows[-1][1].append(number)
    return rows


@settings(max_examples=100, deadline=None)
@given(prompts_of_tokens, st.integers(0, 40))
def test_rows_are_those_of_inserting_prompt_after_prompt_into_prefix_trees(prompts, row_tokens):
    rows = pack([np.array(prompt, np.int32) for prompt in prompts], row_tokens)
    expected, offsets = slow_rows(prompts, row_tokens), np.cumsum([0, *map(len, prompts)])
    assert rows.starts.shape[1] == len(expected) + 1
    for row, (nodes, numbers) in enumerate(expected):
        (first, start), (last, end) = rows.starts[:, row], rows.starts[:, row + 1]
        tokens, depths, ends = rows.nodes[:, first:last].tolist()
        assert list(zip(tokens, depths, strict=True)) == [(node[-1], len(node) - 1) for node in nodes]
        for node, after in zip(nodes, ends, strict=True):
            below = [number for number, other in enumerate(nodes) if other[: len(node)] == node]
            assert below == list(range(nodes.index(node), after))
        places, path = rows.paths[:, start:end].tolist()
        assert places == [place for number in numbers for place in range(offsets[number], offsets[number + 1])]
        spelt = [tuple(prompts[number][:length]) for number in numbers for length in range(1, len(prompts[number]) + 1)]
        assert [nodes[node] for node in path] == spelt


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


def test_a_batch_is_read_back_once_the_next_is_launched_and_its_memory_shortage_loses_none(tmp_path, monkeypatch):
    model, order = load_tiny(tiny_llama(tmp_path / "tiny")), list[str]()
    assert model.packs and model.narrows  # noqa: PT018  (checked once, before anything is counted)
    prompts = [np.array([model.bos_id, *range(n, n + 20)], np.int32) for n in range(2, 10)]
    units = [Unit(5, 1)] * len(prompts)
    expected = LayerProber(model, 1, TokenBudget(4096)).activations(prompts, units)
    whole, arrived = model.plain.forward, batching._arrived

    def forward(tokens, **inputs):
        order.append("too large" if tokens.numel() > 200 else "launched")
        if tokens.numel() > 200:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(tokens, **inputs)

    monkeypatch.setattr(model.plain, "forward", forward)
    monkeypatch.setattr(batching, "_arrived", lambda *under_way: order.append("read back") or arrived(*under_way))
    prober = LayerProber(model, 1, TokenBudget(512))
    answers = prober.activations(prompts, units)
    launches = order.count("launched")
    assert launches > 1
    assert order == ["too large", "launched", *["launched", "read back"] * (launches - 1), "read back"]
    assert prober.calls == launches
    for answer, other in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer, other, atol=1e-4 * np.abs(other).max())
