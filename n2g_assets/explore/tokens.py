"""Text token by token, as pages show it: what a unit did at each, and below it what its graph expected."""

from typing import Any

import numpy as np

from n2g_assets.method.tokens import display_text
from n2g_assets.reading.graph import Graph
from n2g_assets.reading.study import Example

BEFORE, AFTER = 32, 8
"""Tokens that are shown around the position in question."""


def shown_example(example: Example, graph: Graph, n_rules: int | None = None) -> dict[str, Any]:
    """An example as plain data: its tokens around the position in question, from the first one that is text."""
    first, stop = max(1, example.peak - BEFORE), min(len(example.token_ids), example.peak + AFTER + 1)
    prediction = graph.predict_ids(example.token_ids, n_rules)
    return {
        "title": example.title, "starts": first > 1, "ends": stop < len(example.token_ids),
        "tokens": [
            {
                "position": place, "token_id": int(example.token_ids[place]),
                "text": display_text(graph.vocabulary.tokens[example.token_ids[place]]),
                "actual": None if example.activations is None else _rounded(example.activations[place]),
                "predicted": _rounded(prediction.values[place]), "node": int(prediction.nodes[place]),
                "peak": place == example.peak,
            }
            for place in range(first, stop)
        ],
    }  # fmt: skip


def _rounded(value: float | np.floating) -> float:
    return round(float(value), 4)


def shade(value: float | None) -> str:
    """The class of a token's colour: ``u0`` to ``u10`` up to a_max, ``d1`` to ``d10`` below zero."""
    if value is None:
        return "u0"
    step = min(10, round(abs(value) * 10))
    return f"{'d' if value < 0 and step else 'u'}{step}"
