from __future__ import annotations

import hashlib
import json

import polars as pl
import pytest

from n2g_assets.core.errors import CorpusError, SourceError
from n2g_assets.corpus import files as module
from n2g_assets.corpus.files import find_files, inspect_file, read_files
from n2g_assets_tests.corpus.helpers import files


def read(folder, path, **settings):
    source = files(path, **settings)
    return [(document.name, document.text) for document in read_files(source, find_files(path, folder))]


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
    assert read(tmp_path, "a.json") == [("a.json", '{"body": "one"}')]


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
    ],
)
def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path, name, data, byte):
    (tmp_path / name).write_bytes(data)
    assert data[byte] >= 0x80
    with pytest.raises(CorpusError, match=f"{tmp_path / name} is not UTF-8 at byte {byte} .*save it as UTF-8"):
        read(tmp_path, name)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "cut', "Line 2 of .*a.jsonl is not JSON .*repair the line"),
        ('{"body": "x", "id": 1}', "Line 2 of .*a.jsonl has no field 'text' .it has 'body', 'id'.*set 'text_field'"),
        ("[]", "Line 2 of .*a.jsonl has no field 'text' .it has none"),
        ('{"text": 5}', "Line 2 of .*a.jsonl has a value of type int in 'text'"),
    ],
)
def test_a_damaged_line_is_named_with_its_number(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "fine"}) + "\n" + line + "\n")
    with pytest.raises(SourceError, match=message):
        read(tmp_path, "a.jsonl")


def test_half_a_surrogate_pair_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "ab\\ud800"}')
    with pytest.raises(CorpusError, match=r"line 1 of .*a.jsonl holds half a surrogate pair at character 2"):
        read(tmp_path, "a.jsonl")


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
    with pytest.raises(SourceError, match=r"column 'id' of .* holds int64, not text"):
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
        with pytest.raises(CorpusError, match=rf"a\.txt is not UTF-8 at byte {byte} "):
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
