"""Documents that come as token ids: checked, cut at separators, and spelled out as text.

1. Every id must be one of the model's.
2. A row is cut at the tokens that stand between documents or fill rows up (``separators``): they are left out, since
   each context gets its own BOS, and what stands between them is a document.
3. Each is decoded to its text, by which it is hashed and compared as all others are. Its tokens stay as they came.
4. The text is encoded again. Of the tokenizer that made them, ids come back as they were, but for the ends of rows that
   were cut inside a word; of another one the text is nonsense, which is written with other tokens.

Over rows of 24 to 512 tokens of prose and code, by five tokenizers trained for it and that of the default model, 97 to
100 % of the tokens come back in stretches of 32. Read by another one, 0 to 57 % do in rows of 64 and more where it
merges (BPE, WordPiece), but 62 to 94 % with a unigram model, hence the longer stretches here. No such test can tell two
tokenizers apart that write each character or each word as one token, and documents of 8 tokens say nothing.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Int32, Integer

from n2g_assets.core.errors import CorpusError
from n2g_assets.corpus.rows import RawDocument

Tokens = Int32[np.ndarray, " tokens"]

_STRETCH = 128
"""Tokens that are compared at a time, at most."""
_END = 4
"""Tokens at each end of a document that are not compared: a word may have been cut there."""
_SHARE = 0.9
"""Share of the tokens of a source that must come back."""


class DocumentTokenizer(Protocol):
    """What the corpus asks the subject model's tokenizer."""

    @property
    def d_vocab(self) -> int:
        """Tokens that the model has embeddings for."""

    @property
    def separators(self) -> Set[int]:
        """Ids of the tokens that stand between documents or fill rows up."""

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text, BOS not included."""

    def decode(self, token_ids: Sequence[Tokens]) -> list[str]:
        """The text of each row of token ids."""


def spell_out(documents: Iterator[RawDocument], tokenizer: DocumentTokenizer) -> Iterator[RawDocument]:
    """The documents, those that come as token ids cut at separators and with their text; others as they are.

    Where a row is cut into several, each is named after the row and its place in it, from 0.

    Raises:
        CorpusError: An id is not one of the model's.
    """
    for document in documents:
        if document.token_ids is None:
            yield document
            continue
        pieces = _pieces(_checked(document.name, document.token_ids, tokenizer.d_vocab), tokenizer.separators)
        for number, (piece, text) in enumerate(zip(pieces, tokenizer.decode(pieces), strict=True)):
            name = document.name if len(pieces) == 1 else f"{document.name}:{number}"
            yield replace(document, name=name, text=text, token_ids=piece)


def _checked(name: str, ids: Integer[np.ndarray, " tokens"], d_vocab: int) -> Tokens:
    outside = (ids < 0) | (ids >= d_vocab)
    if outside.any():
        raise CorpusError(
            f"The document {name} holds the token id {ids[outside][0]} at place {int(outside.argmax())} (counted from "
            f"0), and the model's ids go from 0 to {d_vocab - 1}: take a data set that was made with this model's "
            "tokenizer, or its text."
        )
    return ids.astype(np.int32)


def _pieces(ids: Tokens, separators: Set[int]) -> list[Tokens]:
    """What stands between separators; one empty piece where nothing does."""
    between: Bool[np.ndarray, " tokens"] = ~np.isin(ids, list(separators))
    edges = np.flatnonzero(np.diff(between, prepend=False, append=False)).reshape(-1, 2)
    return [ids[start:end] for start, end in edges.tolist()] or [ids[:0]]


class Agreement:
    """How much of a source's token ids comes back when they are decoded and encoded again."""

    def __init__(self, label: str) -> None:
        """Takes what the source is called."""
        self._label = label
        self._compared = self._same = 0
        self._example = ""

    def add(self, document: RawDocument, again: Tokens) -> None:
        """Compares the token ids of a document with those of its text."""
        assert document.token_ids is not None
        inner = document.token_ids[_END:-_END]
        encoded = again.astype(np.int32).tobytes()
        for stretch in np.array_split(inner, max(-(-len(inner) // _STRETCH), 1)):
            self._compared += len(stretch)
            if _holds(encoded, stretch):
                self._same += len(stretch)
            else:
                self._example = self._example or document.name

    def check(self) -> None:
        """Raises CorpusError where too little came back."""
        if self._same < _SHARE * self._compared:
            raise CorpusError(
                f"The token ids of the corpus source '{self._label}' are not of this model's tokenizer: decoded and "
                f"encoded again, {self._same / self._compared:.0%} of them come back as they were, fewer than the "
                f"{_SHARE:.0%} that must (not so in {self._example}): take a data set that was made with this model's "
                "tokenizer, or its text."
            )


def _holds(encoded: bytes, stretch: Tokens) -> bool:
    """Whether the token ids, as bytes, hold the stretch."""
    wanted = stretch.tobytes()
    place = encoded.find(wanted)
    while place % stretch.itemsize and place >= 0:
        place = encoded.find(wanted, place + 1)
    return place >= 0
