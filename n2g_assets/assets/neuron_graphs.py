"""Stage ``neuron_graphs``: one token graph a unit and its rules."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from n2g_assets.assets.session import Session
from n2g_assets.assets.stage import LayerStage, fill_layer
from n2g_assets.core.progress import Progress
from n2g_assets.core.settings import GraphSettings
from n2g_assets.core.units import Unit, unit_text
from n2g_assets.method.graph import build_graphs
from n2g_assets.report.plots import as_markdown_image
from n2g_assets.report.svg import draw_graph
from n2g_assets.storage.stages import StageReport


def _work(session: Session, layer: int, show: Progress) -> StageReport:
    return fill_layer(
        session, STAGE, layer,
        inputs=("pruned_examples", "saliencies", "augmented_examples"),
        settings=[session.settings.method.part(GraphSettings)],
        compute=lambda units, a_max, settings: build_graphs(
            units, session.read("pruned_examples", layer, units=units), session.read("saliencies", layer, units=units),
            session.read("augmented_examples", layer, units=units), a_max, session.vocabulary, settings,
        ),
        show=show,
    )  # fmt: skip


def _picture(session: Session, layer: int) -> Mapping[str, dg.MetadataValue]:
    nodes = session.read("graph_nodes", layer, columns=["unit", "sign"])
    if nodes.is_empty():
        return {}
    sizes = nodes.group_by("unit", "sign").len().sort("len", "unit", "sign")
    number, sign, _ = sizes.row(sizes.height // 2)
    graph = session.read("graph_nodes", layer, units=[Unit(number, sign)])
    title = f"{session.study.name}: {unit_text(layer, number, sign)}"
    picture = draw_graph(graph, title=title, subtitle="graph of median size")
    return {"a graph": dg.MetadataValue.md(as_markdown_image(picture))}


STAGE = LayerStage(
    name="neuron_graphs",
    description="The token graph of each unit: a trie that says on which tokens it fires and which context it needs.",
    code_version="1",
    work=_work,
    extra=_picture,
    preview_columns=["unit", "sign", "node_id", "parent_id", "depth", "kind", "token", "end_activation"],
)
