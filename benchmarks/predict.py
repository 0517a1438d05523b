"""Unit-positions a second of the compiled predictor over those of an obvious Python walk, with equal results.

A unit-position is one token for which one unit's graph is asked. The walk is the method's description written down:
nodes are objects with their children in dictionaries, and at every position a recursive search goes back through the
tokens and gives every end that it reaches, of which the best one counts. Both read the graphs that a study stores, on
its held-out contexts, and each is handed graphs and text as it reads them, ready made: the walk objects and normalised
tokens, the predictor arrays and forms with an index of where each form stands. That index is made once for all units of
all layers; a second figure counts it, which weighs the more the fewer units there are. Times are the process's own, so
that other programs on the machine count little; of the predictor and of the index, the median of some repetitions.

The results must be equal at every position that the walk sees, or the script fails.

    python benchmarks/predict.py                 # study demo: all units, all held-out tokens (about 18,700)
    python benchmarks/predict.py --study smollm2 --layers 7 --units 64 --walked 10000
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from common import stored_layers
from jaxtyping import Int32
from rows import row

from n2g_assets.core.errors import StorageError
from n2g_assets.core.home import Home
from n2g_assets.method.predict import TokenGraph
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.text import EncodedText
from n2g_assets.model.vocabulary import vocabulary_from_rows
from n2g_assets.storage.slices import SliceKey, SliceStore

GOAL = 500.0
TOKENS, REPETITIONS = 50_000, 9
"""Held-out tokens at the most, and how often the predictor runs."""


@dataclass
class Node:
    """A node of a token graph."""

    node_id: int | None
    length: int
    """Nodes from the activating node to here."""
    n_exact: int
    """Of those, nodes that match one token."""
    value: float | None
    """What the path that ends here predicts."""
    children: dict[bytes, Node] = field(default_factory=dict)
    ignore: Node | None = None


def read_graph(rows: pl.DataFrame) -> Node:
    """The nodes of one unit below a root that stands for no token."""
    root = Node(None, 0, 0, None)
    nodes: dict[int | None, Node] = {None: root}
    for found in rows.sort("node_id").iter_rows(named=True):
        parent, token = nodes[found["parent_id"]], found["token"]
        n_exact = parent.n_exact + (token is not None)
        node = nodes[found["node_id"]] = Node(found["node_id"], parent.length + 1, n_exact, found["end_activation"])
        if token is None:
            parent.ignore = node
        else:
            parent.children[token] = node
    return root


def walk(node: Node, tokens: Sequence[bytes], position: int) -> Iterator[Node]:
    """Every end below a node, given the tokens of one context and the position that its children read."""
    if position == 0:
        return
    for child in (node.children.get(tokens[position]), node.ignore):
        if child is not None:
            if child.value is not None:
                yield child
            yield from walk(child, tokens, position - 1)


def walk_context(root: Node, tokens: Sequence[bytes]) -> list[float]:
    """Predicted activation at every position of a context, BOS at 0."""
    values = []
    for position in range(len(tokens)):
        ends = walk(root, tokens, position)
        best = max(ends, key=lambda end: (end.length, end.n_exact, end.value, -end.node_id), default=None)
        values.append(0.0 if best is None else best.value)
    return values


@dataclass(frozen=True)
class Timing:
    """What a predictor did."""

    positions: int = 0
    """Unit-positions."""
    seconds: float = 0.0

    def __add__(self, other: Timing) -> Timing:
        return Timing(self.positions + other.positions, self.seconds + other.seconds)

    @property
    def rate(self) -> float:
        return self.positions / self.seconds


def time_compiled(graphs: Sequence[TokenGraph], text: EncodedText, repetitions: int) -> Timing:
    """The median of some repetitions over all graphs, one after the other as the evaluation reads them."""
    seconds = []
    for _ in range(repetitions):
        began = time.process_time()
        for graph in graphs:
            graph.predict(text)
        seconds.append(time.process_time() - began)
    return Timing(len(graphs) * len(text), statistics.median(seconds))


def time_index(
    contexts: Sequence[Int32[np.ndarray, " length"]], vocabulary: Vocabulary, repetitions: int
) -> tuple[EncodedText, float]:
    """The text with its index, and the seconds that it takes: the median of some repetitions."""
    seconds = []
    for _ in range(repetitions):
        began = time.process_time()
        text = EncodedText.from_contexts(contexts, vocabulary)
        seconds.append(time.process_time() - began)
    return text, statistics.median(seconds)


def time_walk(roots: Sequence[Node], texts: Sequence[Sequence[bytes]]) -> tuple[Timing, list[list[float]]]:
    """One pass over all graphs."""
    began = time.process_time()
    values = [[value for tokens in texts for value in walk_context(root, tokens)] for root in roots]
    return Timing(sum(map(len, values)), time.process_time() - began), values


def first_tokens(contexts: Sequence[Int32[np.ndarray, " length"]], tokens: int) -> list[Int32[np.ndarray, " length"]]:
    """The first contexts, as many as hold that many tokens."""
    ends = np.cumsum([len(context) for context in contexts])
    return list(contexts[: 1 + int(np.searchsorted(ends, tokens))])


@dataclass(frozen=True)
class Comparison:
    """Both predictors on the graphs of some layers."""

    compiled: Timing
    walk: Timing
    index_seconds: float
    """To make the index of the text, which is in neither."""

    @property
    def with_index(self) -> Timing:
        """The compiled predictor, the index of the text counted."""
        return self.compiled + Timing(0, self.index_seconds)


def compare(
    home: Home, study: str, layers: Sequence[int] | None, units: int | None, tokens: int, walked: int, repetitions: int
) -> Comparison:
    """Both predictors on the stored graphs of a study; says what each layer took.

    Args:
        home: where the study is stored.
        study: its name.
        layers: all that are stored if None.
        units: of each layer, the first ones; all if None.
        tokens: held-out tokens at the most.
        walked: of those, tokens that the walk sees.
        repetitions: of the compiled predictor and of the index.

    Raises:
        StorageError: graphs of a layer are not stored.
        SystemExit: the two predict differently.
    """
    store = SliceStore(home)
    stored = stored_layers(store, "graph_nodes", study)
    layers = stored if layers is None else layers
    if not layers or not set(layers) <= set(stored):
        raise StorageError(f"The study {study} has graphs of the layers {stored}: materialize neuron_graphs first.")
    held_out = store.read(SliceKey("contexts", study)).filter(split="held_out").sort("context_id")
    every = [np.array(token_ids, np.int32) for token_ids in held_out["token_ids"].to_list()]
    vocabulary = vocabulary_from_rows(
        store.read(SliceKey("vocabulary", study)), bos_id=int(every[0][0]), mask_id=int(every[0][0])
    )
    contexts = first_tokens(every, tokens)
    text, index_seconds = time_index(contexts, vocabulary, repetitions)
    texts = [[vocabulary.form(token) for token in context] for context in first_tokens(contexts, walked)]
    print(f"study {study}, {len(text):,} held-out tokens, the walk sees {sum(map(len, texts)):,}")

    compiled_total, walk_total = Timing(), Timing()
    for layer in layers:
        chosen = store.read(SliceKey("graph_nodes", study, layer)).partition_by("unit", "sign")[:units]
        graphs = [TokenGraph.from_rows(unit, vocabulary) for unit in chosen]
        values = [graph.predict(text) for graph in graphs]  # compiles, or loads what was compiled before
        compiled = time_compiled(graphs, text, repetitions)
        plain, expected = time_walk([read_graph(unit) for unit in chosen], texts)
        for unit, fast, slow in zip(chosen, values, expected, strict=True):
            if fast[: len(slow)].tolist() != slow:
                raise SystemExit(f"Layer {layer}, neuron {unit['unit'][0]}: the two predictors differ.")
        report(f"layer {layer}, {len(chosen)} units, {sum(map(len, chosen)):,} nodes", compiled, plain)
        compiled_total, walk_total = compiled_total + compiled, walk_total + plain
    return Comparison(compiled_total, walk_total, index_seconds)


def rows(home: Home) -> list[dict[str, Any]]:
    """The rows for the table of all benchmarks: without the index of the text, and with it."""
    found = compare(home, "demo", None, None, TOKENS, TOKENS, REPETITIONS)
    return [
        row("compiled predictor (unit-positions/s)", found.compiled.rate, found.walk.rate, GOAL),
        row(
            "predictor, the text's index counted (unit-positions/s)",
            found.with_index.rate,
            found.walk.rate,
            GOAL,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="demo")
    parser.add_argument("--layers", default="all", help="comma-separated, or all that are stored")
    parser.add_argument("--units", type=int, help="units of each layer, the first ones; all if left out")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="held-out tokens at the most")
    parser.add_argument("--walked", type=int, help="of those, tokens that the walk sees; all if left out")
    parser.add_argument(
        "--repetitions", type=int, default=REPETITIONS, help="of predictor and index; their median counts"
    )
    options = parser.parse_args()
    layers = None if options.layers == "all" else [int(layer) for layer in options.layers.split(",")]
    walked = options.walked or options.tokens
    try:
        found = compare(
            Home.from_environment(), options.study, layers, options.units, options.tokens, walked, options.repetitions
        )
    except StorageError as error:
        parser.error(str(error))
    report("all layers, equal at every position", found.compiled, found.walk)
    report(f"with the index of the text ({1e3 * found.index_seconds:.1f} ms)", found.with_index, found.walk)
    print(f"compiled predictor over a Python walk: {found.compiled.rate / found.walk.rate:.0f} x")


def report(what: str, compiled: Timing, plain: Timing) -> None:
    print(
        f"{what}: compiled {compiled.rate / 1e6:,.0f} M unit-positions/s ({1e9 / compiled.rate:.2f} ns each), "
        f"walk {plain.rate / 1e6:.2f} M, {compiled.rate / plain.rate:.0f} x"
    )


if __name__ == "__main__":
    main()
