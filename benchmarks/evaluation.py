"""Seconds to evaluate a layer over those of one bare forward pass through the same text, in one run.

The evaluation is what a study runs: the pass through the held-out texts for all units, all predictors fitted and asked
on all texts, scores, intervals, counterexamples and failures. The bare pass is the same model in plain transformers at
the same batches, stopped at the same layer; it runs the first of every three batches, which stands for the tokens of
its three. Graphs and the activations on the harvest are those that a study stores; what it has cached of the held-out
texts is not used. Each layer is evaluated by itself, as if it were alone; a run of several layers reads the texts once
for all. The ratio is the geometric mean over layers.

    python benchmarks/evaluation.py                     # study demo, its layers
    python benchmarks/evaluation.py --study smollm2 --layers 0,7,15
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import geometric, sampled_batches, stored_layers
from rows import row

from n2g_assets.assets.evaluation import LayerScoring
from n2g_assets.assets.session import Session
from n2g_assets.core.errors import StorageError
from n2g_assets.core.home import Home
from n2g_assets.core.registry import STAGES, named
from n2g_assets.core.settings import ScoredMethod, ScoreSettings
from n2g_assets.evaluation.material import UNIT_INPUTS
from n2g_assets.model.batching import pad
from n2g_assets.storage.slices import SliceStore
from n2g_assets.study import shipped_study

GOAL = 1 / 2
"""At most two bare passes."""
BARE_EVERY = 3
"""The bare pass runs the first of every so many batches."""


def bare_seconds(session: Session, layer: int) -> float:
    """One pass through the held-out texts that stops at a layer and keeps nothing, by some of its batches."""
    model = session.subject()
    contexts = [
        np.asarray(tokens, np.int32) for frame in session.held_out_contexts.values() for tokens in frame["token_ids"]
    ]
    lengths = np.array([len(tokens) for tokens in contexts], np.int64)
    seconds = 0.0
    for batch, stands_for in sampled_batches(lengths, session.settings.harvest.batch_tokens, BARE_EVERY).values():
        began = time.perf_counter()
        model.run(pad([contexts[context] for context in batch], model.bos_id), {layer: len})
        seconds += stands_for * (time.perf_counter() - began)
    return seconds


def without_cache(home: Home, folder: Path) -> Home:
    """A home with the same slices and models, and an empty cache."""
    for name in ("slices", "models", "downloads"):
        (folder / name).symlink_to((home.root / name).resolve(), target_is_directory=True)
    return Home(folder)


@dataclass(frozen=True)
class Cost:
    """Seconds of one layer."""

    bare: float
    evaluation: float

    @property
    def passes(self) -> float:
        return self.evaluation / self.bare


def measure(home: Home, name: str, layers: Sequence[int] | None) -> list[Cost]:
    """What each layer of a stored study takes; says so.

    Args:
        home: where the study is stored; nothing is written to it, unless what the model did on the harvest is gone.
        name: the study.
        layers: those that are evaluated if None.

    Raises:
        StorageError: no layer of the study is evaluated.
    """
    study = shipped_study(name)
    there = stored_layers(SliceStore(home), "evaluation", study.name)
    layers = there if layers is None else layers
    if not layers or not set(layers) <= set(there):
        raise StorageError(f"The study {name} has evaluated the layers {there}: materialize evaluation first.")
    with tempfile.TemporaryDirectory() as folder:
        session = Session(study, without_cache(home, Path(folder)), logging.getLogger())
        stored = Session(study, home, logging.getLogger())
        session.cached_harvest = stored.cached_harvest  # type: ignore[method-assign]
        session.read_once = stored.read_once  # type: ignore[method-assign]  # the scan's
        tokens = sum(int(frame["token_ids"].list.len().sum()) for frame in session.held_out_contexts.values())
        bare_seconds(session, layers[0])  # the first pass is slower
        found = []
        for layer in layers:
            bare = bare_seconds(session, layer)
            units = session.units(layer)
            began = time.perf_counter()
            session.cached_texts(layer)
            read = time.perf_counter()
            method, scores = (
                session.settings.method.part(ScoredMethod),
                session.settings.evaluation.part(ScoreSettings),
            )
            scoring, size = LayerScoring(session, layer), session.settings.method.units_per_block
            there = {table for stage in session.study.stages for table in named(STAGES)[stage].tables}
            for start in range(0, len(units), size):
                block = units[start : start + size]
                rows = {table: session.read(table, layer, units=block) for table in UNIT_INPUTS if table in there}
                scoring.compute(block, rows, session.a_max(layer, units), method, scores)
            ended = time.perf_counter()
            found.append(Cost(bare, ended - began))
            print(
                f"layer {layer}: {len(units)} units, {tokens:,} tokens: bare pass {bare:.1f} s, pass of the evaluation "
                f"{read - began:.1f} s, scoring {ended - read:.1f} s, together {found[-1].passes:.2f} bare passes",
                flush=True,
            )
    return found


def rows(home: Home) -> list[dict[str, Any]]:
    """The row for the table of all benchmarks: a layer of the demo, over one pass."""
    found = measure(home, "demo", None)
    ours, bare = geometric([one.evaluation for one in found]), geometric([one.bare for one in found])
    return [row("evaluation of a layer over a bare pass (seconds)", ours, bare, GOAL, less_is_better=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="demo")
    parser.add_argument("--layers", help="comma-separated; default: those of the study that are evaluated")
    options = parser.parse_args()
    layers = sorted(map(int, options.layers.split(","))) if options.layers else None
    try:
        passes = [one.passes for one in measure(Home.from_environment(), options.study, layers)]
    except StorageError as error:
        parser.error(str(error))
    print(f"evaluation of a layer over a bare pass: {geometric(passes):.2f} (largest {max(passes):.2f})")


if __name__ == "__main__":
    main()
