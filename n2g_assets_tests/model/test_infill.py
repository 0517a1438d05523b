"""Infill against its definition: every variant is written out and all of its logits are read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from n2g_assets.core.settings import MethodSettings
from n2g_assets.model.infill import InfillProposer
from n2g_assets.model.model import SubjectModel
from n2g_assets.model.vocabulary import build_vocabulary
from n2g_assets_tests.tiny_models import SENTENCES, load_tiny, tiny_gpt2, tiny_llama, tiny_neox

SETTINGS = MethodSettings(infill_candidates=20, infill_rescored=6, infill_right_tokens=3)
NEAR = 2e-4
"""Log chances that differ by less may be ordered by rounding, which depends on processor and batch."""


@pytest.fixture(scope="module", params=[tiny_llama, tiny_gpt2, tiny_neox], ids=["llama", "gpt2", "neox"])
def model(request, tmp_path_factory) -> SubjectModel:
    return load_tiny(request.param(tmp_path_factory.mktemp("model") / "tiny"))


def vocabulary_of(model: SubjectModel):
    return build_vocabulary(model.tokenizer, model.d_vocab, normalise=True, bos_id=model.bos_id, mask_id=model.mask_id)


def prompts_of(model: SubjectModel) -> list[np.ndarray]:
    ids = model.encode(SENTENCES[:4])
    return [np.concatenate([[model.bos_id], row[: 4 + 3 * n]]).astype(np.int32) for n, row in enumerate(ids)]


def log_chances(model: SubjectModel, tokens: list[int]) -> np.ndarray:
    return model.logits(torch.tensor([tokens]))[0].log_softmax(dim=1).numpy()


def left_chances(model: SubjectModel, prompt: np.ndarray, position: int) -> np.ndarray:
    return log_chances(model, prompt.tolist())[position - 1]


def assert_as_defined(ids: list[int], model: SubjectModel, vocabulary, prompt: np.ndarray, position: int) -> None:
    """The 20 likeliest after the left, the first 6 by what follows too; nearly equal ones in either order."""
    tokens, left = prompt.tolist(), left_chances(model, prompt, position)

    def is_text(token_id: int) -> bool:
        try:
            return vocabulary.tokens[token_id].decode() != ""
        except UnicodeDecodeError:
            return False

    able = [i for i in range(model.d_vocab) if i > 1 and i != tokens[position] and is_text(i)]
    right = tokens[position + 1 : position + 4]

    def score(candidate: int) -> float:
        variant = [*tokens[:position], candidate, *right]
        chances = log_chances(model, variant)
        return left[candidate] + sum(chances[position + n, token] for n, token in enumerate(right))

    likeliest = sorted(left[able], reverse=True)[:20]
    assert len(set(ids)) == len(ids)
    assert set(ids) <= set(able)
    rescored, others = (ids[:6], ids[6:]) if right else ([], ids)
    np.testing.assert_allclose(sorted(left[rescored], reverse=True), likeliest[: len(rescored)], atol=NEAR)
    np.testing.assert_allclose(left[others], likeliest[len(rescored) :], atol=NEAR)
    assert (np.diff([score(candidate) for candidate in rescored]) < NEAR).all()


def assert_same(one, other, model: SubjectModel, prompts: list[np.ndarray], positions: list[list[int]]) -> None:
    """The same answers; candidates that are equally likely within rounding may stand in either order."""
    for prompt, asked, mine, theirs in zip(prompts, positions, one, other, strict=True):
        for position, left, right in zip(asked, mine, theirs, strict=True):
            chances = left_chances(model, prompt, position)
            numbers = [[substitute.token_ids[0] for substitute in side] for side in (left, right)]
            assert sorted(numbers[0]) == sorted(numbers[1])
            differing = [pair for pair in zip(*numbers, strict=True) if pair[0] != pair[1]]
            assert all(abs(chances[a] - chances[b]) < NEAR for a, b in differing)


def test_substitutes_are_those_of_writing_out_every_variant(model):
    vocabulary = vocabulary_of(model)
    proposer = InfillProposer(model, vocabulary, SETTINGS)
    prompts = prompts_of(model)
    positions = [[len(p) - 1, 1, 2] for p in prompts]
    answers = proposer.propose(prompts, positions)
    for prompt, asked, answer in zip(prompts, positions, answers, strict=True):
        for position, substitutes in zip(asked, answer, strict=True):
            ids = [substitute.token_ids[0] for substitute in substitutes]
            assert_as_defined(ids, model, vocabulary, prompt, position)
            assert [s.text.encode() for s in substitutes] == [vocabulary.tokens[i] for i in ids]
    assert proposer.tokens > 0


def test_reading_candidates_one_by_one_gives_the_same(model, monkeypatch):
    proposer = InfillProposer(model, vocabulary_of(model), SETTINGS)
    prompts = prompts_of(model)
    positions = [list(range(1, len(p))) for p in prompts]
    shared = proposer.propose(prompts, positions)
    tokens, proposer.tokens = proposer.tokens, 0
    monkeypatch.setattr(model, "packs", 0)
    assert_same(proposer.propose(prompts, positions), shared, model, prompts, positions)
    assert tokens < proposer.tokens


def test_the_answer_does_not_depend_on_the_other_prompts(model):
    proposer = InfillProposer(model, vocabulary_of(model), SETTINGS)
    prompts = prompts_of(model)
    together = proposer.propose(prompts * 9, [[1, 3]] * 36)
    for prompt, answer in zip(prompts, together, strict=False):
        assert_same(proposer.propose([prompt], [[3, 1]]), [answer[::-1]], model, [prompt], [[3, 1]])


def test_out_of_memory_halves_the_batches_and_leaves_no_place_out(model, monkeypatch):
    prompts = prompts_of(model)
    positions = [list(range(1, len(p))) for p in prompts]
    expected = InfillProposer(model, vocabulary_of(model), SETTINGS).propose(prompts, positions)
    proposer, whole, sizes = InfillProposer(model, vocabulary_of(model), SETTINGS), model.plain.forward, []

    def small_device(tokens, **inputs):
        sizes.append(tokens.numel())
        if tokens.numel() > 140:
            raise torch.OutOfMemoryError("no memory left")
        return whole(tokens, **inputs)

    monkeypatch.setattr(model.plain, "forward", small_device)
    assert_same(proposer.propose(prompts, positions), expected, model, prompts, positions)
    assert max(sizes) > 140
    assert proposer.budget.tokens <= 140


def test_logits_are_computed_once_for_all_gaps_with_the_same_text_on_their_left(model, monkeypatch):
    proposer, asked, logits = InfillProposer(model, vocabulary_of(model), SETTINGS), [], model.logits

    def counted(tokens, at, **inputs):
        asked.append(len(at[0]))
        return logits(tokens, at, **inputs)

    monkeypatch.setattr(model, "logits", counted)
    prompts = [np.array([model.bos_id, token, 300], np.int32) for token in range(40, 60)]
    proposer.propose(prompts, [[1]] * len(prompts))
    assert asked[0] == 1
    assert asked[1] in (6, 7)  # the six best, and the next where one of them is an original
    assert len(asked) == 2


def test_special_tokens_and_the_original_are_never_proposed(model):
    vocabulary = vocabulary_of(model)
    proposer = InfillProposer(model, vocabulary, MethodSettings(infill_candidates=400, infill_rescored=1))
    prompt = prompts_of(model)[0]
    (answer,) = proposer.propose([prompt], [[0, 2]])
    assert answer[0] == []
    ids = {substitute.token_ids[0] for substitute in answer[1]}
    assert len(ids) == len(answer[1]) > 200
    assert ids.isdisjoint({model.bos_id, model.mask_id, int(prompt[2])})
    assert all(vocabulary.tokens[i] for i in ids)


def test_nothing_asked_proposes_nothing(model):
    proposer = InfillProposer(model, vocabulary_of(model), SETTINGS)
    assert proposer.propose([], []) == []
    assert proposer.propose([prompts_of(model)[0]], [[]]) == [[]]
