"""Documents that come as token ids, with real tokenizers that are trained on the spot."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.errors import CorpusError, SourceError
from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.corpus import documents as counted
from n2g_assets.corpus.documents import read_documents
from n2g_assets.corpus.rows import RawDocument
from n2g_assets.corpus.sources import open_source, source_fingerprints
from n2g_assets.corpus.spelling import Spelling
from n2g_assets.corpus.token_ids import Agreement, spell_out
from n2g_assets.model.tokens import SubjectTokenizer
from n2g_assets.model.vocabulary import build_vocabulary
from n2g_assets_tests.corpus.helpers import WordTokenizer, files
from n2g_assets_tests.tiny_models import SENTENCES, VOCABULARY, save_tiny_tokenizer

BOS, END = 1, 0
WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tiny_tokenizer(folder)
    return SubjectTokenizer.load(folder, VOCABULARY)


@pytest.fixture(scope="module")
def spelling(tokenizer):
    return Spelling(build_vocabulary(tokenizer, VOCABULARY, normalise=False, bos_id=BOS, mask_id=END).tokens)


@pytest.fixture
def read(tokenizer, spelling, tmp_path):
    def read(*sources):
        return read_documents(
            sources, study_folder=tmp_path, home=Home(tmp_path / ".home"), tokenizer=tokenizer, spelling=spelling,
            bos_id=BOS, harvest=HarvestSettings(context_length=16), needed_contexts=0,
        )  # fmt: skip

    return read


def text(seed: int, n_words: int = 40) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n_words))


def write(file: Path, rows: object, kind: pa.DataType | None = None, column: str = "input_ids") -> None:
    pq.write_table(pa.table({column: pa.array(rows, kind or pa.list_(pa.int32()))}), file)


def ids_of(tokenizer, *texts: str) -> list[list[int]]:
    return [ids.tolist() for ids in tokenizer.encode(texts)]


def tokens_by_name(corpus) -> dict[str, list[int]]:
    """The tokens of each document, put together from its contexts."""
    named = dict(corpus.documents.select("document_id", "name").iter_rows())
    found: dict[str, list[int]] = {}
    for document_id, window in corpus.contexts.select("document_id", "token_ids").iter_rows():
        found.setdefault(named[document_id], []).extend(window[1:])
    return found


@pytest.mark.parametrize(
    "kind",
    [
        *[pa.list_(each) for each in (pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64())],
        pa.large_list(pa.int32()),
        pa.list_(pa.int64(), 30),
    ],
    ids=str,
)
def test_a_column_of_lists_of_whole_numbers_is_taken_as_it_is(tokenizer, tmp_path, kind):
    rows = [[each for each in ids if each < 256][:30] for ids in ids_of(tokenizer, text(1), text(2))]
    write(tmp_path / "a.parquet", rows, kind)
    opened = open_source(files("a.parquet", text_field="input_ids"), study_folder=tmp_path, home=Home(tmp_path))
    found = [(each.name, each.token_ids.tolist()) for each in spell_out(iter(opened.documents), tokenizer)]
    assert found == [("a.parquet:0", rows[0]), ("a.parquet:1", rows[1])]


def test_ids_give_the_documents_that_their_text_gives(tokenizer, read, tmp_path):
    texts = [text(seed) for seed in range(12)]
    write(tmp_path / "a.parquet", ids_of(tokenizer, *texts))
    pq.write_table(pa.table({"text": texts}), tmp_path / "b.parquet")
    ids, plain = read(files("a.parquet", text_field="input_ids")), read(files("b.parquet"))
    left_out = ("source", "name")
    assert ids.documents.drop(left_out).equals(plain.documents.drop(left_out))
    assert ids.contexts.equals(plain.contexts)


def test_ids_and_text_of_one_document_are_duplicates_and_near_duplicates_share_a_cluster(tokenizer, read, tmp_path):
    same, near = text(1), text(2)
    write(tmp_path / "a.parquet", ids_of(tokenizer, same, near))
    pq.write_table(pa.table({"text": [same, near + " " + text(3, 5)]}), tmp_path / "b.parquet")
    corpus = read(files("a.parquet", text_field="input_ids"), files("b.parquet"))
    assert corpus.counts[counted.DUPLICATES] == 1
    assert corpus.counts[counted.CLUSTERS] == 1
    assert sorted(corpus.documents["name"]) == ["a.parquet:0", "a.parquet:1", "b.parquet:1"]


def test_rows_as_saelens_writes_them_are_cut_into_their_documents_and_no_bos_is_doubled(tokenizer, read, tmp_path):
    first, second, third = ids_of(tokenizer, text(1), text(2), text(3))
    stream = [*first, BOS, *second, BOS, *third]
    rows = [[BOS, *stream[start : start + 49]] for start in range(0, len(stream), 49)]
    write(tmp_path / "a.parquet", rows)
    corpus = read(files("a.parquet", text_field="input_ids"))
    windows = corpus.contexts["token_ids"].to_list()
    assert all(window[0] == BOS and BOS not in window[1:] for window in windows)
    pieces = [token for ids in tokens_by_name(corpus).values() for token in ids]
    assert len(pieces) == corpus.documents["n_tokens"].sum() - dropped(corpus)
    assert corpus.documents["n_tokens"].sum() == len(first) + len(second) + len(third)
    assert "a.parquet:0" in set(corpus.documents["name"])
    assert {name for name in corpus.documents["name"] if name.count(":") == 2}


def dropped(corpus) -> int:
    """Tokens of last windows that are too short for a context."""
    lengths = corpus.documents["n_tokens"].to_list()
    return sum(n % 15 for n in lengths if n > 15 and 0 < n % 15 < 8)


@settings(max_examples=40)
@given(pieces=st.lists(st.lists(st.integers(2, 300), max_size=4)), data=st.data())
def test_what_stands_between_separators_is_a_document(pieces, data):
    row = []
    for piece in pieces:
        row += [*piece, *data.draw(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=3))]
    document = RawDocument("a:7", "", token_ids=np.array(row, np.int64))
    found = list(spell_out(iter([document]), WordTokenizer()))
    full = [piece for piece in pieces if piece]
    assert [each.token_ids.tolist() for each in found] == (full or [[]])
    assert [each.name for each in found] == ([f"a:7:{n}" for n in range(len(full))] if len(full) > 1 else ["a:7"])


def test_separators_are_bos_end_of_text_and_padding_but_no_unknown_token(tokenizer):
    assert tokenizer.separators == {BOS, END}
    tokenizer.transformers.pad_token = "!"
    try:
        padding = tokenizer.transformers.pad_token_id
        assert tokenizer.separators == {BOS, END, padding}
        tokenizer.transformers.unk_token = "!"
        assert tokenizer.separators == {BOS, END}
    finally:
        tokenizer.transformers.pad_token = tokenizer.transformers.unk_token = None


def test_max_tokens_and_max_contexts_hold_and_a_file_keeps_its_order(tokenizer, read, tmp_path):
    rows = ids_of(tokenizer, *[text(seed) for seed in range(20)])
    write(tmp_path / "a.parquet", [*rows, [-1]])  # far behind what is wanted
    corpus = read(files("a.parquet", text_field="input_ids", max_tokens=len(rows[0]) + 1))
    assert sorted(corpus.documents["name"]) == ["a.parquet:0", "a.parquet:1"]
    corpus = read(files("a.parquet", text_field="input_ids", max_tokens=60, max_contexts=2))
    assert corpus.documents["n_tokens"].to_list() == [30, 30]


def test_a_folder_of_ids_is_taken_in_the_order_of_a_hash(tokenizer, read, tmp_path):
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / "a.parquet", ids_of(tokenizer, *[text(seed) for seed in range(20)]))
    write(tmp_path / "a" / "b.parquet", ids_of(tokenizer, *[text(seed) for seed in range(20, 40)]))
    opened = open_source(files("a", text_field="input_ids"), study_folder=tmp_path, home=Home(tmp_path))
    names = [each.name for each in opened.documents]
    assert len(names) == 40
    assert names != sorted(names)
    assert {name.partition(":")[0] for name in names[:10]} == {"a.parquet", "b.parquet"}


def test_null_rows_and_rows_without_tokens_are_counted(tokenizer, read, tmp_path):
    write(tmp_path / "a.parquet", [*ids_of(tokenizer, text(1)), None, [], [BOS, END]])
    corpus = read(files("a.parquet", text_field="input_ids"))
    assert (corpus.counts[counted.NULL], corpus.counts[counted.EMPTY]) == (1, 2)


# -------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize("token_id", [-1, -100, VOCABULARY, 50256, 2**40])
def test_an_id_that_the_model_lacks_is_named_with_its_place(read, tmp_path, token_id):
    write(tmp_path / "a.parquet", [[5, 6], [5, 6, token_id, 7]], pa.list_(pa.int64()))
    with pytest.raises(CorpusError, match=f"document a.parquet:1 holds the token id {token_id} at place 2 .* to 383: "):
        read(files("a.parquet", text_field="input_ids"))


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.list_(pa.int32(), 3)], ids=str)
def test_a_null_among_token_ids_is_named_with_its_row(read, tmp_path, kind):
    write(tmp_path / "a.parquet", [[5, 6, 7], None, [5, None, 7]], kind)
    with pytest.raises(CorpusError, match=r"Row 2 .counted from 0. of the corpus file .*a\.parquet holds a null"):
        read(files("a.parquet", text_field="input_ids"))


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.list_(pa.bool_()), pa.list_(pa.list_(pa.int32())), pa.int32()], ids=str
)
def test_a_column_of_something_else_is_known_before_anything_is_computed(tmp_path, kind):
    write(tmp_path / "a.parquet", [None, None], kind)
    with pytest.raises(SourceError, match="neither text nor lists of token ids: set 'text_field'"):
        source_fingerprints([files("a.parquet", text_field="input_ids")], study_folder=tmp_path, home=Home(tmp_path))


def other_tokenizer():
    """Byte-level BPE of the same size, whose bytes and merges have other numbers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [f"<{n}>" for n in range(40)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


@pytest.mark.parametrize("length", [24, 128, 512])
def test_ids_of_another_tokenizer_are_refused_and_chunks_of_the_right_one_are_not(tokenizer, length):
    stream = " ".join(text(seed, 400) for seed in range(8))
    right, wrong = tokenizer.encode([stream])[0], np.array(other_tokenizer().encode(stream).ids, np.int32)

    def agreement(ids):
        found = Agreement("a.parquet")
        for start in range(3, len(ids) - length, length):
            row = RawDocument(f"a.parquet:{start}", "", token_ids=ids[start : start + length])
            for document in spell_out(iter([row]), tokenizer):
                found.add(document, tokenizer.encode([document.text])[0])
        return found

    agreement(right).check()
    with pytest.raises(CorpusError, match=r"'a\.parquet' are not of this model's tokenizer: .* come back as they were"):
        agreement(wrong).check()


def test_a_wrong_tokenizer_is_found_when_the_corpus_is_read(read, tmp_path):
    other = other_tokenizer()
    write(tmp_path / "a.parquet", [other.encode(text(seed)).ids for seed in range(5)])
    with pytest.raises(CorpusError, match=r"fewer than the 90% that must .not so in a\.parquet:0.: take a data set"):
        read(files("a.parquet", text_field="input_ids"))


def test_text_of_parquet_that_is_not_utf8_is_named_with_its_row(read, tmp_path):
    broken = pa.array([b"one", b"ab\xff", b"two"]).view(pa.string())
    for kind in (pa.string(), pa.large_string()):
        pq.write_table(
            pa.table({"text": broken.cast(pa.large_string()) if kind != pa.string() else broken}),
            tmp_path / "a.parquet",
        )
        with pytest.raises(CorpusError, match=r"text in row 1 .counted from 0. of .*a\.parquet is not UTF-8 at byte 2"):
            read(files("a.parquet"))
