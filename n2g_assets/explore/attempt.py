"""Try it: a text of the reader's own, token by token, with what a unit's graph expects and which rule says so.

Where the subject model is loaded, what the unit does stands beside it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32
from pydantic import Field

from n2g_assets.core.explorer import UNIT
from n2g_assets.core.registry import SHOWN_RULES
from n2g_assets.explore.page import Answer, OfUnit, Page, Rules, unit_facts
from n2g_assets.explore.tokens import shown_tokens
from n2g_assets.reading.database import Snapshot
from n2g_assets.reading.study import Unit

Measure = Callable[[Unit, Int32[np.ndarray, " length"]], Float32[np.ndarray, " length"]]
"""A unit's activation at every position of a context, from the model itself."""

SPOKEN = 50
"""Tokens of a text that are listed with what was said of them, those of which most is expected."""
MOST_CHARACTERS = 5000
"""Of a text; a longer one is not read."""


class AskedText(OfUnit):
    """A text for a unit's graph."""

    text: str = Field(default="", max_length=MOST_CHARACTERS)
    """The text; it is read as the model reads it, BOS first."""
    rules: Rules = SHOWN_RULES
    """Rules of the graph."""


def attempt_page(measure: Measure | None) -> Page:
    """The page; ``measure`` runs the model, where one is loaded."""

    def answer(database: Snapshot, asked: AskedText) -> Answer:
        unit = asked.the_unit(database)
        found: Answer = unit_facts(unit) | {
            "rules": asked.rules, "measured": measure is not None, "tokens": [], "spoken": [],
        }  # fmt: skip
        if asked.text:
            token_ids = unit.study.encode(asked.text)
            n_rules = asked.rules if unit.study.has_classes else None
            actual = None if measure is None or not unit.a_max else measure(unit, token_ids) / unit.a_max
            prediction = unit.graph.predict_ids(token_ids, n_rules)
            found["tokens"] = shown_tokens(
                token_ids, range(1, len(token_ids)), actual, prediction, unit.study.vocabulary
            )
            found["spoken"] = _spoken(unit, found["tokens"])
        return found

    return Page(
        f"{UNIT}/try", AskedText, answer, "try.html",
        "What a unit's graph expects of a text, token by token, and which rule says so",
    )  # fmt: skip


def _spoken(unit: Unit, tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tokens of which a rule spoke: its mean, what the token itself adds to it, and what is expected of it."""
    nodes = sorted({token["node"] for token in tokens} - {-1})
    rows = unit.rows("rules", "list_contains($nodes, end_node_id)", nodes=nodes)
    rules = {row["end_node_id"]: row for row in rows}
    said = [token for token in tokens if token["node"] in rules]
    strongest = sorted(said, key=lambda token: (-token["predicted"], token["position"]))[:SPOKEN]
    return [
        {name: token[name] for name in ("position", "text", "node", "predicted")}
        | {"pattern": rule["pattern"], "mean": rule["activation"], "adds": token["predicted"] - rule["activation"]}
        for token in strongest
        for rule in [rules[token["node"]]]
    ]
