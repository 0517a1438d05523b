"""The prober against the model run on one prompt at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.method.probing import Unit
from n2g_assets.subject.batching import batches, pad
from n2g_assets.subject.model import SubjectModel
from n2g_assets.subject.prober import LayerProber
from n2g_assets_tests.tiny_models import load_tiny, tiny_gpt2, tiny_llama

LAYER = 1


@pytest.fixture(scope="module", params=[tiny_llama, tiny_gpt2], ids=["llama", "gpt2"])
def model(request, tmp_path_factory) -> SubjectModel:
    return load_tiny(request.param(tmp_path_factory.mktemp("model") / "tiny"))


def make_prompts(model: SubjectModel, number: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 32, number)
    return [np.array([model.bos_id, *rng.integers(2, 300, n - 1)], dtype=np.int32) for n in lengths]


def one_by_one(model: SubjectModel, prompts: list[np.ndarray], units: list[Unit]) -> list[np.ndarray]:
    answers = []
    for prompt, unit in zip(prompts, units, strict=True):
        seen: list[torch.Tensor] = []
        model.run(torch.from_numpy(prompt.astype(np.int64))[None], {LAYER: seen.append})
        answers.append(seen[0][0, :, unit.neuron].numpy() * unit.sign)
    return answers


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_answers_are_those_of_one_prompt_at_a_time_in_any_batch(model, batch_tokens):
    prompts = make_prompts(model, 60)
    rng = np.random.default_rng(1)
    units = [Unit(int(n), int(s)) for n, s in zip(rng.integers(0, 48, 60), rng.choice([1, -1], 60), strict=True)]
    answers = LayerProber(model, LAYER, batch_tokens).activations(prompts, units)
    for answer, expected in zip(answers, one_by_one(model, prompts, units), strict=True):
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, expected, atol=1e-4 * np.abs(expected).max())


def test_a_prompt_that_several_units_ask_about_runs_once(model):
    prompts = make_prompts(model, 5)
    prober = LayerProber(model, LAYER, 4096)
    units = [Unit(i % 3, 1 if i % 2 else -1) for i in range(20)]
    answers = prober.activations(prompts * 4, units)
    assert prober.tokens <= sum(map(len, prompts))
    assert prober.calls == 1
    for answer, expected in zip(answers, one_by_one(model, prompts * 4, units), strict=True):
        np.testing.assert_allclose(answer, expected, atol=1e-4 * np.abs(expected).max())


def test_nothing_asked_runs_nothing(model):
    prober = LayerProber(model, LAYER, 64)
    assert prober.activations([], []) == []
    assert prober.calls == prober.tokens == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 200))
def test_batches_hold_every_prompt_once_and_no_more_tokens_than_asked(lengths, batch_tokens):
    found = list(batches(np.array(lengths, dtype=np.int64), batch_tokens))
    assert sorted(n for batch in found for n in batch) == list(range(len(lengths)))
    for batch in found:
        longest = max(lengths[n] for n in batch)
        assert len(batch) == 1 or len(batch) * longest <= max(batch_tokens, 1)


def test_prompts_are_padded_on_the_right():
    assert pad([np.array([1, 2]), np.array([3])], 9).tolist() == [[1, 2], [3, 9]]
