"""How many times fewer tokens and seconds a graph takes than in a loop that works as the authors' code does.

Ours: the stages from pruning to graph (prune, saliency, augment, graph), some units of a layer as one block. The loop
(``plain_loop``): one unit and one prompt at a time, each forward pass through the whole model and its unembedding;
whole contexts are run again, and every prompt and every variant, kept or not, gets its whole importance matrix (every
token masked in turn, all positions). As in the authors' code a matrix is one batch and truncations go four at a time.
The loop prunes by the same rule as ours, every length from the shortest on (the authors try every 5th).

Both work on the same model and the same train contexts: the strongest few of each unit (the loop takes minutes for all
ten), from the study ``demo`` where they are stored, else from a small harvest made for the purpose. Substitutes come
from the same proposer, which the loop asks one prompt at a time; its tokens count on neither side, its seconds on both.

Both come to the same graphs, and that is checked: pruned prompts, variants tried, variants kept, and the nodes of the
graphs built from what the loop found. Ours counts the building of graphs; for the loop, that and the check are not
timed.

With ``--block`` ours also runs more units together, as the product does, than the loop can run in the time. The loop
then runs those of them that take it a middling number of tokens. How many it takes for each of the others follows from
what was found of it, and it is taken to run these at the speed of its largest batch, faster than it does: what is said
of its seconds for the block is the least that it would take. The ratios are geometric means over layers.

    python benchmarks/graphs.py                  # layers 0, 7, 15, 22 and 29, one unit each, 3 train contexts a unit
    python benchmarks/graphs.py --study smollm2 --units 4 --contexts 10
    python benchmarks/graphs.py --block 16       # and ours on 16 units together
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from common import build_tables, geometric, harvest, load_model, named_contexts, warm_up
from jaxtyping import Int32
from plain_loop import Agreement, Count, PlainLoop, agreement, tables, tokens_by_unit
from rows import row

from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings, MethodSettings
from n2g_assets.core.unit_settings import NeuronSample
from n2g_assets.core.units import Unit, of_units, select_units
from n2g_assets.method.graph import build_graphs
from n2g_assets.method.probing import Substitute, Vocabulary
from n2g_assets.method.top_examples import choose_top_examples
from n2g_assets.model.batching import TokenBudget
from n2g_assets.model.infill import InfillProposer
from n2g_assets.model.model import SubjectModel
from n2g_assets.model.prober import LayerProber
from n2g_assets.storage.slices import SliceKey, SliceStore

LAYERS = (0, 7, 15, 22, 29)
HARVEST_TOKENS = 12_000
PROPOSER_SHARE = 0.25
"""Of the seconds from pruning to graphs, the most that the proposer should take."""


@dataclass
class Cost:
    """What some units took."""

    units: int
    seconds: float = 0.0
    proposer_seconds: float = 0.0
    """Of those, the proposer's."""
    tokens: int = 0
    """That went through the model, padding not counted; the proposer's not counted."""
    proposer_tokens: int = 0

    @property
    def seconds_a_unit(self) -> float:
        return self.seconds / self.units

    @property
    def tokens_a_unit(self) -> float:
        return self.tokens / self.units

    @property
    def proposer_share(self) -> float:
        return self.proposer_seconds / self.seconds


class TimedProposer(InfillProposer):
    """A proposer that times its calls."""

    seconds = 0.0

    def propose(
        self, prompts: Sequence[Int32[np.ndarray, " length"]], positions: Sequence[Sequence[int]]
    ) -> list[list[list[Substitute]]]:
        began = time.perf_counter()
        answers = super().propose(prompts, positions)
        self.seconds += time.perf_counter() - began
        return answers


@contextmanager
def counted(units: int, asked: LayerProber | PlainLoop, proposer: TimedProposer) -> Iterator[Cost]:
    """The cost of what is done within, filled in at its end."""
    cost = Cost(units)
    tokens, seconds, proposed, began = asked.tokens, proposer.seconds, proposer.tokens, time.perf_counter()
    yield cost
    cost.seconds, cost.proposer_seconds = time.perf_counter() - began, proposer.seconds - seconds
    cost.tokens, cost.proposer_tokens = asked.tokens - tokens, proposer.tokens - proposed


