"""Rows of JSONL and of tables: what each gives, and the line that is named where one cannot be read."""

from __future__ import annotations

import csv
import json

import pytest

from n2g_assets.core.errors import CorpusError, SourceError
from n2g_assets_tests.corpus.helpers import read_path as read


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "cut', "Line 2 of .*a.jsonl is not JSON .*repair the line"),
        ('{"body": "x", "id": 1}', "Line 2 of .*a.jsonl has no field 'text' .it has 'body', 'id'.*set 'text_field'"),
        ("[]", "Line 2 of .*a.jsonl is no JSON object: write one object a line, with its text in 'text'"),
        ('["text"]', "Line 2 of .*a.jsonl is no JSON object"),
        ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "Line 2 of .*a.jsonl nests its values too deeply: flatten"),
        ("[" * 100_000, "Line 2 of .*a.jsonl nests its values too deeply: flatten"),
        ('{"text": ' + "7" * 5000 + "}", "Line 2 of .*a.jsonl has a number in 'text'"),
        ("7" * 5000, "Line 2 of .*a.jsonl is no JSON object"),
        ('{"text": 5}', "Line 2 of .*a.jsonl has a number in 'text'"),
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


def test_numbers_of_any_length_beside_the_text_do_no_harm(tmp_path):
    (tmp_path / "a.ndjson").write_text('{"id": ' + "7" * 5000 + ', "x": -1.5e999, "text": "one"}\n')
    assert read(tmp_path, "a.ndjson") == [("a.ndjson:1", "one")]


@pytest.mark.parametrize("mark", ",;\t|")
@pytest.mark.parametrize("ending", ["csv", "tsv", "CSV"])
def test_a_table_gives_its_column_of_text_whatever_separates_its_fields(tmp_path, mark, ending):
    rows = [["id", "text"], ["1", f"one{mark} two"], [], ["2", "over\ntwo lines"], ["3", ""], ["4", "x" * 200_000]]
    with (tmp_path / f"a.{ending}").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=mark).writerows(rows)
    expected = {2: f"one{mark} two", 4: "over\ntwo lines", 6: "", 7: "x" * 200_000}
    assert read(tmp_path, f"a.{ending}") == [(f"a.{ending}:{line}", text) for line, text in expected.items()]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("id,body\n1,x\n", r"file .*a\.csv has no field 'text' .it has 'id', 'body'.: set 'text_field'"),
        ("id,text\n1,one, two\n", r"Line 2 of .*a\.csv has 3 fields and the first line 2: put fields"),
        ("id,text\n1,x\n2\n", r"Line 3 of .*a\.csv has 1 fields and the first line 2"),
        ('id,text\n1,x\n2,"cut\n', r"Line 3 of .*a\.csv is not CSV .unexpected end of data.: repair the line"),
        ("id,text\n1,\0\n", r"a\.csv holds a NUL at byte 10 .counted from 0. in line 2: save it as UTF-8"),
    ],
)
def test_a_damaged_table_is_named_with_its_line(tmp_path, data, message):
    (tmp_path / "a.csv").write_text(data)
    with pytest.raises((SourceError, CorpusError), match=message):
        read(tmp_path, "a.csv")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.tsv", "text\nHello, world\n", [("a.tsv:2", "Hello, world")]),
        ("a.csv", "\n\nid,text\n1,one\n", [("a.csv:4", "one")]),
        ("a.csv", "", []),
    ],
)
def test_a_table_is_read_by_its_ending_and_blank_lines_before_it_do_not_count(name, content, expected, tmp_path):
    (tmp_path / name).write_text(content)
    assert read(tmp_path, name) == expected


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "id,text\r1,hello\r", "Line 1 of .* is not CSV"),
        ("a.csv", "text,text\na,b\n", "has two fields 'text'"),
        ("a.tsv", 'id\ttext\n1\t"Hello he said\n2\tb\n3\tshe said so"\n', "Line 2 of .* opens a quote that a later"),
    ],
)
def test_a_table_that_cannot_be_read_rightly_is_refused(name, content, says, tmp_path):
    (tmp_path / name).write_bytes(content.encode())
    with pytest.raises(SourceError, match=says):
        read(tmp_path, name)
