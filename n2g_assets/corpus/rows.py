"""Documents from the rows of JSONL, CSV and Parquet files, one a row; errors name the file and the line."""

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Integer

from n2g_assets.core.errors import CorpusError, SourceError, short_reason
from n2g_assets.corpus.formats import decode, decode_json, naming, open_file, shown

_LONGEST_FIELD = 2**31 - 1
"""Characters of a field of a CSV file; Python's own limit is 131,072."""
_KINDS = {int: "a number", bool: "true or false", list: "a list", dict: "an object"}
_SEPARATORS = {".tsv": "\t", ".tab": "\t", ".psv": "|"}
"""What stands between the fields of files whose ending says it."""


@dataclass(frozen=True)
class RawDocument:
    """A document as a reader of a corpus source gives it."""

    name: str
    """Its name in the source: a title, a file, or a file and a line."""
    text: str
    """The whole text; empty for token ids that are not spelled out yet."""
    is_null: bool = False
    """Whether its row has no text but null."""
    token_ids: Integer[np.ndarray, " tokens"] | None = None
    """The tokens it comes as; None where it comes as text."""
    kind: str | None = None
    """What the text is, where the document itself says so."""

    @property
    def size(self) -> int:
        """Characters; of a document that comes as token ids five for each token."""
        return len(self.text) if self.token_ids is None else 5 * len(self.token_ids)


def read_jsonl(file: Path, name: str, text_field: str) -> Iterator[RawDocument]:
    """One document a line, named after the file and the line (from 1); blank lines are passed over.

    Raises:
        CorpusError: A line is not UTF-8, or its text holds half a surrogate pair.
        SourceError: The file cannot be read, or a line is no JSON object with this field of text.
    """
    with open_file(file) as data:
        for number, line in _lines(data, file):
            if line.strip():
                text = _text_of_line(line, f"{number} of the corpus file {shown(file)}", text_field)
                yield RawDocument(f"{name}:{number}", text or "", text is None)


