"""Kinds of failure of a unit's graph, each named by a rule on what was measured, never by eye.

The rules stand in ``FAILURE_RULES``, one sentence a kind, as the report prints them; each is one function below. A unit
may have several kinds or none. Where a measure has no denominator, its kind is not named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from n2g_assets.core.settings import Firing
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.counterexamples import TOKEN_UNKNOWN
from n2g_assets.method.results import rows_by_unit, unit_frame

UNREDUCED_SHARE = 1 / 3
"""``context_beyond_window``: share of train contexts without a short enough prompt, from which it is named."""

UNKNOWN_SHARE, MIN_MISSES, LOW_RECALL = 1 / 2, 3, 1 / 2
"""``token_classes_too_narrow``: share of misses on unknown tokens, from which; of how many; below which recall."""

RIGHT_SHARE, MIN_ALARMS = 1 / 2, 5
"""``over_general_rule``: share of right alarms or firing matches, below which; alarms that random text must have."""

PEAK_SHARE = 1 / 2
"""``weak_peak``: share of test contexts whose peak fires, below which it is named."""

COMPONENT_SHARE = 1 / 5
"""``polysemantic``: share of the prompts that each of two components must hold, from which it is named."""

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


class Finding(NamedTuple):
    """A kind of failure that a unit has."""

    share: float
    """The measured share that the kind goes by."""
    reason: str
    """The measurement in one sentence."""


Rows = Sequence[Mapping[str, Any]]
"""Rows of one table of one unit."""


def name_failures(
    units: Sequence[Unit],
    top_examples: pl.DataFrame,
    pruned_examples: pl.DataFrame,
    rules: pl.DataFrame,
    evaluation: pl.DataFrame,
    counterexamples: pl.DataFrame,
    rule_tests: pl.DataFrame,
    a_max: Mapping[Unit, float],
    method: Firing,
) -> pl.DataFrame:
    """Names the failures of some units of one layer by ``FAILURE_RULES``.

    Args:
        units: the units; rows of others are ignored in all tables.
        top_examples: table ``top_examples``.
        pruned_examples: table ``pruned_examples``.
        rules: table ``rules``.
        evaluation: table ``evaluation``; only rows of the predictor ``graph`` are read.
        counterexamples: table ``counterexamples``.
        rule_tests: table ``rule_tests``; empty where no rules were tested.
        a_max: largest activation of each unit over the harvest.
        method: ``firing_threshold`` is read.

    Returns:
        Rows of table ``failures`` without study and layer, in the order of the units and of ``FAILURE_RULES``.
    """
    # only what the rules read: windows and texts stay in their frames
    keys = ["unit", "sign"]
    contexts = rows_by_unit(units, top_examples.filter(pl.col("split") == "test").select(*keys, "activation"))
    pruned = rows_by_unit(units, pruned_examples.select(*keys, "reduced"))
    of_unit = rows_by_unit(units, rules.sort("rule_id").select(*keys, "tokens", "count"))
    counts = ("true_positives", "false_positives", "recall")
    scores = rows_by_unit(units, evaluation.filter(pl.col("predictor") == "graph").select(*keys, "text", *counts))
    misses = rows_by_unit(units, counterexamples.filter(pl.col("kind") == "miss").select(*keys, "cause"))
    tested = rows_by_unit(units, rule_tests.select(*keys, "n_matches", "fired"))
    rows = []
    for unit in units:
        by_text = {row["text"]: row for row in scores[unit]}
        findings = {
            "context_beyond_window": context_beyond_window(pruned[unit]),
            "token_classes_too_narrow": token_classes_too_narrow(by_text.get("top"), misses[unit]),
            "over_general_rule": over_general_rule(by_text, tested[unit]),
            "weak_peak": weak_peak(contexts[unit], a_max.get(unit, 0.0), method.firing_threshold),
            "polysemantic": polysemantic(of_unit[unit]),
        }
        rows += [
            {**unit.key(), "kind": kind, **finding._asdict()}
            for kind in FAILURE_RULES
            if (finding := findings[kind]) is not None
        ]
    return unit_frame("failures", rows)


def context_beyond_window(pruned: Rows) -> Finding | None:
    """By the rows of ``pruned_examples`` of one unit."""
    unreduced = sum(not row["reduced"] for row in pruned)
    if not pruned or unreduced / len(pruned) < UNREDUCED_SHARE:
        return None
    return Finding(
        unreduced / len(pruned),
        f"Pruning found no short enough prompt for {unreduced} of {len(pruned)} train contexts.",
    )


def token_classes_too_narrow(top: Mapping[str, Any] | None, misses: Rows) -> Finding | None:
    """By the graph's row of ``evaluation`` on ``top`` and the misses among ``counterexamples`` of one unit."""
    if top is None or top["recall"] is None or top["recall"] >= LOW_RECALL or len(misses) < MIN_MISSES:
        return None
    unknown = sum(row["cause"] == TOKEN_UNKNOWN for row in misses)
    if unknown / len(misses) < UNKNOWN_SHARE:
        return None
    return Finding(
        unknown / len(misses),
        f"{unknown} of {len(misses)} misses are on tokens that no rule has as its activating token; recall on its own "
        f"test contexts is {top['recall']:.2f}.",
    )


