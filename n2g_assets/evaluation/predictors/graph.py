"""The unit's token graph, the explanation that is judged."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float32

from n2g_assets.evaluation.material import Predictor, UnitMaterial
from n2g_assets.method.classes import ClassGraph, grow_graph
from n2g_assets.method.text import EncodedText


def fit(material: UnitMaterial) -> Predictor:
    """The graph as its tables hold it; without rows the paper's predicts 0 everywhere."""
    graph = material.graph
    if isinstance(graph, ClassGraph):
        return material.once("graph", lambda: ClassPredictor(graph, material))
    return graph


@dataclass(frozen=True)
class ClassPredictor:
    """A graph of token classes, and those that are grown without some documents."""

    graph: ClassGraph
    material: UnitMaterial = field(repr=False)

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Predicted normalised activation of every token; 0 at BOS."""
        return self.graph.predict(text)

    @cached_property
    def left_out(self) -> Float32[np.ndarray, " tokens"]:
        """What is predicted at each harvested token by graphs that did not see its document."""
        return self.left_out_by_size([self.material.shared.method.max_rules])[0]

    def left_out_by_size(self, sizes: Sequence[int]) -> Float32[np.ndarray, "sizes tokens"]:
        """The same by the best graphs of these numbers of rules."""
        text = self.material.shared.harvest().text.encoded
        predicted = np.zeros((len(sizes), len(text)), np.float32)
        for inside, graph in self._folds:
            predicted[:, inside] = graph.predict_sizes(text.token_ids[inside], text.positions[inside], sizes)
        return predicted

    @cached_property
    def _folds(self) -> list[tuple[Bool[np.ndarray, " tokens"], ClassGraph]]:
        """The tokens of each fold, which are those of whole documents, and a graph that has seen none of them."""
        shared, labels = self.material.shared, self.material.harvest_labels
        harvest = shared.harvest()
        grown = []
        for documents in harvest.folds(shared.seed):
            inside = harvest.inside(documents)
            counted = np.flatnonzero(labels.counted & ~inside)
            bos_id, firing = shared.vocabulary.bos_id, shared.method.firing_threshold
            graph = grow_graph(harvest.lagged, labels.values, counted, bos_id, firing, shared.method)
            grown.append((inside, graph))
        return grown
