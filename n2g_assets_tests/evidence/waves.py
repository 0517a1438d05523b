"""A model that is a formula, for processes that have no time to load one, and the evidence of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import torch

from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.store import Evidence, read_evidence
from n2g_assets.storage.cache import Cache
from n2g_assets_tests.evidence.helpers import make_contexts

NEURONS = {0: [3, 47, 0], 2: [1]}
SETTINGS = HarvestSettings(batch_tokens=96, shard_tokens=150, device="cpu")


class Waves:
    """What a token and its position do to each of 48 neurons; it can be read as a subject model."""

    device, dtype, bos_id, name = torch.device("cpu"), torch.float32, 1, "waves"
    facts: dict[str, Any] = {"file_sha256": "waves", "hook": "waves"}  # noqa: RUF012

    def check_study(self, *_: object) -> None:
        pass

    def run(self, tokens: torch.Tensor, taps: Mapping[int, Callable[[torch.Tensor], None]]) -> None:
        for layer, take in taps.items():
            position = torch.arange(tokens.shape[1])[:, None]
            take(torch.sin((tokens[:, :, None] + layer + position) * (1.0 + torch.arange(48))))


def contexts() -> pl.DataFrame:
    return make_contexts(Waves(), range(14))  # type: ignore[arg-type]


def read(model: Any, rows: pl.DataFrame, folder: Path) -> Evidence:
    return read_evidence(model, TokenCorpus.from_frame(rows), NEURONS, SETTINGS, cache=Cache(Home(folder)))
