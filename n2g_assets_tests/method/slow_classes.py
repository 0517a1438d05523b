"""A slow, obvious reader of graphs of token classes: every rule tried at every position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl


class Question(NamedTuple):
    """What a node asks of the text: whether a token is in a class, or is in none of it."""

    offset: int
    tokens: dict[int, float]
    """What each token of the class adds to the expected activation; not read where all but the class is asked for."""
    all_but: bool

    def adds(self, token_ids: Sequence[int], position: int) -> float:
        """What the token adds that stands where the question looks."""
        return 0.0 if self.all_but else self.tokens[token_ids[max(position + self.offset, 0)]]

    def holds(self, token_ids: Sequence[int], position: int) -> bool:
        """BOS, which stands at position 0, stands before it too."""
        return (token_ids[max(position + self.offset, 0)] in self.tokens) != self.all_but


class SlowRule(NamedTuple):
    """A node at which a text may end: all that is asked on the way to it, and what it expects before tokens add."""

    node_id: int
    questions: list[Question]
    value: float


def slow_rules(graph_nodes: pl.DataFrame, token_classes: pl.DataFrame, n_rules: int | None = None) -> list[SlowRule]:
    """The rules of the graph of so many, of the largest one by default, from the rows of a unit."""
    nodes = {row["node_id"]: row for row in graph_nodes.iter_rows(named=True)}
    rules = []
    for node_id, row in nodes.items():
        last = row["until"] is None or (n_rules is not None and row["until"] >= n_rules)
        if last and (n_rules is None or row["rank"] <= n_rules):
            rules.append(SlowRule(node_id, questions_of(nodes, token_classes, node_id), row["end_activation"]))
    return rules


def questions_of(nodes: dict[int, dict], token_classes: pl.DataFrame, node_id: int) -> list[Question]:
    """What a node and those above it ask; the class of a node that takes all but one is that of the node before it."""
    found = []
    while nodes[node_id]["parent_id"] is not None:
        row = nodes[node_id]
        members = token_classes.filter(node_id=node_id - row["all_but"]).select("token_id", "deviation")
        found.append(Question(row["offset"], dict(members.iter_rows()), row["all_but"]))
        node_id = row["parent_id"]
    return found


def slow_predict_classes(rules: Sequence[SlowRule], token_ids: Sequence[int]) -> tuple[list[float], list[int]]:
    """What the one rule that a position matches expects there, and its node; 0 and -1 at BOS."""
    values, ends = [0.0], [-1]
    for position in range(1, len(token_ids)):
        [rule] = [rule for rule in rules if all(asked.holds(token_ids, position) for asked in rule.questions)]
        values.append(rule.value + sum(asked.adds(token_ids, position) for asked in rule.questions))
        ends.append(rule.node_id)
    return values, ends
