"""Strong baseline: what a token does beside an earlier one, all of the harvest seen.

It runs no model: all it does is count.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from n2g_assets.core.registry import Method
from n2g_assets.evaluation.harvest import HarvestLabels
from n2g_assets.evaluation.indexes import PairIndex
from n2g_assets.evaluation.material import UnitMaterial
from n2g_assets.evaluation.suffix_means import shrunk, totals
from n2g_assets.method.text import EncodedText

SHRINKAGE: Mapping[Method, tuple[float, float]] = {"paper": (0.25, 0.25), "evidence": (0.5, 2.0)}
"""Occurrences that the overall mean counts for in the value of a form, and the form's in that of a pair.

Chosen on harvested documents left out by halves, for 20 neurons of five layers of the study ``smollm2``. At a fixed
threshold of 0.5 little shrinkage is better, since means of rare pairs must reach it: F1 .24, against .19 with that of
``evidence``. Where the unit has a threshold of its own more is: F1 .288 against .282, Pearson r .57 against .52.
"""


@dataclass(frozen=True)
class SkipBigrams:
    """Predicts from a token and one earlier token: the pair of the two forms at a distance of 1 to 8 tokens.

    A form has the value of a run of one, and a pair the shrunk mean ``(S + s * value of the form) / (C + s)`` over the
    C tokens at which it is found, where activations sum to S. Of the pairs that
    are present at a position, the one whose value is farthest from the form's own decides, upwards or downwards (of
    equals, the nearer one); without any the form's own value stands.

    Shrinkage makes that distance a measure of evidence: a pair has to be seen often, or to be very different, to get
    far from its form. Most of the eight earlier tokens have nothing to do with the unit, so that in a mean over the
    pairs, weighted by counts or by precision, the frequent ones drown the one that has: at the same average precision
    its F1 was a tenth lower (on the data of ``ngram_backoff.SHRINKAGE``). The price is a bias: the farthest of several
    values is on average too far, so that graded activations are predicted worse than by runs.
    """

    index: PairIndex
    own: Float32[np.ndarray, " forms"]
    """Value of every form; the overall mean for those that were never seen."""
    values: Float32[np.ndarray, " pairs"]
    """Value of every pair; NaN for those that were never seen."""

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Predicted normalised activation of every token; 0 at BOS."""
        from n2g_assets.evaluation.loops import farthest

        predicted = np.zeros(len(text), np.float32)
        farthest(self.index.numbers(text), text.positions, text.forms, self.own, self.values, predicted)
        return predicted


def fit(material: UnitMaterial) -> SkipBigrams:
    """The skip-bigrams of a unit."""
    shrinkage = SHRINKAGE[material.shared.preset]
    return material.once("skip_bigram", lambda: fit_skip_bigrams(material.harvest_labels, shrinkage))


def fit_skip_bigrams(labels: HarvestLabels, shrinkage: tuple[float, float]) -> SkipBigrams:
    """Counts the forms and the pairs of a unit; ``shrinkage`` is that of a form and that of a pair."""
    text, index = labels.harvest.text.encoded, labels.harvest.pairs
    of_form = totals([text.forms], labels.counted, labels.values, text.n_forms)
    own = np.nan_to_num(shrunk(*of_form, labels.mean, shrinkage[0]), nan=labels.mean)
    of_pair = totals(index.numbers(text), labels.counted, labels.values, len(index.forms))
    pairs = shrunk(*of_pair, own[index.forms], shrinkage[1])
    return SkipBigrams(index, own.astype(np.float32), pairs.astype(np.float32))
