"""Prediction: what a token graph says about the activation on new text (paper section 3.3).

1. Look only at tokens whose form belongs to an activating node; the text's index lists them. BOS is never one.
2. From each of them walk back through the text: from every node that is reached go on to the child that matches the
   token before, and to the ignore child, which matches any token. The walk stops before the BOS of its context.
3. Of all ends that are reached from a token, the longest path wins; of equally long paths the one with more exact nodes
   (activating and context nodes), then the larger value, then the lower node number. This order is the same at every
   token, so each end has a fixed rank, and the walk skips branches without a higher rank than the best end so far. A
   token from which no end is reached gets 0.

The walk itself is compiled (:mod:`n2g_assets.method.walk`).
"""

from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Int32

from n2g_assets.core.errors import RowsError
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.text import EncodedText


@dataclass(frozen=True)
class TokenGraph:
    """A token graph, or another trie of the same form, ready to predict.

    Its nodes are renumbered so that siblings stand side by side, ordered by form: first the activating nodes, then the
    children of each node in turn.
    """

    n_forms: int
    """Number of forms of the vocabulary."""
    n_roots: int
    """Number of activating nodes."""
    forms: Int32[np.ndarray, " nodes"]
    """Form that each node matches; -1 for ignore nodes, which match any."""
    children_start: Int32[np.ndarray, " nodes"]
    """Index of the first child of each node."""
    children_end: Int32[np.ndarray, " nodes"]
    """Index after the last child of each node; equal to ``children_start`` where there is none."""
    lengths: Int32[np.ndarray, " nodes"]
    """Nodes of the path from the activating node to each node, both included."""
    ranks: Int32[np.ndarray, " nodes"]
    """Rank of the end at each node, the preferred end has the highest; -1 where no path ends."""
    best_below: Int32[np.ndarray, " nodes"]
    """Highest rank at each node or below it; -1 where there is none."""
    value_at: Float32[np.ndarray, " ends"]
    """Predicted activation of the end of each rank."""
    end_at: Int32[np.ndarray, " ends"]
    """The end of each rank: ``graph_nodes.node_id``, or the node's index in the arrays it was made from."""

    @property
    def roots(self) -> Int32[np.ndarray, " activating"]:
        """Forms of the activating nodes, ascending."""
        return self.forms[: self.n_roots]

    @classmethod
    def from_rows(cls, graph_nodes: pl.DataFrame, vocabulary: Vocabulary) -> "TokenGraph":
        """The graph of one unit from its rows of ``graph_nodes``; without rows it predicts 0 everywhere.

        Raises:
            RowsError: a token is no form of this vocabulary, or a parent comes after its child or is missing.
        """
        columns = (graph_nodes[name].to_list() for name in ("node_id", "parent_id", "token", "end_activation"))
        rows = sorted(zip(*columns, strict=True), key=itemgetter(0))
        parents, forms = np.empty(len(rows), np.int32), np.empty(len(rows), np.int32)
        seen: dict[int | None, int] = {None: -1}
        for index, (node_id, parent_id, token, _) in enumerate(rows):
            parent, form = seen.get(parent_id), -1 if token is None else vocabulary.form_ids.get(token)
            if parent is None or form is None or (parent_id is None and token is None):
                raise RowsError(
                    f"Node {node_id} of a token graph has a parent or token that does not fit: the rows are damaged or "
                    "of another vocabulary, so build the graph again with this vocabulary."
                )
            parents[index], forms[index], seen[node_id] = parent, form, index
        values = np.array([np.nan if row[3] is None else row[3] for row in rows], np.float32)
        node_ids = np.array([row[0] for row in rows], np.int32)
        return cls.from_nodes(parents, forms, values, len(vocabulary.forms), node_ids)

    @classmethod
    def from_nodes(
        cls,
        parents: Int32[np.ndarray, " nodes"],
        forms: Int32[np.ndarray, " nodes"],
        values: Float32[np.ndarray, " nodes"],
        n_forms: int,
        node_ids: Int32[np.ndarray, " nodes"] | None = None,
    ) -> "TokenGraph":
        """A trie from its nodes, parents before children.

        Args:
            parents: index of each node's parent in these arrays; -1 for activating nodes.
            forms: index into ``Vocabulary.forms`` that each node matches; -1 for ignore nodes, which have a parent.
            values: normalised activation predicted by the path that ends at each node; NaN where none ends.
            n_forms: forms of the vocabulary.
            node_ids: their names in ``end_at``, ascending; without them the index of each node.

        Raises:
            ValueError: a parent does not come before its child, or a form is none that the node may have.
        """
        from n2g_assets.method import walk

        if np.any((parents < -1) | (parents >= np.arange(len(parents)))):
            raise ValueError("Every node's parent must come before it: order the nodes by depth.")
        if np.any((forms < np.where(parents < 0, 0, -1)) | (forms >= n_forms)):
            raise ValueError(f"Forms must lie in 0..{n_forms - 1}, or be -1 for a node with a parent that matches any.")
        lengths, exact = np.empty(len(parents), np.int32), np.empty(len(parents), np.int32)
        walk.measure_paths(parents, forms, lengths, exact)
        ends = np.flatnonzero(~np.isnan(values))
        ends = ends[np.lexsort((-ends, values[ends], exact[ends], lengths[ends]))]
        ranks = np.full(len(parents), -1, np.int32)
        ranks[ends] = np.arange(len(ends))
        best_below = ranks.copy()
        walk.raise_to_parents(parents, best_below)
        order = np.lexsort((forms, parents))
        bounds = np.cumsum(np.bincount(parents + 1, minlength=len(parents) + 1)).astype(np.int32)
        return cls(
            n_forms=n_forms, n_roots=int(bounds[0]), forms=forms[order],
            children_start=bounds[order], children_end=bounds[order + 1], lengths=lengths[order],
            ranks=ranks[order], best_below=best_below[order], value_at=values[ends],
            end_at=ends.astype(np.int32) if node_ids is None else node_ids[ends],
        )  # fmt: skip

    def activating(self, text: EncodedText) -> Bool[np.ndarray, " tokens"]:
        """Whether each token has the form of an activating node."""
        return np.isin(text.forms, self.roots)

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Predicted normalised activation at every token, 0 where no end is reached.

        Raises:
            ValueError: the text is of another vocabulary.
        """
        return self._walk(text, np.empty(0, np.int32))

    def predict_with_ends(
        self, text: EncodedText
    ) -> tuple[Float32[np.ndarray, " tokens"], Int32[np.ndarray, " tokens"]]:
        """As ``predict``, and at every token the end (``end_at``) whose path gave the value; -1 if none is reached."""
        ends = np.full(len(text), -1, np.int32)
        return self._walk(text, ends), ends

    def _walk(self, text: EncodedText, ends: Int32[np.ndarray, " asked"]) -> Float32[np.ndarray, " tokens"]:
        from n2g_assets.method.walk import walk_back

        if text.n_forms != self.n_forms:
            raise ValueError(
                f"The text has {text.n_forms} forms, the graph {self.n_forms}: encode it with the vocabulary "
                "that the graph was made with."
            )
        values = np.zeros(len(text), np.float32)
        walk_back(
            self.forms, self.children_start, self.children_end, self.lengths, self.ranks, self.best_below, self.n_roots,
            self.value_at, self.end_at, text.forms, text.positions, text.by_form, text.starts, values, ends,
        )  # fmt: skip
        return values
