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


def csv_text(frame: pl.DataFrame) -> str:
    """Rows as CSV under the names of their columns; bytes as readable text, lists as JSON."""
    written = io.StringIO()
    lines = csv.writer(written)
    lines.writerow(frame.columns)
    for row in frame.iter_rows():
        cells = [plain(value) for value in row]
        lines.writerow(json.dumps(cell) if isinstance(cell, list | dict) else cell for cell in cells)
    return written.getvalue()
