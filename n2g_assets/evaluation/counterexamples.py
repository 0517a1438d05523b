"""Counterexamples: the tokens of held-out text on which a unit's graph is most confidently wrong, and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from n2g_assets.core.units import Unit
from n2g_assets.evaluation.texts import HeldOutText
from n2g_assets.method.predict import TokenGraph

FALSE_ALARM, MISS = "false_alarm", "miss"
"""Values of ``counterexamples.kind``."""
RULE_WRONG, TOKEN_UNKNOWN = "rule fired wrongly", "token unknown"
CONTEXT_UNMATCHED, VALUE_LOW = "context unmatched", "value too low"
"""Values of ``counterexamples.cause``: a false alarm's; a miss on a token that is no activating node; one whose token
is, but no path matches; one on which a path matches that predicts less than firing."""


def find_counterexamples(
    unit: Unit,
    graph: TokenGraph,
    rules: pl.DataFrame,
    text: HeldOutText,
    actual: Float[np.ndarray, " tokens"],
    threshold: float,
    keep: int,
) -> list[dict[str, Any]]:
    """Rows of ``counterexamples`` of one unit on one text, without ``study`` and ``layer``.

    Of each kind the ``keep`` errors with the largest distance of prediction and activation are kept; of equals, the
    one that comes first in the text. ``rules`` are the unit's rows, ``actual`` its normalised activations.
    """
    predicted, ends = graph.predict_with_ends(text.encoded)
    known = set(graph.roots.tolist())
    rule_of_end = dict(rules.select("end_node_id", "rule_id").iter_rows())
    fires, alarm = actual >= threshold, predicted >= threshold
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
                **unit.key(), "text": text.name, "kind": kind, "rank": rank, "context_id": context_id,
                "position": position, "predicted": float(predicted[token]), "actual": float(actual[token]),
                "token_ids": token_ids[: position + 1], "cause": cause, "rule_id": rule_of_end.get(end),
            })  # fmt: skip
    return rows
