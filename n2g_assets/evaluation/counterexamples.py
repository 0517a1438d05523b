"""Counterexamples: the tokens of held-out text on which a unit's graph is most confidently wrong, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float32, Int32

from n2g_assets.core.units import Unit
from n2g_assets.evaluation.texts import Shard

FALSE_ALARM, MISS = "false_alarm", "miss"
"""Values of ``counterexamples.kind``."""
RULE_WRONG = "rule fired wrongly"
TOKEN_UNKNOWN = "token unknown"
CONTEXT_UNMATCHED = "context unmatched"
VALUE_LOW = "value too low"
"""Values of ``counterexamples.cause``: a false alarm's; a miss on a token that is no activating node; one whose token
is, but no path matches; one on which a path matches that predicts less than firing."""


@dataclass
class Counterexamples:
    """Collects those of one unit on one text while the text streams by."""

    unit: Unit
    text: str
    threshold: float
    keep: int
    found: dict[str, list[tuple[float, dict[str, Any]]]] = field(default_factory=lambda: {FALSE_ALARM: [], MISS: []})
    """By kind, how wrong each is and its row, the worst first; of equals, the one that comes first in the text."""

    def add(
        self,
        shard: Shard,
        actual: Float32[np.ndarray, " tokens"],
        predicted: Float32[np.ndarray, " tokens"],
        ends: Int32[np.ndarray, " tokens"],
        known: Int32[np.ndarray, " forms"],
    ) -> None:
        """Take in a shard.

        Args:
            shard: contexts of the text.
            actual: normalised activation of every token.
            predicted: what the graph says.
            ends: node whose path said so; -1 where none did.
            known: forms of the graph's activating nodes.
        """
        fires, alarm = actual >= self.threshold, predicted >= self.threshold
        wrong = {FALSE_ALARM: alarm & ~fires, MISS: fires & ~alarm}
        for kind, where in wrong.items():
            places = np.flatnonzero(where & shard.inside)
            gap = np.abs(predicted[places] - actual[places])
            for index in np.argsort(-gap, kind="stable")[: self.keep]:
                token = int(places[index])
                row = self._row(shard, token, actual, predicted, known, end=int(ends[token]), kind=kind)
                self.found[kind].append((float(gap[index]), row))
            self.found[kind] = sorted(self.found[kind], key=lambda one: -one[0])[: self.keep]

    def _row(
        self,
        shard: Shard,
        token: int,
        actual: Float32[np.ndarray, " tokens"],
        predicted: Float32[np.ndarray, " tokens"],
        known: Int32[np.ndarray, " forms"],
        *,
        end: int,
        kind: str,
    ) -> dict[str, Any]:
        context_id, token_ids = shard.contexts.select("context_id", "token_ids").row(int(shard.windows[token]))
        position = int(shard.encoded.positions[token])
        if kind == FALSE_ALARM:
            cause = RULE_WRONG
        elif end >= 0:
            cause = VALUE_LOW
        else:
            cause = CONTEXT_UNMATCHED if shard.encoded.forms[token] in known else TOKEN_UNKNOWN
        return {
            **self.unit.key(), "text": self.text, "kind": kind, "context_id": context_id, "position": position,
            "predicted": float(predicted[token]), "actual": float(actual[token]),
            "token_ids": token_ids[: position + 1], "cause": cause, "end": end,
        }  # fmt: skip

    def rows(self, rule_of_end: Mapping[int, int]) -> Iterator[dict[str, Any]]:
        """Rows of the table, the most confident first, given the rule of every end node."""
        for found in self.found.values():
            for rank, (_, row) in enumerate(found):
                end = row.pop("end")
                yield row | {"rank": rank, "rule_id": rule_of_end.get(end)}


def rules_of_ends(rules: pl.DataFrame) -> dict[int, int]:
    """By the node at which it ends, each rule of one unit."""
    return dict(rules.select("end_node_id", "rule_id").iter_rows())
