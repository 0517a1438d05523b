"""The prober against the model run on one prompt at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.errors import SubjectError
from n2g_assets.core.units import Unit
from n2g_assets.model.batching import TokenBudget, pad, run_batches
from n2g_assets.model.model import SubjectModel
from n2g_assets.model.prober import LayerProber
from n2g_assets_tests.tiny_models import load_tiny, tiny_gemma, tiny_gpt2, tiny_llama, tiny_neox, tiny_solu

LAYER = 1


@pytest.fixture(scope="module", params=[tiny_llama, tiny_gpt2, tiny_gemma], ids=["llama", "gpt2", "gemma"])
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
        answers.append(seen[0][0, :, unit.number].numpy() * unit.sign)
    return answers


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_answers_are_those_of_one_prompt_at_a_time_in_any_batch(model, batch_tokens):
    prompts = make_prompts(model, 60)
    rng = np.random.default_rng(1)
    units = [Unit(int(n), int(s)) for n, s in zip(rng.integers(0, 48, 60), rng.choice([1, -1], 60), strict=True)]
    answers = LayerProber(model, LAYER, TokenBudget(batch_tokens)).activations(prompts, units)
    for answer, expected in zip(answers, one_by_one(model, prompts, units), strict=True):
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, expected, atol=1e-4 * np.abs(expected).max())


def test_a_prompt_that_several_units_ask_about_runs_once(model):
    prompts = make_prompts(model, 5)
    prober = LayerProber(model, LAYER, TokenBudget(4096))
    units = [Unit(i % 3, 1 if i % 2 else -1) for i in range(20)]
    answers = prober.activations(prompts * 4, units)
    assert prober.tokens <= sum(map(len, prompts))
    assert prober.calls == 1
    for answer, expected in zip(answers, one_by_one(model, prompts * 4, units), strict=True):
        np.testing.assert_allclose(answer, expected, atol=1e-4 * np.abs(expected).max())


def test_only_the_asked_neurons_of_the_last_layer_are_computed(model):
    widths: list[int] = []
    assert model.narrows and model.packs  # noqa: PT018  (checked once, before anything is counted)
    original = torch.nn.functional.linear
    prompts, units = make_prompts(model, 8), [Unit(3, 1), Unit(40, -1)] * 4

    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func in (original, torch.addmm):
                widths.append(result.shape[-1])
            return result

    with Counting():
        LayerProber(model, LAYER, TokenBudget(4096)).activations(prompts, units)
    per_layer = 2 if model.facts["gated"] else 1
    assert widths.count(48) == per_layer * LAYER  # whole MLPs of the layers before it
    assert widths.count(2) == per_layer  # two neurons of its own


def test_after_a_narrowed_pass_the_model_is_whole_again(model):
    tokens = torch.tensor([[model.bos_id, 5, 6, 7]])
    before: list[torch.Tensor] = []
    after: list[torch.Tensor] = []
    model.run(tokens, {LAYER: before.append})
    narrow = model.read(tokens, LAYER, torch.tensor([7, 3]))
    model.run(tokens, {LAYER: after.append})
    assert torch.equal(before[0], after[0])
    torch.testing.assert_close(narrow, before[0][:, :, [7, 3]])


def test_neurons_that_mix_are_computed_together(tmp_path):
    model = load_tiny(tiny_solu(tmp_path / "solu"))
    assert not model.narrows
    prompts = make_prompts(model, 20)
    units = [Unit(n, 1) for n in range(20)]
    answers = LayerProber(model, LAYER, TokenBudget(4096)).activations(prompts, units)
    for answer, expected in zip(answers, one_by_one(model, prompts, units), strict=True):
        np.testing.assert_allclose(answer, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("hook", ["mlp.hook_post", "mlp.hook_pre", "hook_resid_pre"])
def test_a_narrowed_pass_gives_what_the_hook_gives_whatever_the_hook(tmp_path, hook):
    model = load_tiny(tiny_neox(tmp_path / "neox"), hook=hook)
    tokens, neurons = torch.tensor([[model.bos_id, *range(20, 30)]]), torch.tensor([30, 0, 5])
    whole: list[torch.Tensor] = []
    model.run(tokens, {LAYER: whole.append})
    torch.testing.assert_close(model.read(tokens, LAYER, neurons), whole[0][:, :, neurons])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("MPS backend out of memory (MPS allocated: 5.90 GB)."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        MemoryError(),
    ],
    ids=["cuda", "mps", "cublas", "c++", "cpu", "python"],
)
def test_out_of_memory_halves_the_batches_and_leaves_no_prompt_out(model, monkeypatch, error):
    prompts, units = make_prompts(model, 60), [Unit(n % 48, 1) for n in range(60)]
    expected = LayerProber(model, LAYER, TokenBudget(4096)).activations(prompts, units)
    whole, sizes = model.plain.forward, []

    def small_device(tokens, **inputs):
        sizes.append(tokens.numel())
        if tokens.numel() > 300:
            raise error
        return whole(tokens, **inputs)

    monkeypatch.setattr(model.plain, "forward", small_device)
    budget = TokenBudget(4096)
    answers = LayerProber(model, LAYER, budget).activations(prompts, units)
    for answer, before in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer, before, atol=1e-4 * np.abs(before).max())
    assert max(sizes) > 300
    assert budget.tokens <= 300  # the next calls start from what fitted
    assert sum(size > 300 for size in sizes) <= 4


def test_a_prompt_that_does_not_fit_alone_is_an_error_with_a_cure(model, monkeypatch):
    def no_device(tokens, **inputs):
        raise torch.OutOfMemoryError("no memory left")

    assert model.narrows
    assert model.packs
    monkeypatch.setattr(model.plain, "forward", no_device)
    with pytest.raises(SubjectError, match=r"single text of \d+ tokens: close other programs"):
        LayerProber(model, LAYER, TokenBudget(4096)).activations(make_prompts(model, 3), [Unit(0, 1)] * 3)


def test_other_errors_of_the_device_are_not_taken_for_a_lack_of_memory(model, monkeypatch):
    def broken(tokens, **inputs):
        raise RuntimeError("something else")

    assert model.narrows
    assert model.packs
    monkeypatch.setattr(model.plain, "forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        LayerProber(model, LAYER, TokenBudget(4096)).activations(make_prompts(model, 3), [Unit(0, 1)] * 3)


def test_nothing_asked_runs_nothing(model):
    prober = LayerProber(model, LAYER, TokenBudget(64))
    assert prober.activations([], []) == []
    assert prober.calls == prober.tokens == 0


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 200))
def test_batches_hold_every_prompt_once_and_no_more_tokens_than_asked(lengths, batch_tokens):
    found = [rows for rows, _ in run_batches(np.array(lengths, np.int64), TokenBudget(batch_tokens), len)]
    assert sorted(n for batch in found for n in batch) == list(range(len(lengths)))
    for batch in found:
        longest = max(lengths[n] for n in batch)
        assert len(batch) == 1 or len(batch) * longest <= max(batch_tokens, 1)


def test_prompts_are_padded_on_the_right():
    assert pad([np.array([1, 2]), np.array([3])], 9).tolist() == [[1, 2], [3, 9]]
