"""What two documents are compared by: their tokens without white space, and their text without white space.

Documents that differ in line ends, indentation or wrapped lines alone hold the same characters otherwise. A tokenizer
writes white space as tokens of its own, which are left out, or joins it to a word, of which both writings count as
one. Where it cuts a word at other places because of the white space before it, the text still tells.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

Tokens = Int32[np.ndarray, " tokens"]


class Spelling:
    """The vocabulary of a tokenizer as documents are compared by it."""

    def __init__(self, tokens: Sequence[bytes]) -> None:
        """Takes the exact bytes of every token id."""
        self._tokens = tokens
        bare = [_without_white_space(token) for token in tokens]
        first = {form: token_id for token_id, form in reversed(list(enumerate(bare)))}
        self._forms = np.array([first[form] if form else -1 for form in bare], dtype=np.int32)

    def forms(self, token_ids: Tokens) -> Tokens:
        """The tokens without white space: such tokens are left out, others are the first that differs in it alone."""
        forms = self._forms[token_ids]
        return forms[forms >= 0]

    def whole(self, token_ids: Tokens) -> int:
        """A hash of 64 bits of the text without white space."""
        text = _without_white_space(b"".join(map(self._tokens.__getitem__, token_ids.tolist())))
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def _without_white_space(text: bytes) -> bytes:
    try:
        return "".join(text.decode("utf-8").split()).encode()
    except UnicodeDecodeError:  # a part of a character
        return b"".join(text.split())
