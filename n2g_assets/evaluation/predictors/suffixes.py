"""Baseline of the method ``evidence``: suffix evidence, the mean after the last 1 to 6 tokens, all of the harvest seen.

It runs no model: all it does is count. Tokens are told apart by their exact ids.
"""

from n2g_assets.evaluation.material import UnitMaterial
from n2g_assets.evaluation.suffix_means import SuffixMeans

SHRINKAGE = (0.5, 1.0, 2.0, 3.0, 3.0, 3.0)
"""By length of a run, the occurrences that the value of the shorter run counts for."""


def fit(material: UnitMaterial) -> SuffixMeans:
    """The means of a unit after each run of 1 to 6 tokens."""
    harvest = material.shared.harvest()
    return material.once("suffixes", lambda: SuffixMeans(harvest.suffixes, material.harvest_labels, SHRINKAGE))
