"""Stage ``augmented_examples``: pruned prompts with important tokens exchanged."""

from __future__ import annotations

from n2g_assets.assets.session import Session
from n2g_assets.assets.stage import LayerStage, fill_layer
from n2g_assets.core.progress import Progress
from n2g_assets.core.settings import AugmentSettings
from n2g_assets.method.augment import augment_examples
from n2g_assets.storage.stages import StageReport


def _work(session: Session, layer: int, show: Progress) -> StageReport:
    return fill_layer(
        session, STAGE, layer,
        inputs=("pruned_examples",),
        settings=[session.settings.method.part(AugmentSettings)],
        compute=lambda units, a_max, settings: augment_examples(
            units, session.read("pruned_examples", layer, units=units), session.vocabulary,
            session.prober(layer), session.proposer(settings), settings,
        ),
        show=show,
        also=session.proposer_identity,
    )  # fmt: skip


STAGE = LayerStage(
    name="augmented_examples",
    description="Variants of each pruned prompt with one important token exchanged for a likely substitute, and "
    "whether the unit still fires on them.",
    code_version="1",
    work=_work,
    preview_columns=["unit", "sign", "rank", "position", "original_id", "substitute", "activation", "kept"],
    kinds={"torch", "polars", "parquet"},
)
