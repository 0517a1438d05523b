"""Documents from files of the user: text (one document a file), JSONL or Parquet (one document a row).

A path names a file, a folder (all files in it and below, hidden ones left out) or a glob. Errors name the file and the
byte, line or column.
"""

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from n2g_assets.core.errors import CorpusError, SourceError
from n2g_assets.core.sources import FilesSource
from n2g_assets.storage.hashing import file_sha256

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class RawDocument:
    """A document as a reader of a corpus source gives it."""

    name: str
    """Its name in the source: a title, a file, or a file and a line."""
    text: str
    """The whole text."""


def find_files(path: str, study_folder: Path) -> dict[str, Path]:
    """The files that a path, folder or glob means; a relative one counts from ``study_folder``.

    Returns:
        The files in sorted order, at least one, by the name of their documents: the path inside the folder or glob.

    Raises:
        CorpusError: Nothing is there, or the folder holds no file.
    """
    full = check_path(path, study_folder)
    if full.is_file():
        return {full.name: full}
    if full.is_dir():
        below = (file.relative_to(full) for file in full.rglob("*") if file.is_file())
        files = sorted(full / file for file in below if not any(part.startswith(".") for part in file.parts))
        if not files:
            raise CorpusError(f"The corpus folder {full} holds no files: put text, JSONL or Parquet files into it.")
        return {file.relative_to(full).as_posix(): file for file in files}
    matches = sorted(map(Path, glob.glob(str(full), recursive=True))) if glob.has_magic(path) else []
    files = [match for match in matches if match.is_file()]
    if not files:
        raise CorpusError(f"The corpus path {full} names no file but folders alone: let the glob end in a file's name.")
    root = os.path.commonpath([file.parent for file in files])
    return {file.relative_to(root).as_posix(): file for file in files}


def check_path(path: str, study_folder: Path) -> Path:
    """The whole path of a file, folder or glob that is there; nothing in it is read.

    Raises:
        CorpusError: Nothing is there.
    """
    full = study_folder / Path(path).expanduser()
    if not full.exists() and not (glob.has_magic(path) and any(glob.iglob(str(full), recursive=True))):
        raise CorpusError(
            f"The corpus path {full} does not exist: correct 'path' (a relative one counts from the study's folder)."
        )
    return full


def read_files(source: FilesSource, files: Mapping[str, Path]) -> Iterator[RawDocument]:
    """The documents of the files by name, in order, read as they are asked for.

    Raises:
        CorpusError: A file is not UTF-8.
        SourceError: A file is damaged, cannot be read, or lacks the text field.
    """
    for name, file in files.items():
        with _named_if_unreadable(file):
            kind = file_format(source, file)
            if kind == "text":
                yield RawDocument(name, _decode(file.read_bytes(), file, 0).removeprefix("\ufeff"))
            else:
                yield from (read_parquet if kind == "parquet" else _read_jsonl)(file, name, source.text_field)


def inspect_file(source: FilesSource, file: Path) -> tuple[str, bool]:
    """The sha256 of a file (hex) and whether it holds any text; memory holds some of its lines at a time.

    Text and JSONL are decoded on the way; of a Parquet file the footer is read: its column of text and its rows.

    Raises:
        CorpusError: The file is not UTF-8.
        SourceError: The file cannot be read, or is no Parquet file with such a column of text.
    """
    with _named_if_unreadable(file):
        if file_format(source, file) == "parquet":
            with _open_parquet(file, source.text_field) as parquet:
                return file_sha256(file), parquet.metadata.num_rows > 0
        digest, offset, holds_text = hashlib.sha256(), 0, False
        with file.open("rb") as data:
            while chunk := b"".join(data.readlines(_CHUNK_BYTES)):  # whole lines hold whole characters
                digest.update(chunk)
                holds_text |= bool(_decode(chunk, file, offset).lstrip("\ufeff").strip())
                offset += len(chunk)
        return digest.hexdigest(), holds_text


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


def _decode(data: bytes, file: Path, offset: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"The corpus file {file} is not UTF-8 at byte {offset + error.start} (counted from 0): "
            "save it as UTF-8 or take it out of the corpus."
        ) from error


def _read_jsonl(file: Path, name: str, text_field: str) -> Iterator[RawDocument]:
    """One document a line, named after the file and the line (from 1); blank lines are passed over."""
    offset = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            text = _decode(line, file, offset)
            offset += len(line)
            if number == 1:
                text = text.removeprefix("\ufeff")
            if text.strip():
                yield RawDocument(
                    f"{name}:{number}", _text_of_line(text, f"{number} of the corpus file {file}", text_field)
                )


def _text_of_line(line: str, where: str, text_field: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise SourceError(
            f"Line {where} is not JSON ({error.msg}, column {error.colno}): repair the line or take it out."
        ) from error
    if not isinstance(row, dict) or text_field not in row:
        raise _missing_field(f"Line {where}", text_field, list(row) if isinstance(row, (dict, list)) else [])
    text = row[text_field]
    if text is not None and not isinstance(text, str):
        raise SourceError(
            f"Line {where} has a value of type {type(text).__name__} in '{text_field}': "
            "set 'text_field' to the field that holds the text."
        )
    try:
        (text or "").encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"The text in line {where} holds half a surrogate pair at character {error.start}: repair the line or "
            "take it out."
        ) from error
    return text or ""


def _missing_field(where: str, text_field: str, fields: list[object]) -> SourceError:
    return SourceError(
        f"{where} has no field '{text_field}' (it has {', '.join(map(ascii, fields[:8])) or 'none'}): set 'text_field' "
        "to the one that holds the text."
    )


def read_parquet(file: Path, name: str, text_field: str) -> Iterator[RawDocument]:
    """One document a row, named after the file and the row (from 0).

    Raises:
        SourceError: The file is damaged, or has no such column of text.
    """
    with _open_parquet(file, text_field) as parquet:
        batches = parquet.iter_batches(batch_size=1024, columns=[text_field])
        texts = chain.from_iterable(batch.column(0).to_pylist() for batch in batches)
        for number, text in enumerate(texts):
            yield RawDocument(f"{name}:{number}", text or "")


@contextmanager
def _open_parquet(file: Path, text_field: str) -> Iterator[pq.ParquetFile]:
    """The open file, which has a column of text of this name; damage met while it is open is named as well."""
    try:
        with pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            if text_field not in schema.names:
                raise _missing_field(f"The corpus file {file}", text_field, schema.names)
            kind = schema.field(text_field).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
                raise SourceError(
                    f"The column '{text_field}' of the corpus file {file} holds {kind}, not text: "
                    "set 'text_field' to the column that holds the text."
                )
            yield parquet
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # what the reader says of damaged pages has none
            raise
        raise SourceError(
            f"The corpus file {file} is no readable Parquet file ({short_reason(error)}): write it again or take it "
            "out."
        ) from error


def short_reason(error: Exception) -> str:
    """What a library says, on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200].rstrip(" .")
