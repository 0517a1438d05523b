"""What baselines may learn from the harvest: its text, and what is known of a unit on every token of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Float32, Float64, Int32, Int64

from n2g_assets.core.errors import RowsError
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.text import EncodedText

SHRINKAGE = 0.25
"""Occurrences that the value of the shorter context counts for, in both baselines that learn from the harvest.

Chosen once, for both, among 1/8 to 4 on harvested documents left out in turn, for 240 neurons of three layers
outside the demo's sample. Average precision of firing hardly depends on it (back-off: .305 to .311 up to 1, best at
1/4); F1 at a threshold of 0.5 falls the larger it is (.288, .281, .264, .239 from 1/8 to 1), as a run that was seen
firing once is then predicted silent.
"""
NEGLIGIBLE = 0.01
"""Normalised activation by which a longer context has to change a value to be remembered."""


@dataclass(frozen=True)
class HarvestText:
    """The harvested contexts in sequence: the same for all units of a study."""

    text: EncodedText
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
        """The text of contexts with the columns ``context_id``, ``document_id`` and ``token_ids``, in their order."""
        lengths = contexts["token_ids"].list.len().to_numpy().astype(np.int64)
        first = np.cumsum(lengths) - lengths
        positions = np.arange(lengths.sum()) - np.repeat(first, lengths)
        token_ids = contexts["token_ids"].explode(empty_as_null=False).to_numpy()
        clusters = [cluster_of.get(document_id, document_id) for document_id in contexts["document_id"]]
        numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
        return cls(
            EncodedText.from_forms(vocabulary.form_of[token_ids], positions.astype(np.int32), len(vocabulary.forms)),
            dict(zip(contexts["context_id"], first.tolist(), strict=True)),
            np.repeat(np.array([numbers[cluster] for cluster in clusters], np.int32), lengths),
            numbers,
            cluster_of,
        )

    def starts_of(self, context_ids: pl.Series) -> Int64[np.ndarray, " contexts"]:
        """The tokens at which contexts begin.

        Raises:
            RowsError: a context is not among the harvested ones.
        """
        offsets = [self.offsets.get(context_id, -1) for context_id in context_ids]
        if -1 in offsets:
            raise RowsError(
                f"Context {context_ids[offsets.index(-1)]} is not among the harvested ones: its rows belong to another "
                "corpus, make them again from this one."
            )
        return np.array(offsets, np.int64)

    def inside(self, document_ids: Collection[str]) -> Bool[np.ndarray, " tokens"]:
        """Whether each token stands in one of these documents or in a near-duplicate of one."""
        asked = np.zeros(len(self.cluster_numbers), bool)
        for document_id in document_ids:
            number = self.cluster_numbers.get(self.cluster_of.get(document_id, document_id))
            if number is not None:
                asked[number] = True
        return asked[self.clusters]


@dataclass(frozen=True)
class HarvestLabels:
    """What is known of one unit on the tokens of the harvest, its test documents left out."""

    harvest: HarvestText
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
    ) -> HarvestLabels:
        """Gathers what is known of one unit.

        1. No token of a test document or of its near-duplicates counts, whatever the other rows say of it.
        2. A token of a train context has the activation measured there, one that ``activations`` lists the listed one.
        3. Every other token is not above the *floor*, the weakest activation listed outside the test documents, and
           counts as silent (0). It does not count where the unit may fire below the floor (the list is full and the
           floor reaches the threshold) and the list holds its form: the list then shows where that form is strongest
           and says nothing of the rest.

        Activations below 0 count as 0: the baselines predict how strongly a unit fires, and of tokens that are not
        listed only silence is known.

        ``activations`` are the unit's rows of that table, ``train`` its rows of ``top_examples`` on the train side. The
        harvest keeps ``strongest`` rows for a unit; fewer rows are all that there are.

        Raises:
            RowsError: a context is not among the harvested ones.
            ValueError: an activation is NaN.
        """
        text = harvest.text
        counted = (text.positions > 0) & ~harvest.inside(test_documents)
        values = np.zeros(len(text), np.float32)

        listed = harvest.starts_of(activations["context_id"]) + activations["position"].to_numpy()
        strengths = _normalised(activations["activation"], a_max)
        listed, strengths = listed[counted[listed]], strengths[counted[listed]]
        values[listed] = strengths
        unknown = np.zeros(len(text), bool)
        if len(activations) >= strongest and len(listed) and strengths.min() >= threshold:
            unknown = counted & _of_forms(text, text.forms[listed])
            unknown[listed] = False

        for first, row in zip(harvest.starts_of(train["context_id"]), train["activations"], strict=True):
            values[first : first + len(row)] = _normalised(row, a_max)
            unknown[first : first + len(row)] = False
        counted &= ~unknown
        return cls(harvest, counted, np.where(counted, values, np.float32(0)))

    @property
    def mean(self) -> float:
        """Mean over all tokens that count: what is expected of a token of which nothing is known."""
        return float(self.values.sum(dtype=np.float64)) / max(1, int(np.count_nonzero(self.counted)))

    def tokens_of_active_forms(self) -> Int64[np.ndarray, " tokens"]:
        """The tokens that count and whose form is active (above 0) somewhere."""
        text = self.harvest.text
        return np.flatnonzero(self.counted & _of_forms(text, text.forms[self.values > 0]))


def _of_forms(text: EncodedText, forms: Int32[np.ndarray, " asked"]) -> Bool[np.ndarray, " tokens"]:
    """Whether each token has one of these forms; a table of all forms takes a fifth of the time of ``np.isin``."""
    among = np.zeros(text.n_forms, bool)
    among[forms] = True
    return among[text.forms]


def shrunk(
    sums: Float64[np.ndarray, " runs"], counts: Int64[np.ndarray, " runs"], shorter: Float[np.ndarray, " runs"] | float,
    shrinkage: float,
) -> Float64[np.ndarray, " runs"]:  # fmt: skip
    """Means that are pulled towards the value of the shorter context, as ``shrinkage`` more occurrences would."""
    return (sums + shrinkage * shorter) / (counts + shrinkage)


def _normalised(activations: pl.Series, a_max: float) -> Float32[np.ndarray, " tokens"]:
    values = activations.to_numpy().astype(np.float64) / a_max
    if np.isnan(values).any():
        raise ValueError("an activation is NaN")
    return np.maximum(values, 0).astype(np.float32)
