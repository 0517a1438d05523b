"""Stage ``neuron_graphs``: prompts and kept variants become one trie a unit (paper section 3.3).

1. Every activating position of a pruned prompt (a row of ``saliencies``; the peak always has one) gives a path. So
   does every position of a kept variant that fires after rescaling, if it stands for an activating position of the
   pruned prompt: only for these the importances of the tokens are known.
2. A path starts at its activating token and walks back through the text to position 1: a context node where the
   importance of the token (for a variant: of the token it stands for) reaches ``important_threshold``, else an ignore
   node. Trailing ignore nodes are cut; the last node is the path's end and stores the normalised activation.
3. All paths of a unit go into one trie whose keys are kind and form. An end stores the mean over the paths that end
   there and their count; a node the largest activation of the activating token over the paths through it, and the
   largest importance of its token.
4. From the activating nodes downwards: where siblings hold an ignore node, the subtrees of all other siblings are
   copied into it, ends and counts included. A sibling's own end is not copied, since it would then predict after any
   token: an ignore node is never an end.
5. Number the nodes depth first, children by kind and token: parents come before children.
6. Every node at which a path ends is a rule: the forms from the activating token backwards (NULL: any token), ordered
   by the activation it predicts, the strongest first; of equals, the node with the lower number.
7. A rule's pattern stands in the order of the text, the activating token last and in square brackets:
   ``all * [except]``. ``*`` is one token of any kind, ``*{3}`` three. White space and bytes that are no text are made
   visible; a backslash stands before a ``*``, ``[``, ``]`` or backslash that is part of a token.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import polars as pl

from n2g_assets.core.settings import GraphSettings
from n2g_assets.core.units import Unit
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.prune import rescale
from n2g_assets.method.results import BlockResult, Outcome, finish_block, rows_by_unit, unit_frame
from n2g_assets.method.tokens import display_text

MAX_NODES = 500_000
"""A graph that merging makes larger than this is given up: ledger ``failed``."""

ACTIVATING, CONTEXT, IGNORE = "activating", "context", "ignore"
"""Values of ``graph_nodes.kind``, in the order of siblings."""

NO_CLASSES = dict.fromkeys(("rank", "until", "documents", "firings"))
"""Columns of ``graph_nodes`` and ``rules`` that only graphs of token classes have."""

NodeKey = tuple[str, bytes]
"""Kind of a node and the form it matches; the form of an ignore node is empty."""

ANY: NodeKey = (IGNORE, b"")
"""Key of an ignore node."""

Step = tuple[NodeKey, float | None]
"""One node of a path, and the importance of its token for the activating token; none for ignore nodes."""

Path = tuple[Sequence[Step], float]
"""Nodes from the activating one backwards, the last is no ignore node, and normalised activation at its token."""


@dataclass
class TrieNode:
    """A node of a trie; lives only inside ``build_graphs``."""

    key: NodeKey
    activation: float = -np.inf
    importance: float | None = None
    total: float = 0.0
    """Sum of the normalised activations of the paths that end here."""
    count: int = 0
    """Paths that end here."""
    children: dict[NodeKey, "TrieNode"] = field(default_factory=dict)

    def child(self, key: NodeKey) -> "TrieNode":
        """The child with this key, made if it is not there."""
        if key not in self.children:
            self.children[key] = TrieNode(key)
        return self.children[key]

    def in_order(self) -> list["TrieNode"]:
        """The children by kind and token."""
        return [self.children[key] for key in sorted(self.children)]


class GraphTooLargeError(Exception):
    """Merging made more than ``MAX_NODES`` nodes; caught within the stage."""


def make_path(forms: Sequence[bytes], importances: Sequence[float], position: int, threshold: float) -> list[Step]:
    """The path of one activating position, from 1, given form and importance of every token of its prompt (step 2)."""
    steps: list[Step] = [((ACTIVATING, forms[position]), importances[position])]
    for before in range(position - 1, 0, -1):
        important = importances[before] >= threshold
        steps.append(((CONTEXT, forms[before]), importances[before]) if important else (ANY, None))
    while steps[-1][0] == ANY:
        steps.pop()
    return steps


def build_trie(paths: Sequence[Path]) -> TrieNode:
    """One trie of all paths with siblings merged (steps 3 and 4); its root stands above the activating nodes.

    Raises:
        GraphTooLargeError: merging made more than ``MAX_NODES`` nodes.
    """
    root = TrieNode(("", b""))
    for steps, activation in paths:
        node = root
        for key, importance in steps:
            node = node.child(key)
            node.activation = max(node.activation, activation)
            node.importance = _largest(node.importance, importance)
        node.total += activation
        node.count += 1
    size = 0
    waiting = root.in_order()
    while waiting:
        node = waiting.pop()
        ignore = node.children.get(ANY)
        if ignore is not None:
            for sibling in node.in_order():
                if sibling is not ignore:
                    _merge_below(sibling, ignore)
        waiting.extend(node.in_order())
        size += 1
        if size > MAX_NODES:
            raise GraphTooLargeError
    return root


def _merge_below(source: TrieNode, target: TrieNode) -> None:
    """Adds a copy of everything that hangs below ``source`` to ``target``; neither node's own end changes."""
    waiting = [(source, target)]
    while waiting:
        old, new = waiting.pop()
        for key, below in old.children.items():
            copy = new.child(key)
            copy.activation = max(copy.activation, below.activation)
            copy.importance = _largest(copy.importance, below.importance)
            copy.total += below.total
            copy.count += below.count
            target.activation = max(target.activation, below.activation)
            waiting.append((below, copy))


