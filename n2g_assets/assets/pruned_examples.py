"""Stage ``pruned_examples``: train contexts cut to what the unit needs."""

from __future__ import annotations

from n2g_assets.assets.session import Session
from n2g_assets.assets.stage import LayerStage, fill_layer
from n2g_assets.core.progress import Progress
from n2g_assets.core.settings import PruneSettings
from n2g_assets.method.prune import prune_examples
from n2g_assets.storage.stages import StageReport


def _work(session: Session, layer: int, show: Progress) -> StageReport:
    return fill_layer(
        session, STAGE, layer,
        inputs=("top_examples",),
        settings=[session.settings.method.part(PruneSettings)],
        compute=lambda units, a_max, settings: prune_examples(
            units, session.read("top_examples", layer, units=units), a_max, session.vocabulary, session.prober(layer),
            settings,
        ),
        show=show,
    )  # fmt: skip


STAGE = LayerStage(
    name="pruned_examples",
    description="Each train context cut to the shortest text on which the unit still fires half as strongly at its "
    "peak, with the importance of every kept token, found by masking.",
    code_version="1",
    work=_work,
    preview_columns=["unit", "sign", "rank", "kept_share", "reduced", "peak", "token_ids"],
    kinds={"torch", "polars", "parquet"},
)
