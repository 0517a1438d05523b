"""Tokens a second of two runs side by side that take turns, over those of one run alone, on the same machine.

Each run is a process with the model loaded. In three steps, some times over:

1. one process runs all passes;
2. both run half of them each at the same time, and take turns, as Dagster runs of different layers do;
3. the same without turns, with fewer passes, since it can take ten times as long; shown for comparison.

A pass is one batch of 8 contexts of 128 tokens up to layer 7. Processes give a figure of their own for every step: the
time from its begin to the end of the last of them counts. The ratio is the median over repetitions.

    python benchmarks/workers.py                 # 4 passes a process, 2 without turns
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import load_model
from rows import row

from n2g_assets.core.home import Home
from n2g_assets.model.turns import Turns

GOAL = 0.9
CONTEXTS, LENGTH = 8, 128
PASSES, PASSES_WITHOUT, REPETITIONS = 4, 2, 3
ENOUGH_SECONDS = 40.0
"""No further repetition is begun after these: without turns, or beside other programs, one can take minutes."""


def work(home: Home, layer: int, lock: Path) -> None:
    """One run: for each line that it reads, ``turns`` or ``none`` and a number, it makes that many passes."""
    model = load_model(home)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, model.d_vocab, (CONTEXTS, LENGTH)))
    tokens[:, 0] = model.bos_id
    shared, alone = Turns(lock), Turns(None)
    print("ready", flush=True)
    for line in sys.stdin:
        way, number = line.split()
        model.turns = shared if way == "turns" else alone
        for _ in range(int(number)):
            model.run(tokens, {layer: len})
            if model.device.type == "cuda":
                torch.cuda.synchronize()
        print("done", flush=True)


@contextmanager
def two_runs(home: Home, layer: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that are ready to pass; the second is started when the first one has loaded its model."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--work", folder, "--layer", str(layer), "--home", str(home.root)]
        started: list[subprocess.Popen[str]] = []
        try:
            for _ in range(2):
                started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
                _await(started[-1], "ready")
            yield started
        finally:
            for process in started:
                process.kill()
                process.communicate()


def _await(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    if process.stdout.readline().strip() != word:
        raise RuntimeError(f"a run ended with status {process.wait()}; its own message stands above")


def rate(processes: Sequence[subprocess.Popen[str]], passes: int, *, turns: bool) -> float:
    """Tokens a second of some processes together, each of which makes that many passes."""
    began = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{'turns' if turns else 'none'} {passes}\n")
        process.stdin.flush()
    for process in processes:
        _await(process, "done")
    return len(processes) * passes * CONTEXTS * LENGTH / (time.perf_counter() - began)


@dataclass(frozen=True)
class Speeds:
    """Tokens a second of one repetition."""

    alone: float
    turns: float
    without: float


def measure(home: Home, layer: int, passes: int, passes_without: int, repetitions: int) -> list[Speeds]:
    """The speeds of each repetition; prints them."""
    found = []
    with two_runs(home, layer) as both:
        for process in both:
            rate([process], 2, turns=True)  # the first pass is slower
        began = time.perf_counter()
        for repetition in range(repetitions):
            if found and time.perf_counter() - began > ENOUGH_SECONDS:
                break
            one = Speeds(
                alone=rate(both[:1], 2 * passes, turns=True),
                turns=rate(both, passes, turns=True),
                without=rate(both, passes_without, turns=False),
            )
            found.append(one)
            print(
                f"repetition {repetition + 1}: one run {one.alone:,.0f} tokens/s, two in turns {one.turns:,.0f} "
                f"({one.turns / one.alone:.2f}), two without {one.without:,.0f} ({one.without / one.alone:.2f})",
                flush=True,
            )
    return found


def rows(home: Home) -> list[dict[str, Any]]:
    """The row for the table of all benchmarks."""
    found = measure(home, 7, PASSES, PASSES_WITHOUT, REPETITIONS)
    return [
        row(
            "two runs side by side, layer 7, over one (tokens/s)",
            statistics.median(one.turns for one in found),
            statistics.median(one.alone for one in found),
            GOAL,
            ratio=statistics.median(one.turns / one.alone for one in found),
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", type=int, default=7)
    parser.add_argument("--passes", type=int, default=PASSES, help="of each of the two, in turns")
    parser.add_argument("--passes-without", type=int, default=PASSES_WITHOUT, help="of each of the two, without")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(Home(options.home), options.layer, options.work / "forward_pass.lock")
        return
    home = Home.from_environment()
    found = measure(home, options.layer, options.passes, options.passes_without, options.repetitions)
    print(f"without turns {statistics.median(one.without / one.alone for one in found):.2f}")
    print(f"ratio {statistics.median(one.turns / one.alone for one in found):.2f}")


if __name__ == "__main__":
    main()
