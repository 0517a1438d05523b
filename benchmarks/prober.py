"""Tokens a second of the prober over those of a bare forward pass at the same depth, in one run.

The prober answers what pruning, saliency and augmentation ask for all units of a layer: prompts of 2 to 32 tokens that
come in waves, packed into rows that share their beginnings. Only tokens that went through the model count: not padding,
not prompts asked twice, not beginnings that a row shares. The bare pass is the same model in plain transformers,
without unembedding and the layers after the unit's, on full batches of long contexts. It runs after each of the
prober's calls, so that both see the same machine.

Each layer has its own ratio. It may exceed 1, where the neurons that nobody asked about are much of a pass.

    python benchmarks/prober.py                  # study demo, its layers, up to 6 units each
    python benchmarks/prober.py --study smollm2 --layers 0,7,15 --units 32
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common import cut_after, load_model, stored_layers, warm_up
from graphs import Material, stored_material
from jaxtyping import Float32, Int32
from rows import row

from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings, MethodSettings
from n2g_assets.core.units import Unit
from n2g_assets.method.augment import augment_examples
from n2g_assets.method.prune import prune_examples
from n2g_assets.model.batching import TokenBudget
from n2g_assets.model.infill import InfillProposer
from n2g_assets.model.model import SubjectModel
from n2g_assets.model.prober import LayerProber
from n2g_assets.storage.slices import SliceStore

UNITS = 6


@dataclass
class Speed:
    """Tokens and seconds of one way."""

    tokens: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


class TimedProber(LayerProber):
    """A prober that times its calls, and a bare pass after each."""

    def __init__(self, model: SubjectModel, layer: int, batch_tokens: int) -> None:
        super().__init__(model, layer, TokenBudget(batch_tokens))
        rng = np.random.default_rng(0)
        self.text = torch.from_numpy(rng.integers(0, model.d_vocab, (max(1, batch_tokens // 128), 128)))
        self.text[:, 0] = model.bos_id
        self.plain = cut_after(model, layer)
        self.ours, self.bare = Speed(), Speed()
        self.asked = 0

    def activations(
        self, prompts: Sequence[Int32[np.ndarray, " length"]], units: Sequence[Unit]
    ) -> list[Float32[np.ndarray, " length"]]:
        before, began = self.tokens, time.perf_counter()
        answers = super().activations(prompts, units)
        self.ours.seconds += time.perf_counter() - began
        self.ours.tokens += self.tokens - before
        self.asked += sum(map(len, prompts))
        while self.bare.tokens < self.ours.tokens:
            self._bare_pass()
        return answers

    def warm_up(self) -> None:
        """What is slower the first time, or checked once, is not counted."""
        warm_up(self)
        self.tokens, self.ours, self.bare = 0, Speed(), Speed()

    def _bare_pass(self) -> None:
        began = time.perf_counter()
        with torch.inference_mode():
            self.plain(self.text.to(self.model.device), use_cache=False)
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()
        self.bare.seconds += time.perf_counter() - began
        self.bare.tokens += self.text.numel()


def measure(model: SubjectModel, material: Material, method: MethodSettings) -> TimedProber:
    """All that the stages ask about a layer's units, timed."""
    vocabulary = model.vocabulary(normalise=method.normalise_tokens)
    proposer = InfillProposer(model, vocabulary, method)
    prober = TimedProber(model, material.layer, HarvestSettings().batch_tokens)
    prober.warm_up()
    units = material.units
    pruned = prune_examples(units, material.top_examples, material.a_max, vocabulary, prober, method).tables
    augment_examples(units, pruned["pruned_examples"], vocabulary, prober, proposer, method)
    return prober


def rows(home: Home) -> list[dict[str, Any]]:
    """A figure a layer for the table of all benchmarks, from what the demo stores."""
    method = MethodSettings()
    model = load_model(home)
    layers = stored_layers(SliceStore(home), "top_examples", "demo")
    materials = [found for layer in layers if (found := stored_material(home, "demo", layer, UNITS))]
    timed = [measure(model, material, method) for material in materials]
    return [row(f"prober, layer {one.layer} (tokens/s)", one.ours.rate, one.bare.rate, 0.85) for one in timed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="demo", help="study whose stored top examples are taken")
    parser.add_argument("--layers", help="comma-separated; default: all that are stored")
    parser.add_argument("--units", type=int, default=UNITS, help="units of each layer, the first ones")
    options = parser.parse_args()
    home, method = Home.from_environment(), MethodSettings()
    model = load_model(home)
    there = stored_layers(SliceStore(home), "top_examples", options.study)
    layers = [int(layer) for layer in options.layers.split(",")] if options.layers else there
    print(f"{model.name}, float32, {model.device}, {torch.get_num_threads()} threads")
    ratios = []
    for layer in layers:
        material = stored_material(home, options.study, layer, options.units)
        if material is None:
            parser.error(f"Study {options.study} has no top examples of layer {layer}: materialize them first.")
        one = measure(model, material, method)
        ratios.append(one.ours.rate / one.bare.rate)
        print(
            f"layer {layer}, {len(material.units)} units: asked for {one.asked:,} tokens, ran {one.ours.tokens:,} "
            f"in {one.calls} passes; {one.ours.rate:,.0f} tokens/s, bare pass {one.bare.rate:,.0f}, "
            f"ratio {ratios[-1]:.2f}",
            flush=True,
        )
    print(f"ratio {min(ratios):.3f} at the least")


if __name__ == "__main__":
    main()
