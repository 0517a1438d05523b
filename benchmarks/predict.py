"""Unit-positions a second of the compiled predictor over those of an obvious Python walk, with equal results.

A unit-position is one token for which one unit's graph is asked. The walk is the method's description written down:
nodes are objects with their children in dictionaries, and at every position a recursive search goes back through the
tokens and gives every end that it reaches, of which the best one counts. Both read the graphs that a study stores, on
its held-out contexts, and each is handed graphs and text as it reads them, ready made: the walk objects and normalised
tokens, the predictor arrays and forms with an index of where each form stands. That index is made once for all units of
all layers; what it takes, and the ratio with it, are shown beside. Times are the process's own, so that other programs
on the machine count little.

The results must be equal at every position that the walk sees, or the script fails.

    python benchmarks/predict.py                 # study demo: all units, 50,000 tokens, the walk sees all of them
    python benchmarks/predict.py --study smollm2 --layers 7 --units 64 --walked 10000
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from jaxtyping import Int32

from n2g_assets.method.predict import TokenGraph
from n2g_assets.method.text import EncodedText
from n2g_assets.storage.home import Home
from n2g_assets.storage.slices import SliceStore
from n2g_assets.subject.vocabulary import vocabulary_from_rows


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
    for row in rows.sort("node_id").iter_rows(named=True):
        parent, token = nodes[row["parent_id"]], row["token"]
        n_exact = parent.n_exact + (token is not None)
        node = nodes[row["node_id"]] = Node(row["node_id"], parent.length + 1, n_exact, row["end_activation"])
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


def time_walk(roots: Sequence[Node], texts: Sequence[Sequence[bytes]]) -> tuple[Timing, list[list[float]]]:
    """One pass over all graphs."""
    began = time.process_time()
    values = [[value for tokens in texts for value in walk_context(root, tokens)] for root in roots]
    return Timing(sum(map(len, values)), time.process_time() - began), values


def first_tokens(contexts: Sequence[Int32[np.ndarray, " length"]], tokens: int) -> list[Int32[np.ndarray, " length"]]:
    """The first contexts, as many as hold that many tokens."""
    ends = np.cumsum([len(context) for context in contexts])
    return list(contexts[: 1 + int(np.searchsorted(ends, tokens))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="demo")
    parser.add_argument("--layers", default="all", help="comma-separated, or all that are stored")
    parser.add_argument("--units", type=int, help="units of each layer, the first ones; all if left out")
    parser.add_argument("--tokens", type=int, default=50_000, help="held-out tokens")
    parser.add_argument("--walked", type=int, help="of those, tokens that the walk sees; all if left out")
    parser.add_argument("--repetitions", type=int, default=9, help="of the compiled predictor; their median counts")
    options = parser.parse_args()

    store = SliceStore(Home.from_environment())
    stored = store.layers("graph_nodes", options.study)
    layers = stored if options.layers == "all" else [int(layer) for layer in options.layers.split(",")]
    if not layers or not set(layers) <= set(stored):
        parser.error(f"The study {options.study} has graphs of the layers {stored}: materialize neuron_graphs first.")
    held_out = store.read("contexts", options.study).filter(split="held_out").sort("context_id")
    every = [np.array(token_ids, np.int32) for token_ids in held_out["token_ids"].to_list()]
    vocabulary = vocabulary_from_rows(
        store.read("vocabulary", options.study), bos_id=int(every[0][0]), mask_id=int(every[0][0])
    )
    contexts = first_tokens(every, options.tokens)
    began = time.process_time()
    text = EncodedText.of(contexts, vocabulary)
    index_seconds = time.process_time() - began
    texts = [
        [vocabulary.form(token) for token in context]
        for context in first_tokens(contexts, options.walked or options.tokens)
    ]
    print(f"study {options.study}, {len(text):,} held-out tokens, the walk sees {sum(map(len, texts)):,}")

    compiled_total, walk_total = Timing(), Timing()
    for layer in layers:
        units = store.read("graph_nodes", options.study, layer).partition_by("neuron", "sign")[: options.units]
        graphs = [TokenGraph.from_rows(unit, vocabulary) for unit in units]
        values = [graph.predict(text) for graph in graphs]  # compiles, or loads what was compiled before
        compiled = time_compiled(graphs, text, options.repetitions)
        plain, expected = time_walk([read_graph(unit) for unit in units], texts)
        for unit, fast, slow in zip(units, values, expected, strict=True):
            if fast[: len(slow)].tolist() != slow:
                raise SystemExit(f"Layer {layer}, neuron {unit['neuron'][0]}: the two predictors differ.")
        report(f"layer {layer}, {len(units)} units, {sum(map(len, units)):,} nodes", compiled, plain)
        compiled_total, walk_total = compiled_total + compiled, walk_total + plain
    with_index = compiled_total + Timing(0, index_seconds)
    report("all layers, equal at every position", compiled_total, walk_total)
    report(f"with the index of the text ({1e3 * index_seconds:.1f} ms)", with_index, walk_total)
    print(f"compiled predictor over a Python walk: {compiled_total.rate / walk_total.rate:.0f} x")


def report(what: str, compiled: Timing, plain: Timing) -> None:
    print(
        f"{what}: compiled {compiled.rate / 1e6:,.0f} M unit-positions/s ({1e9 / compiled.rate:.2f} ns each), "
        f"walk {plain.rate / 1e6:.2f} M, {compiled.rate / plain.rate:.0f} x"
    )


if __name__ == "__main__":
    main()
