"""Tokens: the form under which a graph matches them, and their text for reading.

Model text is untrusted text: whatever could move a cursor, reverse a line or hide itself is shown by its code.
"""

import unicodedata
from functools import lru_cache

_VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
_ESCAPED = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}


def normalise(token: bytes) -> bytes:
    """The form under which a graph matches a token, given its bytes (the authors' own rule).

    1. Lower case, if the token is titled (``str.istitle``) and longer than one character.
    2. Then, if it is longer than one character and has a letter, without the white space around it.

    Bytes that are no UTF-8, such as a part of a character, stay as they are.
    """
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return token
    if len(text) > 1 and text.istitle():
        text = text.lower()
    if len(text) > 1 and any(character.isalpha() for character in text):
        text = text.strip()
    return text.encode()


@lru_cache(maxsize=2**17)  # a vocabulary; pages show the same tokens again and again
def display_text(token: bytes) -> str:
    """A token for reading: white space made visible, broken bytes and invisible characters shown by their code."""
    if not token:
        return "(empty)"
    text = "".join(_visible(character) for character in token.decode("utf-8", errors="surrogateescape"))
    return "◌" + text if unicodedata.category(text[0]).startswith("M") else text


def clean_text(text: str) -> str:
    """A line for reading: like ``display_text``, but plain spaces stay spaces and line breaks become spaces."""
    return "".join(" " if character in " \n\t\r" else _visible(character) for character in text)


def _visible(character: str) -> str:
    if character in _VISIBLE:
        return _VISIBLE[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(character) in _ESCAPED:
        return f"\\x{code:02x}" if code <= 0xFF else f"\\u{{{code:x}}}"
    return character
