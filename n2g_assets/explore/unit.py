"""The page of a unit: its graph at any size, its rules, what it did and what was expected, and how far to trust it."""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import numpy as np
from pydantic import Field

from n2g_assets.core.errors import MissingError
from n2g_assets.core.explorer import UNIT, unit_address
from n2g_assets.core.registry import PREDICTORS, SHOWN_RULES, named
from n2g_assets.core.units import unit_text
from n2g_assets.explore.page import RULE, Answer, OfUnit, Page, Rules, Table, unit_facts
from n2g_assets.explore.tokens import shown_example
from n2g_assets.method.class_rows import classes_of
from n2g_assets.method.classes import ClassGraph
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.tokens import display_text
from n2g_assets.reading.database import Snapshot
from n2g_assets.reading.examples import UNIT as OF_UNIT
from n2g_assets.reading.study import GRAPH_RULES, Study, Unit

_SCORES = (
    "text", "predictor", "pearson_r", "pearson_r_low", "pearson_r_high", "average_precision", "f1", "f1_low", "f1_high",
    "n_firings",
)  # fmt: skip

_TESTS = (
    "rule_id", "n_matches", "fired", "n_near_misses", "silent", "n_context_near_misses", "context_silent", "predicted",
    "otherwise", "match_mean", "near_miss_mean", "held",
)  # fmt: skip
"""What is told of the test of a rule; the texts that were tried stay in ``rule_tests``."""

BINS = 20
"""Strengths that the histogram tells apart, up to a_max."""

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
    n_rules = _of_size(unit, asked.rules)
    found = unit_head(unit, asked.rules) | top_examples(unit, asked.rules, asked.examples) | beside(unit)
    found["elsewhere"] = elsewhere(unit)
    found["strengths"] = [shown_example(each, unit.graph, n_rules) for each in unit.strength_examples()]
    found["counterexamples"] = [
        shown_example(each, unit.graph, n_rules) for each in unit.counterexamples()[: asked.examples]
    ]  # fmt: skip
    found["scores"] = _scores(unit)
    found["reach"] = unit.rows("reach", "text = 'random'", "last_tokens")
    found["statistics"], found["strong"] = unit.statistics, _strong(unit)
    found["slices"] = database.remembered(("slices", unit.study.name, unit.layer), lambda: _slices(unit))
    found["explanations"] = unit.rows(
        "explanations", order="explanation, place", columns="* EXCLUDE (study, layer, unit, sign)"
    )
    found["writes"], found["encoder"] = _writes(unit), unit.study.encoders.get(unit.layer)
    return found


def _slices(unit: Unit) -> list[Answer]:
    """What the tables of a unit's layer were made from."""
    return unit.study.rows(
        "FROM slices WHERE study = $study AND layer = $layer AND table_name <> 'ledger' ORDER BY table_name",
        layer=unit.layer,
    )


def unit_head(unit: Unit, rules: int) -> Answer:
    """How far a unit's graph of so many rules can be trusted, the sizes that it has, and its rules."""
    classes, sizes = unit.study.has_classes, unit.rows("size_curve", "text = 'random'", "n_rules")
    largest = unit.graph.n_rules
    at_size = min(sizes, key=lambda row: abs(min(row["n_rules"], largest) - min(rules, largest)), default=None)
    tests = {row["rule_id"]: row for row in unit.rows("rule_tests", columns=", ".join(_TESTS))}
    return unit_facts(unit) | {
        "status": unit.status, "reason": unit.reason, "a_max": unit.a_max, "card": unit.card, "classes": classes,
        "failures": unit.rows("failures", order="kind"), "rules": rules, "largest": largest,
        "offered": offered_sizes([row["n_rules"] for row in sizes], largest) if classes else [],
        "sizes": sizes, "at_size": at_size and at_size | {"n_rules": min(at_size["n_rules"], largest)},
        "rule_rows": [
            row | {"test": tests.get(row["rule_id"])} for row in unit.study.rows(GRAPH_RULES, **unit.key, n=rules)
        ],
    }  # fmt: skip


def offered_sizes(scored: Iterable[int], largest: int) -> list[int]:
    """The sizes at which a page offers a graph: those that have scores of their own, and the largest that it grows."""
    return sorted({min(size, largest) for size in (*scored, largest)} - {0})


def top_examples(unit: Unit, rules: int, shown: int) -> Answer:
    """A unit's strongest contexts with what its graph of so many rules expects, and how many there are."""
    top = unit.top_contexts()
    examples = [shown_example(each, unit.graph, _of_size(unit, rules)) for each in top[:shown]]
    return {"n_top": len(top), "top": examples}


