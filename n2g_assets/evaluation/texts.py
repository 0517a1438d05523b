"""The texts of the evaluation: what units are scored on, and what baselines learn from.

``random`` and ``out_of_domain`` are whole documents that no unit's graph was built from, the same for all units of a
layer, so that one forward pass serves them all. ``quantiles`` are a unit's own choice among the contexts of
``random``: the paper looks at the strongest examples only, here every strength is asked about.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Float32, Float64, Int32, Int64

from n2g_assets.core.errors import RowsError
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.text import EncodedText

DECILES = 10


@dataclass(frozen=True)
class DocumentText:
    """Contexts in sequence, and the context and document that every token belongs to."""

    contexts: pl.DataFrame
    """Columns context_id, document_id and token_ids, in the order of the text."""
    encoded: EncodedText
    windows: Int32[np.ndarray, " tokens"]
    """Number of the context of every token."""
    documents: Int32[np.ndarray, " tokens"]
    """Number of the document of every token."""
    document_ids: list[str]
    """By number, in ascending order."""

    @classmethod
    def of(cls, contexts: pl.DataFrame, vocabulary: Vocabulary) -> "DocumentText":
        """The text of contexts with the columns named above, in their order."""
        lengths = contexts["token_ids"].list.len().to_numpy().astype(np.int64)
        windows = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        positions = (np.arange(len(windows)) - (np.cumsum(lengths) - lengths)[windows]).astype(np.int32)
        forms = vocabulary.form_of[contexts["token_ids"].explode(empty_as_null=False).to_numpy()]
        encoded = EncodedText.from_forms(forms, positions, len(vocabulary.forms))
        document_ids, numbers = np.unique(contexts["document_id"].to_numpy(), return_inverse=True)
        return cls(contexts, encoded, windows, numbers.astype(np.int32)[windows], document_ids.tolist())

    @cached_property
    def inside(self) -> Bool[np.ndarray, " tokens"]:
        """The tokens that count: all but BOS."""
        return self.encoded.positions > 0


def normalised(activations: pl.Series, a_max: float) -> Float64[np.ndarray, " tokens"]:
    """Activations as shares of a_max.

    Raises:
        ValueError: one is NaN, which would silently count as silence.
    """
    values = activations.to_numpy().astype(np.float64) / a_max
    if np.isnan(values).any():
        raise ValueError("an activation is NaN")
    return values


def quantile_tokens(
    text: DocumentText, activations: Float[np.ndarray, " tokens"], per_decile: int, seed: Sequence[int]
) -> Bool[np.ndarray, " tokens"]:
    """The tokens of the contexts that are drawn for one unit.

    1. The positions where the unit is positive are cut into ten groups of equal size by their activation.
    2. Of each group, the weakest first, positions are drawn at random; the contexts of the first ``per_decile`` whose
       contexts were not drawn before are taken.
    """
    positive = text.inside & (activations > 0)
    windows = text.windows[positive]
    generator = np.random.default_rng(np.random.SeedSequence(list(seed)))
    chosen: set[int] = set()
    for group in np.array_split(np.argsort(activations[positive], kind="stable"), DECILES):
        drawn = dict.fromkeys(windows[generator.permutation(group)].tolist())
        chosen.update([window for window in drawn if window not in chosen][:per_decile])
    return text.inside & np.isin(text.windows, sorted(chosen))


@dataclass(frozen=True)
class HarvestText:
    """The harvested contexts in sequence: the same for all units of a study."""

    text: DocumentText
    cluster_of: Mapping[str, str]
    """By document id, the id of its cluster of near-duplicates; a document that is missing stands alone."""

    @cached_property
    def offsets(self) -> dict[str, int]:
        """By context id, the token at which it begins (its BOS)."""
        begins = np.flatnonzero(self.text.encoded.positions == 0).tolist()
        return dict(zip(self.text.contexts["context_id"], begins, strict=True))

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
        asked = {self.cluster_of.get(document_id, document_id) for document_id in document_ids}
        inside = [self.cluster_of.get(document_id, document_id) in asked for document_id in self.text.document_ids]
        return np.array(inside, bool)[self.text.documents]


@dataclass(frozen=True)
class HarvestLabels:
    """What is known of one unit on the tokens of the harvest, its test documents left out."""

    text: EncodedText
    """The harvest."""
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
    ) -> "HarvestLabels":
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
        text = harvest.text.encoded
        counted = harvest.text.inside & ~harvest.inside(test_documents)
        values, unknown = np.zeros(len(text), np.float32), np.zeros(len(text), bool)

        listed = harvest.starts_of(activations["context_id"]) + activations["position"].to_numpy()
        values[listed] = normalised(activations["activation"], a_max)
        listed = listed[counted[listed]]
        if len(activations) >= strongest and len(listed) and values[listed].min() >= threshold:
            unknown = _of_forms(text, text.forms[listed])
            unknown[listed] = False

        for first, row in zip(harvest.starts_of(train["context_id"]), train["activations"], strict=True):
            values[first : first + len(row)] = normalised(row, a_max)
            unknown[first : first + len(row)] = False
        counted &= ~unknown
        return cls(text, counted, np.where(counted, np.maximum(values, 0), np.float32(0)))

    @property
    def mean(self) -> float:
        """Mean over all tokens that count: what is expected of a token of which nothing is known."""
        return float(self.values.sum(dtype=np.float64)) / max(1, int(np.count_nonzero(self.counted)))

    def tokens_of_active_forms(self) -> Int64[np.ndarray, " tokens"]:
        """The tokens that count and whose form is active (above 0) somewhere."""
        return np.flatnonzero(self.counted & _of_forms(self.text, self.text.forms[self.values > 0]))


def _of_forms(text: EncodedText, forms: Int32[np.ndarray, " asked"]) -> Bool[np.ndarray, " tokens"]:
    """Whether each token has one of these forms; a table of all forms takes a fifth of the time of ``np.isin``."""
    among = np.zeros(text.n_forms, bool)
    among[forms] = True
    return among[text.forms]
