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
            "rules": asked.rules, "measured": measure is not None, "tokens": [], "rule_rows": [],
        }  # fmt: skip
        if asked.text:
            token_ids = unit.study.encode(asked.text)
            n_rules = asked.rules if unit.study.has_classes else None
            actual = None if measure is None or not unit.a_max else measure(unit, token_ids) / unit.a_max
            prediction = unit.graph.predict_ids(token_ids, n_rules)
            found["tokens"] = shown_tokens(
                token_ids, range(1, len(token_ids)), actual, prediction, unit.study.vocabulary
            )
            spoke = sorted(set(prediction.nodes[1:].tolist()) - {-1})
            found["rule_rows"] = _rules(unit, spoke)
        return found

    return Page(
        f"{UNIT}/try", AskedText, answer, "try.html",
        "What a unit's graph expects of a text, token by token, and which rule says so",
    )  # fmt: skip


def _rules(unit: Unit, nodes: list[int]) -> list[dict[str, Any]]:
    rows = unit.rows("rules", "list_contains($nodes, end_node_id)", "activation DESC, rule_id", nodes=nodes)
    return [{name: row[name] for name in ("end_node_id", "pattern", "activation", "count")} for row in rows]
