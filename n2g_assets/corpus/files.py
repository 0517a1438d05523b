"""Documents from files of the user: text (one document a file), JSONL, CSV or Parquet (one document a row).

A path names a file, a folder (all files in it and below, hidden ones left out) or a glob.
"""

import glob
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from n2g_assets.core.errors import CorpusError
from n2g_assets.core.sources import FilesSource
from n2g_assets.corpus.formats import check_prose, decode, file_format, naming, open_file, shown
from n2g_assets.corpus.rows import RawDocument, open_parquet, read_csv, read_jsonl, read_parquet
from n2g_assets.storage.hashing import file_sha256

_CHUNK_BYTES = 1 << 20
_ROW_READERS = {"jsonl": read_jsonl, "csv": read_csv, "parquet": read_parquet}


def full_path(path: str, study_folder: Path) -> Path:
    """A path of a study's settings; a relative one counts from ``study_folder``."""
    return study_folder / os.path.expanduser(path)


def find_files(path: str, study_folder: Path) -> dict[str, Path]:
    """The files that a path, folder or glob means; a relative one counts from ``study_folder``.

    Returns:
        The files in sorted order, at least one, by the name of their documents: the path inside the folder or glob.

    Raises:
        CorpusError: Nothing is there, or the folder holds no file.
        SourceError: A folder cannot be read.
    """
    full = check_path(path, study_folder)
    with naming(full):
        if full.is_file():
            return {full.name: full}
        if full.is_dir():
            files = sorted(_below(full))
            if not files:
                raise CorpusError(
                    f"The corpus folder {shown(full)} holds no files: put text, JSONL, CSV or Parquet files into it."
                )
            return {file.relative_to(full).as_posix(): file for file in files}
        files = sorted(match for match in _matches(path, study_folder) if match.is_file())
    if not files:
        raise CorpusError(
            f"The corpus path {shown(full)} names no file but folders alone: let the glob end in a file's name."
        )
    root = os.path.commonpath([file.parent for file in files])
    return {file.relative_to(root).as_posix(): file for file in files}


def check_path(path: str, study_folder: Path) -> Path:
    """The whole path of a file, folder or glob that is there; nothing in it is read.

    Raises:
        CorpusError: Nothing is there.
        SourceError: The path or a folder cannot be read.
    """
    full = full_path(path, study_folder)
    with naming(full):
        if full.exists() or any(_matches(path, study_folder)):
            return full
    raise CorpusError(
        f"The corpus path {shown(full)} does not exist: correct 'path' (a relative one counts from the study's folder)."
    )


def _matches(path: str, study_folder: Path) -> Iterator[Path]:
    """What a glob names; what stands for the user's home is a path, not a pattern, and so is the study's folder."""
    if glob.has_magic(path):
        pattern = re.sub(r"^~[^/]*", lambda user: glob.escape(os.path.expanduser(user[0])), path)
        yield from (study_folder / match for match in glob.iglob(pattern, root_dir=study_folder, recursive=True))


def _below(folder: Path) -> Iterator[Path]:
    """The files in a folder and below; hidden ones are left out."""

    def fail(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (file for name in names if not name.startswith(".") and (file := Path(place, name)).is_file())


def read_files(source: FilesSource, files: Mapping[str, Path]) -> Iterator[RawDocument]:
    """The documents of the files by name, in order, read as they are asked for.

    Raises:
        CorpusError: A file is not UTF-8.
        SourceError: A file is damaged, cannot be read, lacks the text field, or would be prose with all its syntax.
    """
    for name, file in files.items():
        kind = file_format(source, file)
        if kind == "text":
            with open_file(file) as data:
                text = decode(data.read(), file).removeprefix("\ufeff")
            check_prose(source, file, text)
            yield RawDocument(shown(name), text)
        else:
            yield from _ROW_READERS[kind](file, shown(name), source.text_field)


def inspect_file(source: FilesSource, file: Path) -> tuple[str, bool]:
    """The sha256 of a file, unpacked (hex), and whether it holds any text; memory holds some of its lines at a time.

    Text, JSONL and CSV are decoded on the way; of a Parquet file the footer is read: its column of text and its rows.

    Raises:
        CorpusError: The file is not UTF-8.
        SourceError: The file cannot be read, is no Parquet file with such a column of text, or would be prose with all
            its syntax.
    """
    kind = file_format(source, file)
    if kind == "parquet":
        with open_parquet(file, source.text_field) as parquet:
            return file_sha256(file), parquet.metadata.num_rows > 0
    digest, offset, line, holds_text = hashlib.sha256(), 0, 1, False
    with open_file(file) as data:
        while chunk := b"".join(data.readlines(_CHUNK_BYTES)):  # whole lines hold whole characters
            text = decode(chunk, file, offset, line)
            if kind == "text" and not holds_text:
                check_prose(source, file, text)
            digest.update(chunk)
            holds_text |= bool(text.lstrip("\ufeff").strip())
            offset, line = offset + len(chunk), line + chunk.count(b"\n")
    return digest.hexdigest(), holds_text
