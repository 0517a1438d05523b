"""Rows as values that JSON knows."""

import math
from typing import Any


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
