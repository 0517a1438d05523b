"""Tokens a second of the activation cache over those of a bare forward pass, in one run.

The activation cache is what a study runs: shards, selection for all neurons and both signs, windows of recorded
neurons, checkpoints on disk, and the merge into rows. The bare pass is the same model in plain transformers (sdpa) at
the same dtype and batch, cut after the deepest layer, without unembedding. After every batch of the harvest the bare
pass runs that batch, so that both see the same machine; the ratio is the median over repetitions.

    python benchmarks/harvest.py                 # layers 0, 7 and 15
    python benchmarks/harvest.py --layers all
"""

from __future__ import annotations

import argparse
import copy
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

from n2g_assets.settings import HarvestSettings, LocalSubject, WheelSubject
from n2g_assets.storage.home import Home
from n2g_assets.subject.batching import batches, pad
from n2g_assets.subject.harvest import harvest
from n2g_assets.subject.model import SubjectModel, load_subject
from n2g_assets.subject.sources import resolve_subject


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


def cut_after(model: SubjectModel, layer: int) -> torch.nn.Module:
    """The plain model without unembedding and without the layers after ``layer``; weights are shared."""
    bare = copy.copy(model.plain.base_model)
    bare._modules = dict(bare._modules)
    for name, module in bare._modules.items():
        if isinstance(module, torch.nn.ModuleList) and len(module) == model.n_layers:
            bare._modules[name] = module[: layer + 1]
    bare.config = copy.copy(bare.config)
    bare.config.num_hidden_layers = layer + 1
    return bare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default="0,7,15", help="comma-separated, or all")
    parser.add_argument("--model", help="model folder in Hugging Face layout; the default subject model if left out")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--tokens", type=int, default=32768, help="tokens of each repetition")
    parser.add_argument("--context-length", type=int, default=128)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--recorded", type=int, default=16, help="recorded neurons of a layer")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()

    home = Home.from_environment()
    source = (
        LocalSubject(source="local", path=str(Path(options.model).absolute()))
        if options.model
        else WheelSubject(source="wheel", name="smollm2-135m-instruct")
    )
    settings = HarvestSettings(
        context_length=options.context_length,
        batch_tokens=options.batch_tokens,
        shard_tokens=max(
            options.tokens, HarvestSettings().shard_tokens
        ),  # one shard, so that both see the same batches
        dtype=options.dtype,
    )
    files = resolve_subject(source, study_folder=Path.cwd(), home=home)
    model = load_subject(files, "mlp.hook_post", settings, "auto", dtype=options.dtype)
    exact = model if options.dtype == "float32" else load_subject(files, "mlp.hook_post", settings, "auto")
    layers = list(range(model.n_layers)) if options.layers == "all" else [int(n) for n in options.layers.split(",")]
    contexts = make_contexts(model, options.tokens, options.context_length)
    token_ids = [np.array(ids) for ids in contexts["token_ids"].to_list()]
    lengths = np.array([len(ids) for ids in token_ids])
    bare = cut_after(model, max(layers))
    rng = np.random.default_rng(1)
    recorded = {layer: rng.permutation(model.d_mlp)[: options.recorded].tolist() for layer in layers}
    print(
        f"{model.name}, {options.dtype}, layers {options.layers} of {model.n_layers}, {int(lengths.sum())} tokens, "
        f"contexts of {options.context_length}, batches of {options.batch_tokens}, {torch.get_num_threads()} threads"
    )

    ratios = []
    for repetition in range(options.repetitions):
        todo = iter(
            [pad([token_ids[i] for i in batch], model.bos_id) for batch in batches(lengths, options.batch_tokens)]
        )
        bare_seconds = 0.0

        def run_bare(done: int, total: int, todo=todo) -> None:
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
                layers,
                recorded,
                settings,
                top_contexts=20,
                contexts_per_document=2,
                cache_folder=Path(folder),
                progress=run_bare,
                exact_model=None if options.dtype == "float32" else exact,
            )
            passed = time.perf_counter() - began - bare_seconds
            for layer in layers:
                found.frames(layer)
            seconds = time.perf_counter() - began - bare_seconds
        ratios.append(bare_seconds / seconds)
        print(
            f"repetition {repetition + 1}: bare pass {lengths.sum() / bare_seconds:.0f} tokens/s, "
            f"activation cache {lengths.sum() / seconds:.0f} tokens/s "
            f"({lengths.sum() / passed:.0f} before the merge into rows), ratio {ratios[-1]:.3f}"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print(f"ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
