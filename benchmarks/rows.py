"""What a benchmark hands to the table of all benchmarks.

A row has five keys: ``name`` (with the unit of the next two), ``ours``, ``baseline``, ``ratio`` and ``goal``. The ratio
says how many times better ours is, so that more is always better and a goal is met where ``ratio >= goal``: it is
``ours / baseline`` of what should be large (tokens a second), ``baseline / ours`` of what should be small (seconds,
memory). At most 1.2 times the memory, for one, is a goal of 1 / 1.2. Where a ratio is a mean of ratios, ours and
baseline are means of their own and need not divide to it exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

KEYS = ("name", "ours", "baseline", "ratio", "goal")
LONGEST = 60
"""Characters of a name: longer ones would be cut in the table."""


def row(
    name: str, ours: float, baseline: float, goal: float, *, less_is_better: bool = False, ratio: float | None = None
) -> dict[str, Any]:
    """A row of the table.

    Args:
        name: what is measured, with its unit, such as ``evaluation of a layer (seconds)``.
        ours: what this project takes or reaches.
        baseline: what it is compared with, measured in the same run.
        goal: the least ratio that is good enough.
        less_is_better: of seconds, memory and the like.
        ratio: where it is not that of the two, but, say, the mean of several.
    """
    if ratio is None:
        ratio = baseline / ours if less_is_better else ours / baseline
    return {"name": name, "ours": float(ours), "baseline": float(baseline), "ratio": float(ratio), "goal": float(goal)}


def check(found: Mapping[str, Any]) -> None:
    """That a row is one.

    Raises:
        ValueError: a key is missing or too many, the name is too long, or a number is none.
    """
    if set(found) != set(KEYS) or not isinstance(found["name"], str):
        raise ValueError(f"a row has the keys {', '.join(KEYS)}, this one is {dict(found)}")
    if len(found["name"]) > LONGEST:
        raise ValueError(f"the name '{found['name']}' has more than {LONGEST} characters")
    for key in KEYS[1:]:
        value = found[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{key} of '{found['name']}' is no number: {value}")
