"""How many times fewer tokens and seconds a graph takes than in a loop that works as the authors' code does.

Ours: the stages from pruning to graph (prune, saliency, augment, graph), all units of a layer as one block. The loop:
one unit and one prompt at a time, each forward pass through the whole model and its unembedding; whole contexts are
run again, pruning tries every 5th token, every prompt and every variant, kept or not, gets its whole importance matrix
(every token masked in turn, all positions). As in the authors' code a matrix is one batch and truncations go four at a
time; ``--single`` gives every masked or truncated prompt a pass of its own. The loop does not build the graph.
Substitutes come from the same proposer, which the loop asks one prompt at a time; its tokens count on neither side, its
seconds on both.

Both work on the same model and the same train contexts: the strongest few of each unit (the loop takes minutes for all
ten), from the study ``demo`` where they are stored, else from a small harvest made for the purpose. The ratios are
geometric means over layers.

    python benchmarks/graphs.py                  # layers 0, 7, 15, 22 and 29, one unit each, 3 train contexts a unit
    python benchmarks/graphs.py --study smollm2 --units 4 --contexts 10
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from common import geometric, load_model, named_contexts
from jaxtyping import Float32, Float64, Int32
from rows import row

from n2g_assets.method.augment import augment_examples, choose_substitutes, make_variant
from n2g_assets.method.graph import build_graphs
from n2g_assets.method.probing import Unit, Vocabulary
from n2g_assets.method.prune import prune_examples
from n2g_assets.method.selection import select_units
from n2g_assets.method.top_examples import choose_top_examples
from n2g_assets.settings import HarvestSettings, MethodSettings, NeuronSample
from n2g_assets.storage.home import Home
from n2g_assets.storage.slices import SliceStore
from n2g_assets.subject.batching import TokenBudget, pad
from n2g_assets.subject.harvest import harvest
from n2g_assets.subject.infill import InfillProposer
from n2g_assets.subject.model import SubjectModel
from n2g_assets.subject.prober import LayerProber

LAYERS = (0, 7, 15, 22, 29)
HARVEST_TOKENS = 12_000
PRUNE_STEP, PRUNE_BATCH = 5, 4
"""Tokens between the truncations that the authors' pruning tries, and truncations in one pass."""


@dataclass
class Cost:
    """What some units took."""

    seconds: float = 0.0
    proposer_seconds: float = 0.0
    """Of those, the proposer's."""
    tokens: int = 0
    """That went through the model, padding not counted; the proposer's not counted."""
    proposer_tokens: int = 0

    def add(self, other: Cost) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


@dataclass(frozen=True)
class Material:
    """What both ways work on, for one layer."""

    layer: int
    top_examples: pl.DataFrame
    a_max: Mapping[Unit, float]

    @property
    def units(self) -> list[Unit]:
        return list(self.a_max)

    def strongest(self, contexts: int) -> Material:
        """The same units with their strongest train contexts only."""
        train = self.top_examples.filter(split="train").sort("rank")
        few = train.group_by("neuron", "sign", maintain_order=True).head(contexts)
        return Material(self.layer, few, self.a_max)


def run_stages(
    model: SubjectModel, material: Material, vocabulary: Vocabulary, proposer: InfillProposer, method: MethodSettings
) -> Cost:
    """Our stages on all units of a layer as one block."""
    prober = LayerProber(model, material.layer, TokenBudget(HarvestSettings().batch_tokens))
    units, a_max = material.units, material.a_max
    prober.activations([np.zeros(2, np.int32)], units[:1])  # what is checked once a model is not counted
    prober.tokens = 0
    before, began = (proposer.seconds, proposer.tokens), time.perf_counter()
    pruned = prune_examples(units, material.top_examples, a_max, vocabulary, prober, method).tables
    augmented = augment_examples(units, pruned["pruned_examples"], vocabulary, prober, proposer, method).tables
    build_graphs(units, **pruned, **augmented, a_max=a_max, vocabulary=vocabulary, settings=method)
    seconds = time.perf_counter() - began
    return Cost(seconds, proposer.seconds - before[0], prober.tokens, proposer.tokens - before[1])


