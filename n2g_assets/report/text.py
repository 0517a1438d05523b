"""Tokens, graphs and tables as plain text for people: terminals, logs, tooltips.

Model text is untrusted text: whatever could move a cursor, reverse a line or hide itself is shown by its code.
"""

from __future__ import annotations

import unicodedata

import polars as pl

from n2g_assets.method.tokens import clean_text, display_text

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def text_width(text: str) -> int:
    """Columns that a text takes in a fixed-width font: 2 for wide East Asian characters and emoji, 0 for marks."""
    return sum(_character_width(character) for character in text)


def shorten(text: str, width: int) -> str:
    """The text, cut with an ellipsis where it is wider than ``width`` columns."""
    if text_width(text) <= width:
        return text
    kept, used = [], 1
    for character in text:
        used += _character_width(character)
        if used > width:
            break
        kept.append(character)
    return "".join(kept) + "…"


def bar(share: float, width: int = 8) -> str:
    """A bar of block characters, ``width`` columns at a share of 1, padded to ``width``; shares are cut to [0, 1]."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def share_text(value: float, digits: int = 2, *, trim: bool = False) -> str:
    """A share as .87, 0 or 1.00, with a true minus sign; ``trim`` takes trailing zeros away: .5, 1."""
    text = f"{abs(value):.{digits}f}"
    sign = "−" if value < 0 and text.strip("0.") else ""
    text = text[1:] if text.startswith("0.") else text
    return sign + ((text.rstrip("0").rstrip(".") or "0") if trim else text)


def count_text(count: int) -> str:
    """A count in at most four characters or so: 812, 1.2k, 34k, 5.6M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            value = count / size
            return f"{value:.1f}".removesuffix(".0") + letter if value < 9.95 else f"{value:.0f}{letter}"
    return str(count)


def graph_text(rules: pl.DataFrame, *, title: str, limit: int = 8, width: int = 72) -> str:
    """One unit's token graph for a terminal: a title line, then its rules, strongest first.

    Of the rows of the table ``rules``, ``limit`` are shown, such as ``0.93 ███████▌  All * [except]   (4 prompts)``,
    with patterns cut to ``width`` columns; a last line says how many are not.
    """
    lines = [clean_text(title)]
    ordered = rules.sort(["activation", "count", "rule_id"], descending=[True, True, False])
    shown = ordered.head(limit)
    patterns = [shorten(clean_text(pattern), width) for pattern in shown["pattern"]]
    column = max((text_width(pattern) for pattern in patterns), default=0)
    for pattern, activation, count in zip(patterns, shown["activation"], shown["count"], strict=True):
        gap = " " * (column - text_width(pattern))
        lines.append(f"  {activation:.2f} {bar(activation)}  {pattern}{gap}   ({_number(count, 'prompt')})")
    if not len(ordered):
        lines.append("  no rules: the graph is empty and predicts silence everywhere")
    if len(ordered) > limit:
        lines.append(f"  … and {_number(len(ordered) - limit, 'more rule')}")
    return "\n".join(lines)


def table_text(frame: pl.DataFrame) -> str:
    """A small table for a terminal: aligned columns, numbers to the right, two decimals, – for what is undefined."""
    cells = [[_cell(value) for value in frame[name]] for name in frame.columns]
    columns = [
        _aligned([clean_text(name), *column], dtype.is_numeric())
        for name, column, dtype in zip(frame.columns, cells, frame.dtypes, strict=True)
    ]
    if not columns:
        return ""
    lines = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
    lines.insert(1, "  ".join("─" * text_width(column[0]) for column in columns))
    return "\n".join(lines)


def _character_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return shorten(display_text(value) if isinstance(value, bytes) else clean_text(str(value)), 60)


def _aligned(cells: list[str], right: bool) -> list[str]:
    width = max(text_width(cell) for cell in cells)
    gaps = [" " * (width - text_width(cell)) for cell in cells]
    return [gap + cell if right else cell + gap for cell, gap in zip(cells, gaps, strict=True)]
