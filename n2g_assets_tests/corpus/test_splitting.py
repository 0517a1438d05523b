from __future__ import annotations

import hashlib
from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.corpus.splitting import find_runs, join_clusters, near_duplicates, split_documents

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
    one = split_documents(ids, documents, held_out_share=0.5, run=RUN)
    other = split_documents([ids[n] for n in order], [documents[n] for n in order], held_out_share=0.5, run=RUN)
    assert [one.cluster_ids[n] for n in order] == other.cluster_ids
    assert one.held_out[order].tolist() == other.held_out.tolist()
    assert one.shared_run_share == other.shared_run_share


def test_an_edited_copy_stays_with_its_original_and_is_named_after_the_smaller_id():
    documents = random_documents(40, 300, seed=0)
    endings = random_documents(40, 100, seed=99)
    copies = [np.concatenate([tokens[:200], ending]) for tokens, ending in zip(documents, endings, strict=True)]
    ids = ids_of([*documents, *copies])
    split = split_documents(ids, [*documents, *copies], held_out_share=0.5, run=13)
    for n in range(40):
        assert split.cluster_ids[n] == split.cluster_ids[40 + n] == min(ids[n], ids[40 + n])
        assert split.held_out[n] == split.held_out[40 + n]


def test_a_quotation_or_a_licence_line_in_every_file_chains_nothing():
    licence = random_documents(1, 20, seed=5)[0]
    documents = [np.concatenate([licence, tokens]) for tokens in random_documents(300, 200, seed=1)]
    split = split_documents(ids_of(documents), documents, held_out_share=0.2, run=13)
    assert len(set(split.cluster_ids)) == 300
    assert 0.1 < split.held_out.mean() < 0.3
    assert split.shared_run_share == 8 / 208  # the 8 runs of the licence among the 208 of each document


def test_more_copies_than_a_run_is_paired_for_still_form_one_cluster():
    (original,) = random_documents(1, 100, seed=2)
    copies = [np.concatenate([original, own]) for own in random_documents(100, 50, seed=3)]
    others = random_documents(200, 150, seed=4)
    split = split_documents(ids_of([*copies, *others]), [*copies, *others], held_out_share=0.2, run=13)
    assert len(set(split.cluster_ids[:100])) == 1
    assert len(set(split.cluster_ids)) == 201


def test_about_a_fifth_is_held_out_and_nobody_moves_when_documents_are_added():
    documents = random_documents(2000, 20, seed=6)
    ids = ids_of(documents)
    half = split_documents(ids[:1000], documents[:1000], held_out_share=0.2, run=13)
    whole = split_documents(ids, documents, held_out_share=0.2, run=13)
    assert whole.held_out[:1000].tolist() == half.held_out.tolist()
    assert 0.17 < whole.held_out.mean() < 0.23


def test_a_sample_of_the_smallest_ids_is_split_like_any_other():
    documents = random_documents(2000, 20, seed=7)
    ids, documents = zip(*sorted(zip(ids_of(documents), documents, strict=True), key=lambda pair: pair[0]), strict=True)
    split = split_documents(ids[:400], documents[:400], held_out_share=0.2, run=13)
    assert 0.13 < split.held_out.mean() < 0.27


def test_a_cluster_with_more_than_half_of_the_tokens_is_harvested():
    for seed in range(30):  # whatever its hash says
        documents = [*random_documents(1, 200, seed=seed), *random_documents(3, 50, seed=100 + seed)]
        assert not split_documents(ids_of(documents), documents, held_out_share=0.9, run=13).held_out[0]


def test_documents_shorter_than_a_run_and_no_documents_at_all_are_split_too():
    documents = random_documents(5, 3, seed=8)
    split = split_documents(ids_of(documents), documents, held_out_share=0.0, run=13)
    assert split.cluster_ids == ids_of(documents)
    assert not split.held_out.any()
    assert split_documents([], [], held_out_share=0.2, run=13).cluster_ids == []
