"""What a harvest in bfloat16 misses: its top contexts and the graphs from them, against a harvest in float32.

The same text is harvested twice: in float32, and in bfloat16 with its shortlist measured again in float32, as a study
with ``harvest.dtype: bfloat16`` does it. Compared are, for some units of some layers, the top contexts (members, order
and peaks), a_max, and the graphs that the method makes of either: their nodes, and the F1 of
firing on the test contexts of the float32 harvest, those left out whose document the other graph was trained on.

The text is the first contexts of each document that a study stores: it has to have far more
contexts than the 40 that a shortlist keeps, else nothing can be missed. The last line is the share of the float32 top
contexts that the shortlist kept.

The table of all benchmarks takes layers 0 and 1 only, since arithmetic in bfloat16 is slow on processors without
instructions for it, and one context of each document. Its goals, 0.99 of the top contexts kept and 0.9 of the units
with the same graph, are ours: nobody has published any. Deeper layers, whose roundings add up, are for the commands
below.

    python benchmarks/shortlist.py                          # layers 0, 7 and 15, 16 units each, text of the study demo
    python benchmarks/shortlist.py --study smollm2 --layers 0,29 --units 4 --tokens 60000
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from common import GRAPH_SHAPE, build_tables, harvest, load_model
from rows import row

from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings, MethodSettings
from n2g_assets.core.unit_settings import NeuronSample
from n2g_assets.core.units import Unit, select_units
from n2g_assets.evaluation.document_counts import count_documents
from n2g_assets.method.predict import TokenGraph
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.text import EncodedText
from n2g_assets.method.top_examples import choose_top_examples
from n2g_assets.model.batching import TokenBudget
from n2g_assets.model.infill import InfillProposer
from n2g_assets.model.model import SubjectModel
from n2g_assets.model.prober import LayerProber
from n2g_assets.storage.slices import SliceKey, SliceStore

KEPT_GOAL, SAME_GOAL = 0.99, 0.9
UNITS = 16


@dataclass(frozen=True)
class Built:
    """What one harvest gave for the units of a layer."""

    top_contexts: pl.DataFrame
    a_max: Mapping[Unit, float]
    top_examples: pl.DataFrame
    graph_nodes: pl.DataFrame

    def rows(self, table: str, unit: Unit, *order: str) -> pl.DataFrame:
        """One unit's rows of a table in order."""
        return getattr(self, table).filter(unit=unit.number, sign=unit.sign).sort(order)


@dataclass(frozen=True)
class Compared:
    """One unit of both harvests."""

    kept: int
    """Top contexts of the float32 harvest that the shortlist has too."""
    top_contexts: int
    same_list: bool
    """The same contexts in the same order with the same peaks."""
    a_max_off: float
    """Difference of a_max, as a share of it."""
    same_graph: bool | None
    """The same nodes; None where neither has a graph."""
    f1: tuple[float, float] | None
    """Of the graphs from float32 and from the shortlist; None where one has no graph or no test token fires."""


def study_contexts(home: Home, study: str, tokens: int, first: int) -> pl.DataFrame:
    """The first contexts of each document that a study harvested, until there are enough tokens."""
    columns = ["context_id", "document_id", "token_ids"]
    contexts = SliceStore(home).read(SliceKey("contexts", study)).filter(split="harvest").select(columns)
    few = contexts.group_by("document_id", maintain_order=True).head(first).select(columns)
    return few.filter(pl.col("token_ids").list.len().cum_sum() <= tokens)


def build(
    exact: SubjectModel,
    found: Mapping[str, pl.DataFrame],
    layer: int,
    units: Sequence[Unit],
    contexts: pl.DataFrame,
    vocabulary: Vocabulary,
    proposer: InfillProposer,
    method: MethodSettings,
) -> Built:
    """Top examples and graphs from a harvest, all probes in float32."""
    strongest = {Unit(*key): value for *key, value in found["neuron_stats"].select("unit", "sign", "max").iter_rows()}
    a_max = {unit: strongest[unit] for unit in units}
    prober = LayerProber(exact, layer, TokenBudget(HarvestSettings().batch_tokens))
    top = choose_top_examples(units, found["top_contexts"], contexts, a_max, layer, method)
    good = [unit for unit in units if top.ledger[unit].status == "ok"]
    examples = top.tables["top_examples"]
    nodes = build_tables(good, examples, a_max, vocabulary, prober, proposer, method)["graph_nodes"]
    return Built(found["top_contexts"], a_max, examples, nodes)


def compare(unit: Unit, exact: Built, shortlist: Built, vocabulary: Vocabulary, method: MethodSettings) -> Compared:
    """One unit of both harvests."""
    tops = [
        built.rows("top_contexts", unit, "rank").select("context_id", "peak").rows() for built in (exact, shortlist)
    ]
    names = [{context_id for context_id, _ in top} for top in tops]
    graphs = [built.rows("graph_nodes", unit, "node_id") for built in (exact, shortlist)]
    shapes = [graph.select(GRAPH_SHAPE) for graph in graphs]
    return Compared(
        kept=len(names[0] & names[1]),
        top_contexts=len(names[0]),
        same_list=tops[0] == tops[1],
        a_max_off=abs(shortlist.a_max[unit] - exact.a_max[unit]) / exact.a_max[unit],
        same_graph=shapes[0].equals(shapes[1]) if sum(map(len, shapes)) else None,
        f1=_f1(unit, exact, shortlist, graphs, vocabulary, method.firing_threshold),
    )


