"""What the units of a layer are evaluated with, what a predictor may know of one, and what a predictor has to be."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64

from n2g_assets.core.settings import GraphSettings, ScoreSettings
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.texts import DocumentText, HarvestLabels, HarvestText, normalised
from n2g_assets.method.predict import TokenGraph
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.text import EncodedText

UNIT_INPUTS = (
    "top_examples", "pruned_examples", "saliencies", "graph_nodes", "rules", "rule_tests", "activations",
)  # fmt: skip
"""Tables whose rows of a unit its scores are made from."""


class Predictor(Protocol):
    """Says how strongly a unit activates on each token of a text.

    A predictor that is an n-gram tells its n as the attribute ``ngram_n`` (column ``evaluation.ngram_n``).
    """

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Predicted normalised activation of every token; 0 at BOS and where it has nothing to say."""
        ...


@dataclass(frozen=True)
class SharedMaterial:
    """What the predictors of every unit of a layer may know."""

    vocabulary: Vocabulary
    harvest: Callable[[], HarvestText]
    """The harvested contexts, read when a predictor first asks for them."""
    strongest: int
    """Strong positions that the harvest keeps for a unit."""
    method: GraphSettings


@dataclass(frozen=True)
class LayerMaterial:
    """What some units of a layer are evaluated with."""

    shared: SharedMaterial
    layer: int
    rows: Mapping[str, pl.DataFrame]
    """By table of ``UNIT_INPUTS``, the units' rows; ``graph_nodes`` holds those of their partners as well."""
    a_max: Mapping[Unit, float]
    """Largest activation over the harvest of every unit."""
    texts: Mapping[str, DocumentText]
    """By name, the held-out texts that are scored: whole documents; ``quantiles`` is drawn from ``random``."""
    read: Callable[[str, Unit], Float32[np.ndarray, " tokens"]]
    """Activation (signed, not normalised) of a unit at every token of the text of this name."""
    partners: Mapping[Unit, Unit]
    """By unit, the one whose graph is its shuffled control."""
    predictors: Sequence[str]
    evaluation: ScoreSettings

    def of_unit(self, table: str, unit: Unit) -> pl.DataFrame:
        """The rows of one unit in one of the tables."""
        return self.rows[table].filter(unit=unit.number, sign=unit.sign)


@dataclass(frozen=True)
class UnitMaterial:
    """What a predictor may know of a unit: nothing of its test contexts but the names of their documents.

    What takes time is made when a predictor first asks for it.
    """

    shared: SharedMaterial
    unit: Unit
    a_max: float
    """Largest activation over the harvest."""
    rows: Mapping[str, pl.DataFrame]
    """By table of ``UNIT_INPUTS``, the unit's rows; of ``top_examples`` those of the train side, by rank."""
    test_documents: Sequence[str]
    """Documents of the test side, which no predictor may learn from."""
    partner_nodes: pl.DataFrame | None
    """Rows of ``graph_nodes`` of the unit's partner (``graph_shuffled``); None where there is no other graph."""

    @cached_property
    def graph(self) -> TokenGraph:
        """The unit's token graph."""
        return TokenGraph.from_rows(self.rows["graph_nodes"], self.shared.vocabulary)

    @cached_property
    def train(self) -> tuple[EncodedText, Float64[np.ndarray, " tokens"]]:
        """The unit's train contexts, and its normalised activations there."""
        examples = self.rows["top_examples"]
        text = DocumentText.of(examples, self.shared.vocabulary)
        return text.encoded, normalised(examples["activations"].explode(), self.a_max)

    @cached_property
    def harvest_labels(self) -> HarvestLabels:
        """What is known of the unit all over the harvest, without its test documents."""
        return HarvestLabels.of(
            self.shared.harvest(), self.rows["activations"], self.rows["top_examples"], self.test_documents, self.a_max,
            strongest=self.shared.strongest, threshold=self.shared.method.firing_threshold,
        )  # fmt: skip