def over_general_rule(scores: Mapping[str, Mapping[str, Any]], tested: Rows) -> Finding | None:
    """By the graph's rows of ``evaluation`` by text and the rows of ``rule_tests`` of one unit; the smaller share."""
    found: list[tuple[float, str]] = []
    for text, fewest, name in (("random", MIN_ALARMS, "random text"), ("top", 1, "its own test contexts")):
        row = scores.get(text)
        alarms = row["true_positives"] + row["false_positives"] if row else 0
        if row is not None and alarms >= fewest:
            found.append(
                (row["true_positives"] / alarms, f"{row['true_positives']} of {alarms} alarms on {name} are right")
            )
            break
    matches, fired = (sum(row[column] for row in tested) for column in ("n_matches", "fired"))
    if matches:
        found.append((fired / matches, f"the unit fires on {fired} of {matches} texts made to match its rules"))
    found = [(share, words) for share, words in found if share < RIGHT_SHARE]
    if not found:
        return None
    reason = ", and ".join(words for _, words in found)
    return Finding(min(found)[0], f"{reason[0].upper()}{reason[1:]}.")


def weak_peak(test_contexts: Rows, a_max: float, threshold: float) -> Finding | None:
    """By the rows of ``top_examples`` of one unit that are on the test side."""
    if not test_contexts or a_max <= 0:
        return None
    firing = sum(row["activation"] / a_max >= threshold for row in test_contexts)
    if firing / len(test_contexts) >= PEAK_SHARE:
        return None
    return Finding(
        firing / len(test_contexts), f"The unit fires at the peak of {firing} of {len(test_contexts)} test contexts."
    )


def polysemantic(rules: Rows) -> Finding | None:
    """By the rows of ``rules`` of one unit; the share is that of the second largest component."""
    held = sorted(component_counts([(row["tokens"], row["count"]) for row in rules]), reverse=True)
    if len(held) < 2 or held[1] / sum(held) < COMPONENT_SHARE:
        return None
    large = [count for count in held if count / sum(held) >= COMPONENT_SHARE]
    listed = f"{', '.join(map(str, large[:-1]))} and {large[-1]}"
    return Finding(
        held[1] / sum(held),
        f"{len(large)} of {len(held)} components of rules that share no token hold {listed} of {sum(held)} prompts.",
    )


def component_counts(rules: Sequence[tuple[Sequence[bytes | None], int]]) -> list[int]:
    """Prompts behind each component of rules; two rules are in one where a chain of shared forms leads across.

    Args:
        rules: forms (none: any token, which joins nothing) and prompts behind each rule.
    """
    above: dict[bytes, bytes] = {}

    def top(form: bytes) -> bytes:
        while above.setdefault(form, form) != form:
            above[form] = form = above[above[form]]  # halves the way for the next search
        return form

    for forms, _ in rules:
        activating = forms[0]
        assert activating is not None
        for form in forms:
            if form is not None:
                above[top(form)] = top(activating)
    counts: dict[bytes, int] = defaultdict(int)
    for forms, count in rules:
        assert forms[0] is not None
        counts[top(forms[0])] += count
    return list(counts.values())
