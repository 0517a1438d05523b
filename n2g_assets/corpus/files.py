"""Documents from files of the user: text (one document a file), JSONL or Parquet (one document a row).

A path names a file, a folder (all files in it and below, hidden ones left out) or a glob. Errors name the file and the
byte, line or column.
"""

from __future__ import annotations

import codecs
import glob
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from n2g_assets.core.errors import CorpusError, SourceError
from n2g_assets.core.settings import FilesSource
from n2g_assets.corpus.raw import RawDocument
from n2g_assets.storage.hashing import file_sha256

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_BOM = b"\xef\xbb\xbf"
_CHUNK_BYTES = 1 << 20


def find_files(path: str, study_folder: Path) -> tuple[Path, list[Path]]:
    """The files that a path, folder or glob means; a relative one counts from ``study_folder``.

    Returns:
        The folder that document names count from, and the files in sorted order, at least one.

    Raises:
        CorpusError: Nothing is there, or the folder holds no file.
    """
    full = study_folder / Path(path).expanduser()
    if full.is_file():
        return full.parent, [full]
    if full.is_dir():
        files = sorted(file for file in full.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(full)))
        if not files:
            raise CorpusError(f"The corpus folder {full} holds no files: put text, JSONL or Parquet files into it.")
        return full, files
    matches = sorted(map(Path, glob.glob(str(full), recursive=True))) if glob.has_magic(path) else []
    files = [match for match in matches if match.is_file()]
    if not files:
        raise CorpusError(
            f"The corpus path {full} does not exist: correct 'path' (a relative one counts from the study's folder)."
        )
    return Path(os.path.commonpath([file.parent for file in files])), files


def read_files(source: FilesSource, root: Path, files: list[Path]) -> Iterator[RawDocument]:
    """The documents of the files, in order, read as they are asked for; their names count from ``root``.

    Raises:
        CorpusError: A file is not UTF-8.
        SourceError: A file is damaged, cannot be read, or lacks the text field.
    """
    readers = {"text": _read_text, "jsonl": read_jsonl, "parquet": read_parquet}
    for file in files:
        name = file.relative_to(root).as_posix()
        with _named_if_unreadable(file):
            yield from readers[file_format(source, file)](file, name, source.text_field)


def inspect_file(source: FilesSource, file: Path) -> tuple[str, bool]:
    """The sha256 of a file (hex) and whether it holds any text, found without holding the file in memory.

    Text and JSONL are decoded on the way; of a Parquet file the footer is read: its column of text and its rows.

    Raises:
        CorpusError: The file is not UTF-8.
        SourceError: The file cannot be read, or is no Parquet file with such a column of text.
    """
    with _named_if_unreadable(file):
        if file_format(source, file) == "parquet":
            with _open_parquet(file, source.text_field) as parquet:
                return file_sha256(file), parquet.metadata.num_rows > 0
        return _inspect_text(file)


def file_format(source: FilesSource, file: Path) -> Literal["text", "jsonl", "parquet"]:
    """How a file of the source is read."""
    endings: dict[str, Literal["jsonl", "parquet"]] = {".jsonl": "jsonl", ".parquet": "parquet"}
    return endings.get(file.suffix.lower(), "text") if source.format == "auto" else source.format


@contextmanager
def _named_if_unreadable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceError(
            f"The corpus file {file} cannot be read ({error.strerror or error}): "
            "make it readable or take it out of the corpus."
        ) from error


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _decode(data: bytes, file: Path, offset: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(file, offset + error.start) from error


def _not_utf8(file: Path, byte: int) -> CorpusError:
    return CorpusError(
        f"The corpus file {file} is not UTF-8 at byte {byte} (counted from 0): "
        "save it as UTF-8 or take it out of the corpus."
    )


def _inspect_text(file: Path) -> tuple[str, bool]:
    digest, decoder = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")()
    offset, holds_text, at_end = 0, False, False
    with file.open("rb") as data:
        while not at_end:
            chunk = data.read(_CHUNK_BYTES)
            at_end = not chunk
            digest.update(chunk)
            undecoded = len(decoder.getstate()[0])  # a character that the last chunk cut
            try:
                text = decoder.decode(chunk, final=at_end)
            except UnicodeDecodeError as error:
                raise _not_utf8(file, offset - undecoded + error.start) from error
            holds_text = holds_text or bool(text.lstrip("\ufeff").strip())
            offset += len(chunk)
    return digest.hexdigest(), holds_text


def _read_text(file: Path, name: str, text_field: str) -> Iterator[RawDocument]:
    data = file.read_bytes()
    start = len(_BOM) if data.startswith(_BOM) else 0
    yield RawDocument(name, _decode(data[start:], file, start))


def read_jsonl(file: Path, name: str, text_field: str) -> Iterator[RawDocument]:
    """One document a line, named after the file and the line (from 1); blank lines are passed over.

    Raises:
        CorpusError: The file is not UTF-8.
        SourceError: A line is not JSON, or has no text in the field.
    """
    offset = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            start = len(_BOM) if number == 1 and line.startswith(_BOM) else 0
            text = _decode(line[start:], file, offset + start)
            offset += len(line)
            if text.strip():
                yield RawDocument(f"{name}:{number}", _text_of_line(text, file, number, text_field))


def _text_of_line(line: str, file: Path, number: int, text_field: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise SourceError(
            f"Line {number} of the corpus file {file} is not JSON ({error.msg}, column {error.colno}): "
            "repair the line or take it out."
        ) from error
    if not isinstance(row, dict) or text_field not in row:
        raise SourceError(_missing_field(f"Line {number} of the corpus file {file}", text_field, row))
    text = row[text_field]
    if text is not None and not isinstance(text, str):
        raise SourceError(
            f"Line {number} of the corpus file {file} has no text in '{text_field}' but a {type(text).__name__}: "
            "set 'text_field' to the field that holds the text."
        )
    try:
        (text or "").encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"The text in line {number} of the corpus file {file} holds half a surrogate pair at character "
            f"{error.start}: repair the line or take it out."
        ) from error
    return text or ""


def _missing_field(where: str, text_field: str, row: Any) -> str:
    fields = ", ".join(ascii(field) for field in list(row)[:8]) if isinstance(row, (dict, list)) and row else "none"
    return f"{where} has no field '{text_field}' (it has {fields}): set 'text_field' to the one that holds the text."


def read_parquet(file: Path, name: str, text_field: str) -> Iterator[RawDocument]:
    """One document a row, named after the file and the row (from 0).

    Raises:
        SourceError: The file is damaged, or has no such column of text.
    """
    number = 0
    with _open_parquet(file, text_field) as parquet:
        for batch in parquet.iter_batches(batch_size=1024, columns=[text_field]):
            for text in batch.column(0).to_pylist():
                yield RawDocument(f"{name}:{number}", text or "")
                number += 1


@contextmanager
def _open_parquet(file: Path, text_field: str) -> Iterator[ParquetFile]:
    """The open file, which has a column of text of this name; damage met while it is open is named as well."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            if text_field not in schema.names:
                raise SourceError(_missing_field(f"The corpus file {file}", text_field, schema.names))
            kind = schema.field(text_field).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
                raise SourceError(
                    f"The column '{text_field}' of the corpus file {file} holds {kind}, not text: "
                    "set 'text_field' to the column that holds the text."
                )
            yield parquet
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(" .")
        raise SourceError(
            f"The corpus file {file} is no readable Parquet file ({reason}): write it again or take it out."
        ) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise SourceError(  # what the Parquet reader says of damaged pages has no error number
            f"The corpus file {file} is no readable Parquet file ({error}): write it again or take it out."
        ) from error
