"""Control: the graph without the paths of substituted tokens; it shows what augmentation brings."""

from n2g_assets.core.tables import TABLES
from n2g_assets.evaluation.material import UnitMaterial
from n2g_assets.method.graph import build_graphs
from n2g_assets.method.predict import TokenGraph


def fit(material: UnitMaterial) -> TokenGraph:
    """The graph that is built from the pruned prompts alone."""
    shared, rows = material.shared, material.rows
    built = build_graphs(
        [material.unit], rows["pruned_examples"], rows["saliencies"], TABLES["augmented_examples"].empty(),
        {material.unit: material.a_max}, shared.vocabulary, shared.method,
    )  # fmt: skip
    return TokenGraph.from_rows(built.tables["graph_nodes"], shared.vocabulary)
