"""The contexts that a graph asks for, and what is learnt from them."""

import numpy as np
import polars as pl

from n2g_assets.evaluation.harvest import HarvestLabels
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.targeted import ask
from n2g_assets_tests.evaluation.toy_harvest import VOCABULARY, harvest_of, ids
from n2g_assets_tests.method.class_harvest import Harvest
from n2g_assets_tests.method.toy import BOS


def contexts(**documents: list[list[int]]) -> pl.DataFrame:
    rows = [(f"{name}:{n}", name, [BOS, *ids]) for name, of in documents.items() for n, ids in enumerate(of)]
    return pl.DataFrame(rows, schema=["context_id", "document_id", "token_ids"], orient="row")


def test_a_graph_asks_for_the_contexts_of_its_strongest_tokens_few_of_one_document():
    graph = Harvest(0).grow()  # 3 and 5 are liked, above all after 7; 4 is disliked
    corpus = TokenCorpus.from_frame(contexts(
        weak=[[4, 4], [1, 2]], strong=[[1, 7, 3], [2, 7, 5], [7, 3, 1]], liked=[[2, 3]], none=[[1, 1]],
    ))  # fmt: skip
    expected = [
        graph.predict_sizes(tokens, np.arange(len(tokens), dtype=np.int32), [100])[0, 1:].max()
        for tokens in (corpus.tokens(number) for number in range(len(corpus.lengths)))
    ]
    assert graph.predict_sizes(np.array([BOS], np.int32), np.zeros(1, np.int32), [100])[0, 0] == 0
    of_strong = sorted((2, 3, 4), key=lambda number: (-expected[number], number))
    assert ask(graph, corpus, 3, 2) == [*of_strong[:2], 5]
    assert ask(graph, corpus, 2, 1) == [of_strong[0], 5]
    every = ask(graph, corpus, 100, 100)
    assert sorted(every) == list(range(7))
    assert every[-1] == min(range(7), key=lambda number: expected[number])
    assert max(expected[1], expected[0]) < 0  # BOS expects nothing, which would be more


def test_a_long_text_is_read_in_parts(monkeypatch):
    graph, harvest = Harvest(0).grow(), Harvest(5)
    rows = np.split(harvest.token_ids, len(harvest.token_ids) // 16)
    corpus = TokenCorpus.from_frame(contexts(**{f"d{n}": [row[1:].tolist()] for n, row in enumerate(rows)}))
    whole = ask(graph, corpus, 20, 1)
    monkeypatch.setattr("n2g_assets.evidence.targeted._TOGETHER", 37)
    assert ask(graph, corpus, 20, 1) == whole


def test_targeted_contexts_teach_and_decide_nothing_and_are_left_out_with_their_near_duplicates():
    texts = {"d0": "abc", "d1": "bca", "t0": "cab", "t1": "aaa"}
    frame = pl.DataFrame({
        "context_id": [f"{name}:0" for name in texts], "document_id": list(texts),
        "token_ids": pl.Series([ids(text) for text in texts.values()], dtype=pl.List(pl.Int32)),
    })  # fmt: skip
    harvest = harvest_of(frame, VOCABULARY, cluster_of={"t0": "d0"}, targeted=2)
    names = np.array(list(texts))[harvest.text.windows]
    assert set(names[harvest.real]) == {"d0", "d1"}
    assert np.array_equal(harvest.without([]), harvest.text.inside)
    assert set(names[harvest.without(["d0"])]) == {"d1", "t1"}
    assert sorted(document for fold in harvest.folds(0) for document in fold) == ["d0", "d1"]
    labels = HarvestLabels.of(harvest, np.ones(len(harvest.text.encoded), np.float32), 1.0, ["d1"])
    assert set(names[labels.counted]) == {"d0", "t0", "t1"}
    assert set(names[labels.ordinary]) == {"d0"}
