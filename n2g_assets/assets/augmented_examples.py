"""Stage ``augmented_examples``: pruned prompts with important tokens exchanged (DESIGN section 6, step 4)."""

from __future__ import annotations

from n2g_assets.assets.progress import Progress
from n2g_assets.assets.session import Session
from n2g_assets.assets.stage import Stage, fill_layer
from n2g_assets.method.augment import augment_examples
from n2g_assets.storage.stages import StageReport

_SETTINGS = (
    "augment_threshold", "substitutes", "substitute_keep", "proposer", "masked_lm",
    "infill_candidates", "infill_rescored", "infill_right_tokens", "normalise_tokens",
)  # fmt: skip


def _work(session: Session, layer: int, show: Progress) -> StageReport:
    return fill_layer(
        session, STAGE, layer,
        previous="pruned_examples",
        inputs=("pruned_examples",),
        settings=_SETTINGS,
        compute=lambda units, a_max: augment_examples(
            units, session.read("pruned_examples", layer, units=units), session.vocabulary,
            session.prober(layer), session.proposer, session.settings.method,
        ),
        show=show,
    )  # fmt: skip


STAGE = Stage(
    name="augmented_examples",
    description="Variants of each pruned prompt with one important token exchanged for a likely substitute, and "
    "whether the unit still fires on them.",
    tables=("augmented_examples",),
    upstream=("pruned_examples",),
    code_version="1",
    work=_work,
    preview_columns=["unit", "sign", "rank", "position", "original_id", "substitute", "activation", "kept"],
    kinds={"torch", "polars", "parquet"},
)
