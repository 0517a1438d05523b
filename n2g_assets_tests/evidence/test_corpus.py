"""The corpus of a pass: what can be harvested, and how it is cut into shards."""

from __future__ import annotations

import polars as pl
import pytest

from n2g_assets.core.errors import CorpusError
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.plan import cut
from n2g_assets_tests.evidence.helpers import LENGTH, make_contexts


def corpus_of(model, documents) -> TokenCorpus:
    return TokenCorpus.from_frame(make_contexts(model, documents))


def test_an_empty_harvest_one_of_bos_alone_and_a_context_that_is_too_long_say_what_to_do(model):
    corpus_of(model, range(3)).check_harvest(LENGTH)
    with pytest.raises(CorpusError, match="add documents"):
        corpus_of(model, []).check_harvest(LENGTH)
    alone = make_contexts(model, [5]).head(1).with_columns(token_ids=pl.col("token_ids").list.head(1))
    with pytest.raises(CorpusError, match="add documents"):
        TokenCorpus.from_frame(alone).check_harvest(LENGTH)
    with pytest.raises(CorpusError, match=r"more than harvest\.context_length"):
        corpus_of(model, range(3)).check_harvest(LENGTH - 1)


def test_shards_are_whole_documents_in_order_and_as_full_as_can_be(model):
    corpus = corpus_of(model, range(14))
    shards = cut(corpus, range(14), 150)
    assert [name for shard in shards for name in shard.document_ids] == corpus.document_ids
    sizes = [shard.n_tokens for shard in shards]
    first = [int(corpus.lengths[corpus.documents == corpus.documents[shard.contexts[0]]].sum()) for shard in shards]
    assert len(shards) > 2
    assert all(size <= 150 for size in sizes)
    assert all(size + following > 150 for size, following in zip(sizes, first[1:], strict=False))


def test_a_document_that_is_longer_than_a_shard_stands_alone(model):
    shards = cut(corpus_of(model, [5, 4, 10]), range(3), 20)
    assert [shard.document_ids for shard in shards] == [("doc05",), ("doc04",), ("doc10",)]


def test_a_shard_is_known_by_its_documents_contexts_and_tokens(model):
    whole = make_contexts(model, [4])
    turned = whole.with_columns(pl.col("token_ids").list.reverse())
    others = (whole, whole.head(3), whole.with_columns(document_id=pl.lit("renamed")), turned)
    ids = [cut(TokenCorpus.from_frame(frame), range(1), 1000)[0].shard_id for frame in others]
    assert len(set(ids)) == 4
    assert cut(TokenCorpus.from_frame(whole), range(1), 1000)[0].shard_id == ids[0]
