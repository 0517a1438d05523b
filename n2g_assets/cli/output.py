"""What commands write: lines, JSON, and tables for a terminal.

Model text is untrusted text: a table shows whatever could move a cursor or hide itself by its code, and JSON escapes
it.
"""

import json
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from n2g_assets.reading.plain import plain

WIDEST = 60
"""Characters of a cell that a table shows."""


def say(text: str) -> None:
    """Write a line to standard output at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say_json(value: Any) -> None:
    """Write a value as JSON; no number is null, and bytes are readable text."""
    say(json.dumps(plain(value), indent=1, allow_nan=False))


def table_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows below the names of their columns; numbers stand on the right, and long text is cut."""
    cells = [[clean(name) for name in columns], *([_cell(row[name]) for name in columns] for row in rows)]
    numeric = [
        any(_is_number(row[name]) for row in rows) and all(_is_number(row[name]) or row[name] is None for row in rows)
        for name in columns
    ]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(_padded(cell, width, right) for cell, width, right in zip(row, widths, numeric, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("─" * width for width in widths), *lines[1:]])


def clean(text: str) -> str:
    """Text that a terminal can be given."""
    from n2g_assets.method.tokens import clean_text

    return clean_text(text)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | dict | tuple):
        value = json.dumps(plain(value), ensure_ascii=False)
    text = clean(str(plain(value)))
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.category(character) == "Mn" for character in text)


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
