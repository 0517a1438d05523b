"""Graphs of token classes, grown on random text from toy neurons, and fresh text, for the tests of their rules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import polars as pl

from n2g_assets.core.settings import ClassSettings, EvaluationSettings
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.class_tests import try_class_rules
from n2g_assets.evaluation.trials import FreshText
from n2g_assets.method.class_rows import graph_frames
from n2g_assets.method.classes import ClassGraph, LaggedText, grow_graph
from n2g_assets.method.results import BlockResult, unit_frame
from n2g_assets_tests.evaluation.rules_by_hand import contexts_of
from n2g_assets_tests.method.toy import BOS, Neuron, ToyProber, vocabulary_of

A_MAX, THRESHOLD, OFFSETS = 4.0, 0.5, 3
UNIT = Unit(7, 1)
VOCABULARY = vocabulary_of([f"w{number}" for number in range(10)])
TOKENS = range(2, 12)
"""All but BOS and the mask token."""
LIKED, DISLIKED, AFTER = (3, 5, 8), (4,), (7, 9)


def neuron_of(
    liked: Collection[int] = LIKED, after: Collection[int] | None = AFTER, weak: float = 1.0, disliked: float = -3.0
) -> Neuron:
    """4 on a liked token after one of ``after`` (None: any), ``weak`` after another; below 0 on a disliked one."""

    def activations(tokens: np.ndarray) -> np.ndarray:
        before = np.append(BOS, tokens[:-1])
        matches = np.ones(len(tokens), bool) if after is None else np.isin(before, list(after))
        values = np.where(matches, A_MAX, weak) * np.isin(tokens, list(liked))
        return values + disliked * np.isin(tokens, DISLIKED)

    return activations


def random_text(seed: int, contexts: int = 60, length: int = 24, weights: Sequence[float] | None = None) -> np.ndarray:
    """Contexts of random tokens, one a row, BOS first."""
    share = None if weights is None else np.array(weights) / sum(weights)
    tokens = np.random.default_rng(seed).choice(TOKENS, (contexts, length), p=share).astype(np.int32)
    tokens[:, 0] = BOS
    return tokens


def grown(neuron: Neuron, seed: int = 0, noise: float = 0.0, tokens: np.ndarray | None = None) -> ClassGraph:
    """The graph of a neuron on random text; noise makes it grow more rules than the neuron has."""
    tokens = random_text(seed) if tokens is None else tokens
    n, length = tokens.shape
    documents, positions = (
        np.repeat(np.arange(n, dtype=np.int32), length),
        np.tile(np.arange(length), n).astype(np.int32),
    )
    text = LaggedText.of(tokens.ravel(), positions, documents, (documents % 2).astype(np.uint8), OFFSETS)
    values = np.concatenate([neuron(row) for row in tokens]) / A_MAX
    values += np.random.default_rng(seed).normal(0, noise, len(values)) if noise else 0
    settings = ClassSettings(max_rules=14, class_offsets=OFFSETS, class_shrinkage=1.0, class_positions=3)
    return grow_graph(text, values.astype(np.float32), np.flatnonzero(positions > 0), BOS, THRESHOLD, settings)


HELD_OUT = contexts_of(random_text(99, contexts=8)[:, 1:].tolist())


def frames_of(graphs: Mapping[Unit, ClassGraph]) -> list[pl.DataFrame]:
    """Tables ``rules``, ``graph_nodes`` and ``token_classes`` of some graphs."""
    made = [graph_frames(unit, graph, {}, VOCABULARY) for unit, graph in graphs.items()]
    names = ("rules", "graph_nodes", "token_classes")
    return [pl.concat([unit_frame(name, []), *(frames[name] for frames in made)]) for name in names]


def tried(
    graphs: Mapping[Unit, ClassGraph],
    neurons: Mapping[int, Neuron] | Callable[[np.ndarray], np.ndarray],
    contexts: pl.DataFrame = HELD_OUT,
    units: Sequence[Unit] | None = None,
    layer: int = 3,
    **evaluation: int,
) -> BlockResult:
    """What ``try_class_rules`` says; one neuron stands for those of all units."""
    neurons = neurons if isinstance(neurons, Mapping) else {unit.number: neurons for unit in graphs}
    return try_class_rules(
        list(graphs) if units is None else units, *frames_of(graphs), FreshText.of(contexts, VOCABULARY),
        dict.fromkeys(graphs, A_MAX), ToyProber(neurons, layer), THRESHOLD, EvaluationSettings(**evaluation),
    )  # fmt: skip
