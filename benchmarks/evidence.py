"""What is made of stored evidence, over the least that could be made of it, in one run.

1. Statistics, strongest positions and top contexts of all neurons of a wide layer, both signs, over one float64 sum of
   every neuron's row: the least that exact statistics need. Both read the rows from the store.
2. The activations of one neuron at every token of a large corpus, in milliseconds.

The activations are random, of the kind that models have (a few are large): no model runs, but its store is filled as
by a pass. Peak memory is that of the process, of which the pass itself takes a part.

    python benchmarks/evidence.py                                   # 1,536 neurons at 460,000 tokens: 2.8 GB of disk
    python benchmarks/evidence.py --neurons 16 --tokens 10000000 --dtype int8
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from rows import row
from torch import Tensor

from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings, MethodSettings
from n2g_assets.core.units import Unit
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.derive import derive
from n2g_assets.evidence.store import Evidence, read_evidence
from n2g_assets.model.model import SubjectModel
from n2g_assets.storage.cache import Cache

CONTEXT, CONTEXTS_A_DOCUMENT = 128, 8
GOAL = 0.2


def noise(neurons: int) -> SubjectModel:
    """A model of one layer whose activations are cubes of normal numbers."""
    generator = torch.Generator().manual_seed(0)

    def run(tokens: Tensor, taps: Mapping[int, Callable[[Tensor], None]]) -> None:
        taps[0](torch.randn(*tokens.shape, neurons, generator=generator) ** 3)

    model = SimpleNamespace(
        run=run, check_study=lambda *_: None, device=torch.device("cpu"), dtype=torch.float32, bos_id=0, name="noise",
        facts={"file_sha256": "noise", "hook": "noise"},
        picker=lambda _layer, numbers: lambda carried: carried.flatten(0, 1).t().index_select(0, numbers),
    )  # fmt: skip
    return cast(SubjectModel, model)


def fill(folder: Path, neurons: int, tokens: int, settings: HarvestSettings) -> Evidence:
    """The evidence of all neurons at so many tokens, as a later run finds it."""
    numbers = np.arange(tokens // CONTEXT)
    contexts = pl.DataFrame(
        {
            "context_id": [f"{number:08d}" for number in numbers],
            "document_id": [f"{number // CONTEXTS_A_DOCUMENT:08d}" for number in numbers],
            "token_ids": np.zeros((len(numbers), CONTEXT), np.int32),
        },
        schema_overrides={"token_ids": pl.Array(pl.Int32, CONTEXT)},
    ).with_columns(pl.col("token_ids").cast(pl.List(pl.Int32)))
    read = partial(read_evidence, noise(neurons), TokenCorpus.from_frame(contexts), {0: range(neurons)}, settings)
    read(cache=Cache(Home(folder)))
    return read(cache=Cache(Home(folder)))


def measure_derive(evidence: Evidence, neurons: int) -> tuple[float, float]:
    """Seconds of the derivation for both signs, and of the sums."""
    method, units = MethodSettings(), [Unit(number, sign) for number in range(neurons) for sign in (1, -1)]
    began = time.perf_counter()
    derive(
        partial(evidence.rows, 0), evidence.corpus, units,
        strongest=HarvestSettings().strongest, top_contexts=method.top_contexts,
        contexts_per_document=method.contexts_per_document,
    )  # fmt: skip
    derived, began = time.perf_counter() - began, time.perf_counter()
    for number in range(neurons):
        evidence.rows(0, [number])[0].sum(dtype=np.float64)
    return derived, time.perf_counter() - began


def rows(home: Home) -> list[dict[str, Any]]:
    """The rows of ``make bench``: a narrower layer and fewer tokens."""
    with tempfile.TemporaryDirectory() as folder:
        derived, sums = measure_derive(fill(Path(folder), 64, 460_000, HarvestSettings()), 64)
    return [row("statistics and top contexts over a sum (seconds)", derived, sums, GOAL, less_is_better=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, default=1536)
    parser.add_argument("--tokens", type=int, default=460_000)
    parser.add_argument("--dtype", choices=["float32", "float16", "int8"], default="float32", help="evidence_dtype")
    parser.add_argument("--folder", type=Path, help="where the evidence lies for a while (default: a temporary folder)")
    options = parser.parse_args()
    settings = HarvestSettings(evidence_dtype=options.dtype)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        began = time.perf_counter()
        evidence = fill(Path(folder), options.neurons, options.tokens, settings)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{options.neurons} neurons, {options.tokens:,} tokens, {options.dtype}: filled and found again in "
              f"{time.perf_counter() - began:.0f} s, peak memory {peak / 2**20:.2f} GiB")  # fmt: skip
        spent = []
        for number in range(min(options.neurons, 16)):
            began = time.perf_counter()
            evidence.rows(0, [number])
            spent.append(time.perf_counter() - began)
        print(f"one neuron at every token: {1000 * float(np.median(spent)):.1f} ms")
        derived, sums = measure_derive(evidence, options.neurons)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"statistics and top contexts, both signs: {derived:.1f} s, peak memory {peak / 2**20:.2f} GiB")
        print(f"ratio {sums / derived:.3f} (a float64 sum of every row: {sums:.1f} s)")


if __name__ == "__main__":
    main()
