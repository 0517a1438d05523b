"""Stage ``neuron_graphs``: one token graph a unit and its rules (DESIGN section 6, step 5)."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from n2g_assets.assets.progress import Progress
from n2g_assets.assets.stage import Stage, fill_layer
from n2g_assets.assets.workbench import Workbench
from n2g_assets.drawing.plots import as_markdown_image
from n2g_assets.drawing.svg import draw_graph
from n2g_assets.method.display import unit_text
from n2g_assets.method.graph import build_graphs
from n2g_assets.method.probing import Unit
from n2g_assets.storage.stages import StageReport


def _work(bench: Workbench, layer: int, show: Progress) -> StageReport:
    return fill_layer(
        bench, STAGE, layer,
        previous="augmented_examples",
        inputs=("pruned_examples", "saliencies", "augmented_examples"),
        settings=("firing_threshold", "important_threshold", "normalise_tokens"),
        compute=lambda units, a_max: build_graphs(
            units, bench.read("pruned_examples", layer, units=units), bench.read("saliencies", layer, units=units),
            bench.read("augmented_examples", layer, units=units), a_max, bench.vocabulary, bench.settings.method,
        ),
        show=show,
    )  # fmt: skip


def _picture(bench: Workbench, layer: int) -> Mapping[str, dg.MetadataValue]:
    nodes = bench.read("graph_nodes", layer, columns=["neuron", "sign"])
    if nodes.is_empty():
        return {}
    sizes = nodes.group_by("neuron", "sign").len().sort("len", "neuron", "sign")
    neuron, sign, _ = sizes.row(sizes.height // 2)
    graph = bench.read("graph_nodes", layer, units=[Unit(neuron, sign)])
    title = f"{bench.study.name}: {unit_text(layer, neuron, sign)}"
    return {
        "a graph": dg.MetadataValue.md(
            as_markdown_image(draw_graph(graph, title=title, subtitle="graph of median size"))
        )
    }


STAGE = Stage(
    name="neuron_graphs",
    description="The token graph of each unit: a trie that says on which tokens it fires and which context it needs.",
    tables=("graph_nodes", "rules"),
    upstream=("augmented_examples", "pruned_examples"),
    code_version="1",
    work=_work,
    extra=_picture,
    preview_columns=["neuron", "sign", "node_id", "parent_id", "depth", "kind", "token", "end_activation"],
)
