"""Stage ``reach``: the model itself, shown BOS and only the last tokens, compared with itself on the full text.

All layers of a run share one pass through the windows, and one through the held-out texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from n2g_assets.assets.session import Session
from n2g_assets.assets.stage import LayerStage, fill_layer, large_layers, read_together
from n2g_assets.core.progress import Progress
from n2g_assets.core.settings import Firing, ReachSettings
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.reach import reach_of_units
from n2g_assets.method.results import BlockResult
from n2g_assets.storage.stages import StageReport


def _work(session: Session, layer: int, show: Progress) -> StageReport:
    def compute(
        units: Sequence[Unit],
        rows: Mapping[str, pl.DataFrame],
        a_max: Mapping[Unit, float],
        firing: Firing,
        reach: ReachSettings,
    ) -> BlockResult:
        return reach_of_units(
            units, session.windows,
            lambda text, unit: session.cached_texts(layer)[text].of_unit(layer, unit),
            lambda unit: session.cached_windows(layer).of_unit(layer, unit),
            a_max, firing.firing_threshold,
        )  # fmt: skip

    settings = session.settings
    return fill_layer(
        session, STAGE, layer, show,
        inputs=(),
        settings=[settings.method.part(Firing), settings.evaluation.part(ReachSettings)],
        compute=compute,
        also={
            "texts": session.text_hashes, "context_length": settings.harvest.context_length,
            "evidence_dtype": settings.harvest.evidence_dtype,
        },
    )  # fmt: skip


def _figures(session: Session, layer: int) -> Mapping[str, Any]:
    """The layer's mean correlation by text and number of last tokens."""
    rows = session.read("reach", layer, columns=["text", "last_tokens", "pearson_r"], units=session.units(layer))
    means = rows.group_by("text", "last_tokens", maintain_order=True).agg(pl.col("pearson_r").mean()).drop_nulls()
    return {f"mean r, {text}, last {k}": round(mean, 4) for text, k, mean in means.iter_rows()}


STAGE = LayerStage(
    name="reach",
    description="The model itself, shown BOS and only the last 1 to 32 tokens at positions of held-out text: how local "
    "each unit is at all, and the measure for an explanation that looks at so many tokens.",
    code_version="1",
    work=_work,
    ahead=large_layers(_work),
    runs_model=True,
    prepare=read_together,
    extra=_figures,
    preview_columns=["unit", "sign", "text", "last_tokens", "pearson_r", "explained_variance", "f1", "n_firings"],
)
