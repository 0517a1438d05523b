"""Baseline: the mean activation of each token; it knows no context."""

from n2g_assets.evaluation.material import Predictor, UnitMaterial
from n2g_assets.evaluation.predictors.suffixes import SHRINKAGE
from n2g_assets.evaluation.runs import mean_graph
from n2g_assets.evaluation.suffix_means import SuffixMeans


def fit(material: UnitMaterial) -> Predictor:
    """A lookup of runs of one.

    In the method ``paper`` it holds the mean of each form over the train contexts, and a form that was never seen is
    predicted silent (0). Else it holds the shrunk mean of each exact token over all of the harvest.
    """
    if material.shared.preset == "paper":
        return mean_graph(*material.train, 1)
    return SuffixMeans(material.shared.harvest().suffixes, material.harvest_labels, SHRINKAGE[:1])
