from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
from io import BytesIO
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from n2g_assets.core.errors import CorpusError, SourceError
from n2g_assets.corpus import files as module
from n2g_assets.corpus.files import find_files, inspect_file, read_files
from n2g_assets_tests.corpus.helpers import files
from n2g_assets_tests.corpus.helpers import read_path as read


def test_a_text_file_is_one_document_byte_for_byte(tmp_path):
    (tmp_path / "a.md").write_bytes("\ufeffGrüße\r\n".encode())
    assert read(tmp_path, "a.md") == [("a.md", "Grüße\r\n")]


def test_a_folder_is_read_to_the_bottom_without_hidden_files_each_by_its_ending(tmp_path):
    for name in ("b.txt", "a/z.py", ".git/config", "a/.DS_Store"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text(name)
    (tmp_path / "data" / "c.jsonl").write_text('{"text": "one"}\n\n{"text": "two", "id": 7}\n{"text": null}')
    pl.DataFrame({"id": [1, 2], "text": ["three", None]}).write_parquet(tmp_path / "data" / "d.parquet")
    assert read(tmp_path, "data") == [
        ("a/z.py", "a/z.py"),
        ("b.txt", "b.txt"),
        ("c.jsonl:1", "one"),
        ("c.jsonl:3", "two"),
        ("c.jsonl:4", ""),
        ("d.parquet:0", "three"),
        ("d.parquet:1", ""),
    ]


def test_a_glob_and_an_absolute_path_work(tmp_path):
    for name in ("x/1.txt", "x/2.md", "y/3.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert read(tmp_path, "*/*.txt") == [("x/1.txt", "x/1.txt"), ("y/3.txt", "y/3.txt")]
    assert read(tmp_path / "elsewhere", str(tmp_path / "**" / "*.md")) == [("2.md", "x/2.md")]


def test_a_format_that_is_given_wins_over_the_ending(tmp_path):
    (tmp_path / "a.json").write_text('{"body": "one"}')
    assert read(tmp_path, "a.json", format="jsonl", text_field="body") == [("a.json:1", "one")]
    assert read(tmp_path, "a.json", format="text") == [("a.json", '{"body": "one"}')]


@pytest.mark.parametrize("path", ["nowhere", "nowhere/*.txt", "empty/*"])
def test_a_missing_path_is_named(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=f"{tmp_path}.*does not exist: correct 'path'"):
        find_files(path, tmp_path)


def test_an_empty_folder_is_named(tmp_path):
    (tmp_path / ".hidden").write_text("x")
    with pytest.raises(CorpusError, match="holds no files: put text"):
        find_files(".", tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "byte"),
    [
        ("a.txt", b"abc\xff", 3),
        ("a.txt", b"\xef\xbb\xbfabc\xff", 6),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xe4"}\n', 24),
        ("a.csv", b"text\n\xe4\n", 5),
    ],
)
def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path, name, data, byte):
    (tmp_path / name).write_bytes(data)
    assert data[byte] >= 0x80
    with pytest.raises(CorpusError, match=f"{tmp_path / name} is not UTF-8 at byte {byte} .*save it as UTF-8"):
        read(tmp_path, name)


def test_a_damaged_parquet_file_is_named_wherever_the_damage_is(tmp_path):
    file = tmp_path / "a.parquet"
    pl.DataFrame({"text": [f"text number {n}" for n in range(5000)]}).write_parquet(file)
    data = file.read_bytes()
    middle = len(data) // 3
    for damaged in (b"", b"no parquet", data[:-10], data[:middle] + bytes(200) + data[middle + 200 :]):
        file.write_bytes(damaged)
        with pytest.raises(SourceError, match=r"a\.parquet is no readable Parquet file .*write it again"):
            read(tmp_path, "a.parquet")


def test_a_parquet_file_without_a_column_of_text_is_named(tmp_path):
    pl.DataFrame({"id": [1], "body": ["x"]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"a\.parquet has no field 'text' .it has 'id', 'body'"):
        read(tmp_path, "a.parquet")
    with pytest.raises(SourceError, match=r"column 'id' of .* holds int64, neither text nor lists of token ids"):
        read(tmp_path, "a.parquet", text_field="id")
    assert read(tmp_path, "a.parquet", text_field="body") == [("a.parquet:0", "x")]


def test_field_names_of_a_file_are_escaped_in_the_message(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"\x1b[31m": 1}))
    with pytest.raises(SourceError) as error:
        read(tmp_path, "a.jsonl")
    assert str(error.value).isprintable()


def inspect(folder, name, **settings):
    return inspect_file(files(name, **settings), folder / name)


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf \n", "aä€😀b".encode() * 3, b" \n\t\n   x"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 1 << 20])
def test_inspecting_gives_the_hash_and_whether_there_is_text_in_whatever_chunks(tmp_path, monkeypatch, data, chunk):
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk)
    (tmp_path / "a.txt").write_bytes(data)
    holds_text = bool(data.decode("utf-8-sig").strip())
    assert inspect(tmp_path, "a.txt") == (hashlib.sha256(data).hexdigest(), holds_text)


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 1 << 20])
@pytest.mark.parametrize(
    ("data", "byte"),
    [(b"abc\xff", 3), ("aä€".encode() + b"\xe2\x82x", 6), (b"ab\xf0\x9f\x98", 2), ("a\nä\n€".encode() + b"\xff", 8)],
)
def test_inspecting_names_the_byte_that_reading_names(tmp_path, monkeypatch, data, byte, chunk):
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk)
    (tmp_path / "a.txt").write_bytes(data)
    for look in (inspect, read):
        with pytest.raises(
            CorpusError, match=rf"a\.txt is not UTF-8 at byte {byte} .*in line {data.count(10, 0, byte) + 1}:"
        ):
            look(tmp_path, "a.txt")


def test_inspecting_opens_parquet_files(tmp_path):
    file = tmp_path / "a.parquet"
    pl.DataFrame({"body": ["x"]}).write_parquet(file)
    assert inspect(tmp_path, "a.parquet", text_field="body") == (hashlib.sha256(file.read_bytes()).hexdigest(), True)
    with pytest.raises(SourceError, match=r"a\.parquet has no field 'text'"):
        inspect(tmp_path, "a.parquet")
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(SourceError, match=r"a\.parquet is no readable Parquet file"):
        inspect(tmp_path, "a.parquet", text_field="body")
    pl.DataFrame({"text": []}, schema={"text": pl.String}).write_parquet(file)
    assert not inspect(tmp_path, "a.parquet")[1]


def test_inspecting_a_file_that_is_gone_names_it(tmp_path):
    with pytest.raises(SourceError, match=r"a\.txt cannot be read .No such file"):
        inspect(tmp_path, "a.txt")


# -------------------------------------------------------------------------------------- packings
def zstd(data):
    return pa.Codec("zstd").compress(data, asbytes=True)


PACKINGS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("ending", PACKINGS)
def test_packed_files_are_read_by_the_ending_before_it(tmp_path, ending):
    for name, data in {
        "a.jsonl": b'{"text": "one"}\n',
        "b.csv": b"text\ntwo\n",
        "c.txt": b"\xef\xbb\xbfthree\n",
    }.items():
        (tmp_path / f"{name}{ending}").write_bytes(PACKINGS[ending](data))
        assert inspect(tmp_path, f"{name}{ending}") == (hashlib.sha256(data).hexdigest(), True)
    expected = [(f"a.jsonl{ending}:1", "one"), (f"b.csv{ending}:2", "two"), (f"c.txt{ending}", "three\n")]
    assert read(tmp_path, ".") == expected


@pytest.mark.parametrize("ending", PACKINGS)
def test_a_damaged_packed_file_is_named(tmp_path, ending):
    whole = PACKINGS[ending](b'{"text": "one"}\n' * 1000)
    inside = whole[:40] + b"damaged here" + whole[52:]  # reading lines may meet what came out of it first
    for damaged, looks in ((whole[:-5], (inspect, read)), (b"no such thing", (inspect, read)), (inside, (inspect,))):
        (tmp_path / f"a.jsonl{ending}").write_bytes(damaged)
        for look in looks:
            with pytest.raises(SourceError, match=rf"a\.jsonl{ending} is no whole {ending} file .*: pack it again"):
                look(tmp_path, f"a.jsonl{ending}")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.7z", "a.txt.lz4", "a.parquet.gz"])
@pytest.mark.parametrize("settings", [{}, {"format": "jsonl"}])
def test_archives_are_named_with_the_cure(tmp_path, name, settings):
    (tmp_path / name).write_bytes(b"")
    if name == "a.parquet.gz" and settings:
        return  # what is in it is lines, whatever its ending says
    with pytest.raises(SourceError, match=rf"{name} is packed in a way that is not read .*: unpack it"):
        inspect(tmp_path, name, **settings)


# -------------------------------------------------------------------------------------- what is no prose
@pytest.mark.parametrize(
    "name", ["a.json", "a.HTML", "a.xml", "a.pdf", "a.docx", "a.ipynb", "a.yaml", "a.json.gz", "a.npy"]
)
def test_a_file_whose_syntax_would_become_text_is_refused_by_its_ending(tmp_path, name):
    (tmp_path / name).write_text("text")
    for look in (inspect, read):
        with pytest.raises(SourceError, match=rf"{name} would be read as prose with all its syntax .*set 'format'"):
            look(tmp_path, name)


@pytest.mark.parametrize(
    "text",
    [
        '{"text": "one"}\n{"text": "two"}\n',
        '\ufeff{\n  "a": [1]\n}\n',
        '[\n{"a": 1}]',
        '\n["one", "two"]',
        "{}",
        "<!DOCTYPE html><p>",
        '<?xml version="1.0"?>',
        "<HTML>",
        "%PDF-1.4",
        "{\\rtf1 text}",
    ],
)
def test_a_file_whose_syntax_would_become_text_is_refused_by_its_beginning(tmp_path, text):
    for name in ("a.txt", "train"):
        (tmp_path / name).write_text(text)
        for look in (inspect, read):
            with pytest.raises(SourceError, match=rf"{name} would be read as prose with all its syntax .it begins"):
                look(tmp_path, name)
        assert read(tmp_path, name, format="text") == [(name, text.removeprefix("\ufeff"))]


@pytest.mark.parametrize(
    "text",
    ["[1] A footnote.", "[1]", "{see below} and so on", "<p> is a tag", "[" * 100_000],
    ids=lambda text: text[:10],
)
def test_prose_that_begins_with_a_bracket_stays_prose(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    assert inspect(tmp_path, "a.txt")[1]
    assert read(tmp_path, "a.txt") == [("a.txt", text)]


def test_utf16_without_a_mark_is_not_taken_for_text(tmp_path):
    (tmp_path / "a.txt").write_bytes("plain".encode("utf-16-le"))
    for look in (inspect, read):
        with pytest.raises(
            CorpusError, match=r"a\.txt holds a NUL at byte 1 .counted from 0. in line 1: save it as UTF-8"
        ):
            look(tmp_path, "a.txt")


# -------------------------------------------------------------------------------------- Parquet, names, paths
def test_categorical_text_of_parquet_is_read_and_nulls_are_told_from_empty_texts(tmp_path):
    texts = pl.Series("text", ["one", "two", None, "one", ""])
    kinds = {"s": pl.String, "c": pl.Categorical, "e": pl.Enum(["one", "two", ""])}
    for name, kind in kinds.items():
        texts.cast(kind).to_frame().write_parquet(tmp_path / f"{name}.parquet")
        source = files(f"{name}.parquet")
        found = list(read_files(source, find_files(source.path, tmp_path)))
        assert [document.text for document in found] == ["one", "two", "", "one", ""]
        assert [document.is_null for document in found] == [False, False, True, False, False]


def test_a_name_that_is_not_utf8_is_shown_with_its_bytes(tmp_path):
    folder = os.fsencode(tmp_path)
    contents = {b"\xe4.txt": b"one", b"\xe4.jsonl": b'{"text": "two"}', b"line\nend.txt": b"three"}
    for name, data in contents.items():
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(data)
    pl.DataFrame({"text": ["four"]}).write_parquet(io := BytesIO())
    Path(os.fsdecode(folder + b"/\xe4.parquet")).write_bytes(io.getvalue())
    names = ["line\\nend.txt", "\\xe4.jsonl:1", "\\xe4.parquet:0", "\\xe4.txt"]
    assert read(tmp_path, ".") == list(zip(names, ["three", "two", "four", "one"], strict=True))
    Path(os.fsdecode(folder + b"/\xe4.jsonl")).write_bytes(b"{")
    with pytest.raises(SourceError, match=r"Line 1 of the corpus file /.*/\\xe4\.jsonl is not JSON") as error:
        read(tmp_path, "*.jsonl")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("study", ["a[1]", "a*b", "a?b", "[!x]"])
def test_a_relative_glob_works_in_a_study_folder_of_any_name(tmp_path, study):
    (tmp_path / study / "data").mkdir(parents=True)
    (tmp_path / study / "data" / "x.txt").write_text("one")
    (tmp_path / study / "y[1].txt").write_text("two")
    assert read(tmp_path / study, "data/*.txt") == [("x.txt", "one")]
    assert read(tmp_path / study, "**/*.txt") == [("data/x.txt", "one"), ("y[1].txt", "two")]
    assert read(tmp_path / study, "y[1].txt") == [("y[1].txt", "two")]


def test_the_folder_of_a_user_is_no_pattern(tmp_path, monkeypatch):
    (tmp_path / "h[1]").mkdir()
    (tmp_path / "h[1]" / "a.txt").write_text("one")
    monkeypatch.setenv("HOME", str(tmp_path / "h[1]"))
    assert read(tmp_path, "~/*.txt") == read(tmp_path, "~/a.txt") == [("a.txt", "one")]
    with pytest.raises(CorpusError, match=r"~nobody-here/a.txt does not exist"):
        read(tmp_path, "~nobody-here/a.txt")


def test_a_path_that_the_system_refuses_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"x{300} cannot be read .File name too long"):
        read(tmp_path, "x" * 300)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([{"text": "word " * 40}] * 6000, indent=1),
        json.dumps({"text": ["word " * 40] * 6000}),
        "<!-- a comment --> <html><body>words</body></html>",
    ],
)
def test_long_json_and_markup_behind_a_comment_are_no_prose(text, tmp_path):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(SourceError, match="would be read as prose with all its syntax"):
        read(tmp_path, "a.txt")
