"""The page of a unit: its graph at any size, its rules, what it did and what was expected, and how far to trust it."""

from typing import Any

import numpy as np
from pydantic import Field

from n2g_assets.core.errors import MissingError
from n2g_assets.core.explorer import UNIT, unit_address
from n2g_assets.core.registry import PREDICTORS, SHOWN_RULES, named
from n2g_assets.core.units import unit_text
from n2g_assets.explore.page import RULE, Answer, OfUnit, Page, Rules, unit_facts
from n2g_assets.explore.tokens import shown_example
from n2g_assets.method.class_rows import classes_of
from n2g_assets.method.classes import ClassGraph
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.tokens import display_text
from n2g_assets.reading.database import Snapshot
from n2g_assets.reading.examples import UNIT as OF_UNIT
from n2g_assets.reading.study import Unit

SIZES = (1, 2, 3, 5, 7, 10, 20, 30, 50, 100)
"""Sizes of graphs that the page offers, as far as the unit's graph grows."""

_SCORES = (
    "text", "predictor", "pearson_r", "pearson_r_low", "pearson_r_high", "average_precision", "f1", "f1_low", "f1_high",
    "n_firings",
)  # fmt: skip

SHOWN_TOKENS = 100
"""Tokens of a class that the page of a rule shows, unless all are asked for."""


class AskedUnit(OfUnit):
    """A unit and the size of its graph."""

    rules: Rules = SHOWN_RULES
    """Rules of its graph that is shown."""
    examples: int = Field(default=6, ge=0, le=100)
    """Examples that are shown."""


class AskedRule(OfUnit):
    """A rule of a unit's graph, of any size."""

    node: int = Field(ge=0, le=10**7)
    """The node at which it ends: ``rules.end_node_id``."""
    all: bool = False
    """Whether all tokens of its classes are given, not only those that matter most."""


def unit_answer(database: Snapshot, asked: AskedUnit) -> Answer:
    """What the page of a unit shows."""
    unit = asked.the_unit(database)
    study = unit.study
    found: Answer = unit_facts(unit) | {
        "status": unit.status, "reason": unit.reason, "a_max": unit.a_max, "rules": asked.rules,
        "classes": study.has_classes, "card": unit.card, "statistics": unit.statistics,
    }  # fmt: skip
    found["before"], found["after"] = _beside(unit)
    sizes = unit.sizes()
    found["sizes"] = sizes.to_dicts()
    found["at_size"] = next(
        iter(sizes.filter(n_rules=_nearest(sizes["n_rules"].to_list(), asked.rules)).to_dicts()), None
    )
    largest = unit.graph.n_rules
    found["largest"] = largest
    sizes_of_classes = [*(size for size in SIZES if size < largest), largest] if largest else []
    found["offered"] = sizes_of_classes if study.has_classes else []  # a graph of the paper has one size
    tests = {row["rule_id"]: row for row in unit.rows("rule_tests")}
    found["rule_rows"] = [row | {"test": tests.get(row["rule_id"])} for row in unit.rules(asked.rules).to_dicts()]
    found["scores"] = _scores(unit)
    n_rules = asked.rules if study.has_classes else None
    top = unit.top_contexts()
    found |= {"n_top": len(top), "top": [shown_example(each, unit.graph, n_rules) for each in top[: asked.examples]]}
    found["strengths"] = [shown_example(each, unit.graph, n_rules) for each in unit.strength_examples()]
    found["counterexamples"] = [
        shown_example(each, unit.graph, n_rules) for each in unit.counterexamples()[: asked.examples]
    ]  # fmt: skip
    found["reach"] = unit.rows("reach", "text = 'random'", "last_tokens")
    found["slices"] = study.rows(
        "FROM slices WHERE study = $study AND layer = $layer AND table_name <> 'ledger' ORDER BY table_name",
        layer=unit.layer,
    )
    found["failures"] = unit.rows("failures", order="kind")
    found["explanations"] = unit.explanations().to_dicts()
    found["writes"] = _writes(unit)
    found["thresholds"] = unit.rows("thresholds", order="kind")
    return found


def _nearest(sizes: list[int], asked: int) -> int:
    return min(sizes, key=lambda size: abs(size - asked), default=asked)


