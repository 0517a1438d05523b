"""Text token by token, as pages show it: what a unit did at each, and below it what its graph expected."""

from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.tokens import display_text
from n2g_assets.reading.examples import Example
from n2g_assets.reading.graph import Graph, Prediction

BEFORE, AFTER = 32, 8
"""Tokens that are shown around the position in question."""


def shown_example(example: Example, graph: Graph, n_rules: int | None = None) -> dict[str, Any]:
    """An example as plain data: its tokens around the position in question, from the first one that is text."""
    prediction = graph.predict_ids(example.token_ids, n_rules)
    window = shown_window(example.token_ids, example.peak, example.activations, prediction, graph.vocabulary)
    if example.importances is not None:
        for token in window["tokens"]:
            token["masked"] = _known(example.importances[token["position"]])
    return {"title": example.title, "measured": example.importances is not None} | window


def shown_window(
    token_ids: Int32[np.ndarray, " length"],
    peak: int,
    actual: Float32[np.ndarray, " length"] | None,
    prediction: Prediction,
    vocabulary: Vocabulary,
) -> dict[str, Any]:
    """The tokens of a context around a position, and whether text before and behind them is left out."""
    first, stop = max(1, peak - BEFORE), min(len(token_ids), peak + AFTER + 1)
    tokens = shown_tokens(token_ids, range(first, stop), actual, prediction, vocabulary)
    tokens[peak - first]["peak"] = True
    return {"starts": first > 1, "ends": stop < len(token_ids), "tokens": tokens}


def shown_tokens(
    token_ids: Int32[np.ndarray, " length"],
    places: range,
    actual: Float32[np.ndarray, " length"] | None,
    prediction: Prediction,
    vocabulary: Vocabulary,
) -> list[dict[str, Any]]:
    """The tokens of a context at some of its positions as plain data, with what was done and what was expected."""
    return [
        {
            "position": place, "token_id": int(token_ids[place]),
            "text": display_text(vocabulary.tokens[token_ids[place]]),
            "actual": None if actual is None else _known(actual[place]),
            "predicted": _rounded(prediction.values[place]), "node": int(prediction.nodes[place]), "peak": False,
        }
        for place in places
    ]  # fmt: skip


def _known(value: float | np.floating) -> float | None:
    return None if np.isnan(value) else _rounded(value)


def _rounded(value: float | np.floating) -> float:
    return round(float(value), 4)


def shade(value: float | None) -> str:
    """The class of a token's colour: ``u0`` to ``u10`` up to a_max, ``d1`` to ``d10`` below zero."""
    if value is None:
        return "u0"
    step = min(10, round(abs(value) * 10))
    return f"{'d' if value < 0 and step else 'u'}{step}"
