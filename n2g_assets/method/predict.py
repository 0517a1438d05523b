"""Prediction: what a token graph says about the activation on new text (paper section 3.3; DESIGN section 6, step 6).

1. Only positions whose form belongs to an activating node are looked at; position 0, which is BOS, never is.
2. Walk back through the text, all those positions at once: from every node reached go on to the child that matches the
   token before, and to the ignore child, which matches any. The walk never reaches position 0.
3. Of the ends reached at a position the longest path wins; of equals, the one with more exact nodes (activating and
   context nodes), then the larger value, then the lower node number. That order is the same at all positions, so
   that each end has its place in it beforehand. No end gives 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Int, Int32, Int64

from n2g_assets.errors import StorageError
from n2g_assets.method.probing import Vocabulary

POSITIONS_AT_ONCE = 65_536
"""Activating positions that are walked together: bounds the memory of a prediction."""


@dataclass(frozen=True)
class TokenGraph:
    """A token graph, ready to predict. Nodes are numbered 1.. here; 0 stands above the activating nodes."""

    n_forms: int
    """Number of forms of the vocabulary."""
    roots: Int32[np.ndarray, " activating"]
    """Forms of the activating nodes."""
    keys: Int64[np.ndarray, " exact"]
    """``parent * n_forms + form`` of every activating and context node, ascending."""
    exact_child: Int32[np.ndarray, " exact"]
    """The node of each key."""
    ignore_child: Int32[np.ndarray, " nodes"]
    """Ignore child of every node; -1 where it has none."""
    place: Int32[np.ndarray, " nodes"]
    """Place of every end in the order of preference, the best highest; -1 where no path ends."""
    value_at: Float32[np.ndarray, " ends"]
    """``end_activation`` of the end at each place."""
    end_node_at: Int32[np.ndarray, " ends"]
    """``graph_nodes.node_id`` of the end at each place."""

    @classmethod
    def from_rows(cls, graph_nodes: pl.DataFrame, vocabulary: Vocabulary) -> TokenGraph:
        """The graph of one unit from its rows of ``graph_nodes``; without rows it predicts 0 everywhere.

        Raises:
            StorageError: a token is no form of this vocabulary, or a parent comes after its child or is missing.
        """
        rows = list(graph_nodes.sort("node_id").iter_rows(named=True))
        form_ids = _form_ids(vocabulary.forms)
        number = {None: 0} | {row["node_id"]: index for index, row in enumerate(rows, start=1)}
        ignore_child = np.full(len(rows) + 1, -1, np.int32)
        exact: list[tuple[int, int]] = []
        length, n_exact = [0], [0]
        for index, row in enumerate(rows, start=1):
            parent = number.get(row["parent_id"], index)
            if parent >= index or (row["token"] is not None and row["token"] not in form_ids):
                raise StorageError(
                    f"Node {row['node_id']} of a token graph has a parent or token that does not fit: its rows are "
                    "damaged or belong to another vocabulary; materialize neuron_graphs again."
                )
            if row["token"] is None:
                ignore_child[parent] = index
            else:
                exact.append((parent * len(form_ids) + form_ids[row["token"]], index))
            length.append(length[parent] + 1)
            n_exact.append(n_exact[parent] + (row["token"] is not None))
        exact.sort()
        ends = [index for index, row in enumerate(rows, start=1) if row["end_activation"] is not None]
        values = {index: rows[index - 1]["end_activation"] for index in ends}
        ends.sort(key=lambda index: (length[index], n_exact[index], values[index], -index))
        place = np.full(len(rows) + 1, -1, np.int32)
        place[ends] = np.arange(len(ends))
        return cls(
            n_forms=len(form_ids),
            roots=np.array([key for key, _ in exact if key < len(form_ids)], np.int32),
            keys=np.array([key for key, _ in exact], np.int64),
            exact_child=np.array([index for _, index in exact], np.int32),
            ignore_child=ignore_child,
            place=place,
            value_at=np.array([values[index] for index in ends], np.float32),
            end_node_at=np.array([rows[index - 1]["node_id"] for index in ends], np.int32),
        )


def predict(graph: TokenGraph, forms: Int32[np.ndarray, " length"]) -> Float32[np.ndarray, " length"]:
    """Predicted normalised activation at every position of one context.

    Args:
        graph: a token graph.
        forms: index into ``Vocabulary.forms`` at every position, BOS at 0.
    """
    return predict_with_ends(graph, forms)[0]


def predict_with_ends(
    graph: TokenGraph,
    forms: Int32[np.ndarray, " length"],
    is_bos: Bool[np.ndarray, " length"] | None = None,
) -> tuple[Float32[np.ndarray, " length"], Int32[np.ndarray, " length"]]:
    """Predicted normalised activation at every position, and the node (``node_id``) whose path gave it.

    Args:
        graph: a token graph.
        forms: index into ``Vocabulary.forms`` at every position.
        is_bos: where a context starts, if several stand behind one another; without it, position 0 only. Nothing
            matches there, and no walk goes past it.

    Returns:
        Values (0 where no end was reached) and node ids (-1 there).
    """
    if is_bos is None:
        is_bos = np.arange(len(forms)) == 0
    best = np.full(len(forms), -1, np.int32)
    candidates = np.flatnonzero(np.isin(forms, graph.roots) & ~is_bos)
    for start in range(0, len(candidates), POSITIONS_AT_ONCE):
        _walk(graph, forms, is_bos, candidates[start : start + POSITIONS_AT_ONCE], best)
    found = best >= 0
    values, ends = np.zeros(len(forms), np.float32), np.full(len(forms), -1, np.int32)
    values[found], ends[found] = graph.value_at[best[found]], graph.end_node_at[best[found]]
    return values, ends


def _walk(
    graph: TokenGraph,
    forms: Int32[np.ndarray, " length"],
    is_bos: Bool[np.ndarray, " length"],
    positions: Int[np.ndarray, " candidates"],
    best: Int32[np.ndarray, " length"],
) -> None:
    """Walks from all ``positions`` at once and raises ``best`` to the place of the best end reached."""
    nodes = np.zeros(len(positions), np.int32)
    reading = positions  # the position whose token the next node must match
    while len(positions):
        inside = (reading >= 0) & ~is_bos[reading]
        positions, nodes, reading = positions[inside], nodes[inside], reading[inside]
        keys = nodes.astype(np.int64) * graph.n_forms + forms[reading]
        slots = np.minimum(np.searchsorted(graph.keys, keys), len(graph.keys) - 1)
        exact, ignore = graph.keys[slots] == keys, graph.ignore_child[nodes] >= 0
        nodes = np.concatenate([graph.exact_child[slots[exact]], graph.ignore_child[nodes[ignore]]])
        positions = np.concatenate([positions[exact], positions[ignore]])
        reading = np.concatenate([reading[exact], reading[ignore]]) - 1
        np.maximum.at(best, positions, graph.place[nodes])


@lru_cache(maxsize=4)
def _form_ids(forms: tuple[bytes, ...]) -> dict[bytes, int]:
    """Index of every form."""
    return {form: index for index, form in enumerate(forms)}
