"""A document as a reader of a corpus source gives it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RawDocument:
    """One document as its source holds it."""

    name: str
    """Its name in the source: a title, a file, or a file and a line."""
    text: str
    """The whole text."""
