"""Strong rivals of a token graph: corpus counts that never run the model.

A token graph asks the model which context matters. The rivals see the same train contexts and, beside them, what the
harvest knows of the unit everywhere else; all they do is count.

1. ``HarvestText``: the harvested contexts one behind another, once for all units of a study.
2. ``Evidence``: what is known of one unit on every token of it. Documents of the unit's test contexts and their
   near-duplicates are no evidence at all.
3. ``fit_backoff``: an interpolated, shrunk back-off n-gram.
4. ``SkipBigrams``: what a token does beside an earlier one, one to eight tokens before it.

Both predict mean normalised activations that are shrunk towards what shorter contexts say; ``SHRINKAGE`` says how
much. Matching is by form, no run or pair reaches over BOS, and a form that never was active is predicted silent (0).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Float32, Float64, Int32, Int64

from n2g_assets.core.errors import StorageError
from n2g_assets.evaluation.baselines import forms_of, one_longer, runs_of_one, trie_of
from n2g_assets.method.predict import TokenGraph
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.text import EncodedText

LONGEST_RUN = 4
"""Forms of the longest runs of the back-off n-gram."""
FARTHEST = 8
"""Tokens between a token and the farthest earlier one that skip-bigrams pair it with."""
SHRINKAGE = 0.25
"""Occurrences that the value of the shorter context counts for.

