from __future__ import annotations

import hashlib
import json
import os

import polars as pl
import pytest

from n2g_assets.core.errors import CorpusError, SourceError
from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.core.sources import FilesSource, NamedSource
from n2g_assets.core.tables import TABLES
from n2g_assets.corpus import documents as module
from n2g_assets.corpus.catalogue import CATALOGUE
from n2g_assets.corpus.sources import open_source, source_fingerprints, source_place
from n2g_assets.storage import wheels
from n2g_assets_tests.corpus.helpers import (
    BOS,
    SPELLING,
    FakePip,
    WordTokenizer,
    encode_words,
    files,
    read,
    sha256,
    wheel_bytes,
    words,
)


def write_texts(folder, texts):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)


def by_sha(texts):
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())


def test_the_frames_have_the_columns_of_the_tables_and_hang_together(tmp_path):
    write_texts(tmp_path / "a", {f"{n}.txt": words(100, n) for n in range(30)})
    corpus = read(tmp_path, files("a", kind="noise"))
    for name in ("documents", "contexts"):
        frame = getattr(corpus, name)
        table = TABLES[name]
        assert dict(frame.schema) == {k: v for k, v in table.schema.items() if k != "study"}
        table.conform(frame.with_columns(study=pl.lit("s")))
    for row in corpus.documents.iter_rows(named=True):
        text = (tmp_path / "a" / row["name"]).read_text()
        assert row["sha256"] == hashlib.sha256(text.encode()).hexdigest()
        assert row["document_id"] == row["sha256"][:16]
        assert (row["source"], row["kind"], row["n_tokens"]) == ("a", "noise", 100)
        contexts = corpus.contexts.filter(document_id=row["document_id"])
        assert contexts["context_id"].to_list() == [f"{row['document_id']}:{n}" for n in range(7)]
        assert contexts["split"].unique().to_list() == [row["split"]]
        (tokens,) = encode_words([text])
        windows = contexts["token_ids"].to_list()
        assert windows == [[BOS, *tokens[start : start + 15].tolist()] for start in range(0, 100, 15)]


def test_exact_duplicates_and_empty_texts_are_dropped_and_counted_across_sources(tmp_path):
    write_texts(tmp_path / "a", {"1.txt": words(50, 1), "2.txt": words(50, 2), "3.txt": words(50, 1), "4.txt": " \n"})
    write_texts(tmp_path / "b", {"1.txt": words(50, 2), "2.txt": words(50, 3)})
    corpus = read(tmp_path, files("a"), files("b"))
    assert corpus.documents.sort("source", "name")["name"].to_list() == ["1.txt", "2.txt", "2.txt"]
    assert corpus.documents["source"].sort().to_list() == ["a", "a", "b"]
    assert (corpus.counts[module.DUPLICATES], corpus.counts[module.EMPTY]) == (2, 1)


def test_nulls_are_counted_apart_from_empty_texts(tmp_path):
    rows = [words(50, 1), None, "", None, " "]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in rows))
    pl.DataFrame({"text": [*rows[1:], words(50, 2)]}).write_parquet(tmp_path / "b.parquet")
    corpus = read(tmp_path, files("a.jsonl"), files("b.parquet"))
    assert (corpus.documents.height, corpus.counts[module.NULL], corpus.counts[module.EMPTY]) == (2, 4, 4)


def test_a_file_whose_name_is_not_utf8_has_rows_like_any_other(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / os.fsdecode(b"\xe4.txt")).write_text(words(50, 1))
    assert read(tmp_path, files("a")).documents["name"].to_list() == ["\\xe4.txt"]
    (fingerprint,) = source_fingerprints([files("a")], study_folder=tmp_path, home=Home(tmp_path))
    assert fingerprint["content"] == [f"\\xe4.txt {hashlib.sha256(words(50, 1).encode()).hexdigest()}"]


def test_a_source_may_hold_duplicates_of_others_alone(tmp_path):
    write_texts(tmp_path / "a", {"1.txt": words(50, 1)})
    corpus = read(tmp_path, files("a"), files("a/1.txt"))
    assert (corpus.documents.height, corpus.counts[module.DUPLICATES]) == (1, 1)


def test_max_tokens_takes_whole_documents_of_a_folder_in_the_order_of_their_hash(tmp_path):
    texts = [words(40, n) for n in range(20)]
    write_texts(tmp_path / "a", {f"{n:02}.txt": text for n, text in enumerate(texts)})
    corpus = read(tmp_path, files("a", max_tokens=150))
    wanted = {hashlib.sha256(text.encode()).hexdigest() for text in by_sha(texts)[:4]}
    assert set(corpus.documents["sha256"]) == wanted


def test_max_tokens_takes_a_single_file_in_its_own_order_and_reads_no_further(tmp_path):
    rows = [json.dumps({"text": words(40, n)}) for n in range(5)]
    (tmp_path / "a.jsonl").write_text("\n".join([*rows, "damaged, but far behind what is wanted"]))
    corpus = read(tmp_path, files("a.jsonl", max_tokens=81))
    assert sorted(corpus.documents["name"]) == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]


