"""Seconds to evaluate a layer over those of one bare forward pass through the same text, in one run.

The evaluation is what a study runs: the pass through the held-out texts for all units, all predictors fitted and asked
on all texts, scores, intervals, counterexamples and failures. The bare pass is the same model in plain transformers at
the same batches, stopped at the same layer. Graphs are those that a study stores; activations that it has cached are
not used. Each layer is evaluated by itself, as if it were alone; a run of several layers reads the texts once for all.
The ratio is the geometric mean over layers.

    python benchmarks/evaluation.py                     # study demo, its layers
    python benchmarks/evaluation.py --study smollm2 --layers 0,7,15
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path

import numpy as np

from n2g_assets.assets.evaluation import LayerScoring
from n2g_assets.assets.workbench import Workbench
from n2g_assets.storage.home import Home
from n2g_assets.study import shipped_study
from n2g_assets.subject.batching import batches, pad


def bare_seconds(bench: Workbench, layer: int) -> float:
    """One pass through the held-out texts that stops at a layer and keeps nothing."""
    model = bench.subject()
    contexts = [
        np.asarray(tokens, np.int32) for frame in bench.held_out_contexts.values() for tokens in frame["token_ids"]
    ]
    lengths = np.array([len(tokens) for tokens in contexts], np.int64)
    began = time.perf_counter()
    for batch in batches(lengths, bench.settings.harvest.batch_tokens):
        model.run(pad([contexts[number] for number in batch], model.bos_id), {layer: len})
    return time.perf_counter() - began


def without_readings(home: Home, folder: Path) -> Home:
    """A home with the same slices and models, and an empty cache."""
    for name in ("slices", "models", "downloads"):
        (folder / name).symlink_to((home.root / name).resolve(), target_is_directory=True)
    return Home(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="demo")
    parser.add_argument("--layers", help="comma-separated; default: those of the study that are evaluated")
    options = parser.parse_args()
    study, home = shipped_study(options.study), Home.from_environment()
    there = Workbench(study, home, logging.getLogger()).store.layers("evaluation", study.name)
    layers = sorted(map(int, options.layers.split(","))) if options.layers else there
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(study, without_readings(home, Path(folder)), logging.getLogger())
        tokens = sum(int(frame["token_ids"].list.len().sum()) for frame in bench.held_out_contexts.values())
        bare_seconds(bench, layers[0])  # the first pass is slower
        ratios = []
        for layer in layers:
            bare = bare_seconds(bench, layer)
            units = bench.units(layer)
            began = time.perf_counter()
            bench.read_texts([layer], lambda done, total: None)
            read = time.perf_counter()
            LayerScoring(bench, layer, lambda done, total: None).compute(units, bench.a_max(layer, units))
            ended = time.perf_counter()
            ratios.append((ended - began) / bare)
            print(
                f"layer {layer}: {len(units)} units, {tokens:,} tokens: bare pass {bare:.1f} s, pass of the evaluation "
                f"{read - began:.1f} s, scoring {ended - read:.1f} s, together {ratios[-1]:.2f} bare passes"
            )
    print(f"evaluation of a layer over a bare pass: {np.exp(np.mean(np.log(ratios))):.2f} (largest {max(ratios):.2f})")


if __name__ == "__main__":
    main()
