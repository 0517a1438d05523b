"""Text token by token, as pages show it: what a unit did at each, and below it what its graph expected."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32
from markupsafe import Markup, escape

from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.tokens import display_text
from n2g_assets.reading.examples import Example
from n2g_assets.reading.graph import Graph, Prediction
from n2g_assets.report.text import share

BEFORE, AFTER = 32, 8
"""Tokens that are shown around the position in question."""


def shown_example(example: Example, graph: Graph, n_rules: int | None = None) -> dict[str, Any]:
    """An example as plain data: its tokens around the position in question, from the first one that is text."""
    prediction = graph.predict_ids(example.token_ids, n_rules)
    window = shown_window(example.token_ids, example.peak, example.activations, prediction, graph.vocabulary)
    if example.importances is not None:
        masked = _rounded(example.importances)
        for token in window["tokens"]:
            token["masked"] = masked[token["position"]]
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
    shown = slice(places.start, places.stop)
    ids, nodes = token_ids[shown].tolist(), prediction.nodes[shown].tolist()
    done: list[float | None] = [None] * len(places) if actual is None else _rounded(actual[shown])
    rows = zip(places, ids, done, _rounded(prediction.values[shown]), nodes, strict=True)
    return [
        {
            "position": place, "token_id": token, "text": display_text(vocabulary.tokens[token]), "actual": was,
            "predicted": expected, "node": node, "peak": False,
        }
        for place, token, was, expected, node in rows
    ]  # fmt: skip


def _rounded(values: Float32[np.ndarray, " n"]) -> list[float | None]:
    return [None if np.isnan(value) else round(value, 4) for value in values.astype(float).tolist()]


def spans(tokens: Iterable[Mapping[str, Any]]) -> Markup:
    """Tokens as HTML, which may break after each: their colours by ``shade``, numbers for a pointer, texts escaped.

    A page has more than a thousand, of which a template would take a third of the page's time.
    """
    return Markup("".join(map(_span, tokens)))


def _span(token: Mapping[str, Any]) -> str:
    actual, predicted, masked = token["actual"], token["predicted"], token.get("masked")
    look, said = f"t {shade(actual)} p{shade(predicted)}", f"expected {share(predicted, 2)}"
    if actual is not None:
        said = f"was {share(actual, 2)}, {said}"
    if token["peak"]:
        look += " peak"
    if masked is not None:
        look += f" m{shade(masked)}"
        said += f"; masked, {share(masked, 2)} of the peak is lost"
    return f'<span class="{look}" data-n="{token["node"]}" title="{said}">{escape(token["text"])}</span><wbr>'


def shade(value: float | None) -> str:
    """The class of a token's colour: ``u0`` to ``u10`` up to a_max, ``d1`` to ``d10`` below zero."""
    if value is None:
        return "u0"
    step = min(10, round(abs(value) * 10))
    return f"{'d' if value < 0 and step else 'u'}{step}"
