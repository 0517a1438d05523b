"""Which rules of a graph of token classes a picture shows, and in which rows.

1. Take the rules of the graph of n rules. A rule *fires* if it expects the threshold or if most of its positions fire;
   any other only contributes.
2. Rules that expect next to nothing, measured by the strongest, are *background*: one row stands for all of them.
3. The others come strongest first: what is above the unit's mean, then what is below it.
4. Rules that share their class at the offset nearest to the activating token stand together, and among these, those
   that share the next one: as branches of a tree whose root is on the right.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from n2g_assets.method.class_rows import TokenClass, classes_of
from n2g_assets.method.classes import ClassGraph

BACKGROUND = 0.1
"""A rule that expects less than this share of what the strongest one does is background, unless it fires."""


class Support(NamedTuple):
    """How much of the harvest stands behind a rule."""

    positions: int
    documents: int
    firing_share: float


class Rule(NamedTuple):
    """A rule as a picture shows it."""

    node: int
    """``graph_nodes.node_id`` at which it ends."""
    value: float
    """Normalised activation that it expects, signed."""
    support: Support
    fires: bool
    classes: dict[int, TokenClass]
    """By offset, from 0 backwards."""
    importances: dict[int, float]
    """By offset the largest importance measured of a token of its class."""

    def key(self, offset: int) -> tuple[bool, bytes] | None:
        """Equal where rules have the same class at an offset."""
        found = self.classes.get(offset)
        return None if found is None else (found.all_but, found.tokens.tobytes())


class Background(NamedTuple):
    """Rules that expect next to nothing, taken together."""

    rules: int
    value: float
    """Their mean, by positions."""
    positions: int
    firing_share: float


class Cell(NamedTuple):
    """A class that one rule needs, or several in neighbouring rows."""

    offset: int
    row: int
    rows: int
    found: TokenClass
    importance: float | None
    """None where not measured."""
    node: int
    """Where one of these rules ends."""


class ClassLayout(NamedTuple):
    """What a picture of a graph of token classes shows."""

    rules: list[Rule]
    """One a row, from the top."""
    offsets: list[int]
    """Those at which a rule has a class, ascending: columns from the left."""
    cells: list[Cell]
    background: Background | None
    positions: int
    """Harvested positions behind all rules."""
    documents: int
    mean: float
    """The unit's mean normalised activation: rules above it raise the activation, those below it lower it."""


def lay_out_classes(
    graph: ClassGraph, importances: Mapping[int, float], *, n_rules: int, threshold: float
) -> ClassLayout:
    """The rows of the graph of ``n_rules`` rules, given the largest graph and by node the importance measured there."""
    rules = list(_rules(graph, importances, n_rules, threshold))
    quiet = is_background(
        np.array([rule.value for rule in rules], float), np.array([rule.fires for rule in rules], bool)
    )
    loud = [rule for rule, folded in zip(rules, quiet, strict=True) if not folded]
    offsets = sorted({offset for rule in loud for offset in rule.classes})
    positions, documents, mean = (
        (int(graph.supports[0]), int(graph.documents[0]), float(graph.values[0])) if len(graph) else (0, 0, 0.0)
    )
    loud = _arranged(sorted(loud, key=lambda rule: _strength(rule, mean)), offsets[::-1], mean)
    background = _together([rule for rule, folded in zip(rules, quiet, strict=True) if folded])
    cells = list(_cells(loud, offsets))
    return ClassLayout(loud, offsets, cells, background, positions, documents, mean)


def is_background(values: Float[np.ndarray, " rules"], fires: Bool[np.ndarray, " rules"]) -> Bool[np.ndarray, " rules"]:
    """Which rules of a graph are background, given what they expect and whether they fire."""
    return (np.abs(values) < BACKGROUND * np.abs(values).max(initial=0.0)) & ~fires


def rules_fire(
    values: Float[np.ndarray, " rules"], firing_shares: Float[np.ndarray, " rules"], threshold: float
) -> Bool[np.ndarray, " rules"]:
    """Which rules fire, given what they expect and at what share of their positions the unit fires."""
    return (values >= threshold) | (firing_shares > 0.5)


def _rules(graph: ClassGraph, importances: Mapping[int, float], n_rules: int, threshold: float) -> Iterator[Rule]:
    ends = graph.rules_of(n_rules)
    shares = graph.firings[ends] / np.maximum(graph.supports[ends], 1)
    fires = rules_fire(graph.values[ends], shares, threshold)
    for node, share, firing in zip(ends.tolist(), shares.tolist(), fires.tolist(), strict=True):
        support = Support(int(graph.supports[node]), int(graph.documents[node]), share)
        measured: dict[int, float] = {}
        for step in graph.path(node):
            if step in importances:
                offset = int(graph.offsets[step])
                measured[offset] = max(measured.get(offset, -np.inf), importances[step])
        classes = {found.offset: found for found in classes_of(graph, node)}
        yield Rule(node, float(graph.values[node]), support, firing, classes, measured)


def _strength(rule: Rule, mean: float) -> tuple[bool, float]:
    return rule.value < mean, -abs(rule.value - mean)


def _arranged(rules: Sequence[Rule], offsets: Sequence[int], mean: float) -> list[Rule]:
    """Rules in order of strength, those together that share a class at the first of the offsets, then at the next."""
    if len(rules) < 2 or not offsets:
        return list(rules)
    groups: dict[tuple[bool, bytes] | None, list[Rule]] = {}
    for rule in rules:
        groups.setdefault(rule.key(offsets[0]), []).append(rule)
    loudest = {key: max(group, key=lambda rule: abs(rule.value - mean)) for key, group in groups.items()}
    ordered = sorted(groups, key=lambda key: _strength(loudest[key], mean))
    return [rule for key in ordered for rule in _arranged(groups[key], offsets[1:], mean)]


def _cells(rules: Sequence[Rule], offsets: Sequence[int]) -> Iterator[Cell]:
    for place, offset in enumerate(offsets):
        row = 0
        # a cell ends where one nearer to the activating token does
        for _, run in groupby(rules, key=lambda rule: [rule.key(each) for each in offsets[place:]]):
            shared = list(run)
            if offset in shared[0].classes:
                measured = [rule.importances[offset] for rule in shared if offset in rule.importances]
                found, importance = shared[0].classes[offset], max(measured, default=None)
                yield Cell(offset, row, len(shared), found, importance, shared[0].node)
            row += len(shared)


def _together(rules: Sequence[Rule]) -> Background | None:
    if not rules:
        return None
    counts = np.array([rule.support.positions for rule in rules])
    shares = np.array([rule.support.firing_share for rule in rules])
    values = np.array([rule.value for rule in rules])
    total = int(counts.sum())
    parts = counts / max(1, total)
    return Background(len(rules), float(values @ parts), total, float(shares @ parts))
