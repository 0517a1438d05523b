"""Control: predicts silence everywhere."""

from n2g_assets.evaluation.material import UnitMaterial
from n2g_assets.method.predict import TokenGraph


def fit(material: UnitMaterial) -> TokenGraph:
    """A graph without a node, which predicts 0 everywhere."""
    return TokenGraph.from_rows(material.rows["graph_nodes"].clear(), material.shared.vocabulary)
