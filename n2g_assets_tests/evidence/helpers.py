"""Builders, models that count or fail, and comparisons that the tests of the evidence share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.store import Evidence, read_evidence
from n2g_assets.model.model import SubjectModel
from n2g_assets.storage.cache import Cache

LENGTH = 16
NEAR = 1e-4
"""Activations of these models reach 10: a hundred-thousandth of that, a tenth of what promise 3 allows."""
SETTINGS = HarvestSettings(batch_tokens=96, shard_tokens=150, device="cpu")
NEURONS = {0: [3, 47, 0], 2: [1]}


def read(model, contexts, folder: Path, neurons=NEURONS, settings=SETTINGS, **more) -> Evidence:
    corpus = TokenCorpus.from_frame(contexts)
    return read_evidence(model, corpus, neurons, settings, cache=Cache(Home(folder)), **more)


def make_contexts(model: SubjectModel, documents: range | list[int]) -> pl.DataFrame:
    rows = []
    for document in documents:
        rng = np.random.default_rng(document)
        for window in range(1 + document % 5):
            length = LENGTH if window else int(rng.integers(2, LENGTH + 1))
            tokens = [model.bos_id, *rng.integers(2, 300, length - 1).tolist()]
            rows.append((f"doc{document:02d}:{window}", f"doc{document:02d}", tokens))
    schema = {"context_id": pl.String, "document_id": pl.String, "token_ids": pl.List(pl.Int32)}
    return pl.DataFrame(rows, schema=schema, orient="row")


@dataclass
class CountingModel:
    """Counts what goes through a subject model."""

    inner: SubjectModel
    tokens: int = 0
    layers: tuple[tuple[int, ...], ...] = ()
    fail_after: int | None = None

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def run(self, tokens, taps):
        if self.fail_after is not None and len(self.layers) >= self.fail_after:
            raise KeyboardInterrupt
        self.tokens += int((tokens >= 0).sum())
        self.layers += (tuple(taps),)
        self.inner.run(tokens, taps)


@dataclass
class SmallMemory(CountingModel):
    """Runs out of memory on batches of more than so many tokens, once their first layer has been read."""

    limit: int = 0
    failed: tuple[int, ...] = ()

    def run(self, tokens, taps):
        if tokens.numel() <= self.limit:
            super().run(tokens, taps)
            return
        self.failed += (tokens.numel(),)
        first = min(taps)
        self.inner.run(tokens, {first: taps[first]})
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def activations_one_by_one(model: SubjectModel, contexts: pl.DataFrame, layer: int) -> dict[str, np.ndarray]:
    found = {}
    for context_id, token_ids in contexts.select("context_id", "token_ids").iter_rows():
        kept: list[torch.Tensor] = []
        model.run(torch.tensor([token_ids]), {layer: kept.append})
        found[context_id] = kept[0][0].float().numpy()
    return found
