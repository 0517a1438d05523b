"""The scan of a vocabulary: what its contexts are, and what of it may be learnt from."""

import numpy as np
import polars as pl

from n2g_assets.evaluation.harvest import HarvestLabels
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.scan import PREFIX, ROUNDS, scan_contexts
from n2g_assets_tests.evaluation.toy_harvest import VOCABULARY, harvest_of, ids
from n2g_assets_tests.method.toy import BOS

D_VOCAB = len(VOCABULARY.tokens)
TEXTS = [f"{letter}ab" * 3 for letter in "aaabbbcc"]
HARVEST = pl.DataFrame({
    "context_id": [f"d{number}:0" for number in range(len(TEXTS))],
    "document_id": [f"d{number}" for number in range(len(TEXTS))],
    "token_ids": pl.Series([ids(text) for text in TEXTS], dtype=pl.List(pl.Int32)),
})  # fmt: skip


def scan() -> pl.DataFrame:
    return scan_contexts(TokenCorpus.from_frame(HARVEST), D_VOCAB, BOS)


def test_every_token_but_bos_ends_one_context_a_round_after_tokens_of_the_harvest():
    rows, seen = np.array(scan()["token_ids"].to_list()), set(HARVEST["token_ids"].explode()) - {BOS}
    assert rows.shape == (ROUNDS * (D_VOCAB - 1), 1 + PREFIX + 1)
    assert set(rows[:, 0]) == {BOS}
    assert set(rows[:, 1:-1].ravel()) <= seen
    for part in np.split(rows[:, -1], ROUNDS):
        assert sorted(part) == [token for token in range(D_VOCAB) if token != BOS]


def test_it_is_a_corpus_and_always_the_same():
    found = scan()
    assert found.equals(scan())
    assert found["context_id"].n_unique() == found.height
    assert len(TokenCorpus.from_frame(found).document_ids) == ROUNDS


def test_of_a_scan_the_last_tokens_are_learnt_from_in_every_fold_and_nothing_decides_by_them():
    both = pl.concat([HARVEST, scan()])
    harvest = harvest_of(both, VOCABULARY, scanned=scan().height)
    text = harvest.text
    last = np.flatnonzero(np.diff(text.windows, append=-1) != 0)
    counted = harvest.without([])
    assert np.flatnonzero(counted & ~harvest.real).tolist() == [place for place in last if not harvest.real[place]]
    assert np.array_equal(counted & harvest.real, text.inside & harvest.real)
    assert sorted(document for fold in harvest.folds(0) for document in fold) == HARVEST["document_id"].to_list()
    half = harvest.lagged.half[~harvest.real]
    assert half[: len(half) // 2].max() == 0
    assert half[len(half) // 2 :].min() == 1
    of_documents = [set(harvest.lagged.half[text.documents == number]) for number in range(HARVEST.height)]
    assert sum(of_document == {0, 1} for of_document in of_documents) > HARVEST.height // 2
    labels = HarvestLabels.of(harvest, np.ones(len(text.encoded), np.float32), 1.0, ["d0"])
    assert np.array_equal(labels.ordinary, labels.counted & harvest.real)
    assert labels.counted[~harvest.real].sum() == scan().height
