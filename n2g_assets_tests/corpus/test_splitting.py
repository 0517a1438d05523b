from __future__ import annotations

import hashlib
from itertools import combinations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.corpus.spelling import Spelling
from n2g_assets.corpus.splitting import (
    find_leaks,
    find_runs,
    join_clusters,
    near_duplicates,
    short_twins,
    split_documents,
)
from n2g_assets_tests.corpus.helpers import BOS, SPELLING

RUN = 4


def ids_of(documents):
    return [hashlib.sha256(f"{n} {list(tokens)}".encode()).hexdigest()[:16] for n, tokens in enumerate(documents)]


def random_documents(n, length, seed, vocabulary=30000):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocabulary, length).astype(np.int32) for _ in range(n)]


def slow_runs(tokens, run):
    return {tuple(tokens[start : start + run].tolist()) for start in range(len(tokens) - run + 1)}


def slow_pairs(documents, run):
    """The definition, word for word: sets of tuples, every pair."""
    sets = [slow_runs(tokens, run) for tokens in documents]
    return [
        (left, right)
        for left, right in combinations(range(len(documents)), 2)
        if sets[left] & sets[right] and 10 * len(sets[left] & sets[right]) >= min(len(sets[left]), len(sets[right]))
    ]


def slow_clusters(n, pairs):
    """Repaint the larger mark by the smaller until nothing changes."""
    marks = list(range(n))
    while any(marks[left] != marks[right] for left, right in pairs):
        for left, right in pairs:
            marks[left] = marks[right] = min(marks[left], marks[right])
    return marks


small_documents = st.lists(
    st.lists(st.integers(0, 3), max_size=30).map(lambda tokens: np.array(tokens, dtype=np.int32)), max_size=9
)


@settings(max_examples=150, deadline=None)
@given(small_documents)
def test_runs_pairs_and_clusters_equal_the_slow_definition(documents):
    hashes, owners = find_runs(documents, RUN)
    per_document = np.bincount(owners, minlength=len(documents))
    assert per_document.tolist() == [len(slow_runs(tokens, RUN)) for tokens in documents]
    pairs = near_duplicates(hashes, owners)
    assert sorted(pairs) == slow_pairs(documents, RUN)
    assert join_clusters(len(documents), pairs).tolist() == slow_clusters(len(documents), pairs)


@settings(max_examples=50, deadline=None)
@given(small_documents, st.randoms(use_true_random=False))
def test_the_order_of_the_documents_does_not_matter(documents, random):
    ids = ids_of(documents)
    order = list(range(len(ids)))
    random.shuffle(order)
    one = split_documents(ids, documents, held_out_share=0.5, run=RUN, spelling=SPELLING)
    other = split_documents(
        [ids[n] for n in order], [documents[n] for n in order], held_out_share=0.5, run=RUN, spelling=SPELLING
    )
    assert [one.cluster_ids[n] for n in order] == other.cluster_ids
    assert one.held_out[order].tolist() == other.held_out.tolist()
    assert one.shared_run_share == other.shared_run_share


def test_an_edited_copy_stays_with_its_original_and_is_named_after_the_smaller_id():
    documents = random_documents(40, 300, seed=0)
    endings = random_documents(40, 100, seed=99)
    copies = [np.concatenate([tokens[:200], ending]) for tokens, ending in zip(documents, endings, strict=True)]
    ids = ids_of([*documents, *copies])
    split = split_documents(ids, [*documents, *copies], held_out_share=0.5, run=13, spelling=SPELLING)
    for n in range(40):
        assert split.cluster_ids[n] == split.cluster_ids[40 + n] == min(ids[n], ids[40 + n])
        assert split.held_out[n] == split.held_out[40 + n]


def test_a_quotation_or_a_licence_line_in_every_file_chains_nothing():
    licence = random_documents(1, 20, seed=5)[0]
    documents = [np.concatenate([licence, tokens]) for tokens in random_documents(300, 200, seed=1)]
    split = split_documents(ids_of(documents), documents, held_out_share=0.2, run=13, spelling=SPELLING)
    assert len(set(split.cluster_ids)) == 300
    assert 0.1 < split.held_out.mean() < 0.3
    assert split.shared_run_share == 8 / 208  # the 8 runs of the licence among the 208 of each document


def test_more_copies_than_a_run_is_paired_for_still_form_one_cluster():
    (original,) = random_documents(1, 100, seed=2)
    copies = [np.concatenate([original, own]) for own in random_documents(100, 50, seed=3)]
    others = random_documents(200, 150, seed=4)
    split = split_documents(
        ids_of([*copies, *others]), [*copies, *others], held_out_share=0.2, run=13, spelling=SPELLING
    )
    assert len(set(split.cluster_ids[:100])) == 1
    assert len(set(split.cluster_ids)) == 201