@dataclass(frozen=True)
class Material:
    """What both ways work on, for one layer."""

    layer: int
    top_examples: pl.DataFrame
    a_max: Mapping[Unit, float]

    @property
    def units(self) -> list[Unit]:
        return list(self.a_max)

    def only(self, units: Sequence[Unit]) -> Material:
        """Some of the units."""
        mine = self.top_examples.filter(of_units(units))
        return Material(self.layer, mine, {unit: self.a_max[unit] for unit in units})

    def strongest(self, contexts: int) -> Material:
        """The same units with their strongest train contexts only."""
        train = self.top_examples.filter(split="train").sort("rank")
        few = train.group_by("unit", "sign", maintain_order=True).head(contexts)
        return Material(self.layer, few, self.a_max)


def run_stages(
    model: SubjectModel, material: Material, vocabulary: Vocabulary, proposer: TimedProposer, method: MethodSettings
) -> tuple[Cost, dict[str, pl.DataFrame]]:
    """Our stages on all units of a layer as one block: what they took, and their tables."""
    prober = LayerProber(model, material.layer, TokenBudget(HarvestSettings().batch_tokens))
    units, a_max = material.units, material.a_max
    warm_up(prober)  # not counted
    with counted(len(units), prober, proposer) as cost:
        made = build_tables(units, material.top_examples, a_max, vocabulary, prober, proposer, method)
    return cost, made


def run_loop(
    loop: PlainLoop, material: Material, vocabulary: Vocabulary, proposer: TimedProposer, method: MethodSettings
) -> tuple[Cost, dict[str, pl.DataFrame]]:
    """The loop on all units of a layer: what it took, and the same tables, which are made afterwards."""
    units, a_max = material.units, material.a_max
    with counted(len(units), loop, proposer) as cost:
        found = [one for unit in units for one in loop.run(unit, material.top_examples)]
    made = tables(found, a_max, method, proposer.name)
    graphs = build_graphs(units, **made, a_max=a_max, vocabulary=vocabulary, settings=method).tables
    return cost, made | graphs


def stored_material(home: Home, study: str, layer: int, number: int) -> Material | None:
    """Top examples of a study's first units, if the layer is stored."""
    store = SliceStore(home)
    if not all(store.manifest(SliceKey(table, study, layer)) for table in ("top_examples", "neuron_stats")):
        return None
    a_max = _a_max(store.read(SliceKey("neuron_stats", study, layer)))
    return _first_units(layer, store.read(SliceKey("top_examples", study, layer)), a_max, number)


def harvested_material(
    model: SubjectModel, home: Home, layers: Sequence[int], number: int, tokens: int, method: MethodSettings
) -> list[Material]:
    """Top examples from a small harvest of source code (many short documents), in a temporary folder."""
    settings = HarvestSettings()
    contexts = named_contexts(model, home, "django", tokens)
    units = {layer: select_units(NeuronSample(sample=2 * number + 2), [1], layer, model.d_mlp) for layer in layers}
    materials = []
    for layer, frames in harvest(model, contexts, units, settings, method)[1].items():
        a_max = _a_max(frames["neuron_stats"])
        top = choose_top_examples(units[layer], frames["top_contexts"], contexts, a_max, layer, method)
        materials.append(_first_units(layer, top.tables["top_examples"], a_max, number))
    return materials


def _first_units(layer: int, top_examples: pl.DataFrame, a_max: Mapping[Unit, float], number: int) -> Material:
    units = [Unit(*key) for key in top_examples.select("unit", "sign").unique(maintain_order=True).rows()]
    return Material(layer, top_examples, a_max).only(units[:number])


def _a_max(stats: pl.DataFrame) -> dict[Unit, float]:
    return {Unit(neuron, sign): a for neuron, sign, a in stats.select("unit", "sign", "max").iter_rows()}