def elsewhere(unit: Unit) -> list[Answer]:
    """The other studies that have the same unit: of the same model, hook and encoder, or a control of it."""
    study = unit.study
    related = study.database.remembered(("related", study.name), lambda: _related(study))
    if not related:
        return []
    having = study.database.rows(
        "SELECT study FROM unit_status WHERE layer = $layer AND unit = $unit AND sign = $sign", **unit.key
    )
    return [each for each in related if {"study": each["study"]} in having]


def _related(study: Study) -> list[Answer]:
    """The other studies of the model and hook of a study, and its controls."""
    return study.rows("""
        WITH here AS (SELECT hook, model, control_of, settings -> '$.units' AS units
            FROM subject_models JOIN studies USING (study) WHERE study = $study)
        SELECT s.study, settings ->> '$.method.preset' AS method, s.control_of
        FROM studies AS s JOIN subject_models AS m USING (study), here AS h
        WHERE study <> $study AND m.hook = h.hook AND (settings -> '$.units') IS NOT DISTINCT FROM h.units
            AND (m.model = h.model OR s.control_of = $study OR h.control_of = s.study)
        ORDER BY s.control_of IS NOT NULL, s.study""")


def _of_size(unit: Unit, rules: int) -> int | None:
    return rules if unit.study.has_classes else None


def _strong(unit: Unit) -> Answer | None:
    """How many harvested positions have which strength, from the weakest on of which all are kept; None for none."""
    rows = unit.rows("activations", "activation > 0", "activation DESC", "activation")
    if not rows or not unit.a_max:
        return None
    shares = np.array([row["activation"] for row in rows]) / unit.a_max
    places = np.minimum((shares * BINS + 1e-6).astype(int), BINS - 1)
    first = min(int(places[-1]) + 1, BINS - 1)
    counts = np.bincount(places, minlength=BINS)
    return {
        "from": first / BINS, "positions": int(counts[first:].sum()), "tokens": unit.statistics.get("n_tokens"),
        "bins": [{"from": place / BINS, "positions": int(counts[place])} for place in range(first, BINS)],
    }  # fmt: skip


def beside(unit: Unit) -> Answer:
    """The units before and after it in its study."""
    study = unit.study
    order = study.database.remembered(("order", study.name), lambda: _order(study))
    place = bisect_left(order, (unit.layer, unit.number, -unit.sign))
    return {
        "before": _key(study, *order[place - 1]) if place else None,
        "after": _key(study, *order[place + 1]) if place + 1 < len(order) else None,
    }


def _order(study: Study) -> list[tuple[int, int, int]]:
    """Layer, number and sign, turned round, of all units of a study in their order."""
    rows = study.rows("SELECT layer, unit, -sign AS turned FROM unit_status WHERE study = $study ORDER BY ALL")
    return [(row["layer"], row["unit"], row["turned"]) for row in rows]


def _key(study: Study, layer: int, number: int, turned: int) -> dict[str, Any]:
    name = unit_text(layer, number, -turned, study.word)
    return {"layer": layer, "unit": unit_address(number, -turned), "name": name}


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


def rule_answer(database: Snapshot, asked: AskedRule, most: int = SHOWN_TOKENS) -> Answer:
    """What the page of a rule shows, of each class at the most so many tokens unless all are asked for."""
    unit = asked.the_unit(database)
    rules = unit.rows("rules", "end_node_id = $node", node=asked.node)
    if not rules:
        raise MissingError(f"No rule of {unit} of study {unit.study.name!r} ends at node {asked.node}.")
    graph, shown = unit.graph.of_classes, None if asked.all else most
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


def _table(name: str, order: str) -> Table:
    """A table or view of the database of which the page shows a unit's rows."""
    return Table(f"{UNIT}/{name}", OfUnit, lambda database, asked: asked.the_unit(database).frame(name, order=order))


TABLES = (
    Table(f"{UNIT}/rules", AskedUnit, lambda database, asked: asked.the_unit(database).rules(asked.rules)),
    _table("evaluation", "text, predictor"),
    _table("size_curve", "text, n_rules"),
    _table("reach", "text, last_tokens"),
)

PAGES = (
    Page(
        UNIT, AskedUnit, unit_answer, "unit.html",
        "A unit: its graph, rules, examples and scores",
    ),
    Page(
        RULE, AskedRule, rule_answer, "rule.html",
        "A rule of a unit's graph: the tokens of its classes, with counts and means",
    ),
)  # fmt: skip
