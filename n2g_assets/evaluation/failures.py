"""What is wrong with a unit's graph: the tokens it is most confidently wrong on, and kinds of failure with a name.

A kind is named by a rule on what was measured, never by eye: the rules stand in ``FAILURE_RULES``, one sentence a kind,
as the report prints them. A unit may have several kinds or none. Where a measure has no denominator, its kind is not
named.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from n2g_assets.core.units import Unit
from n2g_assets.evaluation.texts import DocumentText
from n2g_assets.method.predict import TokenGraph
from n2g_assets.method.results import unit_frame

FALSE_ALARM, MISS = "false_alarm", "miss"
"""Values of ``counterexamples.kind``."""
RULE_WRONG, TOKEN_UNKNOWN = "rule fired wrongly", "token unknown"
CONTEXT_UNMATCHED, VALUE_LOW = "context unmatched", "value too low"
"""Values of ``counterexamples.cause``: a false alarm's; a miss on a token that is no activating node; one whose token
is, but no path matches; one on which a path matches that predicts less than firing."""

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


def find_counterexamples(
    unit: Unit,
    graph: TokenGraph,
    rules: pl.DataFrame,
    name: str,
    text: DocumentText,
    actual: Float[np.ndarray, " tokens"],
    threshold: float,
    alarm_threshold: float,
    keep: int,
) -> list[dict[str, Any]]:
    """Rows of ``counterexamples`` of one unit on the text of this name, without ``study`` and ``layer``.

    Of each kind the ``keep`` errors with the largest distance of prediction and activation are kept; of equals, the
    one that comes first in the text. ``rules`` are the unit's rows, ``actual`` its normalised activations. The unit
    fires from ``threshold`` on, and is predicted to from ``alarm_threshold`` on.
    """
    predicted, ends = graph.predict_with_ends(text.encoded)
    known = set(graph.roots.tolist())
    rule_of_end = dict(rules.select("end_node_id", "rule_id").iter_rows())
    fires, alarm = actual >= threshold, predicted >= alarm_threshold
    rows = []
    for kind, wrong in ((FALSE_ALARM, alarm & ~fires), (MISS, fires & ~alarm)):
        tokens = np.flatnonzero(wrong & text.inside)
        distance = np.abs(predicted[tokens] - actual[tokens])
        for rank, token in enumerate(tokens[np.argsort(-distance, kind="stable")][:keep].tolist()):
            context_id, token_ids = text.contexts.select("context_id", "token_ids").row(int(text.windows[token]))
            position, end = int(text.encoded.positions[token]), int(ends[token])
            if kind == FALSE_ALARM:
                cause = RULE_WRONG
            elif end >= 0:
                cause = VALUE_LOW
            else:
                cause = CONTEXT_UNMATCHED if int(text.encoded.forms[token]) in known else TOKEN_UNKNOWN
            rows.append({
                **unit.key(), "text": name, "kind": kind, "rank": rank, "context_id": context_id,
                "position": position, "predicted": float(predicted[token]), "actual": float(actual[token]),
                "token_ids": token_ids[: position + 1], "cause": cause, "rule_id": rule_of_end.get(end),
            })  # fmt: skip
    return rows


def name_failures(unit: Unit, tables: Mapping[str, pl.DataFrame], a_max: float, threshold: float) -> pl.DataFrame:
    """Rows of table ``failures`` of one unit, without study and layer, in the order of ``FAILURE_RULES``.

    ``tables`` holds the unit's rows of ``top_examples``, ``pruned_examples``, ``rules``, ``rule_tests``,
    ``evaluation`` and ``counterexamples``; a unit fires from ``threshold`` times ``a_max`` on.
    """
    scores = {row["text"]: row for row in tables["evaluation"].filter(predictor="graph").iter_rows(named=True)}
    found: dict[str, tuple[float, str]] = {}  # by kind, the measured share that it goes by and the measurement

    reduced = tables["pruned_examples"]["reduced"].to_list()
    unreduced, contexts = reduced.count(False), len(reduced)
    if contexts and unreduced / contexts >= UNREDUCED_SHARE:
        reason = f"Pruning found no short enough prompt for {unreduced} of {contexts} train contexts."
        found["context_beyond_window"] = unreduced / contexts, reason

    causes = tables["counterexamples"].filter(kind=MISS)["cause"].to_list()
    unknown, recall = causes.count(TOKEN_UNKNOWN), scores["top"]["recall"] if "top" in scores else None
    low = recall is not None and recall < LOW_RECALL
    if low and len(causes) >= MIN_MISSES and unknown / len(causes) >= UNKNOWN_SHARE:
        reason = f"{unknown} of {len(causes)} misses are on tokens that no rule has as its activating token"
        reason += f"; recall on its own test contexts is {recall:.2f}."
        found["token_classes_too_narrow"] = unknown / len(causes), reason

    wrong = [(share, words) for share, words in _shares_right(scores, tables["rule_tests"]) if share < RIGHT_SHARE]
    if wrong:
        reason = ", and ".join(words for _, words in wrong)
        found["over_general_rule"] = min(wrong)[0], f"{reason[0].upper()}{reason[1:]}."

    peaks = tables["top_examples"].filter(split="test")["activation"].cast(pl.Float64) / a_max
    firing = int((peaks >= threshold).sum())
    if len(peaks) and firing / len(peaks) < PEAK_SHARE:
        reason = f"The unit fires at the peak of {firing} of {len(peaks)} test contexts."
        found["weak_peak"] = firing / len(peaks), reason

    held = sorted(component_counts(tables["rules"].select("tokens", "count").rows()), reverse=True)
    large = [count for count in held if count / sum(held) >= COMPONENT_SHARE]
    if len(large) > 1:
        listed = f"{', '.join(map(str, large[:-1]))} and {large[-1]}"
        reason = f"{len(large)} of {len(held)} components of rules that share no token hold"
        reason += f" {listed} of {sum(held)} prompts."
        found["polysemantic"] = large[1] / sum(held), reason

    rows = [{**unit.key(), "kind": kind, "share": share, "reason": reason} for kind, (share, reason) in found.items()]
    return unit_frame("failures", rows)


def _shares_right(scores: Mapping[str, Mapping[str, Any]], rule_tests: pl.DataFrame) -> Iterator[tuple[float, str]]:
    """How often the graph's alarms are right and the unit fires on matching texts, each with the words that say so."""
    for text, fewest, name in (("random", MIN_ALARMS, "random text"), ("top", 1, "its own test contexts")):
        right, wrong = (scores[text][f"{kind}_positives"] if text in scores else 0 for kind in ("true", "false"))
        if right + wrong >= fewest:
            yield right / (right + wrong), f"{right} of {right + wrong} alarms on {name} are right"
            break
    matches, fired = (int(rule_tests[name].sum()) for name in ("n_matches", "fired"))
    if matches:
        yield fired / matches, f"the unit fires on {fired} of {matches} texts made to match its rules"


def component_counts(rules: Sequence[tuple[Sequence[bytes | None], int]]) -> list[int]:
    """Prompts behind each component of rules, given forms (None: any token, which joins nothing) and prompts of each.

    Two rules are in one component where a chain of shared forms leads across.
    """
    import igraph

    edges = [(rule, form) for rule, (tokens, _) in enumerate(rules) for form in tokens if form is not None]
    names = (part.vs["name"] for part in igraph.Graph.TupleList(edges).connected_components().subgraphs())
    return [sum(rules[rule][1] for rule in part if isinstance(rule, int)) for part in names]