def _largest(left: float | None, right: float | None) -> float | None:
    return max((value for value in (left, right) if value is not None), default=None)


def node_rows(root: TrieNode) -> list[dict[str, Any]]:
    """The rows of ``graph_nodes`` of one trie, without the unit (step 5)."""
    rows: list[dict[str, Any]] = []
    waiting: list[tuple[TrieNode, int | None, int]] = [(node, None, 0) for node in reversed(root.in_order())]
    while waiting:
        node, parent_id, depth = waiting.pop()
        kind, form = node.key
        mean = float(np.float32(node.total / node.count)) if node.count else None
        rows.append({
            "node_id": len(rows), "parent_id": parent_id, "depth": depth, "kind": kind, "offset": -depth,
            "token": None if kind == IGNORE else form, "all_but": False, "activation": node.activation,
            "importance": node.importance, "end_activation": mean, "end_count": node.count, **NO_CLASSES,
        })  # fmt: skip
        node_id = len(rows) - 1
        waiting += [(child, node_id, depth + 1) for child in reversed(node.in_order())]
    return rows


def rule_rows(nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of ``rules`` of one graph, without the unit, given its rows by ``node_id`` (step 6)."""
    forms: dict[int | None, tuple[bytes | None, ...]] = {None: ()}
    ends = []
    for node in nodes:
        forms[node["node_id"]] = (*forms[node["parent_id"]], node["token"])
        if node["end_count"]:
            ends.append(node)
    ends.sort(key=lambda node: (-node["end_activation"], node["node_id"]))
    return [
        {
            "rule_id": rule_id, "end_node_id": end["node_id"], "pattern": pattern(forms[end["node_id"]]),
            "tokens": list(forms[end["node_id"]]), "activation": end["end_activation"], "count": end["end_count"],
            **NO_CLASSES,
        }
        for rule_id, end in enumerate(ends)
    ]  # fmt: skip


def pattern(forms: Sequence[bytes | None]) -> str:
    """The readable pattern of a rule, given its forms from the activating token backwards (step 7; None: any token)."""
    activating, *context = forms
    words = []
    for form, run in groupby(reversed(context)):
        number = len(list(run))
        if form is None:
            words.append("*" if number == 1 else f"*{{{number}}}")
        else:
            words += [visible(form)] * number
    return " ".join([*words, f"[{visible(activating or b'')}]"])


def visible(form: bytes) -> str:
    """A form for reading inside a pattern, where ``*``, ``[`` and ``]`` have a meaning."""
    return display_text(re.sub(rb"[\\*\[\]]", rb"\\\g<0>", form))


def build_graphs(
    units: Sequence[Unit],
    pruned_examples: pl.DataFrame,
    saliencies: pl.DataFrame,
    augmented_examples: pl.DataFrame,
    a_max: Mapping[Unit, float],
    vocabulary: Vocabulary,
    settings: GraphSettings,
) -> BlockResult:
    """Tables ``graph_nodes``, ``rules`` and ``token_classes`` (empty) of a block; other units' rows are ignored.

    A unit is ``failed`` in the ledger where merging would make more than ``MAX_NODES`` nodes.
    """
    pruned = rows_by_unit(units, pruned_examples.sort("rank"))
    salient = rows_by_unit(units, saliencies.sort("rank", "position"))
    kept = augmented_examples.filter(pl.col("kept")).sort("rank", "position", "choice")
    variants = rows_by_unit(units, kept)
    nodes, rules, unusual = [], [], {}
    for unit in units:
        paths = list(_paths(pruned[unit], salient[unit], variants[unit], a_max[unit], vocabulary, settings))
        try:
            rows = node_rows(build_trie(paths))
        except GraphTooLargeError:
            unusual[unit] = Outcome(
                "failed", f"Merging made its graph larger than {MAX_NODES} nodes: raise method.important_threshold."
            )
            continue
        nodes += [{**unit.key(), **row} for row in rows]
        rules += [{**unit.key(), **row} for row in rule_rows(rows)]
    made = {"graph_nodes": nodes, "rules": rules, "token_classes": []}
    tables = {table: unit_frame(table, rows) for table, rows in made.items()}
    return finish_block(units, tables, unusual)


def _paths(
    pruned: Sequence[Mapping[str, Any]],
    salient: Sequence[Mapping[str, Any]],
    variants: Sequence[Mapping[str, Any]],
    a_max: float,
    vocabulary: Vocabulary,
    settings: GraphSettings,
) -> Iterator[Path]:
    """The paths of one unit: those of its pruned prompts, then those of its kept variants (step 1)."""
    threshold = float(np.float32(settings.important_threshold))  # importances are stored as float32
    examples = {row["rank"]: row for row in pruned}
    for row in salient:
        forms = [vocabulary.form(token_id) for token_id in examples[row["rank"]]["token_ids"]]
        yield make_path(forms, row["importances"], row["position"], threshold), row["activation"] / a_max
    importances_of = {(row["rank"], row["position"]): row["importances"] for row in salient}
    for row in variants:
        forms = [vocabulary.form(token_id) for token_id in row["token_ids"]]
        example = examples[row["rank"]]
        activations = np.asarray(row["activations"], np.float32)
        normalised = rescale(activations, example["full_activation"], example["activation"]) / a_max
        for position in range(1, len(forms)):
            origin = row["origins"][position]
            original = importances_of.get((row["rank"], origin))
            if original is not None and normalised[position] >= settings.firing_threshold:
                importances = [original[kept] for kept in row["origins"]]
                yield make_path(forms, importances, position, threshold), float(normalised[position])
