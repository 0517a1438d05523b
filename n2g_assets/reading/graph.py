"""A unit's token graph as it is published, of either kind: it predicts, and says which rule spoke."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float32, Int32

from n2g_assets.method.class_rows import graph_of_rows
from n2g_assets.method.classes import FOREVER, ClassGraph
from n2g_assets.method.predict import TokenGraph
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.text import EncodedText


class Prediction(NamedTuple):
    """What a graph says about every position of one context."""

    values: Float32[np.ndarray, " length"]
    """Predicted activation as a share of a_max; 0 at position 0."""
    nodes: Int32[np.ndarray, " length"]
    """``graph_nodes.node_id`` at which the rule that spoke ends; -1 where none did."""


@dataclass(frozen=True)
class Graph:
    """The token graph of one unit."""

    nodes: pl.DataFrame
    """Its rows of ``graph_nodes``, of its largest graph."""
    classes: pl.DataFrame
    """Its rows of ``token_classes``; none for a graph of the paper."""
    vocabulary: Vocabulary
    of_classes: ClassGraph | None
    """The graph itself where it is of token classes, and otherwise ``trie`` is."""
    trie: TokenGraph | None

    @property
    def n_rules(self) -> int:
        """Rules of its largest graph."""
        ends = pl.col("end_activation").is_not_null() & pl.col("until").is_null()
        return self.nodes.filter(ends).height

    def predict_ids(self, token_ids: Int32[np.ndarray, " length"], n_rules: int | None = None) -> Prediction:
        """What it says about a context, position 0 of which is not text.

        Args:
            token_ids: the context.
            n_rules: the graph of how many rules is asked; None for the largest. A graph of the paper has one size.
        """
        if self.of_classes is not None:
            positions = np.arange(len(token_ids), dtype=np.int32)
            nodes, values = self.of_classes.walk(token_ids, positions, [n_rules or FOREVER])
            return Prediction(values[0], np.where(positions > 0, nodes[0], -1))
        if self.trie is None:
            return Prediction(np.zeros(len(token_ids), np.float32), np.full(len(token_ids), -1, np.int32))
        return Prediction(*self.trie.predict_with_ends(EncodedText.from_contexts([token_ids], self.vocabulary)))


def graph_of(nodes: pl.DataFrame, classes: pl.DataFrame, vocabulary: Vocabulary) -> Graph:
    """The graph that a unit's rows of ``graph_nodes`` and ``token_classes`` make up."""
    if nodes.is_empty():
        return Graph(nodes, classes, vocabulary, None, None)
    if nodes["rank"].null_count() == 0:
        return Graph(nodes, classes, vocabulary, graph_of_rows(nodes, classes, vocabulary.bos_id), None)
    return Graph(nodes, classes, vocabulary, None, TokenGraph.from_rows(nodes, vocabulary))