Chosen once, for both rivals, among 1/8 to 4 on harvested documents left out in turn, for 240 neurons of three layers
outside the demo's sample. Average precision of firing hardly depends on it (back-off: .305 to .311 up to 1, best at
1/4); F1 at a threshold of 0.5 falls the larger it is (.288, .281, .264, .239 from 1/8 to 1), as a run that was seen
firing once is then predicted silent.
"""
NEGLIGIBLE = 0.01
"""Normalised activation by which a longer context has to change a value to be remembered."""


@dataclass(frozen=True)
class HarvestText:
    """The harvested contexts one behind another: the same for all units of a study."""

    text: EncodedText
    """Their forms."""
    offsets: Mapping[str, int]
    """By context id, the token at which it begins (its BOS)."""
    clusters: Int32[np.ndarray, " tokens"]
    """Number of the cluster of near-duplicate documents that every token belongs to."""
    cluster_numbers: Mapping[str, int]
    """By cluster id, its number."""
    cluster_of: Mapping[str, str]
    """By document id, its cluster id; a document that is missing stands alone."""

    @classmethod
    def of(cls, contexts: pl.DataFrame, vocabulary: Vocabulary, cluster_of: Mapping[str, str]) -> HarvestText:
        """The text of the harvested contexts.

        Args:
            contexts: columns ``context_id``, ``document_id`` and ``token_ids``, in any order.
            vocabulary: forms under which tokens match.
            cluster_of: by document id, the id of the cluster of its near-duplicates.
        """
        lengths = contexts["token_ids"].list.len().to_numpy().astype(np.int64)
        first = np.cumsum(lengths) - lengths
        places = np.arange(lengths.sum()) - np.repeat(first, lengths)
        token_ids = contexts["token_ids"].explode(empty_as_null=False).to_numpy()
        clusters = [cluster_of.get(document_id, document_id) for document_id in contexts["document_id"]]
        numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
        return cls(
            EncodedText.from_forms(vocabulary.form_of[token_ids], places.astype(np.int32), len(vocabulary.forms)),
            dict(zip(contexts["context_id"], first.tolist(), strict=True)),
            np.repeat(np.array([numbers[cluster] for cluster in clusters], np.int32), lengths),
            numbers,
            cluster_of,
        )

    def tokens(self, context_ids: pl.Series) -> Int64[np.ndarray, " contexts"]:
        """The tokens at which contexts begin.

        Raises:
            StorageError: a context is none of the harvest.
        """
        offsets = [self.offsets.get(context_id, -1) for context_id in context_ids]
        if -1 in offsets:
            raise StorageError(
                f"Context {context_ids[offsets.index(-1)]} is not among the harvested ones: its rows belong to another "
                "corpus; materialize activation_cache again."
            )
        return np.array(offsets, np.int64)

    def inside(self, document_ids: Collection[str]) -> Bool[np.ndarray, " tokens"]:
        """The tokens of some documents and of their near-duplicates."""
        asked = np.zeros(len(self.cluster_numbers), bool)
        for document_id in document_ids:
            number = self.cluster_numbers.get(self.cluster_of.get(document_id, document_id))
            if number is not None:
                asked[number] = True
        return asked[self.clusters]


@dataclass(frozen=True)
class Evidence:
    """What is known of one unit on the tokens of the harvest, its test documents left out."""

    counted: Bool[np.ndarray, " tokens"]
    """Tokens whose activation is known; never BOS."""
    values: Float32[np.ndarray, " tokens"]
    """Their normalised activations; negative ones as 0, and 0 where nothing is known."""

    @classmethod
    def of(
        cls,
        harvest: HarvestText,
        activations: pl.DataFrame,
        train: pl.DataFrame,
        test_documents: Collection[str],
        a_max: float,
        *,
        strongest: int,
        threshold: float,
    ) -> Evidence:
        """Gathers the evidence of one unit.

        1. No token of a test document or of its near-duplicates counts, whatever the other rows say of it.
        2. A token of a train context has the activation measured there, one that ``activations`` lists the listed one.
        3. Every other token is not above the *floor*, the weakest activation listed outside the test documents, and
           counts as silent (0). It counts not at all where the unit may fire below the floor (the list is full and the
           floor reaches the threshold) and the list holds its form: the list then shows where that form is strongest
           and says nothing of the rest.

        Activations below 0 count as 0: both rivals predict how strongly a unit fires, and of tokens that are not
        listed nothing but silence is known either.

        Args:
            harvest: the harvested contexts.
            activations: the unit's rows of ``activations``.
            train: its rows of ``top_examples`` that are on the train side.
            test_documents: documents of its rows on the test side.
            a_max: its largest activation over the harvest, positive.
            strongest: rows that the harvest keeps for a unit; fewer rows are all that there is.
            threshold: share of a_max from which a token fires.

        Raises:
            StorageError: a context is none of the harvest.
            ValueError: an activation is NaN.
        """
        text = harvest.text
        counted = (text.positions > 0) & ~harvest.inside(test_documents)
        values = np.zeros(len(text), np.float32)

        listed = harvest.tokens(activations["context_id"]) + activations["position"].to_numpy()
        strengths = _normalised(activations["activation"], a_max)
        listed, strengths = listed[counted[listed]], strengths[counted[listed]]
        values[listed] = strengths
        if len(activations) >= strongest and len(listed) and strengths.min() >= threshold:
            is_listed = np.zeros(forms_of(text), bool)
            is_listed[text.forms[listed]] = True
            unknown = counted & is_listed[text.forms]
            unknown[listed] = False
        else:
            unknown = np.zeros(len(text), bool)

        for first, row in zip(harvest.tokens(train["context_id"]), train["activations"], strict=True):
            values[first : first + len(row)] = _normalised(row, a_max)
            unknown[first : first + len(row)] = False
        counted &= ~unknown
        return cls(counted, np.where(counted, values, np.float32(0)))

    @property
    def mean(self) -> float:
        """Mean over all tokens that count: what is expected of a token of which nothing is known."""
        return float(self.values.sum(dtype=np.float64)) / max(1, int(np.count_nonzero(self.counted)))

    def tokens_of_active_forms(self, text: EncodedText) -> Int64[np.ndarray, " tokens"]:
        """The tokens that count and whose form is active (above 0) somewhere."""
        active = np.zeros(forms_of(text), bool)
        active[text.forms[self.values > 0]] = True
        return np.flatnonzero(self.counted & active[text.forms])


def fit_backoff(
    evidence: Evidence,
    harvest: HarvestText,
    *,
    longest: int = LONGEST_RUN,
    shrinkage: float = SHRINKAGE,
    negligible: float = NEGLIGIBLE,
) -> TokenGraph:
    """The interpolated, shrunk back-off n-gram of a unit.

    A run of forms that ends at C tokens with activations that sum to S has the value
    ``(S + shrinkage * value of the run without its first form) / (C + shrinkage)``; above the runs of one stands the
    mean over all tokens. The value at a position is that of the longest run known there.

    Only forms that are active somewhere have runs. A run that changes its parent's value by less than ``negligible``
    and leads to none that does more is left out: each of the runs above a position may so shift its prediction by less
    than that.

    Args:
        evidence: what is known of the unit.
        harvest: the contexts that it is about.
        longest: forms of the longest runs.
        shrinkage: occurrences that the shorter run's value counts for.
        negligible: change of the normalised activation that is not worth a node.
    """
    from n2g_assets.method.walk import raise_to_parents

    text, mean = harvest.text, evidence.mean
    runs = runs_of_one(text, evidence.tokens_of_active_forms(text))
    levels, found = [runs], [_shrunk(*runs.totals(evidence.values), mean, shrinkage)]
    for k in range(2, longest + 1):
        # below a run that never was active, values only fall towards 0
        matters = (runs.totals(evidence.values)[0] > 0) | (found[-1] >= negligible)
        runs = one_longer(text, runs, k, matters[runs.numbers])
        levels.append(runs)
        found.append(_shrunk(*runs.totals(evidence.values), found[-1][runs.parents], shrinkage))
    parents, forms = trie_of(levels)
    values = np.concatenate(found)
    kept = (np.abs(values - np.append(values, mean)[parents]) >= negligible).astype(np.int32)
    raise_to_parents(parents, kept)
    number, remembered = np.append(np.cumsum(kept, dtype=np.int32) - 1, np.int32(-1)), kept > 0
    return TokenGraph.from_nodes(
        number[parents[remembered]], forms[remembered], values[remembered].astype(np.float32), forms_of(text)
    )


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

    @classmethod
    def fit(
        cls,
        evidence: Evidence,
        harvest: HarvestText,
        *,
        shrinkage: float = SHRINKAGE,
        negligible: float = NEGLIGIBLE,
    ) -> SkipBigrams:
        """Counts the pairs of a unit; those that change their form's value by less than ``negligible`` are left out.

        Args:
            evidence: what is known of the unit.
            harvest: the contexts that it is about.
            shrinkage: occurrences that the form's own value counts for.
            negligible: change of the normalised activation that is not worth a pair.
        """
        text, n_forms = harvest.text, forms_of(harvest.text)
        tokens = evidence.tokens_of_active_forms(text)
        runs = runs_of_one(text, tokens)
        own = np.zeros(n_forms)
        own[runs.forms] = _shrunk(*runs.totals(evidence.values), evidence.mean, shrinkage)
        active = tokens[evidence.values[tokens] > 0]
        pairs, values = [], []
        for distance in range(1, FARTHEST + 1):
            found, counts = np.unique(_pairs(text, _reaching(text, tokens, distance), distance), return_counts=True)
            seen = _reaching(text, active, distance)
            numbers = np.searchsorted(found, _pairs(text, seen, distance))
            sums = np.bincount(numbers, weights=evidence.values[seen], minlength=len(found))
            above = own[found // (FARTHEST * n_forms)]
            shrunk = _shrunk(sums, counts, above, shrinkage)
            matters = np.abs(shrunk - above) >= negligible
            pairs.append(found[matters])
            values.append(shrunk[matters])
        order = np.argsort(np.concatenate(pairs))
        return cls(
            own.astype(np.float32), np.concatenate(pairs)[order], np.concatenate(values)[order].astype(np.float32)
        )

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
            reaching = np.flatnonzero(text.positions[tokens] > distance)
            keys = _pairs(text, tokens[reaching], distance)
            slots = np.minimum(np.searchsorted(self.pairs, keys), len(self.pairs) - 1)
            known = self.pairs[slots] == keys
            reaching, slots = reaching[known], slots[known]
            change = self.values[slots] - own[reaching]
            decides = np.abs(change) > np.abs(farthest[reaching])
            farthest[reaching[decides]] = change[decides]
            predicted[tokens[reaching[decides]]] = self.values[slots[decides]]
        return predicted


def _reaching(text: EncodedText, tokens: Int64[np.ndarray, " tokens"], distance: int) -> Int64[np.ndarray, " reaching"]:
    """Those of some tokens that have a token that many before them which is no BOS."""
    return tokens[text.positions[tokens] > distance]


def _pairs(text: EncodedText, tokens: Int64[np.ndarray, " tokens"], distance: int) -> Int64[np.ndarray, " tokens"]:
    """Key of the pair of each token's form and the one that many tokens before it."""
    forms = text.forms[tokens].astype(np.int64)
    return (forms * FARTHEST + distance - 1) * forms_of(text) + text.forms[tokens - distance]


def _shrunk(
    sums: Float64[np.ndarray, " runs"],
    counts: Int64[np.ndarray, " runs"],
    above: Float[np.ndarray, " runs"] | float,
    shrinkage: float,
) -> Float64[np.ndarray, " runs"]:
    """Means that ``shrinkage`` more occurrences of the value ``above`` pull towards it."""
    return (sums + shrinkage * above) / (counts + shrinkage)


def _normalised(activations: pl.Series, a_max: float) -> Float32[np.ndarray, " tokens"]:
    values = activations.to_numpy().astype(np.float64) / a_max
    if np.isnan(values).any():
        raise ValueError("an activation is NaN")
    return np.maximum(values, 0).astype(np.float32)
