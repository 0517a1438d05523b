"""Where the nodes of a token graph stand in its picture.

1. Choose the strongest rules whose nodes fit; the rest is counted, not drawn.
2. Draw a run of ignore nodes that nothing branches from as one.
3. Columns follow the text: activating nodes on the right, what stands before them to their left.
4. Activating nodes that need no context stand apart, strongest first, so that a long list of them stays compact.
5. Places of the others come from igraph's Reingold-Tilford layout, one tree at a time, the tree with the strongest rule
   on top. (The graph is a forest, so no edges need cross; igraph's Sugiyama layout leaves crossings even in trees.)
"""

from collections import Counter
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


class PlacedNode(NamedTuple):
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


class Layout(NamedTuple):
    """The part of a token graph that is shown, and how much is not."""

    nodes: list[PlacedNode]
    """Nodes of trees, parents before children."""
    alone: list[Node]
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
    ordered = nodes.select(Node._fields).sort("node_id").iter_rows()
    everything = {row[0]: Node(*row) for row in ordered}
    shown = _strongest(everything, max_nodes)
    roots: dict[int, int] = {}
    trees: dict[int, dict[int, Node]] = {}
    for node_id, node in shown.items():
        root = roots[node_id] = node_id if node.parent_id is None else roots[node.parent_id]
        trees.setdefault(root, {})[node_id] = node
    strength = {node_id: node.end_activation or 0.0 for node_id, node in shown.items()}
    for node_id, node in reversed(shown.items()):
        if node.parent_id is not None:
            strength[node.parent_id] = max(strength[node.parent_id], strength[node_id])
    placed: list[PlacedNode] = []
    alone: list[Node] = []
    rows = 0.0
    for root in sorted(trees, key=lambda root: (-strength[root], root)):
        if len(trees[root]) == 1:
            alone.append(trees[root][root])
        else:
            placed += _placed(trees[root], strength, len(placed), rows)
            rows = max(each.row for each in placed) + 1
    hidden_rules = sum(node.end_activation is not None for id_, node in everything.items() if id_ not in shown)
    return Layout(placed, alone, rows, len(everything) - len(shown), hidden_rules)


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
        if shown and len(longer) > max_nodes and len(_without_runs(longer)) > max_nodes:
            break
        shown = longer
    return dict(sorted(shown.items()))


def _without_runs(nodes: dict[int, Node]) -> dict[int, tuple[int | None, int]]:
    """By node the parent, where a run of ignore nodes is its deepest one, and how many ignore nodes it stands for."""
    children = Counter(node.parent_id for node in nodes.values())
    swallowed = {
        parent
        for node in nodes.values()
        if node.kind == "ignore"
        and (parent := node.parent_id) is not None
        and nodes[parent].kind == "ignore"
        and nodes[parent].end_activation is None
        and children[parent] == 1
    }
    drawn: dict[int, tuple[int | None, int]] = {}
    for node_id in sorted(nodes.keys() - swallowed):
        run, parent = 1, nodes[node_id].parent_id
        while parent in swallowed:
            run, parent = run + 1, nodes[parent].parent_id
        drawn[node_id] = parent, run
    return drawn


def _placed(tree: dict[int, Node], strength: dict[int, float], first: int, top: float) -> list[PlacedNode]:
    """The nodes of one tree, the strongest branch on top: ``first`` is the index of the first, ``top`` the top row."""
    import igraph

    drawn = _without_runs(tree)
    # igraph draws children in the order of their vertices, and no node comes before its own parent here
    vertices = {node_id: i for i, node_id in enumerate(sorted(drawn, key=lambda each: (-strength[each], each)))}
    edges = [(vertices[parent], vertices[node_id]) for node_id, (parent, _) in drawn.items() if parent is not None]
    graph = igraph.Graph(n=len(drawn), edges=edges, directed=True)
    places = graph.layout_reingold_tilford(mode="out", root=[0]).coords
    top -= min(row for row, _ in places)
    index = {node_id: first + i for i, node_id in enumerate(drawn)}
    placed = []
    for node_id, (parent, run) in drawn.items():
        row, column = places[vertices[node_id]]
        placed.append(PlacedNode(tree[node_id], None if parent is None else index[parent], run, int(column), top + row))
    return placed