class PlainLoop:
    """One unit and one prompt at a time, forward passes to the last layer, activations out of a forward hook."""

    def __init__(
        self,
        model: SubjectModel,
        layer: int,
        vocabulary: Vocabulary,
        proposer: InfillProposer,
        method: MethodSettings,
        single: bool,
    ) -> None:
        assert model.hook.taps is not None, "this benchmark reads the plain model"
        self.model, self.vocabulary, self.proposer, self.method = model, vocabulary, proposer, method
        self.tap, self.batch = model.hook.taps[layer], 1 if single else None
        self.tokens = 0

    def run(self, unit: Unit, examples: pl.DataFrame) -> Cost:
        """All train contexts of one unit."""
        before, began = (self.proposer.seconds, self.proposer.tokens), time.perf_counter()
        self.tokens = 0
        for example in examples.filter(neuron=unit.neuron, sign=unit.sign, split="train").iter_rows(named=True):
            pruned = self.prune(unit, np.array(example["token_ids"], np.int32), example["peak"])
            importances = self.importance_matrix(unit, pruned)[:, -1]
            for variant in self.variants(pruned, importances):
                self.importance_matrix(unit, variant)
        seconds = time.perf_counter() - began
        return Cost(seconds, self.proposer.seconds - before[0], self.tokens, self.proposer.tokens - before[1])

    def prune(self, unit: Unit, tokens: Int32[np.ndarray, " length"], peak: int) -> Int32[np.ndarray, " kept"]:
        """The first truncation, every 5th token, that keeps the peak and half of its activation, else the longest."""
        full = self.activations(unit, [tokens])[0][peak]
        lengths = [n for n in range(1, min(peak, self.method.prune_max_prefix) + 1) if n % PRUNE_STEP == 0 or n == peak]
        tried = [np.append(tokens[:1], tokens[peak + 1 - length : peak + 1]) for length in lengths]
        for start in range(0, len(tried), self.batch or PRUNE_BATCH):
            some = tried[start : start + (self.batch or PRUNE_BATCH)]
            for prompt, activations in zip(some, self.activations(unit, some), strict=True):
                strong = activations[-1] >= self.method.prune_keep * full
                if strong and np.argmax(activations[1:]) == len(prompt) - 2:
                    return prompt
        return tried[-1]

    def importance_matrix(
        self, unit: Unit, prompt: Int32[np.ndarray, " kept"]
    ) -> Float64[np.ndarray, "masked position"]:
        """1 - a(one token masked, position) / a(prompt, position) for every token, BOS too, and every position."""
        masked = np.tile(prompt, (len(prompt) + 1, 1))
        masked[np.arange(1, len(masked)), np.arange(len(prompt))] = self.vocabulary.mask_id
        rows: list[np.ndarray] = []
        for start in range(0, len(masked), self.batch or len(masked)):
            rows += self.activations(unit, list(masked[start : start + (self.batch or len(masked))]))
        whole, *others = (row.astype(np.float64) for row in rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1 - np.stack(others) / whole

    def variants(
        self, pruned: Int32[np.ndarray, " kept"], importances: Float64[np.ndarray, " kept"]
    ) -> list[Int32[np.ndarray, " kept"]]:
        """The prompt with each important token replaced by each of its substitutes."""
        positions = [p for p in range(1, len(pruned)) if importances[p] >= self.method.augment_threshold]
        if not positions:
            return []
        variants = []
        for position, proposed in zip(positions, self.proposer.propose([pruned], [positions])[0], strict=True):
            chosen = choose_substitutes(int(pruned[position]), proposed, self.vocabulary, self.method.substitutes)
            variants += [make_variant(pruned, position, one.token_ids).token_ids for one in chosen]
        return variants

    def activations(
        self, unit: Unit, prompts: Sequence[Int32[np.ndarray, " length"]]
    ) -> list[Float32[np.ndarray, " length"]]:
        """One forward pass to the last layer and its logits."""
        taken: list[torch.Tensor] = []
        module = self.model.plain.get_submodule(self.tap.module)
        if self.tap.side == "input":
            handle = module.register_forward_pre_hook(lambda _module, args: taken.append(args[0]))
        else:
            handle = module.register_forward_hook(lambda _module, _args, output: taken.append(output))
        try:
            with torch.inference_mode():
                self.model.plain(pad(prompts, self.model.bos_id).to(self.model.device), use_cache=False)
        finally:
            handle.remove()
        self.tokens += sum(map(len, prompts))
        values = (unit.sign * taken[0].flatten(2)[:, :, unit.neuron].float()).cpu().numpy()
        return [found[: len(prompt)] for found, prompt in zip(values, prompts, strict=True)]


def stored_material(home: Home, study: str, layer: int, number: int) -> Material | None:
    """Top examples of a study's first units, if the layer is stored."""
    store = SliceStore(home)
    if not all(store.manifest(table, study, layer) for table in ("top_examples", "neuron_stats")):
        return None
    return _first_units(
        layer, store.read("top_examples", study, layer), store.read("neuron_stats", study, layer), number
    )


def harvested_material(
    model: SubjectModel, home: Home, layers: Sequence[int], number: int, tokens: int, method: MethodSettings
) -> list[Material]:
    """Top examples from a small harvest of source code (many short documents), in a temporary folder."""
    settings = HarvestSettings()
    contexts = named_contexts(model, home, "django", tokens)
    units = {layer: select_units(NeuronSample(sample=4 * number), [1], layer, model.d_mlp) for layer in layers}
    materials = []
    with tempfile.TemporaryDirectory() as folder:
        found = harvest(
            model,
            contexts,
            layers,
            {layer: [unit.neuron for unit in units[layer]] for layer in layers},
            settings,
            top_contexts=method.top_contexts,
            contexts_per_document=method.contexts_per_document,
            cache_folder=Path(folder),
        )
        for layer in layers:
            frames = found.frames(layer)
            a_max = _a_max(frames.neuron_stats, units[layer])
            prober = LayerProber(model, layer, TokenBudget(settings.batch_tokens))
            top = choose_top_examples(units[layer], frames.top_contexts, contexts, a_max, prober, method)
            materials.append(_first_units(layer, top.tables["top_examples"], frames.neuron_stats, number))
    return materials


def _first_units(layer: int, top_examples: pl.DataFrame, stats: pl.DataFrame, number: int) -> Material:
    units = [
        Unit(*key) for key in top_examples.select("neuron", "sign").unique(maintain_order=True).head(number).rows()
    ]
    wanted = pl.DataFrame(units, schema={"neuron": pl.Int32, "sign": pl.Int8}, orient="row")
    return Material(layer, top_examples.join(wanted, on=["neuron", "sign"], how="semi"), _a_max(stats, units))


def _a_max(stats: pl.DataFrame, units: Sequence[Unit]) -> dict[Unit, float]:
    values = {Unit(neuron, sign): a for neuron, sign, a in stats.select("neuron", "sign", "max").iter_rows()}
    return {unit: values[unit] for unit in units}


@dataclass(frozen=True)
class Comparison:
    """What one layer's units took in both ways."""

    layer: int
    units: int
    ours: Cost
    loop: Cost

    @property
    def times_fewer_tokens(self) -> float:
        return self.loop.tokens / self.ours.tokens

    @property
    def times_fewer_seconds(self) -> float:
        return self.loop.seconds / self.ours.seconds


def materials_of(
    model: SubjectModel,
    home: Home,
    study: str,
    layers: Sequence[int],
    *,
    units: int,
    contexts: int,
    harvest_tokens: int,
    method: MethodSettings,
) -> list[Material]:
    """What both ways work on: layers that the study stores, and a harvest for the others."""
    stored = {layer: found for layer in layers if (found := stored_material(home, study, layer, units))}
    lacking = [layer for layer in layers if layer not in stored]
    if lacking:
        made = harvested_material(model, home, lacking, units, harvest_tokens, method)
        stored |= {material.layer: material for material in made}
    return [stored[layer].strongest(contexts) for layer in layers]


def compare(model: SubjectModel, material: Material, method: MethodSettings, *, single: bool = False) -> Comparison:
    """Both ways on one layer's units."""
    vocabulary = model.vocabulary(normalise=method.normalise_tokens)
    proposer = InfillProposer(model, vocabulary, method)
    loop = PlainLoop(model, material.layer, vocabulary, proposer, method, single)
    loop.activations(material.units[0], [np.zeros(32, np.int32)])  # the first pass is slower
    ours, plain = run_stages(model, material, vocabulary, proposer, method), Cost()
    for unit in material.units:
        plain.add(loop.run(unit, material.top_examples))
    return Comparison(material.layer, len(material.units), ours, plain)


def rows(home: Home) -> list[dict[str, Any]]:
    """The figures for the table of all benchmarks, from what the demo stores."""
    method = MethodSettings()
    model = load_model(home)
    materials = materials_of(
        model, home, "demo", LAYERS, units=1, contexts=3, harvest_tokens=HARVEST_TOKENS, method=method
    )
    found = [compare(model, material, method) for material in materials]
    ours, proposers = (sum(getattr(one.ours, name) for one in found) for name in ("seconds", "proposer_seconds"))
    layers = ", ".join(str(one.layer) for one in found)
    return [
        row(
            f"pruning to graph, layers {layers} (tokens a unit)",
            geometric([one.ours.tokens / one.units for one in found]),
            geometric([one.loop.tokens / one.units for one in found]),
            4,
            less_is_better=True,
        ),
        row(
            f"pruning to graph, layers {layers} (seconds a unit)",
            geometric([one.ours.seconds / one.units for one in found]),
            geometric([one.loop.seconds / one.units for one in found]),
            10,
            less_is_better=True,
        ),
        row("the proposer's part of pruning to graph (seconds)", proposers, ours, 4, less_is_better=True),
    ]


def describe(what: str, cost: Cost, units: int) -> str:
    return (
        f"  {what}: {cost.seconds / units:7.2f} s a unit, {cost.tokens / units:8,.0f} tokens a unit, of the seconds "
        f"{cost.proposer_seconds / units:.2f} ({cost.proposer_seconds / cost.seconds:.0%}) the proposer's, which ran "
        f"{cost.proposer_tokens / units:,.0f} tokens of its own"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default=",".join(map(str, LAYERS)), help="comma-separated")
    parser.add_argument("--units", type=int, default=1, help="units of each layer")
    parser.add_argument("--contexts", type=int, default=3, help="train contexts of each unit, the strongest first")
    parser.add_argument("--study", default="demo", help="study whose stored top examples are taken")
    parser.add_argument(
        "--harvest-tokens", type=int, default=HARVEST_TOKENS, help="tokens of the harvest for layers not stored"
    )
    parser.add_argument("--single", action="store_true", help="the loop runs every prompt in a pass of its own")
    options = parser.parse_args()

    home, method = Home.from_environment(), MethodSettings()
    model = load_model(home)
    layers = [int(layer) for layer in options.layers.split(",")]
    materials = materials_of(
        model, home, options.study, layers,
        units=options.units, contexts=options.contexts, harvest_tokens=options.harvest_tokens, method=method,
    )  # fmt: skip
    if not all(material.units for material in materials):
        parser.error("A layer has no unit with enough contexts: raise --harvest-tokens.")
    print(f"{model.name}, float32, {model.device}, {torch.get_num_threads()} threads")
    found = []
    for material in materials:
        one = compare(model, material, method, single=options.single)
        found.append(one)
        print(f"layer {one.layer}, {one.units} units")
        print(describe("ours", one.ours, one.units))
        print(describe("loop", one.loop, one.units))
        print(f"  times fewer tokens {one.times_fewer_tokens:.1f}, seconds {one.times_fewer_seconds:.1f}", flush=True)
    seconds, proposers = (sum(getattr(one.ours, name) for one in found) for name in ("seconds", "proposer_seconds"))
    print(f"proposer's share of our seconds, all layers together: {proposers / seconds:.0%}")
    print(f"times fewer tokens: {geometric([one.times_fewer_tokens for one in found]):.1f}")
    print(f"times faster: {geometric([one.times_fewer_seconds for one in found]):.1f}")


if __name__ == "__main__":
    main()