def _lines(data: Iterable[bytes], file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file by their number, from 1."""
    offset = 0
    for number, line in enumerate(data, start=1):
        text = decode(line, file, offset, number)
        offset += len(line)
        yield number, text.removeprefix("\ufeff") if number == 1 else text


def _text_of_line(line: str, where: str, text_field: str) -> str | None:
    try:
        row = decode_json(line)
    except JSONDecodeError as error:
        raise SourceError(
            f"Line {where} is not JSON ({error.msg}, column {error.colno}): repair the line or take it out."
        ) from error
    except RecursionError as error:
        raise SourceError(f"Line {where} nests its values too deeply: flatten the line or take it out.") from error
    if not isinstance(row, dict):
        raise SourceError(f"Line {where} is no JSON object: write one object a line, with its text in '{text_field}'.")
    if text_field not in row:
        raise _missing_field(f"Line {where}", text_field, list(row))
    text = row[text_field]
    if text is None:
        return None
    if not isinstance(text, str):
        raise SourceError(
            f"Line {where} has {_KINDS[type(text)]} in '{text_field}': "
            "set 'text_field' to the field that holds the text (token ids are read from Parquet files)."
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"The text in line {where} holds half a surrogate pair at character {error.start}: repair the line or "
            "take it out."
        ) from error
    return text


def _missing_field(where: str, text_field: str, fields: list[str]) -> SourceError:
    how_many = "two fields" if text_field in fields else "no field"
    return SourceError(
        f"{where} has {how_many} '{text_field}' (it has {', '.join(map(ascii, fields[:8])) or 'none'}): set "
        "'text_field' to the one that holds the text."
    )


def read_csv(file: Path, name: str, text_field: str) -> Iterator[RawDocument]:
    """One document a row, named after the file and the line where it begins (from 1); the first row names the fields.

    The separator is the one of the comma, semicolon, tab and bar that makes ``text_field`` one of the fields, that of
    the ending first. Blank lines are passed over.

    Raises:
        CorpusError: A line is not UTF-8.
        SourceError: The file cannot be read, lacks the field or has it twice, or the rows differ in their number of
            fields.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    with open_file(file) as data:
        numbered = _lines(data, file)
        where, first = next((each for each in numbered if each[1].strip()), (1, ""))
        header, before = None, where - 1
        marks = next((mark for ending, mark in _SEPARATORS.items() if ending in file.suffixes), "") + ",;\t|"
        try:
            found = (mark for mark in marks if text_field in next(csv.reader([first], delimiter=mark), []))
            mark = next(found, marks[0])
            lines = chain([first] if first else [], (line for _, line in numbered))
            reader = csv.reader(lines, delimiter=mark, strict=True)
            for row in reader:
                if header is None:
                    header = row
                    if header.count(text_field) != 1:
                        raise _missing_field(f"The corpus file {shown(file)}", text_field, header)
                elif row and len(row) != len(header):
                    raise SourceError(
                        f"Line {where} of the corpus file {shown(file)} has {len(row)} fields and the first line "
                        f"{len(header)}: put fields that hold the separator into double quotes, or take the line out."
                    )
                elif mark == "\t" and any("\n" in field and "\t" in field for field in row):
                    raise SourceError(
                        f"Line {where} of the corpus file {shown(file)} opens a quote that a later line closes, so "
                        "that rows would become one: double quotes that are part of the text, or take the line out."
                    )
                elif row:
                    yield RawDocument(f"{name}:{where}", row[header.index(text_field)])
                where = before + reader.line_num + 1
        except csv.Error as error:
            raise SourceError(
                f"Line {where} of the corpus file {shown(file)} is not CSV ({short_reason(error)}): repair the line or "
                "take it out."
            ) from error


def read_parquet(file: Path, name: str, text_field: str) -> Iterator[RawDocument]:
    """One document a row, named after the file and the row (from 0): its text, or its token ids.

    Raises:
        CorpusError: A text is not UTF-8, or a null stands among the token ids of a row.
        SourceError: The file cannot be read or is damaged, or has no such column of text or token ids.
    """
    with open_parquet(file, text_field) as parquet:
        batches = parquet.iter_batches(batch_size=1024, columns=[text_field])
        for number, value in enumerate(chain.from_iterable(batch.column(0) for batch in batches)):
            where = f"{number} (counted from 0) of the corpus file {shown(file)}"
            if not value.is_valid:
                yield RawDocument(f"{name}:{number}", "", is_null=True)
            elif _is_list(value.type):
                yield RawDocument(f"{name}:{number}", "", token_ids=_ids_of_row(value, where))
            else:
                yield RawDocument(f"{name}:{number}", _text_of_row(value, where))


def _text_of_row(value: Any, where: str) -> str:
    try:
        return str(value.as_py())
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"The text in row {where} is not UTF-8 at byte {error.start}: write it anew as UTF-8, or take the row out."
        ) from error


def _ids_of_row(value: Any, where: str) -> Integer[np.ndarray, " tokens"]:
    if value.values.null_count:
        raise CorpusError(f"Row {where} holds a null among its token ids: fill it in, or take the row out.")
    ids: Integer[np.ndarray, " tokens"] = value.values.to_numpy(zero_copy_only=False)
    return ids


@contextmanager
def open_parquet(file: Path, text_field: str) -> Iterator[pq.ParquetFile]:
    """The open file, which has a column of text or token ids of this name; damage met while it is open is named too."""
    try:
        with naming(file), file.open("rb") as data, pq.ParquetFile(data) as parquet:
            schema = parquet.schema_arrow
            if text_field not in schema.names:
                raise _missing_field(f"The corpus file {shown(file)}", text_field, schema.names)
            kind = schema.field(text_field).type
            if not _is_text(kind.value_type if pa.types.is_dictionary(kind) else kind) and not _is_ids(kind):
                raise SourceError(
                    f"The column '{text_field}' of the corpus file {shown(file)} holds {kind}, neither text nor lists "
                    "of token ids: set 'text_field' to the column that holds one of them."
                )
            try:
                yield parquet
            except OSError as error:  # what the reader says of damaged pages has no number
                raise error if error.errno is not None else pa.ArrowException(str(error)) from error
    except pa.ArrowException as error:
        raise SourceError(
            f"The corpus file {shown(file)} is no readable Parquet file ({short_reason(error)}): write it again or "
            "take it out."
        ) from error


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_ids(kind: pa.DataType) -> bool:
    return _is_list(kind) and pa.types.is_integer(kind.value_type)
