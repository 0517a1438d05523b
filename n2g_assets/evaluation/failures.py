"""Kinds of failure of a unit's graph, each named by a rule on what was measured, never by eye.

The rules stand in ``FAILURE_RULES``, one sentence a kind, as the report prints them; each is one function below that
answers with the measured share and the measurement in one sentence, or with None. A unit may have several kinds or
none. Where a measure has no denominator, its kind is not named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from n2g_assets.core.units import Unit
from n2g_assets.evaluation.counterexamples import MISS, TOKEN_UNKNOWN
from n2g_assets.method.results import unit_frame

# What FAILURE_RULES calls a third, half, fewer than half and so on.
UNREDUCED_SHARE, UNKNOWN_SHARE, RIGHT_SHARE, PEAK_SHARE, COMPONENT_SHARE = 1 / 3, 1 / 2, 1 / 2, 1 / 2, 1 / 5
LOW_RECALL, MIN_MISSES, MIN_ALARMS = 1 / 2, 3, 5

FAILURE_RULES: dict[str, str] = {
    "context_beyond_window": (
        "For at least a third of the unit's train contexts, pruning found no short enough prompt: what the unit needs "
        "lies further back than the window."
    ),
    "token_classes_too_narrow": (
        "The graph finds fewer than half of the firing tokens of the unit's own test contexts, and at least half of "
        f"the misses kept as counterexamples ({MIN_MISSES} or more) are on tokens that no rule has as its activating "
        "token."
    ),
    "over_general_rule": (
        f"Fewer than half of the graph's alarms on random text are right (on the unit's own test contexts where there "
        f"are fewer than {MIN_ALARMS}), or the unit fires on fewer than half of the texts made to match its rules."
    ),
    "weak_peak": "The unit fires at the peak of fewer than half of its test contexts.",
    "polysemantic": (
        "The rules fall apart into components that share no token, and at least two components each hold at least a "
        "fifth of the prompts; rules on single tokens share none, be they forms of one word."
    ),
}
"""Every kind of failure, in the order of the table, and the rule that names it in one sentence."""


Finding = tuple[float, str] | None
"""The measured share that a kind goes by and the measurement in one sentence; None where the unit lacks the kind."""


def name_failures(
    unit: Unit,
    top_examples: pl.DataFrame,
    pruned_examples: pl.DataFrame,
    rules: pl.DataFrame,
    evaluation: pl.DataFrame,
    counterexamples: pl.DataFrame,
    rule_tests: pl.DataFrame,
    a_max: float,
    threshold: float,
) -> pl.DataFrame:
    """Rows of table ``failures`` of one unit, without study and layer, in the order of ``FAILURE_RULES``.

    Each frame holds the unit's rows of the table of its name; a unit fires from ``threshold`` times ``a_max`` on.
    """
    scores = {row["text"]: row for row in evaluation.filter(predictor="graph").iter_rows(named=True)}
    causes = counterexamples.filter(kind=MISS)["cause"].to_list()
    peaks = top_examples.filter(split="test")["activation"].cast(pl.Float64) / a_max
    findings = {
        "context_beyond_window": _context_beyond_window(pruned_examples["reduced"].to_list()),
        "token_classes_too_narrow": _token_classes_too_narrow(scores.get("top"), causes),
        "over_general_rule": _over_general_rule(
            scores, int(rule_tests["n_matches"].sum()), int(rule_tests["fired"].sum())
        ),
        "weak_peak": _weak_peak(int((peaks >= threshold).sum()), len(peaks)),
        "polysemantic": _polysemantic(rules.select("tokens", "count").rows()),
    }
    rows = [
        {**unit.key(), "kind": kind, "share": finding[0], "reason": finding[1]}
        for kind in FAILURE_RULES
        if (finding := findings[kind]) is not None
    ]
    return unit_frame("failures", rows)


def _context_beyond_window(reduced: Sequence[bool]) -> Finding:
    unreduced, contexts = reduced.count(False), len(reduced)
    if not contexts or unreduced / contexts < UNREDUCED_SHARE:
        return None
    return unreduced / contexts, f"Pruning found no short enough prompt for {unreduced} of {contexts} train contexts."


def _token_classes_too_narrow(top: Mapping[str, Any] | None, causes: Sequence[str]) -> Finding:
    """By the graph's row of ``evaluation`` on ``top`` and the causes of the misses among the counterexamples."""
    if top is None or top["recall"] is None or top["recall"] >= LOW_RECALL or len(causes) < MIN_MISSES:
        return None
    unknown = causes.count(TOKEN_UNKNOWN)
    if unknown / len(causes) < UNKNOWN_SHARE:
        return None
    return unknown / len(causes), (
        f"{unknown} of {len(causes)} misses are on tokens that no rule has as its activating token; recall on its own "
        f"test contexts is {top['recall']:.2f}."
    )


def _over_general_rule(scores: Mapping[str, Mapping[str, Any]], matches: int, fired: int) -> Finding:
    """By the graph's rows of ``evaluation`` by text and the tested texts that match a rule; the smaller share."""
    found = []
    for text, fewest, name in (("random", MIN_ALARMS, "random text"), ("top", 1, "its own test contexts")):
        right, wrong = (scores[text][f"{kind}_positives"] if text in scores else 0 for kind in ("true", "false"))
        if right + wrong >= fewest:
            found.append((right / (right + wrong), f"{right} of {right + wrong} alarms on {name} are right"))
            break
    if matches:
        found.append((fired / matches, f"the unit fires on {fired} of {matches} texts made to match its rules"))
    found = [(share, words) for share, words in found if share < RIGHT_SHARE]
    if not found:
        return None
    reason = ", and ".join(words for _, words in found)
    return min(found)[0], f"{reason[0].upper()}{reason[1:]}."


def _weak_peak(firing: int, contexts: int) -> Finding:
    if not contexts or firing / contexts >= PEAK_SHARE:
        return None
    return firing / contexts, f"The unit fires at the peak of {firing} of {contexts} test contexts."


def _polysemantic(rules: Sequence[tuple[Sequence[bytes | None], int]]) -> Finding:
    """By the forms and prompts of each rule; the share is that of the second largest component."""
    held = sorted(component_counts(rules), reverse=True)
    if len(held) < 2 or held[1] / sum(held) < COMPONENT_SHARE:
        return None
    large = [count for count in held if count / sum(held) >= COMPONENT_SHARE]
    listed = f"{', '.join(map(str, large[:-1]))} and {large[-1]}"
    return held[1] / sum(held), (
        f"{len(large)} of {len(held)} components of rules that share no token hold {listed} of {sum(held)} prompts."
    )


def component_counts(rules: Sequence[tuple[Sequence[bytes | None], int]]) -> list[int]:
    """Prompts behind each component of rules, given forms (None: any token, which joins nothing) and prompts of each.

    Two rules are in one component where a chain of shared forms leads across.
    """
    import igraph

    form_ids: dict[bytes, int] = {}
    edges = [
        (rule, len(rules) + form_ids.setdefault(form, len(form_ids)))
        for rule, (tokens, _) in enumerate(rules)
        for form in tokens
        if form is not None
    ]
    graph = igraph.Graph(n=len(rules) + len(form_ids), edges=edges)
    prompts: Counter[int] = Counter()
    for component, (_, count) in zip(graph.connected_components().membership, rules, strict=False):
        prompts[component] += count
    return list(prompts.values())
