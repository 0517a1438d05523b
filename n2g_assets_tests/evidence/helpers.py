"""Builders, models that count or fail, and comparisons that the tests of the evidence share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.evidence.frames import LayerHarvest
from n2g_assets.evidence.harvest import Harvest, harvest
from n2g_assets.model.model import SubjectModel
from n2g_assets.storage.cache import Cache

LENGTH = 16
NEAR = 1e-4
"""Activations of these models reach 10: a hundred-thousandth of that, a tenth of what promise 3 allows."""
SETTINGS = HarvestSettings(context_length=LENGTH, strongest=40, batch_tokens=128, shard_tokens=160, device="cpu")
LAYERS = (0, 2)
RECORDED = {0: [3, 5], 2: [1]}


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


def run(model, contexts, folder: Path, layers=LAYERS, recorded=RECORDED, settings=SETTINGS, **more) -> Harvest:
    return harvest(
        model,
        contexts,
        layers,
        recorded,
        settings,
        top_contexts=6,
        contexts_per_document=2,
        cache=Cache(Home(folder)),
        **more,
    )


def activations_one_by_one(model: SubjectModel, contexts: pl.DataFrame, layer: int) -> dict[str, np.ndarray]:
    found = {}
    for context_id, token_ids in contexts.select("context_id", "token_ids").iter_rows():
        kept: list[torch.Tensor] = []
        model.run(torch.tensor([token_ids]), {layer: kept.append})
        found[context_id] = kept[0][0].float().numpy()
    return found


def assert_same_rows(left: pl.DataFrame, right: pl.DataFrame, position: str) -> None:
    """Rows by rank: the same but for the last digits, and for the order of rows that these decide.

    The last digits depend on the processor and on the shape of a batch. Contexts that begin alike have equal
    activations there, so that rows of neighbouring ranks may change places, and the last may give way to one cut off.
    """
    left, right = (frame.sort("unit", "sign", "rank") for frame in (left, right))
    assert left.select("unit", "sign", "rank").equals(right.select("unit", "sign", "rank"))
    np.testing.assert_allclose(left["activation"], right["activation"], atol=NEAR)
    gap = pl.col("activation").diff().abs().over("unit", "sign")
    below = pl.col("activation").diff(-1).abs().over("unit", "sign")
    clear = left.select((gap.fill_null(1) > 2 * NEAR) & (below.fill_null(0) > 2 * NEAR)).to_series()
    assert clear.mean() > 0.6
    key = ["unit", "sign", "context_id", position]
    assert left.filter(clear).select(key).equals(right.filter(clear).select(key))


def assert_same_windows(left: pl.DataFrame, right: pl.DataFrame) -> None:
    """Contexts that both hold have the same activations; all but a few do."""
    both = left.join(right, on=["unit", "sign", "context_id"], suffix="_right")
    assert len(both) > 0.8 * len(left)
    np.testing.assert_allclose(both["activations"].explode(), both["activations_right"].explode(), atol=NEAR)


def same_frames(one: LayerHarvest, other: LayerHarvest) -> None:
    """Equal within rounding; see :func:`assert_same_rows`."""
    np.testing.assert_allclose(one.neuron_stats["mean"], other.neuron_stats["mean"], atol=NEAR)
    np.testing.assert_allclose(one.neuron_stats["std"], other.neuron_stats["std"], atol=NEAR)
    assert np.array_equal(one.neuron_stats["n_tokens"], other.neuron_stats["n_tokens"])
    np.testing.assert_allclose(
        one.neuron_stats["quantiles"].explode(), other.neuron_stats["quantiles"].explode(), atol=NEAR
    )
    for name, position in (("activations", "position"), ("top_contexts", "peak")):
        assert_same_rows(getattr(one, name), getattr(other, name), position)