def test_about_a_fifth_is_held_out_and_nobody_moves_when_documents_are_added():
    documents = random_documents(2000, 20, seed=6)
    ids = ids_of(documents)
    half = split_documents(ids[:1000], documents[:1000], held_out_share=0.2, run=13, spelling=SPELLING)
    whole = split_documents(ids, documents, held_out_share=0.2, run=13, spelling=SPELLING)
    assert whole.held_out[:1000].tolist() == half.held_out.tolist()
    assert 0.17 < whole.held_out.mean() < 0.23


def test_a_sample_of_the_smallest_ids_is_split_like_any_other():
    documents = random_documents(2000, 20, seed=7)
    ids, documents = zip(*sorted(zip(ids_of(documents), documents, strict=True), key=lambda pair: pair[0]), strict=True)
    split = split_documents(ids[:400], documents[:400], held_out_share=0.2, run=13, spelling=SPELLING)
    assert 0.13 < split.held_out.mean() < 0.27


def test_a_cluster_with_more_than_half_of_the_tokens_is_harvested():
    for seed in range(30):  # whatever its hash says
        documents = [*random_documents(1, 200, seed=seed), *random_documents(3, 50, seed=100 + seed)]
        assert not split_documents(
            ids_of(documents), documents, held_out_share=0.9, run=13, spelling=SPELLING
        ).held_out[0]


def test_documents_shorter_than_a_run_and_no_documents_at_all_are_split_too():
    documents = random_documents(5, 3, seed=8)
    split = split_documents(ids_of(documents), documents, held_out_share=0.0, run=13, spelling=SPELLING)
    assert split.cluster_ids == ids_of(documents)
    assert not split.held_out.any()
    assert split_documents([], [], held_out_share=0.2, run=13, spelling=SPELLING).cluster_ids == []


# -------------------------------------------------------------------------------------------- short documents
def slow_short_twins(documents):
    """The definition, word for word, on every pair."""

    def without_a_span(tokens):
        widest = 0 if len(tokens) < 3 else max(1, len(tokens) // 4)
        spans = [(start, end) for start in range(len(tokens)) for end in range(start + 1, len(tokens) + 1)]
        return {tokens, *(tokens[:start] + tokens[end:] for start, end in spans if end - start <= widest)}

    def near(left, right):
        if left and right and len(left) < 16 and len(right) < 16 and without_a_span(left) & without_a_span(right):
            return True
        runs = [slow_runs(np.array(tokens), 4) for tokens in (left, right)]
        return all(12 <= len(tokens) < 64 for tokens in (left, right)) and 2 * len(runs[0] & runs[1]) >= max(
            map(len, runs)
        )

    tuples = [tuple(tokens.tolist()) for tokens in documents]
    return [(i, j) for i, j in combinations(range(len(tuples)), 2) if near(tuples[i], tuples[j])]


few_tokens = st.lists(st.integers(0, 2), max_size=20)


@settings(max_examples=60, deadline=None)
@given(st.lists(few_tokens.map(lambda tokens: np.array(tokens, dtype=np.int32)), max_size=8))
def test_short_twins_equal_the_slow_definition(documents):
    assert sorted(set(short_twins(documents))) == slow_short_twins(documents)


def edited(tokens, edits, seed):
    """Another token at each of so many places, far from one another."""
    changed = tokens.copy()
    places = (np.arange(edits) + 0.5) * len(tokens) / edits
    changed[places.astype(int)] = np.random.default_rng(seed).integers(30000, 40000, edits)
    return changed


def sides(documents, spelling=SPELLING):
    """The split of documents, and the leaks of a wrong one that harvests every second document."""
    ids = ids_of(documents)
    split = split_documents(ids, documents, held_out_share=0.5, run=13, spelling=spelling)
    rows = [
        (f"{n}", "held_out" if n % 2 else "harvest", window)
        for n, tokens in enumerate(documents)
        for start in range(0, len(tokens), 127)
        if len(window := [BOS, *tokens[start : start + 127].tolist()]) > 8 or start == 0
    ]
    schema = {"document_id": pl.String, "split": pl.String, "token_ids": pl.List(pl.Int32)}
    return split, find_leaks(pl.DataFrame(rows, schema=schema, orient="row"), 13, spelling)


@pytest.mark.parametrize(
    ("length", "edits"),
    [*((length, 1) for length in (3, 4, 5, 7, 8, 11, 12, 13, 16, 20, 25, 26, 40, 63, 64, 100, 300)), (24, 2), (40, 4)],
)
def test_documents_that_differ_in_a_token_share_a_side_at_any_length_and_the_leak_check_sees_them(length, edits):
    documents = [
        twin
        for n, tokens in enumerate(random_documents(40, length, seed=length))
        for twin in (tokens, edited(tokens, edits, n))
    ]
    split, leaks = sides(documents)
    assert split.cluster_ids[::2] == split.cluster_ids[1::2]
    assert len(set(split.cluster_ids)) == 40
    assert leaks == [(str(n + 1), str(n)) for n in range(0, 80, 2)]


@pytest.mark.parametrize("length", [4, 12, 30, 200])
def test_a_token_more_or_less_makes_no_other_document(length):
    documents = []
    for n, tokens in enumerate(random_documents(20, length, seed=length)):
        documents += [tokens, np.insert(tokens, n % length, 39999).astype(np.int32)]
    split, leaks = sides(documents)
    assert split.cluster_ids[::2] == split.cluster_ids[1::2]
    assert len(leaks) == 20


def test_short_documents_that_share_some_words_stay_apart():
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 300, length).astype(np.int32) for length in range(3, 60) for _ in range(6)]
    split, leaks = sides(documents)
    assert len(set(split.cluster_ids)) > 0.97 * len(documents)
    assert len(leaks) < 0.03 * len(documents)


