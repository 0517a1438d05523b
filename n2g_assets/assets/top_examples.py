"""Stage ``top_examples``: the strongest contexts of each unit, split into train and test."""

from __future__ import annotations

from n2g_assets.assets.session import Session
from n2g_assets.assets.stage import LayerStage, fill_layer
from n2g_assets.core.progress import Progress
from n2g_assets.core.settings import TopExampleSettings
from n2g_assets.method.top_examples import choose_top_examples
from n2g_assets.storage.stages import StageReport


def _work(session: Session, layer: int, show: Progress) -> StageReport:
    return fill_layer(
        session, STAGE, layer,
        inputs=("top_contexts",),
        without=("activations",),
        settings=[session.settings.method.part(TopExampleSettings)],
        compute=lambda units, a_max, settings: choose_top_examples(
            units, session.read("top_contexts", layer, units=units), session.contexts, a_max, session.prober(layer),
            settings, session.cluster_of,
        ),
        show=show,
        also={"clusters": session.clusters_hash},
    )  # fmt: skip


STAGE = LayerStage(
    name="top_examples",
    description="The strongest contexts of each unit, at most two a document, split at random into train and test "
    "so that no document, and no near-duplicate of one, stands on both sides.",
    code_version="2",
    work=_work,
    preview_columns=["unit", "sign", "rank", "split", "activation", "peak", "context_id"],
)
