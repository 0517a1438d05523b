"""The loops of prediction, compiled: :mod:`n2g_assets.method.predict` says what they are for, and calls them.

Importing this module imports numba (``compiled``), so others import it inside functions.
"""

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
    """Fills in how many nodes the path from the activating node to each node has, and how many of them are exact.

    ``parents`` and ``forms`` are as ``TokenGraph.from_nodes`` takes them.
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
    """Raises each node's number in ``best`` to the largest in its subtree; parents come before children."""
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
    """Walks back from every token that an activating node matches; keeps the end of highest rank that is reached.

    The first nine arguments are fields of ``TokenGraph``, the next four fields of ``EncodedText``. ``values`` are
    filled in where an end is reached, and so are ``ends``, unless they are empty.
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
            reach = min(np.int64(positions[start]), start)  # tokens from here back to BOS, without BOS
            best = -1
            while n_waiting:
                n_waiting -= 1
                node = waiting[n_waiting]
                if best_below[node] > best:
                    best = max(best, ranks[node])
                    if lengths[node] < reach:
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
    node_forms: Int32[np.ndarray, " nodes"], start: int, end: int, wanted: int,
    waiting: Int32[np.ndarray, " nodes"], n_waiting: int,
) -> int:  # fmt: skip
    """Puts the siblings ``start`` to ``end`` that match any token, then those that match ``wanted``, on the stack.

    Siblings are ordered by form, so the matching ones are found by bisection. Returns the stack's new height.
    """
    exact = start
    while exact < end and node_forms[exact] < 0:
        exact += 1
    n_waiting = _push(waiting, n_waiting, start, exact)
    exact = first_from(node_forms, exact, end, wanted)
    after = exact
    while after < end and node_forms[after] == wanted:
        after += 1
    return _push(waiting, n_waiting, exact, after)


@compiled
def _push(waiting: Int32[np.ndarray, " nodes"], n_waiting: int, start: int, end: int) -> int:
    """Puts the nodes ``start`` to ``end`` (without it) on the stack; returns its new height."""
    for node in range(start, end):
        waiting[n_waiting] = node
        n_waiting += 1
    return n_waiting


@compiled
def first_from(ascending: Int32[np.ndarray, " values"], start: int, end: int, least: int) -> int:
    """Index of the first value that is at least ``least`` in ``ascending[start:end]``; ``end`` if there is none."""
    while start < end:
        middle = (start + end) >> 1
        if ascending[middle] < least:
            start = middle + 1
        else:
            end = middle
    return start
