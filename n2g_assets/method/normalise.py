"""The form under which a graph matches a token (the authors' own rule)."""

from __future__ import annotations


def normalise(token: bytes) -> bytes:
    """The normalised form of a token's bytes.

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
