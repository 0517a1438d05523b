"""The four kinds of corpus source: open one, name it, and tell whether it has changed.

Named corpora and folders are read in the order of the sha256 of their texts, so that a sample is not the alphabetical
beginning. A single file, a hub data set and what a function yields keep their own order and are read only as far as
needed.

A named corpus and a folder with JSONL, CSV or Parquet files are held in memory as text while they are read. Of a folder
of text files only the hashes are held: its files are read twice, once to find the order and once one by one.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from n2g_assets.core.errors import CorpusError
from n2g_assets.core.home import Home
from n2g_assets.core.sources import AnyCorpusSource, FilesSource, HubSource, NamedSource, PythonSource, portable_path
from n2g_assets.corpus.catalogue import READER_VERSION, catalogue_entry, read_named
from n2g_assets.corpus.files import check_path, find_files, full_path, inspect_file, read_files
from n2g_assets.corpus.formats import file_format, shown
from n2g_assets.corpus.functions import function_of
from n2g_assets.corpus.hub import check_hub_name, find_listing, read_hub
from n2g_assets.corpus.rows import RawDocument
from n2g_assets.corpus.yielded import keep_yielded, read_yielded


class OpenSource(NamedTuple):
    """The texts of a source."""

    documents: Iterable[RawDocument]
    """Its documents in order; they can be iterated once."""
    characters: int = 0
    """Characters of all of them; 0 while unknown."""


def source_label(source: AnyCorpusSource) -> str:
    """What messages call the source: its name, or its path or function as the study writes it."""
    if isinstance(source, PythonSource):
        return source.function
    return source.path if isinstance(source, FilesSource) else source.name


def source_place(source: AnyCorpusSource, study_folder: Path) -> str:
    """What ``documents.source`` calls the source: as messages do, but no path depends on where the study is mounted."""
    return portable_path(source.path, study_folder) if isinstance(source, FilesSource) else source_label(source)


def source_kind(source: AnyCorpusSource) -> str:
    """The value of ``documents.kind``: from the study, or for a named corpus without one from the catalogue."""
    if isinstance(source, NamedSource) and "kind" not in source.model_fields_set:
        return catalogue_entry(source.name).kind
    return source.kind


def check_source(source: AnyCorpusSource, study_folder: Path) -> None:
    """Check that what a source names is there, as far as that can be seen without a network or reading it.

    Raises:
        CorpusError: Nothing is at the path.
        SourceError: The catalogue has no such name, the hub can have none, or there is no such function.
    """
    if isinstance(source, NamedSource):
        catalogue_entry(source.name)
    elif isinstance(source, HubSource):
        check_hub_name(source.name)
    elif isinstance(source, PythonSource):
        function_of(source, study_folder).check()
    else:
        check_path(source.path, study_folder)


def open_source(source: AnyCorpusSource, *, study_folder: Path, home: Home) -> OpenSource:
    """The texts of a source, in order; relative paths count from ``study_folder``, ``home`` keeps what is fetched.

    Raises:
        CorpusError: A path is missing or a file is not UTF-8.
        SourceError: The source cannot be had or is damaged.
    """
    if isinstance(source, NamedSource):
        return _by_hash(read_named(source.name, home))
    if isinstance(source, HubSource):
        return OpenSource(read_hub(source, home))
    if isinstance(source, PythonSource):
        return OpenSource(read_yielded(source, study_folder, home))
    files = find_files(source.path, study_folder)
    if list(files.values()) == [full_path(source.path, study_folder)]:
        return OpenSource(read_files(source, files))
    if all(file_format(source, file) == "text" for file in files.values()):
        return _text_files_by_hash(source, files)
    return _by_hash(read_files(source, files))


def source_fingerprints(
    sources: Sequence[AnyCorpusSource], *, study_folder: Path, home: Home
) -> list[dict[str, object]]:
    """For each source its settings and what identifies its content, as JSON values; equal means the same texts.

    Files are hashed and checked while they are read, so bad files are found before anything is computed. Named corpora
    are identified by their pin, hub data sets by their commit; only a hub data set's list of files is fetched. A
    function is called, and what it yields is kept.

    Raises:
        CorpusError: A path is missing, a file is not UTF-8, all files of a source are empty, or a function yields
            what is no document.
        SourceError: A name is unknown, a file cannot be read, a Parquet file is damaged or lacks the text column, the
            hub cannot be reached for the first time, or a function fails.
    """
    return [
        source.model_dump()
        | ({"path": source_place(source, study_folder)} if isinstance(source, FilesSource) else {})
        | {"content": _content(source, study_folder, home)}
        for source in sources
    ]


def _content(source: AnyCorpusSource, study_folder: Path, home: Home) -> list[str]:
    if isinstance(source, NamedSource):
        return [catalogue_entry(source.name).pin.sha256, READER_VERSION]
    if isinstance(source, HubSource):
        listing = find_listing(source, home)
        return [listing.commit, *listing.files]
    if isinstance(source, PythonSource):
        sha256, holds_text = keep_yielded(source, study_folder, home)
        if not holds_text:
            raise no_text(source)
        return [sha256]
    inspected = {name: inspect_file(source, file) for name, file in find_files(source.path, study_folder).items()}
    if not any(holds_text for _, holds_text in inspected.values()):
        raise no_text(source)
    return [f"{shown(name)} {sha256}" for name, (sha256, _) in inspected.items()]


def no_text(source: AnyCorpusSource) -> CorpusError:
    """The error of a source in which no document holds text."""
    return CorpusError(
        f"The corpus source '{source_label(source)}' holds no text: fill it or take it out of the study."
    )


def text_sha256(text: str) -> str:
    """The sha256 of a text as UTF-8 (hex)."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _by_hash(documents: Iterable[RawDocument]) -> OpenSource:
    by_hash = sorted(documents, key=lambda document: (_content_sha256(document), document.name))
    return OpenSource(by_hash, sum(document.size for document in by_hash))


def _content_sha256(document: RawDocument) -> str:
    if document.token_ids is None:
        return text_sha256(document.text)
    return hashlib.sha256(document.token_ids.astype(np.int64).tobytes()).hexdigest()


def _text_files_by_hash(source: FilesSource, files: dict[str, Path]) -> OpenSource:
    """As ``_by_hash``, one document a text file, without holding the texts in memory."""
    documents = read_files(source, files)
    keys = sorted(
        (text_sha256(document.text), name, len(document.text)) for name, document in zip(files, documents, strict=True)
    )
    by_hash = {name: files[name] for _, name, _ in keys}
    return OpenSource(read_files(source, by_hash), sum(characters for _, _, characters in keys))