def _beside(unit: Unit) -> list[dict[str, Any] | None]:
    """The units before and after it in its study."""
    rows = unit.study.rows(
        """SELECT * FROM (
            SELECT layer, unit, sign, lag((layer, unit, sign)) OVER places AS before,
                lead((layer, unit, sign)) OVER places AS after
            FROM unit_status WHERE study = $study WINDOW places AS (ORDER BY layer, unit, sign DESC)
        ) WHERE layer = $layer AND unit = $unit AND sign = $sign""",
        **unit.key,
    )
    return [_key(rows[0][name]) for name in ("before", "after")]


def _key(found: Any) -> dict[str, Any] | None:
    if found is None:
        return None
    layer, number, sign = found.values() if isinstance(found, dict) else found
    return {"layer": layer, "unit": unit_address(number, sign), "name": unit_text(layer, number, sign)}


def _scores(unit: Unit) -> list[dict[str, Any]]:
    known = named(PREDICTORS)
    order = list(known)

    def place(row: dict[str, Any]) -> tuple[int, str]:
        name = row["predictor"]
        return order.index(name) if name in known else len(order), name

    def said(name: str) -> dict[str, str]:
        ours = known.get(name)
        return {"label": ours.label, "role": ours.role} if ours else {"label": name, "role": "explanation"}

    query = f"SELECT {', '.join(_SCORES)} FROM evaluation WHERE {OF_UNIT} ORDER BY text"
    rows = sorted(unit.study.rows(query, **unit.key), key=place)
    return [row | said(row["predictor"]) for row in rows]


def _writes(unit: Unit) -> list[dict[str, Any]]:
    """The tokens that it raises and those that it lowers most; none where its units write no logits."""
    parts = unit.output_tokens().partition_by("direction", maintain_order=True)
    return [{"direction": part["direction"][0], "tokens": part.drop("direction", "rank").to_dicts()} for part in parts]


def _rule(database: Snapshot, asked: AskedRule) -> Answer:
    unit = asked.the_unit(database)
    rules = unit.rows("rules", "end_node_id = $node", node=asked.node)
    if not rules:
        raise MissingError(f"No rule of {unit} of study {unit.study.name!r} ends at node {asked.node}.")
    graph, shown = unit.graph.of_classes, None if asked.all else SHOWN_TOKENS
    return unit_facts(unit) | {
        "rule": {name: value for name, value in rules[0].items() if name != "tokens"},
        "classes": [] if graph is None else _classes(graph, unit.study.vocabulary, asked.node, shown),
    }  # fmt: skip


def _classes(graph: ClassGraph, vocabulary: Vocabulary, node: int, shown: int | None) -> list[dict[str, Any]]:
    """The classes of the rule that ends at a node, each with the tokens that matter most in it."""
    return [
        {
            "offset": each.offset, "all_but": each.all_but, "size": len(each.tokens),
            "tokens": [
                {"token_id": token, "text": display_text(vocabulary.tokens[token]), "deviation": round(added, 4)}
                | _measured(graph, node, each.offset, token)
                for token, added in zip(each.tokens[:shown].tolist(), each.deviations[:shown].tolist(), strict=True)
            ],
        }
        for each in classes_of(graph, node)
    ]  # fmt: skip


def _measured(graph: ClassGraph, node: int, offset: int, token: int) -> dict[str, Any]:
    """How often the harvest has a token at an offset of a rule, and what the unit does then on the mean."""
    for step in graph.path(node):
        if graph.offsets[step] == offset:
            members = graph.members(step - 1 if graph.all_but[step] else step)
            at = members.start + int(np.searchsorted(graph.tokens[members], token))
            if at < members.stop and graph.tokens[at] == token:
                return {"count": int(graph.counts[at]), "mean": round(float(graph.means[at]), 4)}
    return {"count": None, "mean": None}


PAGES = (
    Page(
        UNIT, AskedUnit, unit_answer, "unit.html",
        "A unit: its graph, rules, examples and scores",
    ),
    Page(
        RULE, AskedRule, _rule, "rule.html",
        "A rule of a unit's graph: the tokens of its classes, with counts and means",
    ),
)  # fmt: skip