@dataclass(frozen=True)
class Comparison:
    """What one layer's units took in both ways."""

    layer: int
    ours: Cost
    """On the units that the loop ran."""
    loop: Cost
    block: Cost
    """Ours on the block; the same as ``ours`` where it has no other units."""
    loop_block: Cost
    """The least that the loop would take for the block."""
    agreement: Agreement
    """Of block and loop."""

    def ways(self, *, block: bool) -> tuple[Cost, Cost]:
        """Ours and the loop, on the block or on the units that the loop ran."""
        return (self.block, self.loop_block) if block else (self.ours, self.loop)

    def times_fewer(self, *, block: bool) -> tuple[float, float]:
        """How many times fewer tokens and seconds ours takes."""
        ours, loop = self.ways(block=block)
        return loop.tokens_a_unit / ours.tokens_a_unit, loop.seconds_a_unit / ours.seconds_a_unit


@dataclass(frozen=True)
class Way:
    """How much is run, and how the loop runs it."""

    layers: Sequence[int] = LAYERS
    units: int = 1
    """Of each layer, in the loop."""
    block: int | None = None
    """Units of each layer that ours runs together; None: those of the loop."""
    contexts: int = 3
    """Train contexts of each unit, the strongest first."""
    harvest_tokens: int = HARVEST_TOKENS


def materials_of(model: SubjectModel, home: Home, study: str, way: Way, method: MethodSettings) -> list[Material]:
    """What ours works on: layers that the study stores, and a harvest for the others."""
    number = max(way.units, way.block or 0)
    stored = {layer: found for layer in way.layers if (found := stored_material(home, study, layer, number))}
    lacking = [layer for layer in way.layers if layer not in stored]
    if lacking:
        made = harvested_material(model, home, lacking, number, way.harvest_tokens, method)
        stored |= {material.layer: material for material in made}
    return [stored[layer].strongest(way.contexts) for layer in way.layers]


def compare(model: SubjectModel, material: Material, way: Way, method: MethodSettings) -> Comparison:
    """Both ways on one layer: ours on the block and on the units that the loop runs, and the loop on those."""
    vocabulary = model.vocabulary(normalise=method.normalise_tokens)
    proposer = TimedProposer(model, vocabulary, method)
    loop = PlainLoop(model, material.layer, vocabulary, proposer, method)
    block, found = run_stages(model, material, vocabulary, proposer, method)
    tokens = tokens_by_unit(material.top_examples, found["pruned_examples"], found["augmented_examples"], method)
    few = material.only(middling(tokens, way.units))
    ours = block if len(few.units) == len(material.units) else run_stages(model, few, vocabulary, proposer, method)[0]
    fastest = loop.seconds_a_token(few.units[0])  # the first pass is slower: its own does not count
    plain, loop_found = run_loop(loop, few, vocabulary, proposer, method)
    others = sum(tokens.values()) - sum(tokens[unit] for unit in few.units)
    loop_block = Cost(len(tokens), plain.seconds + others * fastest, tokens=plain.tokens + others)
    return Comparison(material.layer, ours, plain, block, loop_block, agreement(few.units, found, loop_found))


def middling(tokens: Mapping[Unit, int], number: int) -> list[Unit]:
    """The units in the middle of all by their tokens."""
    ordered = sorted(tokens, key=lambda unit: (tokens[unit], unit))
    start = max(0, len(ordered) - number) // 2
    return ordered[start : start + number]


def compare_all(
    model: SubjectModel, materials: Sequence[Material], way: Way, method: MethodSettings
) -> list[Comparison]:
    """Both ways on each layer; says what each took."""
    found = []
    for material in materials:
        one = compare(model, material, way, method)
        found.append(one)
        print(f"layer {one.layer}")
        for block in (False, True) if one.block is not one.ours else (False,):
            ours, loop = one.ways(block=block)
            print(describe("ours", ours) + proposed(ours))
            print(describe("loop", loop) + (", at least" if block else proposed(loop)))
            print("    times fewer tokens {:.1f}, seconds {:.1f}".format(*one.times_fewer(block=block)))
        print(
            f"  same pruned prompts: {one.agreement.prompts}, same variants tried: {one.agreement.tried}, kept: "
            f"{one.agreement.kept}; same graphs: {one.agreement.graphs} units",
            flush=True,
        )
    above = [str(one.layer) for one in found if one.block.proposer_share > PROPOSER_SHARE]
    share = sum(one.block.proposer_seconds for one in found) / sum(one.block.seconds for one in found)
    print(
        f"proposer's share of our seconds, all layers together: {share:.0%}; above {PROPOSER_SHARE:.0%} in "
        + (f"layers {', '.join(above)}" if above else "no layer")
    )
    return found


