"""Graphs of token classes: a unit's expected activation from the classes of a token and of those before it.

A *class* is a set of tokens at an *offset*: 0 is the token itself, -1 the one before it. The graph begins with one node
that stands for any text and expects the unit's mean. Each *split* divides the text of a node by one class: its child
*in the class*, and its child with *all but the class*. A *rule* is a node at which a text ends: one class an offset,
which is what all its ancestors at that offset leave, and an expected activation. Every text ends in exactly one rule.

1. Splits are found best first, on all positions of the harvest that count: of all nodes' best splits, the one that
   explains most comes next. So the graph of n rules is that of the first n - 1 splits: every node has a *rank*, the
   smallest number of rules with which it is there, and ends a rule *until* a split divides it.
2. A split is found with positions in two halves (``splits.best_split``). At each offset tokens are ordered by their
   mean in one half, shrunk towards the node's; how well a cut of this order explains the other half decides, both ways
   round. What one half calls high must be higher in the other. Tokens then take sides by their mean in both halves.
3. The class is the side with fewer positions. What a node has not seen goes with the other side.
4. A child expects what its parent does, plus the difference that the halves found in each other, but no more than that
   of its own text; both are shrunk for few positions. So chance that made a token look strong in one half does not
   count, and a token that takes sides only with both halves together does not stretch what is expected.
5. The tokens of a class differ. What each adds is its *deviation* from the class (``splits.grade``), as far as such
   differences of one half are found in the other. Later splits explain what is left. So a text is expected to have the
   *base* of the rule in which it ends, plus the deviations of its tokens in all classes on the way there.
6. Before the first token of a context stands BOS, at every offset.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int32, Int64, UInt8

from n2g_assets.core.settings import ClassSettings
from n2g_assets.method.text import EncodedText

FOREVER = np.iinfo(np.int32).max
"""``ClassGraph.until`` of nodes that no split divides."""

GROWTH_VERSION = "5"
"""Raised when the same text and activations would grow another graph."""
_TALLIED = 1 / 12
"""Share of all positions from which on a node has a tally; it bounds how many there are at a time."""


@dataclass(frozen=True)
class LaggedText:
    """The harvest as splits read it, the same for all units: tokens numbered by frequency, at every offset."""

    tokens: Int32[np.ndarray, "offsets tokens"]
    """For every position, the number of the token so many places before it; BOS before the first of a context."""
    token_ids: Int32[np.ndarray, " vocabulary"]
    """Token id of each number: the most frequent is 0."""
    half: UInt8[np.ndarray, " tokens"]
    """The half, 0 or 1, of each position."""
    documents: Int32[np.ndarray, " tokens"]
    """Number of each position's document."""
    real: Bool[np.ndarray, " tokens"]
    """Whether a position is one of the harvest. What stands behind it, contexts that graphs asked for and a scan
    (``evidence/targeted.py``, ``scan.py``), teaches, and supports nothing."""

    @classmethod
    def of(
        cls, token_ids: Int32[np.ndarray, " tokens"], positions: Int32[np.ndarray, " tokens"],
        documents: Int32[np.ndarray, " tokens"], half: UInt8[np.ndarray, " tokens"], offsets: int,
        real: Bool[np.ndarray, " tokens"] | None = None,
    ) -> "LaggedText":  # fmt: skip
        """From contexts joined end to end, each with BOS at its position 0; a document's contexts stand together.

        Without ``real`` all positions are.
        """
        ids, numbers, counts = np.unique(token_ids, return_inverse=True, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        number_of = np.empty(len(ids), np.int32)
        number_of[order] = np.arange(len(ids), dtype=np.int32)
        frequent_first: Int32[np.ndarray, " tokens"] = number_of[numbers]
        places = np.arange(len(token_ids))
        lagged = np.empty((offsets, len(token_ids)), np.int32)
        for back in range(offsets):
            lagged[back] = frequent_first[places - np.minimum(positions, back)]
        real = np.ones(len(token_ids), np.bool_) if real is None else real
        return cls(lagged, ids[order].astype(np.int32), half, documents, real)


@dataclass(frozen=True)
class ClassGraph:
    """A graph of token classes, ready to predict. Nodes come in the order of their ranks; children stand in pairs."""

    bos_id: int
    parents: Int32[np.ndarray, " nodes"]
    """-1 for the first node: any text."""
    offsets: Int32[np.ndarray, " nodes"]
    """Offset of the class, 0 or less; 0 for the first node."""
    all_but: Bool[np.ndarray, " nodes"]
    """Whether the node takes what its sibling, the class, leaves; the class comes first. False for the first node."""
    ranks: Int32[np.ndarray, " nodes"]
    """Smallest number of rules of a graph that has the node."""
    until: Int32[np.ndarray, " nodes"]
    """Largest number of rules of a graph in which the node ends a rule; ``FOREVER`` where no split divides it."""
    values: Float32[np.ndarray, " nodes"]
    """Mean of what is expected, normalised and signed, over the harvested positions at the node, or over what stands
    behind the harvest where it has no other; of the first node, the unit's mean."""
    bases: Float32[np.ndarray, " nodes"]
    """Expected where a text ends at the node, before the deviations of its tokens are added."""
    supports: Int64[np.ndarray, " nodes"]
    """Harvested positions at the node."""
    documents: Int32[np.ndarray, " nodes"]
    """Documents that hold them."""
    firings: Int64[np.ndarray, " nodes"]
    """Of the positions, those at which the unit fires."""
    starts: Int64[np.ndarray, " nodes+1"]
    """``tokens[starts[i]:starts[i + 1]]`` is the class of node i, and so are its counts and means; empty where
    ``all_but``."""
    tokens: Int32[np.ndarray, " members"]
    """Token ids of the classes, ascending in each."""
    counts: Int64[np.ndarray, " members"]
    """Harvested positions of the parent that have the token at the offset; 0 where only what stands behind the harvest
    has it."""
    means: Float32[np.ndarray, " members"]
    """Mean normalised activation of these, or of those behind the harvest where there are none."""
    deviations: Float32[np.ndarray, " members"]
    """What the token adds to what is expected of a text of the class."""

    def __len__(self) -> int:
        return len(self.parents)

    @cached_property
    def children(self) -> Int32[np.ndarray, " nodes"]:
        """The class that a node is divided by; the next node is all but it. -1 at an end."""
        children = np.full(len(self), -1, np.int32)
        classes = np.flatnonzero((self.parents >= 0) & ~self.all_but)
        children[self.parents[classes]] = classes
        return children

    def walk(
        self, token_ids: Int32[np.ndarray, " tokens"], positions: Int32[np.ndarray, " tokens"], n_rules: Sequence[int]
    ) -> tuple[Int32[np.ndarray, "sizes tokens"], Float32[np.ndarray, "sizes tokens"]]:
        """The node at which each token of a text ends, and the normalised activation that is expected of it.

        In the graphs of these numbers of rules, in the order given. Tokens at position 0 end somewhere too, and 0 is
        expected of them. The text is whole contexts joined end to end.
        """
        from n2g_assets.method.splits import walk_down

        sizes, order = np.unique(np.asarray(n_rules, np.int32), return_inverse=True)
        nodes, added = (np.empty((len(sizes), len(token_ids)), dtype) for dtype in (np.int32, np.float32))
        member, split_of = self._members
        walk_down(
            token_ids.astype(np.int32), positions.astype(np.int32), self.bos_id, -self.offsets, self.children,
            self.ranks, member, split_of, self.starts, self.tokens, self.deviations, sizes, nodes, added,
        )  # fmt: skip
        return nodes[order], np.where(positions > 0, self.bases[nodes] + added, np.float32(0))[order]

    def ends(
        self, token_ids: Int32[np.ndarray, " tokens"], positions: Int32[np.ndarray, " tokens"], n_rules: Sequence[int]
    ) -> Int32[np.ndarray, "sizes tokens"]:
        """The nodes of ``walk``."""
        return self.walk(token_ids, positions, n_rules)[0]

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Expected normalised activation of every token, by the largest graph; 0 at BOS."""
        return self.predict_sizes(text.token_ids, text.positions, [FOREVER])[0]

    def predict_sizes(
        self, token_ids: Int32[np.ndarray, " tokens"], positions: Int32[np.ndarray, " tokens"], n_rules: Sequence[int]
    ) -> Float32[np.ndarray, "sizes tokens"]:
        """The expectations of ``walk``."""
        return self.walk(token_ids, positions, n_rules)[1]

    def predict_with_ends(
        self, text: EncodedText
    ) -> tuple[Float32[np.ndarray, " tokens"], Int32[np.ndarray, " tokens"]]:
        """As ``predict``, and the node at which each token ends."""
        ends, expected = self.walk(text.token_ids, text.positions, [FOREVER])
        return expected[0], ends[0]

    def by_weight(self, node: int) -> tuple[Int32[np.ndarray, " members"], Float64[np.ndarray, " members"]]:
        """The members of a class, those first that matter most, and how much each matters.

        That is the squared distance of its mean from what the parent expects, times its count. Those that the harvest
        does not have come last.
        """
        if node not in self._sorted:
            members = self.members(node)
            distance = self.means[members].astype(np.float64) - self.values[self.parents[node]]
            weights = self.counts[members] * distance**2
            order = np.lexsort((-(distance**2), -weights))
            self._sorted[node] = self.tokens[members][order], weights[order]
        return self._sorted[node]

    @cached_property
    def _sorted(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """What ``by_weight`` has given, by node."""
        return {}

    @cached_property
    def _members(self) -> tuple[UInt8[np.ndarray, "splits bytes"], Int32[np.ndarray, " nodes"]]:
        """A bit a token of every split's class, and the split of every node that is divided."""
        divided = np.flatnonzero(self.children >= 0)
        split_of = np.zeros(len(self), np.int32)
        split_of[divided] = np.arange(len(divided), dtype=np.int32)
        member = np.zeros((max(1, len(divided)), int(self.tokens.max(initial=0)) // 8 + 1), np.uint8)
        splits = np.repeat(split_of[np.maximum(self.parents, 0)], np.diff(self.starts))
        np.bitwise_or.at(member, (splits, self.tokens >> 3), (1 << (self.tokens & 7)).astype(np.uint8))
        return member, split_of

    def activating(self, text: EncodedText) -> Bool[np.ndarray, " tokens"]:
        """Whether each token is in a class at offset 0 that expects more than the unit's mean."""
        nodes = np.flatnonzero((self.offsets == 0) & (self.values > self.values[0]))  # all_but nodes have no tokens
        classes = [self.tokens[self.members(node)] for node in nodes]
        return np.isin(text.token_ids, np.concatenate([self.tokens[:0], *classes]))

    def members(self, node: int | np.integer) -> slice:
        """Where ``tokens``, ``counts`` and ``means`` have the class of a node."""
        return slice(int(self.starts[node]), int(self.starts[node + 1]))

    def rules_of(self, n_rules: int) -> Int64[np.ndarray, " rules"]:
        """The nodes that end a rule in the graph of ``n_rules`` rules; all of them where there are fewer."""
        return np.flatnonzero((self.ranks <= n_rules) & (self.until >= n_rules))

    def path(self, node: int) -> list[int]:
        """A node and its ancestors, the first node of the graph left out, the nearest first."""
        path = []
        while self.parents[node] >= 0:
            path.append(node)
            node = int(self.parents[node])
        return path


_Members = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass
class _Node:
    """A node while the graph grows."""

    parent: int
    offset: int
    all_but: bool
    rank: int
    base: float
    value: float
    start: int
    stop: int
    support: int
    documents: int
    firings: int
    tally: Float64[np.ndarray, "offsets_or_none vocabulary columns"]
    until: int = FOREVER
    members: _Members = (np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))


def grow_graph(
    text: LaggedText,
    values: Float32[np.ndarray, " tokens"],
    counted: Int[np.ndarray, " counted"],
    bos_id: int,
    threshold: float,
    settings: ClassSettings,
) -> ClassGraph:
    """Grows the graph of one unit.

    Args:
        text: the harvest.
        values: the unit's normalised activations there, signed.
        counted: the positions that count, ascending: not BOS, and none of the unit's own test documents.
        bos_id: token id of BOS.
        threshold: normalised activation from which the unit fires.
        settings: how large it grows, and how it is regularised.

    Raises:
        ValueError: no position counts, or an activation is not finite.
    """
    from n2g_assets.method.splits import best_split, bring_forward, grade, sides_of, tally_up

    where = np.asarray(counted)
    if not len(where) or not np.isfinite(values[where]).all():
        raise ValueError("a graph needs positions with finite activations")
    activations, half, documents = values[where].astype(np.float64), text.half[where], text.documents[where]
    lagged, left, real = text.tokens.take(where, axis=1), activations.copy(), text.real[where]
    size, shrinkage, fewest = len(text.token_ids), settings.class_shrinkage, settings.class_positions
    room, untallied = (np.zeros((size, 4)), np.zeros(size, np.int32)), np.zeros((0, size, 4))
    worth_a_tally = _TALLIED * max(len(where), 2 * size)
    nodes: list[_Node] = []
    waiting: list[tuple[float, int, list[Any]]] = []

    def add(parent: int, offset: int, all_but: bool, base: float, start: int, stop: int, tally: np.ndarray) -> None:
        if stop - start < worth_a_tally:
            tally = untallied
        elif not len(tally):
            tally = np.zeros((len(lagged), size, 4))
            tally_up(lagged, left, half, start, stop, 1, tally)
        here = slice(start, stop)
        within, shown = documents[here][real[here]], activations[here][real[here]]
        added = activations[here] - left[here]
        nodes.append(_Node(
            parent=parent, offset=offset, all_but=all_but, rank=1 if parent < 0 else nodes[parent].until + 1,
            base=base, value=base + float((added[real[here]] if len(within) else added).mean()), start=start, stop=stop,
            support=len(within), documents=int(np.count_nonzero(np.diff(within))) + min(1, len(within)),
            firings=int(np.count_nonzero(shown >= threshold)), tally=tally,
        ))  # fmt: skip
        gain, *split = best_split(lagged, left, half, start, stop, shrinkage, fewest, tally, *room)
        if gain > 0:
            heapq.heappush(waiting, (-gain, len(nodes) - 1, split))

    add(-1, 0, False, float(activations.mean()), 0, len(where), untallied)
    nodes[0].value, n_rules = float(activations[real].mean()) if real.any() else nodes[0].base, 1
    while waiting and n_rules < settings.max_rules:
        _, number, (back, cut, mean, per_deviation, *side_means) = heapq.heappop(waiting)
        node = nodes[number]
        start, stop = node.start, node.stop
        here = slice(start, stop)
        inside, is_high = sides_of(
            lagged[back, here], left[here], half[here], shrinkage, mean, per_deviation, cut, *room
        )
        middle = start + int(np.count_nonzero(inside))
        if min(middle - start, stop - middle) < fewest:
            continue  # both halves together do not cut where each half did
        node.until, n_rules = n_rules, n_rules + 1
        for row in (activations, left, half, documents, real.view(np.uint8), *lagged):
            bring_forward(inside, row[here])
        if len(node.tally):
            tally_up(lagged, left, half, start, middle, -1, node.tally)
        told = side_means[::-1] if is_high else side_means
        of_class = node.base + _more(told[0] - mean, left[start:middle] - mean, shrinkage)
        of_rest = node.base + _more(told[1] - mean, left[middle:stop] - mean, shrinkage)
        here = slice(start, middle)
        numbers = np.flatnonzero(np.bincount(lagged[back, here])).astype(np.int32)
        counts, means, deviations = grade(
            lagged[back, here], activations[here], left[here], half[here], real[here], numbers, shrinkage, *room
        )
        add(number, -back, False, of_class, start, middle, untallied)
        add(number, -back, True, of_rest, middle, stop, node.tally)
        node.tally, order = untallied, np.argsort(text.token_ids[numbers])
        nodes[-2].members = text.token_ids[numbers][order], counts[order], means[order], deviations[order]
    return _finished(nodes, bos_id)


def _more(told: float, own: Float64[np.ndarray, " here"], shrinkage: float) -> float:
    """What a child expects more than its parent, given what the halves told each other and its own text.

    That is the smaller of both, and nothing where they contradict each other.
    """
    mean = float(own.mean())
    return min(told, mean, key=abs) * len(own) / (len(own) + shrinkage) if told * mean > 0 else 0.0


def _finished(nodes: Sequence[_Node], bos_id: int) -> ClassGraph:
    def column(name: str, dtype: type) -> np.ndarray:
        return np.array([getattr(node, name) for node in nodes], dtype)

    tokens, counts, means, deviations = (np.concatenate([node.members[part] for node in nodes]) for part in range(4))
    return ClassGraph(
        bos_id=bos_id, parents=column("parent", np.int32), offsets=column("offset", np.int32),
        all_but=column("all_but", np.bool_), ranks=column("rank", np.int32), until=column("until", np.int32),
        values=column("value", np.float32), bases=column("base", np.float32),
        supports=column("support", np.int64), documents=column("documents", np.int32),
        firings=column("firings", np.int64),
        starts=np.concatenate([[0], np.cumsum([len(node.members[0]) for node in nodes])]),
        tokens=tokens.astype(np.int32), counts=counts.astype(np.int64), means=means.astype(np.float32),
        deviations=deviations.astype(np.float32),
    )  # fmt: skip
