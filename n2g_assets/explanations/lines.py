"""A line of JSONL, and what is wrong with it."""

import json
from typing import Any

from n2g_assets.core.errors import short_reason


def row_of(line: str | bytes) -> dict[str, Any]:
    """The object on a line.

    Raises:
        ValueError: It is none; the message is what is wrong and its cure, without the end of the sentence.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is no JSON ({short_reason(error)}): write one object a line") from error
    if not isinstance(row, dict):
        raise ValueError("this is no JSON object: write one a line")
    return row
