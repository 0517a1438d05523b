"""Rows as values that JSON knows, and as CSV."""

import csv
import io
import json
import math
from typing import Any

import polars as pl


def plain(value: Any) -> Any:
    """Values as JSON knows them: no number becomes null, bytes become readable text, times ISO 8601, others text."""
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value if value is None or isinstance(value, str | int) else str(value)


_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that a spreadsheet takes for a formula."""


def csv_text(frame: pl.DataFrame, *, for_spreadsheets: bool = False) -> str:
    """Rows as CSV under the names of their columns; bytes as readable text, lists as JSON.

    ``for_spreadsheets`` writes an apostrophe before texts that a spreadsheet would run as a formula, such as the token
    ``=``; numbers stay as they are.
    """
    written = io.StringIO()
    lines = csv.writer(written)
    lines.writerow(frame.columns)
    for row in frame.iter_rows():
        cells = [plain(value) for value in row]
        if for_spreadsheets:
            cells = [f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell for cell in cells]
        lines.writerow(json.dumps(cell) if isinstance(cell, list | dict) else cell for cell in cells)
    return written.getvalue()
