"""Stage ``evaluation``: how well every predictor tells a unit's firing tokens, on every text (paper section 4).

1. Fit each unit's predictors: its graph, what it has to beat, and the controls (``predictors``).
2. ``top``: predict the unit's own test contexts, whose activations ``top_examples`` holds.
3. ``random`` and ``out_of_domain``: predict whole held-out documents, all units on the same tokens; ``quantiles``:
   those contexts of ``random`` that are drawn for the unit.
4. Count by document, and resample documents for the intervals; the layer's means are made of the counts later
   (``layer_scores``).
5. Keep the tokens on which the graph is most confidently wrong, and name the kinds of failure.

Every position but 0 counts. A unit whose graph is empty is predicted silent everywhere and stays in the table. An error
in one unit is its own: the unit is ``failed`` in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from n2g_assets.core.errors import N2GError
from n2g_assets.core.settings import GraphSettings, ScoreSettings
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.bootstrap import poisson_weights
from n2g_assets.evaluation.counterexamples import find_counterexamples
from n2g_assets.evaluation.document_counts import DocumentCounts, count_documents, document_rows
from n2g_assets.evaluation.failures import name_failures
from n2g_assets.evaluation.harvest_text import HarvestText
from n2g_assets.evaluation.material import LabelledText, UnitMaterial
from n2g_assets.evaluation.predictors import fit_predictors
from n2g_assets.evaluation.scores import score_row
from n2g_assets.evaluation.texts import HeldOutText, quantile_tokens
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.results import BlockResult, Outcome, finish_block, unit_frame

UNIT_INPUTS = (
    "top_examples", "pruned_examples", "saliencies", "graph_nodes", "rules", "rule_tests", "activations",
)  # fmt: skip
"""Tables whose rows of a unit its scores are made from."""


@dataclass(frozen=True)
class LayerMaterial:
    """What some units of a layer are evaluated with."""

    layer: int
    rows: Mapping[str, pl.DataFrame]
    """By table of ``UNIT_INPUTS``, the units' rows; ``graph_nodes`` holds those of their partners as well."""
    a_max: Mapping[Unit, float]
    """Largest activation over the harvest of every unit."""
    vocabulary: Vocabulary
    harvest: Callable[[], HarvestText]
    """What baselines learn from, read when one first asks for it."""
    strongest: int
    """Strong positions that the harvest keeps for a unit."""
    texts: Sequence[HeldOutText]
    """The held-out texts that are scored; ``quantiles`` is drawn from ``random``."""
    partners: Mapping[Unit, Unit]
    """By unit, the one whose graph is its shuffled control."""
    predictors: Sequence[str]
    method: GraphSettings
    evaluation: ScoreSettings

    def of_unit(self, table: str, unit: Unit) -> pl.DataFrame:
        """The rows of one unit in one of the tables."""
        return self.rows[table].filter(unit=unit.number, sign=unit.sign)


def evaluate_units(units: Sequence[Unit], material: LayerMaterial) -> BlockResult:
    """Scores every predictor of some units of a layer, which have a graph, on every text.

    Returns:
        Tables ``evaluation``, ``document_scores``, ``counterexamples`` and ``failures`` and a ledger entry for every
        unit: ``failed`` where its rows cannot be evaluated, ``too_few_contexts`` where it has no train or no test
        context.
    """
    scored: list[dict[str, pl.DataFrame]] = []
    unusual: dict[Unit, Outcome] = {}
    for unit in units:
        counts = dict(material.of_unit("top_examples", unit).group_by("split").len().iter_rows())
        if not counts.get("train") or not counts.get("test"):
            reason = f"{counts.get('train', 0)} train and {counts.get('test', 0)} test contexts."
            unusual[unit] = Outcome("too_few_contexts", reason)
            continue
        try:
            scored.append(_evaluate_unit(unit, material))
        except (N2GError, OSError, MemoryError):
            raise
        except Exception as error:  # of this unit alone: the others go on
            unusual[unit] = Outcome("failed", f"The unit cannot be evaluated: {type(error).__name__}: {error}.")
    names = ("evaluation", "document_scores", "counterexamples", "failures")
    tables = {name: pl.concat([unit_frame(name, []), *(frames[name] for frames in scored)]) for name in names}
    return finish_block(units, tables, unusual)


def _evaluate_unit(unit: Unit, material: LayerMaterial) -> dict[str, pl.DataFrame]:
    """The rows of one unit by table."""
    settings, threshold, a_max = material.evaluation, material.method.firing_threshold, material.a_max[unit]
    of_unit = {table: material.of_unit(table, unit) for table in UNIT_INPUTS}
    top_examples, partner = of_unit["top_examples"], material.partners.get(unit)
    test = LabelledText.of(top_examples.filter(split="test"), a_max, material.vocabulary)
    known = UnitMaterial(
        unit=unit,
        a_max=a_max,
        train_examples=top_examples.filter(split="train"),
        test_documents=test.document_ids,
        partner_nodes=None if partner is None else material.of_unit("graph_nodes", partner),
        harvest=material.harvest,
        strongest=material.strongest,
        vocabulary=material.vocabulary,
        method=material.method,
        **{table: of_unit[table] for table in ("pruned_examples", "saliencies", "graph_nodes", "activations")},
    )
    predictors = fit_predictors(material.predictors, known)
    rows: list[dict[str, Any]] = []
    scored: list[tuple[str, str, Sequence[str], DocumentCounts]] = []
    wrong: list[dict[str, Any]] = []

    def score(
        text: str,
        actual: Float[np.ndarray, " tokens"],
        predicted: Mapping[str, Float[np.ndarray, " tokens"]],
        documents: Int[np.ndarray, " tokens"],
        document_ids: Sequence[str],
        where: Bool[np.ndarray, " tokens"],
    ) -> None:
        weights = poisson_weights(document_ids, settings.bootstrap_draws, settings.seed)
        for name, guess in predicted.items():
            pair = actual[where], guess[where]
            counts = count_documents(*pair, documents[where], len(document_ids), threshold)
            key = {**unit.key(), "predictor": name, "text": text, "ngram_n": getattr(predictors[name], "ngram_n", None)}
            rows.append(key | score_row(*pair, counts, weights, threshold))
            scored.append((name, text, document_ids, counts))

    predicted = {name: predictor.predict(test.text) for name, predictor in predictors.items()}
    score("top", test.actual, predicted, test.documents, test.document_ids, test.text.positions > 0)
    for text in material.texts:
        actual = text.read(unit) / a_max
        predicted = {name: predictor.predict(text.encoded) for name, predictor in predictors.items()}
        score(text.name, actual, predicted, text.documents, text.document_ids, text.inside)
        if text.name == "random":
            seed = [settings.seed, material.layer, unit.number, int(unit.sign < 0)]
            drawn = quantile_tokens(text, actual, settings.quantile_contexts, seed)
            score("quantiles", actual, predicted, text.documents, text.document_ids, drawn)
        if "graph" in predictors:
            wrong += find_counterexamples(
                unit, known.graph, of_unit["rules"], text, actual, threshold, settings.counterexamples
            )
    evaluation, counterexamples = unit_frame("evaluation", rows), unit_frame("counterexamples", wrong)
    return {
        "evaluation": evaluation,
        "document_scores": document_rows(unit, scored),
        "counterexamples": counterexamples,
        "failures": name_failures(
            unit, top_examples, of_unit["pruned_examples"], of_unit["rules"], evaluation, counterexamples,
            of_unit["rule_tests"], a_max, threshold,
        ),
    }  # fmt: skip
