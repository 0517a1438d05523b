"""Tokens a second of two runs side by side that share the lock of the forward pass, over those of one run alone.

Each run is a process with the model loaded. In three steps, some times over:

1. one process makes all passes;
2. both make half of them each at the same time, one pass at a time, as Dagster runs of different layers do;
3. the same without the lock, with fewer passes, since it can take far longer; shown for comparison.

A pass is one batch of 8 contexts of 128 tokens up to layer 7. The time from the begin of a step to the end of its last
process counts. The ratio is the median over repetitions.

    python benchmarks/workers.py                 # 4 passes a process, 2 without the lock
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import load_model
from rows import row

from n2g_assets.core.home import Home
from n2g_assets.model.lock import forward_pass_lock

GOAL = 0.9
CONTEXTS, LENGTH = 8, 128
PASSES, PASSES_WITHOUT, REPETITIONS = 4, 2, 3
LIMIT_SECONDS = 40.0
"""No further repetition is begun after these: without the lock, or beside other programs, one can take minutes."""


def work(home: Home, layer: int, lock: Path) -> None:
    """One run: for each line that it reads, ``lock`` or ``none`` and a number, it makes that many passes."""
    model = load_model(home)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, model.d_vocab, (CONTEXTS, LENGTH)))
    tokens[:, 0] = model.bos_id
    locks = {"lock": forward_pass_lock(lock), "none": nullcontext()}
    print("ready", flush=True)
    for line in sys.stdin:
        way, number = line.split()
        model.lock = locks[way]
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


def rate(processes: Sequence[subprocess.Popen[str]], passes: int, *, lock: bool) -> float:
    """Tokens a second of these processes together, each of which makes that many passes."""
    began = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{'lock' if lock else 'none'} {passes}\n")
        process.stdin.flush()
    for process in processes:
        _await(process, "done")
    return len(processes) * passes * CONTEXTS * LENGTH / (time.perf_counter() - began)


@dataclass(frozen=True)
class Speeds:
    """Tokens a second of one repetition."""

    alone: float
    locked: float
    without: float


def measure(home: Home, layer: int, passes: int, passes_without: int, repetitions: int) -> list[Speeds]:
    """The speeds of each repetition; prints them."""
    found = []
    with two_runs(home, layer) as both:
        for process in both:
            rate([process], 2, lock=True)  # the first pass is slower
        began = time.perf_counter()
        for repetition in range(repetitions):
            if found and time.perf_counter() - began > LIMIT_SECONDS:
                break
            speeds = Speeds(
                alone=rate(both[:1], 2 * passes, lock=True),
                locked=rate(both, passes, lock=True),
                without=rate(both, passes_without, lock=False),
            )
            found.append(speeds)
            print(
                f"repetition {repetition + 1}: one run {speeds.alone:,.0f} tokens/s, two with the lock "
                f"{speeds.locked:,.0f} ({speeds.locked / speeds.alone:.2f}), two without it {speeds.without:,.0f} "
                f"({speeds.without / speeds.alone:.2f})",
                flush=True,
            )
    return found


def rows(home: Home) -> list[dict[str, Any]]:
    """The row for the table of all benchmarks."""
    found = measure(home, 7, PASSES, PASSES_WITHOUT, REPETITIONS)
    return [
        row(
            "two runs side by side, layer 7, over one (tokens/s)",
            statistics.median(speeds.locked for speeds in found),
            statistics.median(speeds.alone for speeds in found),
            GOAL,
            ratio=statistics.median(speeds.locked / speeds.alone for speeds in found),
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", type=int, default=7)
    parser.add_argument("--passes", type=int, default=PASSES, help="of each of the two, with the lock")
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
    print(f"without the lock {statistics.median(speeds.without / speeds.alone for speeds in found):.2f}")
    print(f"ratio {statistics.median(speeds.locked / speeds.alone for speeds in found):.2f}")


if __name__ == "__main__":
    main()
