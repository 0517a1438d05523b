"""Baseline: the mean activation of each token over the train contexts; it knows no context."""

from n2g_assets.evaluation.material import UnitMaterial
from n2g_assets.evaluation.runs import mean_graph
from n2g_assets.method.predict import TokenGraph


def fit(material: UnitMaterial) -> TokenGraph:
    """A lookup of runs of one form; a form that was never seen is predicted silent (0)."""
    return mean_graph(*material.train, 1)
