"""Control: the graph without the paths of substituted tokens; it shows what augmentation brings."""

from __future__ import annotations

from n2g_assets.core.tables import TABLES
from n2g_assets.evaluation.material import UnitMaterial
from n2g_assets.method.graph import build_graphs
from n2g_assets.method.predict import TokenGraph


def fit(material: UnitMaterial) -> TokenGraph:
    """The graph that is built from the pruned prompts alone."""
    built = build_graphs(
        [material.unit], material.pruned_examples, material.saliencies, TABLES["augmented_examples"].empty(),
        {material.unit: material.a_max}, material.vocabulary, material.method,
    )  # fmt: skip
    return TokenGraph.from_rows(built.tables["graph_nodes"], material.vocabulary)
