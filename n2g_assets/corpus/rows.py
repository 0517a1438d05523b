"""Documents from the rows of JSONL, CSV and Parquet files, one a row; errors name the file and the line."""

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from json import JSONDecodeError
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from n2g_assets.core.errors import CorpusError, SourceError
from n2g_assets.corpus.formats import decode, decode_json, naming, open_file, short_reason, shown

_LONGEST_FIELD = 2**31 - 1
"""Characters of a field of a CSV file; Python's own limit is 131,072."""


@dataclass(frozen=True)
class RawDocument:
    """A document as a reader of a corpus source gives it."""

    name: str
    """Its name in the source: a title, a file, or a file and a line."""
    text: str
    """The whole text."""
    is_null: bool = False
    """Whether its row has no text but null."""


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
    if not isinstance(row, dict) or text_field not in row:
        raise _missing_field(f"Line {where}", text_field, list(row) if isinstance(row, dict) else [])
    text = row[text_field]
    if text is None:
        return None
    if not isinstance(text, str):
        raise SourceError(
            f"Line {where} has a value of type {type(text).__name__} in '{text_field}': "
            "set 'text_field' to the field that holds the text."
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
    return SourceError(
        f"{where} has no field '{text_field}' (it has {', '.join(map(ascii, fields[:8])) or 'none'}): set 'text_field' "
        "to the one that holds the text."
    )


def read_csv(file: Path, name: str, text_field: str) -> Iterator[RawDocument]:
    """One document a row, named after the file and the line where it begins (from 1); the first row names the fields.

    The separator is the comma, semicolon, tab or bar that makes ``text_field`` one of the fields.

    Raises:
        CorpusError: A line is not UTF-8.
        SourceError: The file cannot be read or lacks the field, or a row has more or fewer fields than the first.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    with open_file(file) as data:
        lines = (line for _, line in _lines(data, file))
        first = next(lines, "")
        separators = (mark for mark in ",;\t|" if text_field in next(csv.reader([first], delimiter=mark), []))
        reader = csv.reader(chain([first], lines), delimiter=next(separators, ","), strict=True)
        where, header = 1, None
        try:
            for row in reader:
                if header is None:
                    header = row
                    if text_field not in header:
                        raise _missing_field(f"The corpus file {shown(file)}", text_field, header)
                elif row and len(row) != len(header):
                    raise SourceError(
                        f"Line {where} of the corpus file {shown(file)} has {len(row)} fields and the first line "
                        f"{len(header)}: put fields that hold the separator into double quotes, or take the line out."
                    )
                elif row:
                    yield RawDocument(f"{name}:{where}", row[header.index(text_field)])
                where = reader.line_num + 1
        except csv.Error as error:
            raise SourceError(
                f"Line {where} of the corpus file {shown(file)} is not CSV ({short_reason(error)}): repair the line or "
                "take it out."
            ) from error


def read_parquet(file: Path, name: str, text_field: str) -> Iterator[RawDocument]:
    """One document a row, named after the file and the row (from 0).

    Raises:
        SourceError: The file cannot be read or is damaged, or has no such column of text.
    """
    with open_parquet(file, text_field) as parquet:
        batches = parquet.iter_batches(batch_size=1024, columns=[text_field])
        texts = chain.from_iterable(batch.column(0).to_pylist() for batch in batches)
        for number, text in enumerate(texts):
            yield RawDocument(f"{name}:{number}", text or "", text is None)


@contextmanager
def open_parquet(file: Path, text_field: str) -> Iterator[pq.ParquetFile]:
    """The open file, which has a column of text of this name; damage met while it is open is named as well."""
    try:
        with naming(file), file.open("rb") as data, pq.ParquetFile(data) as parquet:
            schema = parquet.schema_arrow
            if text_field not in schema.names:
                raise _missing_field(f"The corpus file {shown(file)}", text_field, schema.names)
            kind = schema.field(text_field).type
            if not _is_text(kind.value_type if pa.types.is_dictionary(kind) else kind):
                raise SourceError(
                    f"The column '{text_field}' of the corpus file {shown(file)} holds {kind}, not text: "
                    "set 'text_field' to the column that holds the text."
                )
            try:
                yield parquet
            except OSError as error:  # what the reader says of damaged pages has no number
                raise error if error.errno is not None else pa.ArrowException(str(error)) from error
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise SourceError(
            f"The corpus file {shown(file)} is no readable Parquet file ({short_reason(error)}): write it again or "
            "take it out."
        ) from error


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
