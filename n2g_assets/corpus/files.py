"""Documents from files of the user: text (one document a file), JSONL or Parquet (one document a row).

A path names a file, a folder (all files in it and below, hidden ones left out) or a glob. Whatever is wrong with a
file ends in one sentence that names the file and the byte, line or column.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from n2g_assets.corpus.raw import RawDocument
from n2g_assets.errors import CorpusError, SourceError
from n2g_assets.settings import FilesSource

_BOM = b"\xef\xbb\xbf"


def find_files(path: str, study_folder: Path) -> tuple[Path, list[Path]]:
    """The files that a path, folder or glob means.

    Args:
        path: As the study names it; a relative one counts from ``study_folder``.
        study_folder: Folder of the study.

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
    """The documents of the files, in order, read as they are asked for.

    Args:
        source: Format and text field.
        root: Folder that names count from.
        files: What ``find_files`` found.

    Raises:
        CorpusError: A file is not UTF-8.
        SourceError: A file is damaged, cannot be read, or lacks the text field.
    """
    readers = {"text": _read_text, "jsonl": read_jsonl, "parquet": read_parquet}
    for file in files:
        form = _format_by_ending(file) if source.format == "auto" else source.format
        name = file.relative_to(root).as_posix()
        try:
            yield from readers[form](file, name, source.text_field)
        except OSError as error:
            raise SourceError(
                f"The corpus file {file} cannot be read ({error.strerror or error}): "
                "make it readable or take it out of the corpus."
            ) from error


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _format_by_ending(file: Path) -> Literal["text", "jsonl", "parquet"]:
    endings: dict[str, Literal["jsonl", "parquet"]] = {".jsonl": "jsonl", ".parquet": "parquet"}
    return endings.get(file.suffix.lower(), "text")


def _decode(data: bytes, file: Path, offset: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"The corpus file {file} is not UTF-8 at byte {offset + error.start} (counted from 0): "
            "save it as UTF-8 or take it out of the corpus."
        ) from error


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
            number = 0
            for batch in parquet.iter_batches(batch_size=1024, columns=[text_field]):
                for text in batch.column(0).to_pylist():
                    yield RawDocument(f"{name}:{number}", text or "")
                    number += 1
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
