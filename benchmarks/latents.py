"""Latents of wide dictionaries beside the neurons of a layer: seconds a unit of a pass, its disk and its memory.

The dictionaries are top-k autoencoders of the residual stream with random weights, the costliest kind: all latents have
to be computed, whichever are asked for. Tokens are random too. Seconds and bytes are those of ``read_evidence`` on the
same tokens, a unit each; memory is the largest that the process had, the model included.

    python benchmarks/latents.py                                   # 131,072 latents, 256 asked; 16,384, all asked
    python benchmarks/latents.py --tokens 16384
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from common import find_model
from rows import row
from safetensors.torch import save_file

from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings, MethodSettings
from n2g_assets.core.unit_settings import LocalEncoder
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.store import read_evidence
from n2g_assets.model.encoders.resolve import AUTO, resolve_encoders
from n2g_assets.model.load import load_subject
from n2g_assets.model.model import SubjectModel
from n2g_assets.model.sources import SubjectFiles
from n2g_assets.storage.cache import Cache

LAYER, TOP, WIDTH, CONTEXT = 7, 32, 576, 128
GIGABYTES = 4
"""That a pass with a dictionary of 131,072 latents may take."""


def write_dictionary(folder: Path, latents: int) -> Path:
    """Random weights in the layout of sparsify."""
    weights = torch.randn(latents, WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16()
    inside = folder / f"layers.{LAYER}"
    inside.mkdir(parents=True)
    named = {"encoder.weight": weights, "encoder.bias": torch.zeros(latents), "b_dec": torch.zeros(WIDTH)}
    save_file({**named, "W_dec": weights.clone()}, inside / "sae.safetensors")
    (inside / "cfg.json").write_text(json.dumps({"num_latents": latents, "k": TOP, "d_in": WIDTH}))
    return folder


def made_up(model: SubjectModel, tokens: int) -> TokenCorpus:
    """Contexts of random tokens, eight a document."""
    rng, count = np.random.default_rng(0), tokens // CONTEXT
    ids = rng.integers(2, model.d_vocab, (count, CONTEXT)).astype(np.int32)
    ids[:, 0] = model.bos_id
    names = [f"{number:06d}" for number in range(count)]
    frame = {"context_id": names, "document_id": [name[:5] for name in names], "token_ids": ids.tolist()}
    return TokenCorpus.from_frame(pl.DataFrame(frame, schema_overrides={"token_ids": pl.List(pl.Int32)}))


def measure(model: SubjectModel, asked: Sequence[int], tokens: int) -> tuple[float, int]:
    """Seconds of a pass, and bytes of the evidence that it keeps."""
    corpus, settings = made_up(model, tokens), HarvestSettings()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        read_evidence(model, corpus, {LAYER: asked}, settings, cache=Cache(Home(Path(folder))))
        seconds = time.perf_counter() - began
        kept = sum(file.stat().st_size for file in Path(folder).rglob("activations.npy"))
    return seconds, kept


def of_dictionary(files: SubjectFiles, folder: Path) -> SubjectModel:
    """The default model, whose units are the latents of a dictionary."""
    encoders = resolve_encoders(LocalEncoder(source="local", path=str(folder)), [LAYER], AUTO, study_folder=folder)
    return load_subject(files, encoders.hook, HarvestSettings(), MethodSettings().mask_token, encoders=encoders)


def rows(home: Home) -> list[dict[str, Any]]:
    """Those of few tokens."""
    return compare(home, 4096)


def compare(home: Home, tokens: int) -> list[dict[str, Any]]:
    """Memory of the widest dictionary; seconds and bytes a unit of one of which all latents are asked for."""
    files = find_model(home)
    with tempfile.TemporaryDirectory() as temporary:
        widest = of_dictionary(files, write_dictionary(Path(temporary) / "widest", 131_072))
        seconds, _ = measure(widest, range(0, 131_072, 512), tokens)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"131,072 latents, 256 asked: {tokens / seconds:,.0f} tokens a second, {peak:.2f} GiB")
        wide = of_dictionary(files, write_dictionary(Path(temporary) / "wide", 16_384))
        latents, of_latents = measure(wide, range(16_384), tokens)
    model = load_subject(files, "mlp.hook_post", HarvestSettings(), MethodSettings().mask_token)
    neurons, of_neurons = measure(model, range(model.d_mlp), tokens)
    print(f"16,384 latents: {latents:.1f} s, {of_latents / 1e6:.1f} MB; {model.d_mlp} neurons: {neurons:.1f} s")
    a_latent, a_neuron = 1e6 * latents / 16_384 / tokens, 1e6 * neurons / model.d_mlp / tokens
    return [
        row("memory with 131,072 latents, 256 asked (GiB)", peak, GIGABYTES, 1, less_is_better=True),
        row(
            "pass of 16,384 latents (us a unit and 1,000 tokens)",
            1e3 * a_latent, 1e3 * a_neuron, 1, less_is_better=True,
        ),
        row(
            "evidence of 16,384 latents over neurons (bytes/unit, token)",
            of_latents / 16_384 / tokens, of_neurons / model.d_mlp / tokens, 4, less_is_better=True,
        ),
    ]  # fmt: skip


def main() -> None:
    """Prints the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    for found in compare(Home.from_environment(), parser.parse_args().tokens):
        print(json.dumps(found))


if __name__ == "__main__":
    main()
