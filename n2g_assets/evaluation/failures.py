"""What is wrong with a unit's graph: the tokens it is most confidently wrong on, and kinds of failure with a name.

A kind is named by a rule on what was measured, never by eye: the rules stand in ``FAILURE_RULES``, one sentence a kind,
as the report prints them. A unit may have several kinds or none. Where a measure has no denominator, its kind is not
named.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Float32, Int32

from n2g_assets.core.registry import COMPONENT_SHARE, SHOWN_RULES, STRONG_SHARE
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.texts import DocumentText
from n2g_assets.method.class_rows import classes_of, graph_of_rows
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.results import unit_frame
from n2g_assets.method.text import EncodedText

FALSE_ALARM, MISS = "false_alarm", "miss"
"""Values of ``counterexamples.kind``."""
RULE_WRONG, TOKEN_UNKNOWN = "rule fired wrongly", "token unknown"
CONTEXT_UNMATCHED, VALUE_LOW = "context unmatched", "value too low"
"""Values of ``counterexamples.cause``: a false alarm's; a miss on a token that no rule has as its activating token; one
whose token some rule has, but no rule matches; one on which a rule matches that predicts less than firing."""

# What FAILURE_RULES calls a third, half, fewer than half and so on.
UNREDUCED_SHARE, UNKNOWN_SHARE, RIGHT_SHARE, PEAK_SHARE = 1 / 3, 1 / 2, 1 / 2, 1 / 2
LOW_RECALL, MIN_MISSES, MIN_ALARMS = 1 / 2, 3, 5

FAILURE_RULES: dict[str, str] = {
    "context_beyond_window": (
        "For at least a third of the unit's train contexts, pruning found no short enough prompt: what the unit needs "
        "lies further back than the window."
    ),
    "token_classes_too_narrow": (
        "The graph finds fewer than half of the firing tokens of the unit's own test contexts, and at least half of "
        f"the misses kept as counterexamples ({MIN_MISSES} or more) are on tokens that no rule has as its activating "
        "token; in graphs of classes, that stand in no class of activating tokens that expects more than the unit's "
        "mean."
    ),
    "over_general_rule": (
        f"Fewer than half of the graph's alarms on random text are right (on the unit's own test contexts where there "
        f"are fewer than {MIN_ALARMS}), or the unit fires on fewer than half of the texts made to match rules that "
        "predict firing."
    ),
    "weak_peak": "The unit fires at the peak of fewer than half of its test contexts.",
    "polysemantic": (
        "The rules fall apart into components that share no token, and at least two components each hold at least a "
        "fifth of the prompts; rules on single tokens share none, be they forms of one word; in graphs of classes, "
        f"those of the best {SHOWN_RULES} rules are compared that expect at least half of what the strongest expects, "
        "by their activating tokens, whatever their case and the white space around them, and firings stand for "
        "prompts."
    ),
}
"""Every kind of failure, in the order of the table, and the rule that names it in one sentence."""


class JudgedGraph(Protocol):
    """What counterexamples need of a unit's graph."""

    def predict_with_ends(
        self, text: EncodedText
    ) -> tuple[Float32[np.ndarray, " tokens"], Int32[np.ndarray, " tokens"]]:
        """Predicted normalised activation of every token, and ``rules.end_node_id`` of the rule that gave it, or -1."""
        ...

    def activating(self, text: EncodedText) -> Bool[np.ndarray, " tokens"]:
        """Whether some rule has each token as its activating token."""
        ...


