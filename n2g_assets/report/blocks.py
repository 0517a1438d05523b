"""What a report is made of: sections of blocks, plain data that the template turns into HTML.

No block holds markup. Whatever stands in a string is shown as text: the template escapes it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from n2g_assets.method.display import clean_text
from n2g_assets.report.text import share_text

NONE = "–"
"""What stands where a value is not defined."""


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    kind: ClassVar[str] = "words"
    text: str


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    kind: ClassVar[str] = "points"
    items: tuple[str, ...]


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str
    anchor: str


@dataclass(frozen=True)
class Terms:
    """Terms, each with what it means."""

    kind: ClassVar[str] = "terms"
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Code:
    """Text in a fixed-width font, lines kept."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Figure:
    """A picture, shown at its own size or as wide as the page."""

    kind: ClassVar[str] = "figure"
    svg: str
    caption: str
    beside: bool = False
    """Whether it stands beside the next one, where there is room."""

    @property
    def address(self) -> str:
        """The picture as an address that carries its own data."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode("utf-8")).decode("ascii")


@dataclass(frozen=True)
class Cell:
    """One cell: text, and for numbers an interval; ``marked`` is text to point out at its end."""

    text: str
    interval: str = ""
    strong: bool = False
    style: Literal["number", "text", "mono"] = "number"
    marked: str = ""


@dataclass(frozen=True)
class Table:
    """Rows in groups; the first column names the group and spans its rows where ``grouped`` is set."""

    kind: ClassVar[str] = "table"
    caption: str
    head: tuple[str, ...]
    groups: tuple[tuple[tuple[Cell, ...], ...], ...]
    over: tuple[tuple[str, int], ...] = ()
    """Headings above the heads, each with the columns it spans."""
    grouped: bool = False


Block = Words | Points | Heading | Terms | Code | Figure | Table


@dataclass(frozen=True)
class Section:
    """A section of the report; ``anchor`` is what the table of contents points at."""

    anchor: str
    title: str
    blocks: tuple[Block, ...] = field(default_factory=tuple)

    @property
    def headings(self) -> tuple[Heading, ...]:
        """The headings inside it."""
        return tuple(block for block in self.blocks if isinstance(block, Heading))


def share(value: float | None, digits: int = 3) -> str:
    """A share as .532, or – where it is None or no number."""
    return NONE if value is None or math.isnan(value) else share_text(value, digits)


def plain_share(value: float | None) -> str:
    """A share inside a sentence: .53, and .012 where it is small."""
    return share(value, 2 if value is None or abs(value) >= 0.095 else 3)


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """An interval as [.491, .573]; nothing where an end is missing."""
    return "" if low is None or high is None else f"[{share(low, digits)},\u00a0{share(high, digits)}]"


def scored(row: Mapping[str, float | None], name: str, *, strong: bool = False) -> Cell:
    """A score of a row with its interval."""
    return Cell(share(row[name]), interval(row[f"{name}_low"], row[f"{name}_high"]), strong)


def words(text: object) -> Cell:
    """A cell of words."""
    return Cell(NONE if text is None else clean_text(str(text)), style="text")


def count(value: int | None) -> Cell:
    """A cell with a count."""
    return Cell(NONE if value is None else f"{value:,}")


def of_total(part: int, total: int) -> Cell:
    """A cell with a count and its share of a total."""
    return Cell(f"{part:,}", percent(part / total) if total else NONE)


def listed(items: Iterable[object]) -> str:
    """Items in a sentence: a, b and c."""
    texts = [str(item) for item in items]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else "none"


def percent(value: float) -> str:
    """A share in percent: 53 %, and 1.2 % where it is small."""
    return f"{value * 100:.0f}\u00a0%" if value >= 0.095 or value == 0 else f"{value * 100:.1f}\u00a0%"


def layers_listed(layers: Sequence[int]) -> str:
    """Layers in a sentence, runs of three and more drawn together: layers 0, 4–7 and 29."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    parts = [
        f"{run[0]}–{run[-1]}" if len(run) > 2 else str(one)
        for run in runs
        for one in (run[:1] if len(run) > 2 else run)
    ]
    return f"layer{'' if len(layers) == 1 else 's'} {listed(parts)}"
