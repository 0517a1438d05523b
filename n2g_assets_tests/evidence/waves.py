"""A model that is a formula, for processes that have no time to load one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl
import torch

from n2g_assets_tests.evidence.helpers import make_contexts


class Waves:
    """What a token and its position do to each of 48 neurons; it can be read as a subject model."""

    device, dtype, bos_id, name = torch.device("cpu"), torch.float32, 1, "waves"
    facts: dict[str, Any] = {"file_sha256": "waves", "hook": "waves"}  # noqa: RUF012

    def check_study(self, *_: object) -> None:
        pass

    def picker(self, _layer: int, numbers: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda carried: carried.flatten(0, 1).t().index_select(0, numbers)

    def run(self, tokens: torch.Tensor, taps: Mapping[int, Callable[[torch.Tensor], None]]) -> None:
        for layer, take in taps.items():
            position = torch.arange(tokens.shape[1])[:, None]
            take(torch.sin((tokens[:, :, None] + layer + position) * (1.0 + torch.arange(48))))


def contexts() -> pl.DataFrame:
    return make_contexts(Waves(), range(14))  # type: ignore[arg-type]
