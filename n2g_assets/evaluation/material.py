"""What a predictor may know of a unit, and what a predictor has to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64, Int64

from n2g_assets.core.settings import GraphSettings
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.harvest_text import HarvestLabels, HarvestText
from n2g_assets.method.predict import TokenGraph
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.text import EncodedText


class Predictor(Protocol):
    """Says how strongly a unit activates on each token of a text.

    A predictor that is an n-gram tells its n as the attribute ``ngram_n`` (column ``evaluation.ngram_n``).
    """

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Predicted normalised activation of every token; 0 at BOS and where it has nothing to say."""
        ...


@dataclass(frozen=True)
class LabelledText:
    """Contexts of one unit in sequence, and what the unit does on them."""

    text: EncodedText
    actual: Float64[np.ndarray, " tokens"]
    """Normalised activations."""
    documents: Int64[np.ndarray, " tokens"]
    """Number of the document of every token."""
    document_ids: list[str]
    """By number."""

    @classmethod
    def of(cls, examples: pl.DataFrame, a_max: float, vocabulary: Vocabulary) -> LabelledText:
        """The text of rows of ``top_examples`` of one unit, in order of rank.

        Raises:
            ValueError: an activation is NaN, which would silently count as silence.
        """
        examples = examples.sort("rank")
        document_ids = examples["document_id"].unique().sort().to_list()
        numbers = [document_ids.index(document_id) for document_id in examples["document_id"]]
        actual = examples["activations"].explode().to_numpy().astype(np.float64) / a_max
        if np.isnan(actual).any():
            raise ValueError("an activation is NaN")
        return cls(
            EncodedText.from_contexts([np.asarray(tokens, np.int32) for tokens in examples["token_ids"]], vocabulary),
            actual,
            np.repeat(numbers, examples["token_ids"].list.len().to_numpy()),
            document_ids,
        )


@dataclass(frozen=True)
class UnitMaterial:
    """What a predictor may know of a unit: nothing of its test contexts but the names of their documents.

    What takes time is made when a predictor first asks for it.
    """

    unit: Unit
    a_max: float
    """Largest activation over the harvest."""
    train_examples: pl.DataFrame
    """Rows of ``top_examples`` on the train side."""
    test_documents: Sequence[str]
    """Documents of the test side, which no predictor may learn from."""
    pruned_examples: pl.DataFrame
    saliencies: pl.DataFrame
    graph_nodes: pl.DataFrame
    partner_nodes: pl.DataFrame | None
    """Rows of ``graph_nodes`` of the unit's partner (``graph_shuffled``); None where there is no other graph."""
    activations: pl.DataFrame
    """The strong positions of the harvest."""
    harvest: Callable[[], HarvestText]
    """The harvested contexts."""
    strongest: int
    """Strong positions that the harvest keeps for a unit."""
    vocabulary: Vocabulary
    method: GraphSettings

    @cached_property
    def graph(self) -> TokenGraph:
        """The unit's token graph."""
        return TokenGraph.from_rows(self.graph_nodes, self.vocabulary)

    @cached_property
    def train(self) -> LabelledText:
        """The unit's train contexts."""
        return LabelledText.of(self.train_examples, self.a_max, self.vocabulary)

    @cached_property
    def harvest_labels(self) -> HarvestLabels:
        """What is known of the unit all over the harvest, without its test documents."""
        return HarvestLabels.of(
            self.harvest(), self.activations, self.train_examples, self.test_documents, self.a_max,
            strongest=self.strongest, threshold=self.method.firing_threshold,
        )  # fmt: skip
