"""Tokens a second of the activation cache over those of a bare forward pass, in one run.

The activation cache is what a study runs: shards, selection for all neurons and both signs, windows of recorded
neurons, checkpoints on disk, and the merge into rows; after a pass in bfloat16 also the second measurement of what it
shortlists, in float32. The bare pass is the same model in plain transformers (sdpa) at the same dtype and batch, cut
after the deepest layer, without unembedding. After every batch of the harvest the bare pass runs that batch, so that
both see the same machine; the ratio is the median over repetitions. A small harvest before them compiles what is
compiled.

    python benchmarks/harvest.py                                     # all layers in float32
    python benchmarks/harvest.py --dtype bfloat16 --layers 0,1 --tokens 6144
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from common import cut_after, find_model
from rows import row

from n2g_assets.settings import HarvestSettings
from n2g_assets.storage.home import Home
from n2g_assets.subject.batching import batches, pad
from n2g_assets.subject.harvest import harvest
from n2g_assets.subject.model import SubjectModel, load_subject
from n2g_assets.subject.sources import SubjectFiles

GOALS = {"float32": 0.85, "bfloat16": 0.6}


@dataclass(frozen=True)
class Repetition:
    """Seconds of one harvest and of the bare pass through the same batches."""

    tokens: int
    bare: float
    """The bare pass."""
    passed: float
    """The harvest until its last checkpoint is written."""
    whole: float
    """The harvest with the rows of all layers."""

    @property
    def ratio(self) -> float:
        return self.bare / self.whole


def make_contexts(model: SubjectModel, tokens: int, length: int) -> pl.DataFrame:
    """Documents of eight contexts; token ids as frequent as in text (Zipf), some last contexts shorter."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(max(1, tokens // length)):
        short = number % 8 == 7
        ids = rng.zipf(1.2, int(rng.integers(8, length)) if short else length - 1) % model.d_vocab
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
    context_length: int = 128,
    batch_tokens: int = 4096,
    recorded: int = 16,
) -> list[Repetition]:
    """Harvest made-up text beside the bare pass.

    Args:
        files: The model.
        dtype: Arithmetic of both.
        layers: Layers that are harvested; none takes all.
        tokens: Tokens of each repetition.
        repetitions: How often.
        context_length: Tokens of most contexts.
        batch_tokens: Tokens of a batch.
        recorded: Recorded neurons of a layer.
    """
    settings = HarvestSettings(
        context_length=context_length,
        batch_tokens=batch_tokens,
        shard_tokens=max(tokens, HarvestSettings().shard_tokens),  # one shard, so that both see the same batches
        dtype=dtype,  # type: ignore[arg-type]
    )
    model = load_subject(files, "mlp.hook_post", settings, "auto", dtype=settings.dtype)
    exact = None if dtype == "float32" else load_subject(files, "mlp.hook_post", settings, "auto")
    numbers = list(layers or range(model.n_layers))
    rng = np.random.default_rng(1)
    chosen = {layer: rng.permutation(model.d_mlp)[:recorded].tolist() for layer in numbers}
    warm_up = make_contexts(model, 4 * context_length, context_length)
    _repeat(model, exact, warm_up, {numbers[0]: chosen[numbers[0]]}, settings)
    contexts = make_contexts(model, tokens, context_length)
    return [_repeat(model, exact, contexts, chosen, settings) for _ in range(repetitions)]


def _repeat(
    model: SubjectModel,
    exact: SubjectModel | None,
    contexts: pl.DataFrame,
    recorded: dict[int, list[int]],
    settings: HarvestSettings,
) -> Repetition:
    token_ids = [np.array(ids) for ids in contexts["token_ids"].to_list()]
    lengths = np.array([len(ids) for ids in token_ids])
    bare = cut_after(model, max(recorded))
    todo = iter([pad([token_ids[i] for i in batch], model.bos_id) for batch in batches(lengths, settings.batch_tokens)])
    bare_seconds = 0.0

    def run_bare(_done: int, _total: int) -> None:
        nonlocal bare_seconds
        began = time.perf_counter()
        with torch.inference_mode():
            bare(next(todo).to(model.device), use_cache=False)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        bare_seconds += time.perf_counter() - began

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = harvest(
            model,
            contexts,
            list(recorded),
            recorded,
            settings,
            top_contexts=20,
            contexts_per_document=2,
            cache_folder=Path(folder),
            progress=run_bare,
            exact_model=exact,
        )
        passed = time.perf_counter() - began - bare_seconds
        for layer in recorded:
            found.frames(layer)
        whole = time.perf_counter() - began - bare_seconds
    return Repetition(int(lengths.sum()), bare_seconds, passed, whole)


def rows(home: Home) -> list[dict[str, Any]]:
    """The rows of ``make bench``: float32 at all layers, and bfloat16 at few.

    Returns:
        For each name, ours and baseline in tokens a second, their ratio and the goal.
    """
    files = find_model(home)
    found = []
    for dtype, layers, tokens in (("float32", None, 24_576), ("bfloat16", [0, 1], 6144)):
        repetition = measure(files, dtype=dtype, layers=layers, tokens=tokens)[0]
        what = "all layers" if layers is None else f"layers 0 to {max(layers)}"
        found.append(
            row(
                f"activation cache, {dtype}, {what} (tokens/s)",
                repetition.tokens / repetition.whole,
                repetition.tokens / repetition.bare,
                GOALS[dtype],
            )
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default="all", help="comma-separated, or all")
    parser.add_argument("--model", help="model folder in Hugging Face layout; the default subject model if left out")
    parser.add_argument("--dtype", choices=list(GOALS), default="float32")
    parser.add_argument("--tokens", type=int, default=24_576, help="tokens of each repetition")
    parser.add_argument("--context-length", type=int, default=128)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--recorded", type=int, default=16, help="recorded neurons of a layer")
    parser.add_argument("--repetitions", type=int, default=1)
    options = parser.parse_args()
    files = find_model(Home.from_environment(), options.model)
    print(
        f"{files.name}, {options.dtype}, layers {options.layers}, contexts of {options.context_length}, batches of "
        f"{options.batch_tokens}, {torch.get_num_threads()} threads"
    )
    found = measure(
        files,
        dtype=options.dtype,
        layers=None if options.layers == "all" else [int(number) for number in options.layers.split(",")],
        tokens=options.tokens,
        repetitions=options.repetitions,
        context_length=options.context_length,
        batch_tokens=options.batch_tokens,
        recorded=options.recorded,
    )
    for number, one in enumerate(found, 1):
        print(
            f"repetition {number}: {one.tokens} tokens, bare pass {one.tokens / one.bare:.0f} tokens/s, activation "
            f"cache {one.tokens / one.whole:.0f} tokens/s ({one.tokens / one.passed:.0f} before the merge into rows), "
            f"ratio {one.ratio:.3f}"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print(f"ratio {statistics.median(one.ratio for one in found):.3f}")


if __name__ == "__main__":
    main()
