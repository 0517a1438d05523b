"""Stage ``top_examples``: the strongest contexts of each unit, split into train and test (DESIGN section 6, step 1)."""

from __future__ import annotations

from n2g_assets.assets.progress import Progress
from n2g_assets.assets.stage import Stage, fill_layer
from n2g_assets.assets.workbench import Workbench
from n2g_assets.method.top_examples import choose_top_examples
from n2g_assets.storage.stages import StageReport


def _work(bench: Workbench, layer: int, show: Progress) -> StageReport:
    return fill_layer(
        bench, STAGE, layer,
        previous="activation_cache",
        inputs=("top_contexts",),
        without=("activations",),
        settings=("seed", "top_contexts", "contexts_per_document", "min_contexts_per_side"),
        compute=lambda units, a_max: choose_top_examples(
            units, bench.read("top_contexts", layer, units=units), bench.contexts, a_max, bench.prober(layer),
            bench.settings.method, bench.cluster_of,
        ),
        show=show,
        also={"clusters": bench.clusters_hash},
    )  # fmt: skip


STAGE = Stage(
    name="top_examples",
    description="The strongest contexts of each unit, at most two a document, split at random into train and test "
    "so that no document, and no near-duplicate of one, stands on both sides.",
    tables=("top_examples",),
    upstream=("activation_cache", "corpus_tokens"),
    code_version="2",
    work=_work,
    preview_columns=["neuron", "sign", "rank", "split", "activation", "peak", "context_id"],
)