def find_counterexamples(
    unit: Unit,
    graph: JudgedGraph,
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
    activating = graph.activating(text.encoded)
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
            elif not activating[token]:
                cause = TOKEN_UNKNOWN
            else:
                cause = CONTEXT_UNMATCHED if end < 0 else VALUE_LOW
            rows.append({
                **unit.key(), "text": name, "kind": kind, "rank": rank, "context_id": context_id,
                "position": position, "predicted": float(predicted[token]), "actual": float(actual[token]),
                "token_ids": token_ids[: position + 1], "cause": cause, "rule_id": rule_of_end.get(end),
            })  # fmt: skip
    return rows


def name_failures(
    unit: Unit, tables: Mapping[str, pl.DataFrame], vocabulary: Vocabulary, a_max: float, threshold: float
) -> pl.DataFrame:
    """Rows of table ``failures`` of one unit, without study and layer, in the order of ``FAILURE_RULES``.

    ``tables`` holds the unit's rows of ``top_examples``, ``pruned_examples``, ``graph_nodes``, ``token_classes``,
    ``rules``, ``rule_tests``, ``evaluation`` and ``counterexamples``; from ``threshold`` times ``a_max`` on it fires.
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

    alarming = tables["rule_tests"].filter(pl.col("predicted") >= pl.lit(threshold, pl.Float32))
    wrong = [(share, words) for share, words in _shares_right(scores, alarming) if share < RIGHT_SHARE]
    if wrong:
        reason = ", and ".join(words for _, words in wrong)
        found["over_general_rule"] = min(wrong)[0], f"{reason[0].upper()}{reason[1:]}."

    peaks = tables["top_examples"].filter(split="test")["activation"].cast(pl.Float64) / a_max
    firing = int((peaks >= threshold).sum())
    if len(peaks) and firing / len(peaks) < PEAK_SHARE:
        reason = f"The unit fires at the peak of {firing} of {len(peaks)} test contexts."
        found["weak_peak"] = firing / len(peaks), reason

    of_classes = tables["rules"]["rank"].is_not_null().any()
    rules = _strong_rules(tables, vocabulary) if of_classes else tables["rules"].select("tokens", "count").rows()
    held = sorted(component_counts(rules), reverse=True)
    large = [count for count in held if count / max(1, sum(held)) >= COMPONENT_SHARE]
    if len(large) > 1:
        listed = f"{', '.join(map(str, large[:-1]))} and {large[-1]}"
        reason = f"{len(large)} of {len(held)} components of rules that share no token hold"
        reason += f" {listed} of {sum(held)} {'firings' if of_classes else 'prompts'}."
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
        yield fired / matches, f"the unit fires on {fired} of {matches} texts made to match rules that predict firing"


def _strong_rules(tables: Mapping[str, pl.DataFrame], vocabulary: Vocabulary) -> list[tuple[set[str], int]]:
    """Activating tokens and firings of the strong rules of a graph of classes; a rule that names no token has all.

    What the harvest does not have, rules and tokens, does not count.
    """
    graph = graph_of_rows(tables["graph_nodes"], tables["token_classes"], vocabulary.bos_id)
    nodes = graph.rules_of(SHOWN_RULES)
    nodes = nodes[graph.supports[nodes] > 0]
    strong = nodes[graph.values[nodes] >= STRONG_SHARE * graph.values[nodes].max()]
    forms = {
        int(node): {_bare(vocabulary.tokens[token]) for token in each.tokens[each.weights > 0]}
        for node in strong
        for each in classes_of(graph, int(node))
        if each.offset == 0 and not each.all_but
    }
    any_token = {"", *(form for of_rule in forms.values() for form in of_rule)}
    return [(forms.get(int(node), any_token), int(graph.firings[node])) for node in strong]


def _bare(token: bytes) -> str:
    """A token in lower case, without the white space around it if there is more to it."""
    text = token.decode(errors="surrogateescape").lower()
    return text.strip() or text


def component_counts(rules: Sequence[tuple[Collection[bytes | str | None], int]]) -> list[int]:
    """What each component of rules holds, given forms (None: any token, which joins nothing) and what each holds.

    Two rules are in one component where a chain of shared forms leads across.
    """
    import igraph

    edges = [(rule, form) for rule, (tokens, _) in enumerate(rules) for form in tokens if form is not None]
    names = (part.vs["name"] for part in igraph.Graph.TupleList(edges).connected_components().subgraphs())
    return [sum(rules[rule][1] for rule in part if isinstance(rule, int)) for part in names]