def test_documents_of_one_or_two_other_tokens_are_no_twins():
    documents = [np.array(tokens, np.int32) for tokens in ([1], [2], [1, 2], [1, 3], [2, 1])]
    assert short_twins(documents) == []


# -------------------------------------------------------------------------------------------- white space
PIECES = [
    b"<s>",
    b" ",
    b"\n",
    b"\r",
    b"\t",
    b"  ",
    "\u00a0".encode(),
    b"a",
    b" a",
    b"\na",
    b"b",
    b" b",
    b"ab",
    b" ab",
    b"\xe2",
]
WRITTEN = Spelling(PIECES)


def test_tokens_that_differ_in_white_space_have_one_form_and_white_space_has_none():
    assert WRITTEN.forms(np.arange(1, 15)).tolist() == [7, 7, 7, 10, 10, 12, 12, 14]
    cut, joined = np.array([2, 7, 1, 10]), np.array([13, 5])  # the same text, cut into other tokens
    assert WRITTEN.whole(cut) == WRITTEN.whole(joined) != WRITTEN.whole(np.array([7, 7]))


@pytest.mark.parametrize("length", [1, 2, 5, 14, 30, 500])
def test_documents_that_differ_in_white_space_share_a_side_and_the_leak_check_sees_them(length):
    vocabulary = Spelling([b"<s>", b"\n", b"\r", b" ", *(b" %d" % n for n in range(4, 30004))])
    documents = []
    for tokens in random_documents(30, length, seed=length, vocabulary=30000):
        words = tokens + 4
        lines = np.insert(words, np.arange(0, length, 3), 1)
        documents += [lines.astype(np.int32), np.insert(lines, np.flatnonzero(lines == 1), 2).astype(np.int32)]
    split, leaks = sides(documents, vocabulary)
    assert split.cluster_ids[::2] == split.cluster_ids[1::2]
    assert len(set(split.cluster_ids)) == 30
    assert len(leaks) == 30


def test_a_word_that_white_space_cuts_otherwise_makes_no_other_document():
    one, other = np.array([13, 13, 7], np.int32), np.array([2, 7, 1, 10, 2, 7, 10, 9], np.int32)
    split, leaks = sides([one, other], WRITTEN)
    assert split.cluster_ids[0] == split.cluster_ids[1]
    assert leaks == [("1", "0")]


def test_documents_of_several_windows_are_not_compared_as_short_ones():
    (tokens,) = random_documents(1, 30, seed=1)
    rows = [
        (name, split, [BOS, *half.tolist()])
        for name, split in (("a", "harvest"), ("b", "held_out"))
        for half in (tokens[:15] + (name == "b") * np.array([0] * 7 + [1] + [0] * 7), tokens[15:] + (name == "b"))
    ]
    schema = {"document_id": pl.String, "split": pl.String, "token_ids": pl.List(pl.Int32)}
    assert find_leaks(pl.DataFrame(rows, schema=schema, orient="row"), 13, SPELLING) == []


@pytest.mark.parametrize(("same", "other", "n"), [(4, 1, 300), (12, 8, 300)])
def test_documents_of_one_template_are_no_twins_of_one_another(same, other, n):
    """Joined by the template, all would be one cluster, and none held out."""
    template, rest = random_documents(1, same, 0)[0], random_documents(n, other, 1)
    documents = [np.concatenate([template, each]) for each in rest]
    split = split_documents(ids_of(documents), documents, held_out_share=0.2, run=13, spelling=SPELLING)
    assert len(set(split.cluster_ids)) > 0.9 * n
    assert 0.1 < split.held_out.mean() < 0.3
