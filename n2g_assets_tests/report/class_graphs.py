"""Made-up graphs of token classes, as rows of their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from hypothesis import strategies as st

from n2g_assets.core.units import Unit
from n2g_assets.method.class_rows import graph_frames
from n2g_assets.method.classes import FOREVER, ClassGraph
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.tokens import normalise
from n2g_assets_tests.report.graphs import HOSTILE

UNIT = Unit(7, 1)


class Side(NamedTuple):
    """What a split makes: the expected activation, positions and firings of a node."""

    value: float
    positions: int
    firings: int = 0
    documents: int = 9


class Split(NamedTuple):
    """A division of a node by a class of tokens; split k makes the nodes 2k + 1, the class, and 2k + 2, the rest."""

    node: int
    offset: int
    members: Sequence[tuple[int, int, float]]
    """Token id, count and mean; it adds what its mean differs from what the class expects."""
    inside: Side
    rest: Side


def vocabulary_of(tokens: Sequence[bytes]) -> Vocabulary:
    forms = tuple(dict.fromkeys(map(normalise, tokens)))
    return Vocabulary(tuple(tokens), forms, np.array([forms.index(normalise(t)) for t in tokens], np.int32), 0, 1)


def class_frames(
    splits: Sequence[Split], tokens: Sequence[bytes], root: Side, importances: Mapping[int, float] | None = None
) -> dict[str, pl.DataFrame]:
    """The rows of unit 7: split k is found k-th, so that the graph of n rules has the first n - 1."""
    sides, parents, until = [root], [-1], [FOREVER]
    for k, split in enumerate(splits):
        sides += [split.inside, split.rest]
        parents += [split.node] * 2
        until[split.node] = k + 1
        until += [FOREVER] * 2
    members = [sorted(split.members) for split in splits]
    joined = [member for each in members for member in each]
    added = [mean - split.inside.value for split, each in zip(splits, members, strict=True) for _, _, mean in each]
    sizes = [0, *(size for each in members for size in (len(each), 0))]
    graph = ClassGraph(
        bos_id=0, parents=np.array(parents, np.int32),
        offsets=np.array([0, *(split.offset for split in splits for _ in range(2))], np.int32),
        all_but=np.array([False, *(rest for _ in splits for rest in (False, True))]),
        ranks=np.array([1, *(k + 2 for k in range(len(splits)) for _ in range(2))], np.int32),
        until=np.array(until, np.int32), values=np.array([side.value for side in sides], np.float32),
        bases=np.array([side.value for side in sides], np.float32),
        supports=np.array([side.positions for side in sides], np.int64),
        documents=np.array([side.documents for side in sides], np.int32),
        firings=np.array([side.firings for side in sides], np.int64), starts=np.cumsum([0, *sizes]),
        tokens=np.array([token for token, _, _ in joined], np.int32),
        counts=np.array([count for _, count, _ in joined], np.int64),
        means=np.array([mean for _, _, mean in joined], np.float32), deviations=np.array(added, np.float32),
    )  # fmt: skip
    return graph_frames(UNIT, graph, importances or {}, vocabulary_of(tokens))


TOKENS = [b"<|im_start|>", b"<mask>", b" except", b"try", b":", b"\n", b"1", b" 2", b"3", b" the", b" of", b"Except"]

EXAMPLE = [
    Split(0, 0, [(2, 60, 0.9), (3, 40, 0.3)], Side(0.6, 100, 60), Side(-0.02, 900)),
    Split(1, -1, [(4, 30, 0.9)], Side(0.9, 30, 27, 4), Side(0.3, 70, 33)),
    Split(2, 0, [(6, 90, -0.6), (7, 30, -0.4), (8, 10, -0.4)], Side(-0.4, 130), Side(0.01, 770)),
]
"""Fires on `` except`` and ``try`` after a colon, is raised by them elsewhere, and lowered by numbers."""


def example(**given: Mapping[int, float]) -> dict[str, pl.DataFrame]:
    return class_frames(EXAMPLE, TOKENS, Side(0.04, 1000, 60), **given)


@st.composite
def class_graphs(draw, most: int = 20) -> tuple[dict[str, pl.DataFrame], list[bytes]]:
    """A random graph over tokens of all kinds."""
    tokens = [b"<s>", b"<m>", *HOSTILE, *(b" w%d" % i for i in range(30)), *(b"%d" % i for i in range(10))]
    value, some = st.floats(-2, 2, width=32), st.integers(1, 9999)
    splits: list[Split] = []
    for k in range(draw(st.integers(0, most))):
        ends = sorted(set(range(2 * k + 1)) - {split.node for split in splits})
        ids = draw(st.lists(st.integers(0, len(tokens) - 1), min_size=1, max_size=12, unique=True))
        members = [(token, draw(some), draw(value)) for token in ids]
        sides = [Side(draw(value), positions := draw(some), draw(st.integers(0, positions))) for _ in range(2)]
        splits.append(Split(draw(st.sampled_from(ends)), draw(st.integers(-7, 0)), members, *sides))
    importances = draw(st.dictionaries(st.integers(1, 2 * most), st.floats(-1, 2), max_size=5))
    return class_frames(splits, tokens, Side(draw(value), 10**6, 10), importances), tokens
