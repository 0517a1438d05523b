"""What the units of a layer are evaluated with, what a predictor may know of one, and what a predictor has to be."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64

from n2g_assets.core.registry import Method
from n2g_assets.core.settings import ScoredMethod, ScoreSettings
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.harvest import HarvestLabels, HarvestText
from n2g_assets.evaluation.texts import DocumentText, normalised
from n2g_assets.method.class_graphs import Read
from n2g_assets.method.class_rows import graph_of_rows
from n2g_assets.method.classes import ClassGraph
from n2g_assets.method.predict import TokenGraph
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.text import EncodedText

Made = TypeVar("Made")
Graph = TokenGraph | ClassGraph
GRAPH_TABLES = ("graph_nodes", "token_classes")
"""Tables whose rows of a unit are its graph."""

UNIT_INPUTS = (
    "top_examples", "pruned_examples", "saliencies", "graph_nodes", "token_classes", "rules", "rule_tests",
)  # fmt: skip
"""Tables whose rows of a unit its scores are made from."""


class Predictor(Protocol):
    """Says how strongly a unit activates on each token of a text.

    It may have three attributes more:

    - ``ngram_n``: the n of an n-gram (column ``evaluation.ngram_n``).
    - ``left_out``: what it predicts at every token of the harvest, as if it had not seen that token's document. Without
      it the predictor is fitted again on half of the documents (``thresholds``).
    - ``from_outside``: whether somebody else's explanation says it, which knows nothing of the harvest: it is predicted
      to fire from where the unit itself fires.
    """

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Predicted normalised activation of every token; 0 at BOS and where it has nothing to say."""
        ...


@dataclass(frozen=True)
class SharedMaterial:
    """What the predictors of every unit of a layer may know."""

    vocabulary: Vocabulary
    harvest: Callable[[], HarvestText]
    """What is learnt from: the harvest and what stands behind it, read when a predictor first asks for it."""
    method: ScoredMethod
    preset: Method
    """``method.preset``."""
    seed: int
    """Decides which documents are left out together where thresholds are chosen."""

    def graph_of(self, rows: Mapping[str, pl.DataFrame]) -> Graph:
        """The graph in the rows of one unit by table."""
        if self.preset == "paper":
            return TokenGraph.from_rows(rows["graph_nodes"], self.vocabulary)
        return graph_of_rows(rows["graph_nodes"], rows["token_classes"], self.vocabulary.bos_id)


@dataclass(frozen=True)
class LayerMaterial:
    """What some units of a layer are evaluated with."""

    shared: SharedMaterial
    layer: int
    rows: Mapping[str, pl.DataFrame]
    """By table of ``UNIT_INPUTS``, the units' rows; those of graphs hold their partners' as well."""
    a_max: Mapping[Unit, float]
    """Largest activation over the harvest of every unit."""
    texts: Mapping[str, DocumentText]
    """By name, the held-out texts that are scored: whole documents; ``quantiles`` is drawn from ``random``."""
    read: Callable[[str, Unit], Float32[np.ndarray, " tokens"]]
    """Activation (times the sign, not normalised) of a unit at every token of the text of this name."""
    read_harvest: Read
    """The same at every token of ``shared.harvest()``."""
    partners: Mapping[Unit, Unit]
    """By unit, the one whose graph is its shuffled control."""
    predictors: Sequence[str]
    evaluation: ScoreSettings
    given: Callable[[Unit], Mapping[str, Predictor]] = lambda unit: {}
    """What other people's explanations predict of a unit, by name."""

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
    left_out: Sequence[str]
    """Documents that it may not be learnt from: those of the test side."""
    read_harvest: Callable[[], Float32[np.ndarray, " tokens"]]
    """The unit's activation (times the sign, not normalised) at every token of ``shared.harvest()``."""
    partner_rows: Mapping[str, pl.DataFrame] | None
    """The rows of the graph of the unit's partner (``graph_shuffled``) by table; None where there is no other graph."""

    _made: dict[str, Any] = field(default_factory=dict, repr=False)

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What ``make`` gives, made once for the unit: predictors may stand on one another."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def forget(self) -> None:
        """Lets go of what was made, which holds on to the material: so memory is free at once."""
        self._made.clear()

    @cached_property
    def graph(self) -> Graph:
        """The unit's token graph."""
        return self.shared.graph_of(self.rows)

    @cached_property
    def train(self) -> tuple[EncodedText, Float64[np.ndarray, " tokens"]]:
        """The unit's train contexts, and its normalised activations there."""
        examples = self.rows["top_examples"]
        text = DocumentText.of(examples, self.shared.vocabulary)
        return text.encoded, normalised(examples["activations"].explode(), self.a_max)

    @cached_property
    def harvest_labels(self) -> HarvestLabels:
        """What the unit does all over the harvest, but for the documents that are left out."""
        return HarvestLabels.of(self.shared.harvest(), self.read_harvest(), self.a_max, self.left_out)

    def without(self, documents: Sequence[str]) -> "UnitMaterial":
        """The same without what some documents tell, given with all their near-duplicates.

        What earlier stages made of them, such as the graph, stays as it is.
        """
        examples = self.rows["top_examples"].filter(~pl.col("document_id").is_in(documents))
        kept = {"top_examples": examples} | {
            table: self.rows[table].join(examples.select("rank"), on="rank", how="semi")
            for table in ("pruned_examples", "saliencies")
        }
        return replace(self, rows={**self.rows, **kept}, left_out=[*self.left_out, *documents], _made={})
