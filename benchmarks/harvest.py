"""Tokens a second of the harvest over those of a bare forward pass, in one run.

The harvest is what a study runs: the pass, the activations of 64 units a layer at every token on disk, and the rows of
``neuron_stats``, ``activations`` and ``top_contexts`` made of them; after a pass in bfloat16 also the second
measurement, in float32, of what it shortlists. The row in bfloat16 is slow on processors without instructions for it,
and therefore runs few tokens.

The bare pass is the same model in plain transformers (sdpa) at the same dtype and batch, cut after the deepest layer,
without unembedding. It runs the first of every four batches, right after the harvest did, so that both see the same
machine, and stands for the tokens of its four (``common.sampled_batches``). The harvest counts with all of its tokens
and seconds. The ratio is the median over repetitions.

    python benchmarks/harvest.py                                     # all layers in float32, one shard
    python benchmarks/harvest.py --dtype bfloat16 --layers 0,1 --tokens 6144
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from common import cut_after, find_model, harvest, sampled_batches
from rows import row

from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings, MethodSettings
from n2g_assets.core.unit_settings import NeuronSample
from n2g_assets.core.units import Unit, select_units
from n2g_assets.model.batching import pad
from n2g_assets.model.load import load_subject
from n2g_assets.model.model import SubjectModel
from n2g_assets.model.sources import SubjectFiles

GOALS = {"float32": 0.9, "bfloat16": 0.6}
TOKENS = HarvestSettings().shard_tokens
UNITS, BARE_EVERY = 64, 4


@dataclass(frozen=True)
class Repetition:
    """Seconds of one harvest and of the bare pass through the same tokens."""

    tokens: int
    bare: float
    """The bare pass, all batches, by those that it ran."""
    whole: float
    """The harvest: the pass, its evidence on disk, and the rows of all layers."""

    @property
    def ratio(self) -> float:
        return self.bare / self.whole


def make_contexts(model: SubjectModel, tokens: int, length: int) -> pl.DataFrame:
    """Documents of eight contexts, the last shorter; token ids as frequent as in text (Zipf); at most ``tokens``."""
    rng = np.random.default_rng(0)
    rows: list[tuple[str, str, list[int]]] = []
    for number in itertools.count():
        short = number % 8 == 7
        ids = rng.zipf(1.2, int(rng.integers(8, length)) if short else length - 1) % model.d_vocab
        tokens -= 1 + len(ids)
        if tokens < 0 and rows:
            break
        rows.append((f"{number // 8:06d}:{number % 8}", f"{number // 8:06d}", [model.bos_id, *ids.tolist()]))
    schema = {"context_id": pl.String, "document_id": pl.String, "token_ids": pl.List(pl.Int32)}
    return pl.DataFrame(rows, schema=schema, orient="row")


def measure(
    files: SubjectFiles,
    *,
    dtype: str,
    layers: Sequence[int] | None,
    tokens: int,
    repetitions: int = 1,
    batch_tokens: int = 4096,
    bare_every: int = BARE_EVERY,
    n_units: int = UNITS,
) -> list[Repetition]:
    """Harvest made-up text beside the bare pass.

    Args:
        files: The model.
        dtype: Arithmetic of both.
        layers: Layers that are harvested; none takes all.
        tokens: Tokens of each repetition: one shard.
        repetitions: How often.
        batch_tokens: Tokens of a batch.
        bare_every: The bare pass runs the first of every so many batches.
        n_units: Units of each layer.
    """
    settings = HarvestSettings(
        batch_tokens=batch_tokens,
        shard_tokens=max(tokens, HarvestSettings().shard_tokens),  # one shard, so that both see the same batches
        dtype=dtype,  # type: ignore[arg-type]
    )
    model = load_subject(files, "mlp.hook_post", settings, "auto", dtype=settings.dtype)
    exact = None if dtype == "float32" else load_subject(files, "mlp.hook_post", settings, "auto")
    numbers = list(layers or range(model.n_layers))
    chosen = {layer: select_units(NeuronSample(sample=n_units), [1], layer, model.d_mlp) for layer in numbers}
    warm_up = make_contexts(model, 4 * settings.context_length, settings.context_length)
    _repeat(model, exact, warm_up, {numbers[0]: chosen[numbers[0]]}, settings, bare_every)
    contexts = make_contexts(model, tokens, settings.context_length)
    return [_repeat(model, exact, contexts, chosen, settings, bare_every) for _ in range(repetitions)]


def _repeat(
    model: SubjectModel,
    exact: SubjectModel | None,
    contexts: pl.DataFrame,
    units: dict[int, list[Unit]],
    settings: HarvestSettings,
    bare_every: int,
) -> Repetition:
    token_ids = [np.array(ids) for ids in contexts["token_ids"].to_list()]
    lengths = np.array([len(ids) for ids in token_ids])
    bare = cut_after(model, max(units))
    sampled = sampled_batches(lengths, settings.batch_tokens, bare_every)
    padded = {number: pad([token_ids[i] for i in batch], model.bos_id) for number, (batch, _) in sampled.items()}
    numbers = itertools.count()
    spent = bare_seconds = 0.0

    def run_bare(_done: int, _total: int) -> None:
        nonlocal spent, bare_seconds
        number = next(numbers)
        if number not in padded:
            return
        if model.device.type == "cuda":
            torch.cuda.synchronize()  # the harvest's next batch runs already
        began = time.perf_counter()
        with torch.inference_mode():
            bare(padded[number].to(model.device), use_cache=False)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        spent += seconds
        bare_seconds += seconds * sampled[number][1]

    began = time.perf_counter()
    harvest(model, contexts, units, settings, MethodSettings(), exact=exact, progress=run_bare)
    return Repetition(int(lengths.sum()), bare_seconds, time.perf_counter() - began - spent)


def rows(home: Home) -> list[dict[str, Any]]:
    """The rows of ``make bench``: a shard in float32 at all layers, and a few tokens in bfloat16 at few.

    Returns:
        For each name, ours and baseline in tokens a second, their ratio and the goal.
    """
    files = find_model(home)
    found = []
    for dtype, layers, tokens, bare_every in (("float32", None, TOKENS, BARE_EVERY), ("bfloat16", [0, 1], 6144, 1)):
        repetition = measure(files, dtype=dtype, layers=layers, tokens=tokens, bare_every=bare_every)[0]
        what = "all layers" if layers is None else f"layers 0 to {max(layers)}"
        found.append(
            row(
                f"harvest, {dtype}, {what} (tokens/s)",
                repetition.tokens / repetition.whole,
                repetition.tokens / repetition.bare,
                GOALS[dtype],
            )
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default="all", help="comma-separated, or all")
    parser.add_argument("--dtype", choices=list(GOALS), default="float32")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens of each repetition: one shard")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--units", type=int, default=UNITS, help="units of each layer")
    options = parser.parse_args()
    files = find_model(Home.from_environment())
    print(
        f"{files.name}, {options.dtype}, layers {options.layers}, batches of {options.batch_tokens} "
        f"tokens, {torch.get_num_threads()} threads"
    )
    found = measure(
        files,
        dtype=options.dtype,
        layers=None if options.layers == "all" else [int(number) for number in options.layers.split(",")],
        tokens=options.tokens,
        repetitions=options.repetitions,
        batch_tokens=options.batch_tokens,
        n_units=options.units,
    )
    for number, one in enumerate(found, 1):
        print(
            f"repetition {number}: {one.tokens} tokens, bare pass {one.tokens / one.bare:.0f} tokens/s, harvest "
            f"{one.tokens / one.whole:.0f} tokens/s, ratio {one.ratio:.3f}"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print(f"ratio {statistics.median(one.ratio for one in found):.3f}")


if __name__ == "__main__":
    main()