def test_what_lies_beyond_max_tokens_is_not_tokenised(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": words(400, n)}) for n in range(500)))
    encoded = []

    class Counting(WordTokenizer):
        def encode(self, texts):
            encoded.extend(texts)
            return super().encode(texts)

    module.read_documents(
        [files("a.jsonl", max_tokens=4000)],
        study_folder=tmp_path,
        home=Home(tmp_path),
        tokenizer=Counting(),
        spelling=SPELLING,
        bos_id=BOS,
        harvest=HarvestSettings(),
        needed_contexts=1,
    )
    assert len(encoded) < 20


def test_rows_do_not_depend_on_the_batches_nor_documents_on_later_sources(tmp_path, monkeypatch):
    write_texts(tmp_path / "a", {f"{n}.txt": words(60, n % 25) for n in range(30)})
    write_texts(tmp_path / "b", {f"{n}.txt": words(60, 100 + n) for n in range(30)})
    one = read(tmp_path, files("a", max_tokens=1000), files("b"))
    monkeypatch.setattr(module, "_BATCH_CHARACTERS", 100)
    other = read(tmp_path, files("a", max_tokens=1000), files("b"))
    assert one.contexts.equals(other.contexts)
    assert one.documents.equals(other.documents)
    assert one.counts == other.counts
    alone = read(tmp_path, files("a", max_tokens=1000)).documents
    assert one.documents.filter(source="a").equals(alone)


def test_out_of_domain_documents_stand_apart_and_move_no_harvested_one(tmp_path):
    write_texts(tmp_path / "a", {f"{n}.txt": words(60, n) for n in range(30)})
    write_texts(tmp_path / "b", {f"{n}.txt": words(60, n) + " end" for n in range(30)})  # near-duplicates of a
    alone = read(tmp_path, files("a"))
    corpus = read(tmp_path, files("a"), files("b", role="out_of_domain"))
    assert corpus.documents.filter(source="a").equals(alone.documents)
    assert corpus.documents.filter(source="b")["split"].unique().to_list() == ["out_of_domain"]
    assert set(corpus.contexts.filter(split="out_of_domain")["document_id"]) == set(
        corpus.documents.filter(source="b")["document_id"]
    )


def test_near_duplicates_share_a_cluster_and_a_side_and_none_is_lost(tmp_path):
    write_texts(tmp_path / "a", {f"{n}{x}.txt": f"{words(60, n)} {words(9, ord(x))}" for n in range(20) for x in "ab"})
    corpus = read(tmp_path, files("a"))
    pairs = corpus.documents.group_by(pl.col("name").str.slice(0, 2).str.strip_chars("ab.")).agg(
        pl.col("cluster_id").n_unique(), pl.col("split").n_unique(), pl.len()
    )
    assert pairs.select("cluster_id", "split", "len").unique().rows() == [(1, 1, 2)]
    assert corpus.counts[module.CLUSTERS] == 20
    assert corpus.documents.height == 40
    assert corpus.documents["n_tokens"].sum() == 40 * 69 == (corpus.contexts["token_ids"].list.len() - 1).sum()


def test_progress_ends_at_what_was_taken(tmp_path):
    write_texts(tmp_path / "a", {f"{n}.txt": words(60, n) for n in range(10)})
    calls = []
    module.read_documents(
        [files("a")],
        study_folder=tmp_path,
        home=Home(tmp_path),
        tokenizer=WordTokenizer(),
        spelling=SPELLING,
        bos_id=BOS,
        harvest=HarvestSettings(),
        needed_contexts=1,
        progress=lambda *call: calls.append(call),
    )
    assert calls[0] == (0, 0)
    assert calls[-1] == (600, 600)
    assert all(done <= expected for done, expected in calls)


def test_a_named_corpus_brings_its_kind_unless_the_study_names_one(tmp_path, monkeypatch):
    data = wheel_bytes({f"django/{n}.py": words(50, n).encode() for n in range(3)})
    entry = CATALOGUE["django"]
    pin = type(entry.pin)("django", "1", sha256(data))
    monkeypatch.setitem(CATALOGUE, "django", type(entry)(pin, entry.members, entry.licence, entry.kind, entry.reader))
    monkeypatch.setattr(wheels.subprocess, "run", FakePip(data))
    corpus = read(tmp_path, NamedSource(source="named", name="django"))
    assert corpus.documents["kind"].unique().to_list() == ["code"]
    corpus = read(tmp_path, NamedSource(source="named", name="django", kind="python"))
    assert corpus.documents["kind"].unique().to_list() == ["python"]


def test_a_harvest_that_is_too_small_says_what_it_has_and_what_is_needed(tmp_path):
    write_texts(tmp_path / "a", {"1.txt": words(150, 1)})
    assert read(tmp_path, files("a"), needed=10).contexts.height == 10
    with pytest.raises(CorpusError, match="gives 10 harvested contexts of up to 16 tokens, fewer than the 20"):
        read(tmp_path, files("a"), needed=20)


def test_held_out_and_out_of_domain_contexts_do_not_count_as_harvest(tmp_path):
    write_texts(tmp_path / "a", {"1.txt": words(150, 1)})
    write_texts(tmp_path / "b", {"1.txt": words(1500, 2)})
    with pytest.raises(CorpusError, match="gives 10 harvested contexts"):
        read(tmp_path, files("a"), files("b", role="out_of_domain"), needed=20)


def test_an_empty_file_an_empty_folder_and_an_empty_corpus_are_named(tmp_path):
    write_texts(tmp_path / "a", {"1.txt": "\n", "2.txt": ""})
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.jsonl").write_text("\n")
    for path in ("a", "b.txt", "c.jsonl"):
        with pytest.raises(CorpusError, match=f"corpus source '{path}' holds no text: fill it"):
            read(tmp_path, files(path))
    with pytest.raises(CorpusError, match="has no documents: name at least one source"):
        read(tmp_path)


def test_an_unknown_named_corpus_is_known_before_anything_is_fetched(tmp_path, monkeypatch):
    pip = FakePip(None)
    monkeypatch.setattr(wheels.subprocess, "run", pip)
    source = NamedSource(source="named", name="networks")
    with pytest.raises(SourceError, match="did you mean 'networkx'"):
        read(tmp_path, source)
    with pytest.raises(SourceError, match="did you mean 'networkx'"):
        source_fingerprints([source], study_folder=tmp_path, home=Home(tmp_path))
    assert pip.calls == []


def test_a_fingerprint_changes_with_content_and_settings_and_with_nothing_else(tmp_path):
    def of(**settings):
        return source_fingerprints([files("a", **settings)], study_folder=tmp_path, home=Home(tmp_path))

    write_texts(tmp_path / "a", {"1.txt": "one", "2.txt": "two"})
    first = of()
    assert json.loads(json.dumps(first)) == first
    write_texts(tmp_path / "a", {"1.txt": "one"})  # written again, the same
    assert of() == first
    assert of(max_tokens=5) != first
    write_texts(tmp_path / "a", {"1.txt": "One"})
    assert of() != first


def test_bad_and_empty_files_are_found_by_the_fingerprint(tmp_path):
    def fingerprint():
        return source_fingerprints([files("a")], study_folder=tmp_path, home=Home(tmp_path))

    write_texts(tmp_path / "a", {"1.txt": "", "2.jsonl": "\n \n"})
    with pytest.raises(CorpusError, match="source 'a' holds no text: fill it"):
        fingerprint()
    write_texts(tmp_path / "a", {"3.txt": "text"})
    assert len(fingerprint()[0]["content"]) == 3
    (tmp_path / "a" / "4.txt").write_bytes(b"abc\xff")
    with pytest.raises(CorpusError, match=r"4\.txt is not UTF-8 at byte 3"):
        fingerprint()


def test_texts_of_a_folder_are_read_one_by_one_and_no_further_than_wanted(tmp_path):
    texts = by_sha([words(40, n) for n in range(20)])
    write_texts(tmp_path / "a", {f"{n:02}.txt": text for n, text in enumerate(texts)})
    opened = open_source(files("a"), study_folder=tmp_path, home=Home(tmp_path))
    assert opened.characters == sum(map(len, texts))
    documents = iter(opened.documents)
    assert [next(documents).text for _ in range(3)] == texts[:3]
    (tmp_path / "a" / "03.txt").unlink()
    with pytest.raises(SourceError, match=r"03\.txt cannot be read"):
        next(documents)


def test_a_folder_of_rows_is_taken_in_the_order_of_the_hash_too(tmp_path):
    texts = [words(40, n) for n in range(10)]
    write_texts(tmp_path / "a", {"1.txt": texts[0], "2.jsonl": "\n".join(json.dumps({"text": t}) for t in texts[1:])})
    opened = open_source(files("a"), study_folder=tmp_path, home=Home(tmp_path))
    assert [document.text for document in opened.documents] == by_sha(texts)


def test_a_corpus_is_the_same_wherever_its_study_is_mounted(tmp_path):
    """An absolute path that lies where it lay, seen from the study's folder, changes neither row nor fingerprint."""
    for mount in ("here", "there"):
        (tmp_path / mount / "study").mkdir(parents=True)
        (tmp_path / mount / "texts").mkdir()
        (tmp_path / mount / "texts" / "one.txt").write_text("some words of text")
    found = []
    for mount in ("here", "there"):
        folder = tmp_path / mount / "study"
        source = FilesSource(source="files", path=str(tmp_path / mount / "texts"))
        assert source_place(source, folder) == "../texts"
        found.append(source_fingerprints([source], study_folder=folder, home=Home(tmp_path / "home")))
    assert found[0] == found[1]
    relative = FilesSource(source="files", path="../texts")
    assert source_fingerprints([relative], study_folder=tmp_path / "here" / "study", home=Home(tmp_path)) == found[0]
