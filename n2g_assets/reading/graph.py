"""A unit's token graph as it is published, of either kind: it predicts, and says which rule spoke."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float32, Int32

from n2g_assets.method.class_rows import graph_of_rows
from n2g_assets.method.classes import FOREVER, ClassGraph
from n2g_assets.method.predict import TokenGraph
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.text import EncodedText
from n2g_assets.reading.examples import UNIT
from n2g_assets.reading.text import PREDICTED, predict_text

if TYPE_CHECKING:
    from n2g_assets.reading.study import Unit

_CLASSES = f"SELECT * EXCLUDE (study, layer, unit, sign) FROM token_classes WHERE {UNIT}"
"""A unit has a hundred thousand, which ``graph_of_rows`` sorts."""


class Prediction(NamedTuple):
    """What a graph says about every position of one context."""

    values: Float32[np.ndarray, " length"]
    """Predicted activation as a share of a_max; 0 at position 0."""
    nodes: Int32[np.ndarray, " length"]
    """``graph_nodes.node_id`` at which the rule that spoke ends; -1 where none did."""


@dataclass(frozen=True, repr=False)
class Graph:
    """A token graph."""

    nodes: pl.DataFrame
    """Its rows of ``graph_nodes``, of its largest graph."""
    classes: pl.DataFrame
    """Its rows of ``token_classes``, without the unit's key; none for a graph of the paper."""
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


@dataclass(frozen=True, repr=False)
class UnitGraph(Graph):
    """The token graph of a unit of a study, which predicts texts and shows itself."""

    unit: "Unit"

    def predict(self, text: str, n_rules: int | None = None) -> pl.DataFrame:
        """What it says about every token of a text, a row a token.

        Args:
            text: of any length up to ``text.MOST_CHARACTERS``.
            n_rules: the graph of how many rules is asked; None for the largest. A graph of the paper has one size.

        Returns:
            ``position``, ``token_id``, ``text`` of the token for reading, ``predicted`` as a share of the unit's
            largest activation, and ``rule_id`` and ``rule``, the rule that spoke; NULL where none did.

        Raises:
            N2GError: as ``text.encode``.
        """
        return pl.DataFrame(predict_text(self.unit, text, n_rules=n_rules), schema=PREDICTED)

    def __repr__(self) -> str:
        return (
            f"<Graph of {self.unit} of study {self.unit.study.name}: {self.n_rules} rules, {self.nodes.height} nodes>"
        )

    def _repr_svg_(self) -> str:
        """Its picture, for notebooks: the unit's."""
        return self.unit.svg()


def unit_graph(unit: "Unit") -> UnitGraph:
    """The graph of a unit, of all its rules."""
    nodes = unit.frame("graph_nodes", order="node_id")
    classes = unit.study.frame(_CLASSES, **unit.key)
    graph = graph_of(nodes, classes, unit.study.vocabulary)
    return UnitGraph(nodes, classes, graph.vocabulary, graph.of_classes, graph.trie, unit)
