"""The three sources of a corpus behind one door: open one, name it, and tell whether it changed.

Named corpora and folders are taken in order of the sha256 of the text, so that a sample of them is no alphabetical
head; a single file and a hub data set keep their own order and are read only as far as they are wanted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from n2g_assets.corpus.catalogue import READER_VERSION, catalogue_entry, read_named
from n2g_assets.corpus.files import find_files, read_files
from n2g_assets.corpus.hub import find_listing, read_hub
from n2g_assets.corpus.raw import RawDocument
from n2g_assets.errors import SourceError
from n2g_assets.settings import AnyCorpusSource, FilesSource, HubSource, NamedSource
from n2g_assets.wheels import file_sha256


@dataclass(frozen=True)
class Places:
    """The folders that sources are read from and kept in."""

    study_folder: Path
    """Folder that relative paths count from."""
    downloads: Path
    """Where fetched wheels and hub files are kept."""
    cache: Path
    """Where texts that are costly to make are kept."""


def source_label(source: AnyCorpusSource) -> str:
    """What ``documents.source`` calls the source: its name, or its path as the study writes it."""
    return source.path if isinstance(source, FilesSource) else source.name


def source_kind(source: AnyCorpusSource) -> str:
    """What ``documents.kind`` says: the study's word, or for a named corpus without one the catalogue's."""
    if isinstance(source, NamedSource) and "kind" not in source.model_fields_set:
        return catalogue_entry(source.name).kind
    return source.kind


def open_source(source: AnyCorpusSource, places: Places) -> Iterable[RawDocument]:
    """The texts of a source in the order in which they are taken: a list where all of them were read already.

    Raises:
        CorpusError: A path is missing or a file is not UTF-8.
        SourceError: The source cannot be had or is damaged.
    """
    if isinstance(source, NamedSource):
        return _by_hash(read_named(source.name, downloads=places.downloads, cache=places.cache))
    if isinstance(source, HubSource):
        return read_hub(source, downloads=places.downloads)
    root, files = find_files(source.path, places.study_folder)
    documents = read_files(source, root, files)
    single = files == [places.study_folder / Path(source.path).expanduser()]
    return documents if single else _by_hash(documents)


def source_fingerprints(
    sources: Sequence[AnyCorpusSource], *, study_folder: Path, downloads: Path
) -> list[dict[str, object]]:
    """For each source its settings and what identifies its content, as JSON values; equal means the same texts.

    Files are hashed, named corpora go by their pin, hub data sets by their commit; nothing is fetched but a hub data
    set's list of files.

    Args:
        sources: The study's corpus.
        study_folder: Folder that relative paths count from.
        downloads: Where fetched files are kept.

    Raises:
        CorpusError: A path is missing.
        SourceError: A name is unknown, a file cannot be read, or the hub cannot be reached for the first time.
    """
    return [{**source.model_dump(), "content": _content(source, study_folder, downloads)} for source in sources]


def _content(source: AnyCorpusSource, study_folder: Path, downloads: Path) -> list[str]:
    if isinstance(source, NamedSource):
        return [catalogue_entry(source.name).pin.sha256, READER_VERSION]
    if isinstance(source, HubSource):
        listing = find_listing(source, downloads)
        return [listing.commit, *listing.files]
    root, files = find_files(source.path, study_folder)
    try:
        return [f"{file.relative_to(root).as_posix()} {file_sha256(file)}" for file in files]
    except OSError as error:
        raise SourceError(
            f"A corpus file under {root} cannot be read ({error}): make it readable or take it out of the corpus."
        ) from error


def text_sha256(text: str) -> str:
    """The sha256 of a text as UTF-8 (hex)."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _by_hash(documents: Iterable[RawDocument]) -> list[RawDocument]:
    return sorted(documents, key=lambda document: (text_sha256(document.text), document.name))
