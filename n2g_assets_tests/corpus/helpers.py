"""Builders for the tests of the corpus: wheels made on the spot, a stand-in for pip, a tokenizer of words."""

from __future__ import annotations

import hashlib
import io
import subprocess
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.core.sources import AnyCorpusSource, FilesSource
from n2g_assets.corpus.documents import Corpus, read_documents
from n2g_assets.corpus.files import find_files, read_files
from n2g_assets.corpus.spelling import Spelling
from n2g_assets.corpus.token_ids import DocumentTokenizer

BOS = 1


def wheel_bytes(members: Mapping[str, bytes]) -> bytes:
    """A zip file with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class FakePip:
    """Takes the place of ``subprocess.run``: puts a wheel where pip would, or fails as pip would."""

    def __init__(self, wheel: bytes | None, stderr: str = "") -> None:
        self.wheel, self.stderr, self.calls = wheel, stderr, []

    def __call__(self, command: list[str], **keywords: object) -> subprocess.CompletedProcess[str]:
        self.calls.append(command)
        if self.wheel is None:
            return subprocess.CompletedProcess(command, 1, "", self.stderr)
        Path(command[command.index("--dest") + 1], "some-1.0-py3-none-any.whl").write_bytes(self.wheel)
        return subprocess.CompletedProcess(command, 0, "", "")


def encode_words(texts: list[str]) -> list[np.ndarray]:
    """A tokenizer: every word between white space is one token, never BOS."""
    return [np.array([2 + zlib.crc32(word.encode()) % 40000 for word in text.split()], np.int32) for text in texts]


class WordTokenizer:
    """``encode_words`` as documents are tokenised by it; it decodes what ``encode`` has seen."""

    d_vocab = 40002
    separators = frozenset({0, BOS})

    def __init__(self) -> None:
        self._words: dict[int, str] = {}

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        found = encode_words(list(texts))
        for text, ids in zip(texts, found, strict=True):
            self._words.update(zip(ids.tolist(), text.split(), strict=True))
        return found

    def decode(self, token_ids: Sequence[np.ndarray]) -> list[str]:
        return [" ".join(self._words.get(token_id, "?") for token_id in ids.tolist()) for ids in token_ids]


SPELLING = Spelling([b" %d" % token_id for token_id in range(40002)])
"""Every token of ``encode_words`` is its number after a space."""


def words(n: int, seed: int) -> str:
    """A text of n words, all of it determined by the seed."""
    return " ".join(f"w{number}" for number in np.random.default_rng(seed).integers(0, 5000, n))


def files(path: str, **settings: object) -> FilesSource:
    return FilesSource(source="files", path=path, **settings)


def read_path(folder: Path, path: str, **settings: object) -> list[tuple[str, str]]:
    """Names and texts of the documents of a file, folder or glob."""
    documents = read_files(files(path, **settings), find_files(path, folder))
    return [(document.name, document.text) for document in documents]


def read(
    folder: Path,
    *sources: AnyCorpusSource,
    needed: int = 0,
    harvest: HarvestSettings | None = None,
    tokenizer: DocumentTokenizer | None = None,
) -> Corpus:
    """``read_documents`` with the tokenizer of words."""
    return read_documents(
        sources,
        study_folder=folder,
        home=Home(folder / ".home"),
        tokenizer=tokenizer or WordTokenizer(),
        spelling=SPELLING,
        bos_id=BOS,
        harvest=harvest or HarvestSettings(context_length=16),
        needed_contexts=needed,
    )
