"""A harvest of random tokens and a unit on it, for the tests of graphs of token classes."""

from __future__ import annotations

import numpy as np

from n2g_assets.core.settings import ClassSettings
from n2g_assets.method.classes import ClassGraph, LaggedText, grow_graph
from n2g_assets_tests.method.toy import BOS

OFFSETS = 3
SETTINGS = ClassSettings(max_rules=12, class_offsets=OFFSETS, class_shrinkage=2.0, class_positions=3)


class Harvest:
    """Contexts of random tokens; the unit likes 3 and 5 after 7, dislikes 4, and is noisy."""

    def __init__(self, seed: int, contexts: int = 60, length: int = 16, vocabulary: int = 12) -> None:
        random = np.random.default_rng(seed)
        tokens = random.integers(1, vocabulary, (contexts, length)).astype(np.int32)
        tokens[:, 0] = BOS
        self.token_ids = tokens.ravel()
        self.positions = np.tile(np.arange(length, dtype=np.int32), contexts)
        self.documents = np.repeat(np.arange(contexts, dtype=np.int32) // 2, length)
        self.half = (self.documents % 2).astype(np.uint8)
        before = np.roll(self.token_ids, 1)
        liked = np.isin(self.token_ids, (3, 5))
        self.values = (0.3 * liked + 0.6 * (liked & (before == 7)) - 0.4 * (self.token_ids == 4)).astype(np.float32)
        self.values += random.normal(0, 0.05, len(self.values)).astype(np.float32)
        self.counted = np.flatnonzero((self.positions > 0) & (self.documents != 5))
        self.text = LaggedText.of(self.token_ids, self.positions, self.documents, self.half, OFFSETS)

    def before(self, position: int, back: int) -> int:
        return int(self.token_ids[position - back]) if self.positions[position] >= back else BOS

    def grow(self, **changes: float) -> ClassGraph:
        settings = SETTINGS.model_copy(update=changes)
        return grow_graph(self.text, self.values, self.counted, BOS, 0.5, settings)


def positions_at(harvest: Harvest, graph: ClassGraph, node: int) -> list[int]:
    """The positions that match all classes of a node, looked up token by token."""
    found = []
    for place in harvest.counted.tolist():
        matches = True
        for step in graph.path(node):
            of_class = step - 1 if graph.all_but[step] else step
            members = graph.tokens[graph.starts[of_class] : graph.starts[of_class + 1]].tolist()
            inside = harvest.before(place, -int(graph.offsets[step])) in members
            matches &= inside != graph.all_but[step]
        if matches:
            found.append(place)
    return found
