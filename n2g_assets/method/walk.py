"""The loops of prediction, compiled: :mod:`n2g_assets.method.predict` says what they are for, and calls them.

Importing this module imports numba (``compiled``), so others import it inside functions.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int32, Int64

from n2g_assets.method.compiled import compiled


@compiled
def measure_paths(
    parents: Int32[np.ndarray, " nodes"],
    forms: Int32[np.ndarray, " nodes"],
    lengths: Int32[np.ndarray, " nodes"],
    exact: Int32[np.ndarray, " nodes"],
) -> None:
    """Fills in, for the path from the activating node to each node, its nodes and the exact ones among them.

    Args:
        parents: index of each node's parent, which comes before it; -1 for activating nodes.
        forms: form of each node; -1 for ignore nodes.
        lengths: filled in.
        exact: filled in.
    """
    for node in range(len(parents)):
        parent = parents[node]
        lengths[node] = 1
        exact[node] = 1 if forms[node] >= 0 else 0
        if parent >= 0:
            lengths[node] += lengths[parent]
            exact[node] += exact[parent]


@compiled
def raise_to_parents(parents: Int32[np.ndarray, " nodes"], best: Int32[np.ndarray, " nodes"]) -> None:
    """Raises every node's number in ``best`` to the largest among the nodes below it; parents come before children."""
    for node in range(len(parents) - 1, -1, -1):
        parent = parents[node]
        if parent >= 0 and best[parent] < best[node]:
            best[parent] = best[node]


@compiled
def walk_back(
    node_forms: Int32[np.ndarray, " nodes"],
    children_start: Int32[np.ndarray, " nodes"],
    children_end: Int32[np.ndarray, " nodes"],
    lengths: Int32[np.ndarray, " nodes"],
    ranks: Int32[np.ndarray, " nodes"],
    best_below: Int32[np.ndarray, " nodes"],
    n_roots: int,
    value_at: Float32[np.ndarray, " ends"],
    end_at: Int32[np.ndarray, " ends"],
    forms: Int32[np.ndarray, " tokens"],
    positions: Int32[np.ndarray, " tokens"],
    by_form: Int64[np.ndarray, " matched"],
    starts: Int64[np.ndarray, " forms+1"],
    values: Float32[np.ndarray, " tokens"],
    ends: Int32[np.ndarray, " asked"],
) -> None:
    """Walks from every token that an activating node matches and writes down the end of highest rank reached there.

    Args:
        node_forms: fields of ``TokenGraph``, as the next eight.
        children_start: index of the first child of each node.
        children_end: index after the last child of each node.
        lengths: nodes of the path to each node.
        ranks: rank of the end at each node; -1 where no path ends.
        best_below: highest rank at a node or below it.
        n_roots: number of activating nodes, which are the first nodes.
        value_at: value of the end of each rank.
        end_at: node id of the end of each rank.
        forms: fields of ``EncodedText``, as the next three.
        positions: position of every token in its context.
        by_form: the tokens that are no BOS, by form.
        starts: where each form begins among them.
        values: filled in where an end was reached.
        ends: filled in there too, unless it is empty.
    """
    waiting = np.empty(len(node_forms), np.int32)
    root, roots_end = 0, 0
    while root < n_roots:
        form = node_forms[root]
        while roots_end < n_roots and node_forms[roots_end] == form:
            roots_end += 1
        for index in range(starts[form], starts[form + 1]):
            start = by_form[index]
            n_waiting = _push(waiting, 0, root, roots_end)
            room = min(np.int64(positions[start]), start)  # tokens from here back to BOS, which is left out
            best = -1
            while n_waiting:
                n_waiting -= 1
                node = waiting[n_waiting]
                if best_below[node] > best:
                    best = max(best, ranks[node])
                    if lengths[node] < room:
                        wanted = forms[start - lengths[node]]
                        n_waiting = _push_children(
                            node_forms, children_start[node], children_end[node], wanted, waiting, n_waiting
                        )
            if best >= 0:
                values[start] = value_at[best]
                if len(ends):
                    ends[start] = end_at[best]
        root = roots_end


@compiled
def _push_children(
    node_forms: Int32[np.ndarray, " nodes"],
    child: int,
    over: int,
    wanted: int,
    waiting: Int32[np.ndarray, " nodes"],
    n_waiting: int,
) -> int:
    """Puts those siblings on the pile that match any token or the wanted one, the latter on top; its new height."""
    exact = child
    while exact < over and node_forms[exact] < 0:
        exact += 1
    n_waiting = _push(waiting, n_waiting, child, exact)
    left = over - exact
    while left:
        half = (left + 1) // 2
        exact += half if node_forms[exact + half - 1] < wanted else 0
        left -= half
    high = exact
    while high < over and node_forms[high] == wanted:
        high += 1
    return _push(waiting, n_waiting, exact, high)


@compiled
def _push(waiting: Int32[np.ndarray, " nodes"], n_waiting: int, node: int, over: int) -> int:
    """Puts the nodes from ``node`` to before ``over`` on the pile; its new height."""
    for one in range(node, over):
        waiting[n_waiting] = one
        n_waiting += 1
    return n_waiting