def _f1(
    unit: Unit,
    exact: Built,
    shortlist: Built,
    graphs: Sequence[pl.DataFrame],
    vocabulary: Vocabulary,
    threshold: float,
) -> tuple[float, float] | None:
    """F1 of firing by the graphs of both, on test contexts whose document neither was trained on."""
    known = shortlist.top_examples.filter(unit=unit.number, sign=unit.sign, split="train")["document_id"]
    test = exact.top_examples.filter(unit=unit.number, sign=unit.sign, split="test")
    test = test.filter(~pl.col("document_id").is_in(known.to_list()))
    if not len(test) or not all(map(len, graphs)):
        return None
    text = EncodedText.from_contexts([np.asarray(tokens, np.int32) for tokens in test["token_ids"]], vocabulary)
    actual = np.concatenate([np.asarray(row, np.float64) for row in test["activations"]]) / exact.a_max[unit]
    inside = text.positions > 0
    found = []
    for nodes in graphs:
        predicted = TokenGraph.from_rows(nodes, vocabulary).predict(text)
        pair = actual[inside], predicted[inside].astype(np.float64)
        counts = count_documents(*pair, np.zeros(len(pair[0]), int), 1, threshold).total
        if not counts.n_firings or counts.f1 is None:
            return None
        found.append(counts.f1)
    return found[0], found[1]


def describe(what: str, found: Sequence[Compared]) -> str:
    scored = [one.f1 for one in found if one.f1 is not None]
    exact, shortlist = np.mean(scored, axis=0) if scored else (np.nan, np.nan)
    return (
        f"{what}: {len(found)} units; of the top contexts {_kept(found):.4f} kept; units with the same list "
        f"{np.mean([one.same_list for one in found]):.3f}; largest difference of a_max "
        f"{max(one.a_max_off for one in found):.1e} of it\n"
        f"  the same graph {_same(found):.3f} of {len(_graphs(found))} units; F1 of firing {exact:.3f} by float32, "
        f"{shortlist:.3f} by the shortlist, mean over {len(scored)} units"
    )


def _kept(found: Sequence[Compared]) -> float:
    return sum(one.kept for one in found) / sum(one.top_contexts for one in found)


def _graphs(found: Sequence[Compared]) -> list[bool]:
    return [one.same_graph for one in found if one.same_graph is not None]


def _same(found: Sequence[Compared]) -> float:
    return float(np.mean(_graphs(found)))


def measure(
    home: Home, layers: Sequence[int], units: int, *, study: str, tokens: int, first: int
) -> dict[int, list[Compared]]:
    """Both harvests and their graphs, by layer; prints what takes how long.

    Args:
        home: Where models, texts and slices lie.
        layers: Layers to compare.
        units: Neurons of each, with sign +1; those that are dead or lack contexts count as well.
        study: Whose stored contexts are harvested.
        tokens: Tokens to harvest.
        first: Contexts of each document.
    """
    method, settings = MethodSettings(), HarvestSettings()
    exact, half = load_model(home), load_model(home, "bfloat16")
    contexts = study_contexts(home, study, tokens, first)
    vocabulary = exact.vocabulary(normalise=method.normalise_tokens)
    chosen = {layer: select_units(NeuronSample(sample=units), [1], layer, exact.d_mlp) for layer in layers}
    built: dict[str, dict[int, Built]] = {}
    for model in (exact, half):
        name = str(model.dtype).removeprefix("torch.")
        began = time.perf_counter()
        evidence, frames = harvest(model, contexts, chosen, settings, method, exact=None if model is exact else exact)
        harvested = time.perf_counter()
        proposer = InfillProposer(exact, vocabulary, method)
        built[name] = {
            layer: build(exact, frames[layer], layer, chosen[layer], contexts, vocabulary, proposer, method)
            for layer in layers
        }
        print(
            f"{name}: harvest of {evidence.tokens_run:,} tokens in {len(contexts):,} contexts "
            f"{harvested - began:.0f} s, graphs {time.perf_counter() - harvested:.0f} s",
            flush=True,
        )
    return {
        layer: [
            compare(unit, built["float32"][layer], built["bfloat16"][layer], vocabulary, method)
            for unit in chosen[layer]
            if built["float32"][layer].a_max[unit] > 0
        ]
        for layer in layers
    }


def rows(home: Home) -> list[dict[str, Any]]:
    """The rows for the table of all benchmarks: layers 0 and 1, on text that the demo stores."""
    layers = measure(home, [0, 1], UNITS, study="demo", tokens=20_000, first=1)
    found = [one for units in layers.values() for one in units]
    print(describe("layers 0 and 1", found))
    return [
        row("bfloat16 shortlist, top contexts kept (share)", _kept(found), 1, KEPT_GOAL),
        row("bfloat16 shortlist, units with the same graph (share)", _same(found), 1, SAME_GOAL),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default="0,7,15", help="comma-separated")
    parser.add_argument("--units", type=int, default=UNITS, help="units of each layer")
    parser.add_argument("--study", default="demo", help="study whose stored contexts are harvested")
    parser.add_argument("--tokens", type=int, default=24_000, help="tokens of the harvest")
    parser.add_argument("--contexts", type=int, default=3, help="contexts of each document")
    options = parser.parse_args()
    found = measure(
        Home.from_environment(),
        [int(layer) for layer in options.layers.split(",")],
        options.units,
        study=options.study,
        tokens=options.tokens,
        first=options.contexts,
    )
    for layer, units in found.items():
        print(describe(f"layer {layer}", units))
    everything = [one for units in found.values() for one in units]
    print(describe("all layers", everything))
    print(f"share of the float32 top contexts that the shortlist kept: {_kept(everything):.4f}")


if __name__ == "__main__":
    main()
