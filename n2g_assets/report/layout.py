"""Where the nodes of a token graph stand in its picture.

1. Choose the strongest rules whose nodes fit; the rest is counted, not drawn.
2. Draw a run of ignore nodes that nothing branches from as one.
3. Columns follow the text: activating nodes on the right, what stands before them to their left.
4. Activating nodes that need no context stand apart, strongest first, so that a long list of them stays compact.
5. Rows of the others come from igraph's Reingold-Tilford layout, one tree at a time, the tree with the strongest rule
   on top. (The graph is a forest, so no edges need cross; igraph's Sugiyama layout leaves crossings even in trees.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import polars as pl


class Node(NamedTuple):
    """One row of ``graph_nodes``, as far as a picture needs it."""

    node_id: int
    parent_id: int | None
    kind: str
    token: bytes | None
    activation: float
    importance: float | None
    end_activation: float | None
    end_count: int


@dataclass(frozen=True)
class PlacedNode:
    """A node, or a run of ignore nodes, with its place."""

    node: Node
    parent: int | None
    """Index in ``Layout.nodes`` of what stands to its right; None for activating nodes."""
    run: int
    """Ignore nodes it stands for; 1 for a single node of any kind."""
    column: int
    """0 is the rightmost: the activating nodes."""
    row: float
    """0 is the top; nodes of one column are at least 1 apart."""


@dataclass(frozen=True)
class Layout:
    """The part of a token graph that is shown, and how much is not."""

    nodes: tuple[PlacedNode, ...]
    """Nodes of trees, parents before children."""
    alone: tuple[Node, ...]
    """Activating nodes that nothing hangs from, strongest first."""
    rows: float
    """Height of the trees in rows: the lowest row plus 1; 0 if there is none."""
    hidden_nodes: int
    """Nodes of the graph that are not shown; nodes of a run count as shown."""
    hidden_rules: int
    """Ends of the graph that are not shown."""


def lay_out(nodes: pl.DataFrame, max_nodes: int = 40) -> Layout:
    """Places the strongest rules of one unit's token graph.

    Args:
        nodes: the unit's rows of the table ``graph_nodes``.
        max_nodes: nodes drawn, runs counted once; the strongest rule is shown even if it alone is longer.
    """
    rows_in_order = nodes.select(Node._fields).sort("node_id").iter_rows()
    everything = {row[0]: Node(*row) for row in rows_in_order}
    shown = _strongest(everything, max_nodes)
    placed: list[PlacedNode] = []
    alone: list[Node] = []
    top = 0.0
    trees = _trees(shown)
    strength = {root: max(node.end_activation or 0.0 for node in tree) for root, tree in trees.items()}
    for root, tree in sorted(trees.items(), key=lambda item: (-strength[item[0]], item[0])):
        if len(tree) == 1:
            alone += tree
            continue
        drawn, run = _without_runs({node.node_id: node for node in tree})
        columns, rows = _tidy(root, drawn)
        index = {node_id: len(placed) + i for i, node_id in enumerate(drawn)}
        for node_id, (node, parent) in drawn.items():
            place = index[parent] if parent is not None else None
            placed.append(PlacedNode(node, place, run[node_id], columns[node_id], top + rows[node_id]))
        top += max(rows.values()) + 1
    hidden_rules = sum(node.end_activation is not None for id_, node in everything.items() if id_ not in shown)
    return Layout(tuple(placed), tuple(alone), top, len(everything) - len(shown), hidden_rules)


def _strongest(everything: dict[int, Node], max_nodes: int) -> dict[int, Node]:
    """The nodes of the strongest rules, taken in order until the next does not fit, in order of their ids."""
    inner = {node.parent_id for node in everything.values()}
    tips = [node for node in everything.values() if node.end_activation is not None or node.node_id not in inner]
    tips.sort(key=lambda node: (-(node.end_activation or 0.0), -node.end_count, node.node_id))
    shown: dict[int, Node] = {}
    for tip in tips:
        longer = dict(shown)
        node: Node | None = tip
        while node is not None and node.node_id not in longer:
            longer[node.node_id] = node
            node = None if node.parent_id is None else everything[node.parent_id]
        if shown and len(longer) > max_nodes and len(_without_runs(longer)[0]) > max_nodes:
            break
        shown = longer
    return dict(sorted(shown.items()))


def _without_runs(nodes: dict[int, Node]) -> tuple[dict[int, tuple[Node, int | None]], dict[int, int]]:
    """Nodes with their parents where a run of ignore nodes is its deepest one, and the length of every run."""
    children: dict[int | None, int] = {}
    for node in nodes.values():
        children[node.parent_id] = children.get(node.parent_id, 0) + 1
    swallowed = {
        parent
        for node in nodes.values()
        if node.kind == "ignore"
        and (parent := node.parent_id) is not None
        and nodes[parent].kind == "ignore"
        and nodes[parent].end_activation is None
        and children[parent] == 1
    }
    drawn: dict[int, tuple[Node, int | None]] = {}
    run: dict[int, int] = {}
    for node_id in sorted(nodes.keys() - swallowed):
        length, parent = 1, nodes[node_id].parent_id
        while parent in swallowed:
            length, parent = length + 1, nodes[parent].parent_id
        drawn[node_id], run[node_id] = (nodes[node_id], parent), length
    return drawn, run


def _trees(nodes: dict[int, Node]) -> dict[int, list[Node]]:
    """Nodes by the activating node they hang from."""
    root: dict[int, int] = {}
    trees: dict[int, list[Node]] = {}
    for node in nodes.values():
        root[node.node_id] = node.node_id if node.parent_id is None else root[node.parent_id]
        trees.setdefault(root[node.node_id], []).append(node)
    return trees


def _tidy(root: int, drawn: dict[int, tuple[Node, int | None]]) -> tuple[dict[int, int], dict[int, float]]:
    """Column and row of every node of one tree, the strongest branch on top."""
    import igraph

    children: dict[int, list[int]] = {}
    for node_id, (_, parent) in drawn.items():
        if parent is not None:
            children.setdefault(parent, []).append(node_id)
    best = {node_id: node.end_activation or 0.0 for node_id, (node, _) in drawn.items()}
    for node_id in sorted(drawn, reverse=True):
        parent = drawn[node_id][1]
        if parent is not None:
            best[parent] = max(best[parent], best[node_id])
    columns, order, stack = {root: 0}, [], [root]
    while stack:
        node_id = stack.pop()
        order.append(node_id)
        below = sorted(children.get(node_id, ()), key=lambda child: (-best[child], child))
        columns.update((child, columns[node_id] + 1) for child in below)
        stack.extend(reversed(below))
    place = {node_id: i for i, node_id in enumerate(order)}
    edges = [(place[parent], place[node_id]) for node_id in order if (parent := drawn[node_id][1]) is not None]
    tree = igraph.Graph(n=len(order), edges=edges, directed=True)
    coordinates = tree.layout_reingold_tilford(mode="out", root=[0]).coords
    top = min(row for row, _ in coordinates)
    return columns, {node_id: coordinates[place[node_id]][0] - top for node_id in order}
