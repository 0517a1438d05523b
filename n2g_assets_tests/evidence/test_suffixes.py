"""Numbers of the runs of tokens that end at each position: the same as tuples give, whatever the partitions."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.errors import CorpusError
from n2g_assets.core.home import Home
from n2g_assets.evidence import suffixes
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.suffixes import LONGEST, Suffixes, suffix_numbers
from n2g_assets.storage.cache import Cache

BOS = 0
TEXTS = [[BOS, 5, 5, 7, 5, 5, 7, 5], [BOS], [BOS, 5, 5, 7], [BOS, 100000, 5, 5, 7, 5, 5, 7, 70000, 5], [BOS, 7, 5]]


def corpus_of(texts: list[list[int]]) -> TokenCorpus:
    names = [f"doc{number}" for number in range(len(texts))]
    schema = {"context_id": pl.String, "document_id": pl.String, "token_ids": pl.List(pl.Int32)}
    return TokenCorpus.from_frame(pl.DataFrame([names, names, texts], schema=schema))


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(Home(tmp_path))


def check(found: Suffixes, texts: list[list[int]]) -> None:
    """Every field is what tuples of the last k tokens, the last one first, give in their order."""
    assert found.numbers.dtype == np.int32
    shorter: dict[tuple[int, ...], int] = {}
    for k in range(1, LONGEST + 1):
        ending = [tuple(text[: p + 1][::-1][:k]) if p + 1 >= k else None for text in texts for p in range(len(text))]
        runs = {run: number for number, run in enumerate(sorted({run for run in ending if run is not None}))}
        assert found.numbers[k - 1].tolist() == [-1 if run is None else runs[run] for run in ending]
        assert found.counts[k - 1] == len(runs)
        assert found.parents[k - 1].tolist() == [shorter[run[:-1]] for run in runs if k > 1]
        assert (np.diff(found.parents[k - 1]) >= 0).all()
        shorter = runs


@pytest.mark.parametrize("partition", [1, 3, 1000])
@pytest.mark.parametrize("threads", [1, 3])
def test_equal_runs_have_equal_numbers_in_the_order_of_their_last_tokens(cache, monkeypatch, partition, threads):
    monkeypatch.setattr(suffixes, "_BLOCK", 4)
    check(suffix_numbers(corpus_of(TEXTS), cache, threads=threads, partition=partition), TEXTS)


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.lists(st.sampled_from([1, 2, 3, 255, 256, 49151, 260000]), max_size=12), max_size=8),
    partition=st.integers(1, 60),
    few=st.booleans(),
)
def test_numbers_counts_and_parents_are_those_of_tuples(texts, partition, few):
    texts = [[BOS, *(min(token, 3) if few else token for token in text)] for text in texts]
    with tempfile.TemporaryDirectory() as folder:
        check(suffix_numbers(corpus_of(texts), Cache(Home(Path(folder))), threads=1, partition=partition), texts)


@pytest.mark.parametrize("texts", [[], [[BOS]], [[BOS], [BOS]]])
def test_a_corpus_of_nothing_or_of_bos_alone_has_few_runs_or_none(cache, texts):
    check(suffix_numbers(corpus_of(texts), cache), texts)


def test_a_second_call_reads_the_entry_and_other_contexts_of_the_same_tokens_have_one_of_their_own(cache, monkeypatch):
    texts = [[BOS, 5, 7], [BOS, 5]]
    suffix_numbers(corpus_of(texts), cache)
    joined = [[BOS, 5, 7, BOS, 5]]
    check(suffix_numbers(corpus_of(joined), cache), joined)
    monkeypatch.setattr(suffixes, "_number", None)
    again = suffix_numbers(corpus_of(texts), cache, threads=2, partition=1)
    check(again, texts)
    assert isinstance(again.numbers, np.memmap)
    assert len(cache.listing("suffixes")) == 2


def test_a_damaged_file_is_made_again(cache, caplog):
    texts = [[BOS, 5, 7, 5, 7]]
    suffix_numbers(corpus_of(texts), cache)
    (path,) = cache.home.cache.glob("suffixes/*/numbers.npy")
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    check(suffix_numbers(corpus_of(texts), cache), texts)
    assert "made again" in caplog.text
    assert not list(cache.home.cache.rglob("places.npy"))


def test_more_tokens_than_runs_can_be_numbered_in_are_refused_before_anything_is_written(cache):
    corpus = replace(corpus_of(TEXTS), token_ids=np.broadcast_to(np.int32(5), 2**31))
    with pytest.raises(CorpusError, match=r"2,147,483,648 tokens, but .* 2,147,483,647 at the most: lower harvest.max"):
        suffix_numbers(corpus, cache)
    assert not list(cache.home.root.iterdir())