def describe(what: str, cost: Cost) -> str:
    units = "1 unit" if cost.units == 1 else f"{cost.units} units"
    return f"  {what}, {units}: {cost.seconds_a_unit:.2f} s a unit, {cost.tokens_a_unit:,.0f} tokens a unit"


def proposed(cost: Cost) -> str:
    return (
        f", of the seconds {cost.proposer_seconds / cost.units:.2f} ({cost.proposer_share:.0%}) the proposer's, which "
        f"ran {cost.proposer_tokens / cost.units:,.0f} tokens of its own"
    )


def same_graphs(found: Sequence[Comparison]) -> Count:
    """Of all layers that were compared."""
    graphs = [one.agreement.graphs for one in found]
    return Count(sum(one.same for one in graphs), sum(one.of for one in graphs))


def rows(home: Home) -> list[dict[str, Any]]:
    """The figures for the table of all benchmarks: five layers, two contexts a unit, from what the demo stores."""
    method, way = MethodSettings(), Way(contexts=2, block=6)
    model = load_model(home)
    found = compare_all(model, materials_of(model, home, "demo", way, method), way, method)
    graphs = same_graphs(found)
    what = "pruning to graph"
    made = []
    for how, block in ((f"a unit of {way.block} at once", True), ("a unit alone", False)):
        ours, loop = zip(*(one.ways(block=block) for one in found), strict=True)
        tokens, loop_tokens = (geometric([one.tokens_a_unit for one in costs]) for costs in (ours, loop))
        seconds, loop_seconds = (geometric([one.seconds_a_unit for one in costs]) for costs in (ours, loop))
        made += [
            row(f"{what}, {how} (tokens)", tokens, loop_tokens, 4, less_is_better=True),
            row(f"{what}, {how} (seconds)", seconds, loop_seconds, 10, less_is_better=True),
        ]
    return [
        *made,
        row(
            f"proposer's part of pruning to graph, {way.block} units (seconds)",
            sum(one.block.proposer_seconds for one in found),
            sum(one.block.seconds for one in found),
            1 / PROPOSER_SHARE,
            less_is_better=True,
        ),
        row("pruning to graph, same graphs as the loop (units)", graphs.same, graphs.of, 1),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default=",".join(map(str, LAYERS)), help="comma-separated")
    parser.add_argument("--units", type=int, default=1, help="units of each layer in the loop")
    parser.add_argument("--block", type=int, help="units of each layer that ours runs together; default: as the loop")
    parser.add_argument("--contexts", type=int, default=3, help="train contexts of each unit, the strongest first")
    parser.add_argument("--study", default="demo", help="study whose stored top examples are taken")
    parser.add_argument(
        "--harvest-tokens", type=int, default=HARVEST_TOKENS, help="tokens of the harvest for layers not stored"
    )
    options = vars(parser.parse_args())
    study = options.pop("study")
    options["layers"] = [int(layer) for layer in options["layers"].split(",")]
    home, method, way = Home.from_environment(), MethodSettings(), Way(**options)
    model = load_model(home)
    materials = materials_of(model, home, study, way, method)
    if not all(material.units for material in materials):
        parser.error("A layer has no unit with enough contexts: raise --harvest-tokens.")
    print(f"{model.name}, float32, {model.device}, {torch.get_num_threads()} threads")
    found = compare_all(model, materials, way, method)
    print(f"same graphs: {same_graphs(found)} units")
    for block in (False, True) if way.block else (False,):
        ratios = [one.times_fewer(block=block) for one in found]
        tokens, seconds = (geometric(values) for values in zip(*ratios, strict=True))
        what = f"{way.block} units together" if block else "the loop's units"
        print(f"{what}: times fewer tokens {tokens:.1f}, times faster {seconds:.1f}")


if __name__ == "__main__":
    main()
