"""Strong baseline: an interpolated, shrunk back-off n-gram, learnt from train contexts and the harvest.

It runs no model: all it does is count.
"""

import numpy as np

from n2g_assets.evaluation.material import UnitMaterial
from n2g_assets.evaluation.runs import NEGLIGIBLE, SHRINKAGE, runs_at, runs_of_one, shrunk, trie_of
from n2g_assets.evaluation.texts import HarvestLabels
from n2g_assets.method.predict import TokenGraph

LONGEST_RUN = 4
"""Forms of the longest runs."""


def fit(material: UnitMaterial) -> TokenGraph:
    """The back-off n-gram of a unit."""
    return fit_backoff(material.harvest_labels)


def fit_backoff(
    labels: HarvestLabels, *, longest: int = LONGEST_RUN, shrinkage: float = SHRINKAGE, negligible: float = NEGLIGIBLE
) -> TokenGraph:
    """Fits the n-gram on what is known of a unit.

    A run of forms that ends at C tokens with activations that sum to S has the value
    ``(S + shrinkage * value of the run without its first form) / (C + shrinkage)``; runs of one are shrunk towards the
    mean over all tokens. The value at a position is that of the longest run known there.

    Only forms that are active somewhere have runs. A run that changes its parent's value by less than ``negligible``
    and leads to none that does more is left out: each of the runs above a position may so shift its prediction by less
    than that.
    """
    from n2g_assets.method.walk import raise_to_parents

    text, mean = labels.text, labels.mean
    runs = runs_of_one(text, labels.tokens_of_active_forms())
    levels, found = [runs], [shrunk(*runs.totals(labels.values), mean, shrinkage)]
    for k in range(2, longest + 1):
        # below a run that never was active, values only fall towards 0
        matters = (runs.totals(labels.values)[0] > 0) | (found[-1] >= negligible)
        where = matters[runs.numbers]
        runs = runs_at(text, k, runs.tokens[where], runs.numbers[where])
        levels.append(runs)
        found.append(shrunk(*runs.totals(labels.values), found[-1][runs.parents], shrinkage))
    parents, forms = trie_of(levels)
    values = np.concatenate(found)
    kept = (np.abs(values - np.append(values, mean)[parents]) >= negligible).astype(np.int32)
    raise_to_parents(parents, kept)
    number, remembered = np.append(np.cumsum(kept, dtype=np.int32) - 1, np.int32(-1)), kept > 0
    return TokenGraph.from_nodes(
        number[parents[remembered]], forms[remembered], values[remembered].astype(np.float32), text.n_forms
    )
