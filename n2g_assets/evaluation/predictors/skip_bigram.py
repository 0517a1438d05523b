"""Strong baseline: what a token does beside an earlier one, learnt from train contexts and the harvest.

It runs no model: all it does is count.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from n2g_assets.evaluation.material import UnitMaterial
from n2g_assets.evaluation.runs import NEGLIGIBLE, SHRINKAGE, runs_of_one, shrunk
from n2g_assets.evaluation.texts import HarvestLabels
from n2g_assets.method.text import EncodedText

FARTHEST = 8
"""Tokens between a token and the farthest earlier one that it is paired with."""


@dataclass(frozen=True)
class SkipBigrams:
    """Predicts from a token and one earlier token: the pair of the two forms at a distance of 1 to 8 tokens.

    A form has the value of a run of one, and a pair the shrunk mean
    ``(S + shrinkage * value of the form) / (C + shrinkage)`` over the C tokens at which it is found. Of the pairs that
    are present at a position, the one whose value is farthest from the form's own decides, upwards or downwards (of
    equals, the nearer one); without any the form's own value stands.

    Shrinkage makes that distance a measure of evidence: a pair has to be seen often, or to be very different, to get
    far from its form. Most of the eight earlier tokens have nothing to do with the unit, so that in a mean over the
    pairs, weighted by counts or by precision, the frequent ones drown the one that has: at the same average precision
    its F1 was a tenth lower (on the data of ``SHRINKAGE``). The price is a bias: the farthest of several values is on
    average too far, so that graded activations are predicted worse than by the back-off n-gram.
    """

    own: Float32[np.ndarray, " forms"]
    """Value of every form; 0 for those that never were active."""
    pairs: Int64[np.ndarray, " pairs"]
    """``(form * FARTHEST + distance - 1) * n_forms + earlier form``, ascending."""
    values: Float32[np.ndarray, " pairs"]
    """Value of every pair."""

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Predicted normalised activation of every token; 0 at BOS and for forms that never were active."""
        predicted = np.where(text.positions > 0, self.own[text.forms], np.float32(0))
        if not len(self.pairs):
            return predicted
        paired = np.unique(self.pairs // (FARTHEST * len(self.own)))
        tokens = np.concatenate([text.by_form[text.starts[form] : text.starts[form + 1]] for form in paired])
        own = self.own[text.forms[tokens]]
        farthest = np.zeros(len(tokens), np.float32)  # from the form's own value
        for distance in range(1, FARTHEST + 1):
            reaching, keys = _pairs(text, tokens, distance)
            slots = np.minimum(np.searchsorted(self.pairs, keys), len(self.pairs) - 1)
            known = self.pairs[slots] == keys
            reaching, slots = reaching[known], slots[known]
            change = self.values[slots] - own[reaching]
            decides = np.abs(change) > np.abs(farthest[reaching])
            farthest[reaching[decides]] = change[decides]
            predicted[tokens[reaching[decides]]] = self.values[slots[decides]]
        return predicted


def fit(material: UnitMaterial) -> SkipBigrams:
    """The skip-bigrams of a unit."""
    return fit_skip_bigrams(material.harvest_labels)


def fit_skip_bigrams(
    labels: HarvestLabels, *, shrinkage: float = SHRINKAGE, negligible: float = NEGLIGIBLE
) -> SkipBigrams:
    """Counts the pairs of a unit; those that change their form's value by less than ``negligible`` are left out."""
    text = labels.text
    n_forms, tokens = text.n_forms, labels.tokens_of_active_forms()
    runs = runs_of_one(text, tokens)
    own = np.zeros(n_forms)
    own[runs.forms] = shrunk(*runs.totals(labels.values), labels.mean, shrinkage)
    active = tokens[labels.values[tokens] > 0]
    pairs, values = [], []
    for distance in range(1, FARTHEST + 1):
        found, counts = np.unique(_pairs(text, tokens, distance)[1], return_counts=True)
        reaching, keys = _pairs(text, active, distance)
        weights = labels.values[active[reaching]]
        sums = np.bincount(np.searchsorted(found, keys), weights, minlength=len(found))
        of_form = own[found // (FARTHEST * n_forms)]
        of_pair = shrunk(sums, counts, of_form, shrinkage)
        matters = np.abs(of_pair - of_form) >= negligible
        pairs.append(found[matters])
        values.append(of_pair[matters])
    order = np.argsort(np.concatenate(pairs))
    return SkipBigrams(
        own.astype(np.float32), np.concatenate(pairs)[order], np.concatenate(values)[order].astype(np.float32)
    )


def _pairs(
    text: EncodedText, tokens: Int64[np.ndarray, " tokens"], distance: int
) -> tuple[Int64[np.ndarray, " reaching"], Int64[np.ndarray, " reaching"]]:
    """Which of the tokens have one so far before them that is not BOS, and the key of the pair of their forms."""
    reaching = np.flatnonzero(text.positions[tokens] > distance)
    tokens = tokens[reaching]
    forms = text.forms[tokens].astype(np.int64)
    return reaching, (forms * FARTHEST + distance - 1) * text.n_forms + text.forms[tokens - distance]
