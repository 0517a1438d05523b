"""Stage ``evaluation``: how well every predictor tells a unit's firing tokens, on every text (paper section 4).

1. Fit each unit's predictors: its graph, what it has to beat, and the controls (``predictors``); choose from which
   prediction on the unit is predicted to fire (``thresholds``).
2. ``top``: predict the unit's own test contexts, whose activations ``top_examples`` holds.
3. ``random`` and ``out_of_domain``: predict whole held-out documents, all units on the same tokens; ``quantiles``:
   those contexts of ``random`` that are drawn for the unit.
4. Count by document, and resample documents for the intervals; the layer's means are made of the counts later
   (``layer_scores``).
5. Keep a context of every strength, and the tokens on which the graph is most confidently wrong; name the kinds of
   failure.

Every position but 0 counts. A unit whose graph is empty is predicted silent everywhere and stays in the table. An error
in one unit is its own: the unit is ``failed`` in the ledger.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import polars as pl

from n2g_assets.core.errors import N2GError
from n2g_assets.core.registry import STAGES, TEXTS, named
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.bootstrap import poisson_weights
from n2g_assets.evaluation.document_counts import DocumentCounts, count_documents, document_rows
from n2g_assets.evaluation.failures import find_counterexamples, name_failures
from n2g_assets.evaluation.material import GRAPH_TABLES, UNIT_INPUTS, LayerMaterial, UnitMaterial
from n2g_assets.evaluation.predictors import fit_predictors
from n2g_assets.evaluation.scores import score_row
from n2g_assets.evaluation.size_curve import SizeCurve
from n2g_assets.evaluation.texts import DocumentText, draw_quantiles, drawn_rows, normalised, tokens_of
from n2g_assets.evaluation.thresholds import choose_thresholds
from n2g_assets.method.results import BlockResult, Outcome, finish_block, unit_frame

_TABLES = named(STAGES)["evaluation"].tables


def evaluate_units(units: Sequence[Unit], material: LayerMaterial) -> BlockResult:
    """Scores every predictor of some units of a layer, which have a graph, on every text.

    Returns:
        The tables of the stage ``evaluation`` and a ledger entry for every unit: ``failed`` where its rows cannot be
        evaluated, ``too_few_contexts`` where it has no train or no test context.
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
    tables = {name: pl.concat([unit_frame(name, []), *(frames[name] for frames in scored)]) for name in _TABLES}
    return finish_block(units, tables, unusual)


def _evaluate_unit(unit: Unit, material: LayerMaterial) -> dict[str, pl.DataFrame]:
    """The rows of one unit by table."""
    settings, threshold, a_max = material.evaluation, material.shared.method.firing_threshold, material.a_max[unit]
    of_unit = {table: material.of_unit(table, unit) for table in UNIT_INPUTS}
    train, test = (of_unit["top_examples"].filter(split=side).sort("rank") for side in ("train", "test"))
    test_text = DocumentText.of(test, material.shared.vocabulary)
    test_activations = normalised(test["activations"].explode(), a_max)
    partner = material.partners.get(unit)
    known = UnitMaterial(
        shared=material.shared,
        unit=unit,
        a_max=a_max,
        rows=of_unit | {"top_examples": train},
        left_out=test_text.document_ids,
        read_harvest=cache(lambda: material.read_harvest(unit)),
        partner_rows=None if partner is None else {name: material.of_unit(name, partner) for name in GRAPH_TABLES},
    )
    predictors = {**fit_predictors(material.predictors, known), **material.given(unit)}
    thresholds = choose_thresholds(predictors, known)
    curve = SizeCurve(predictors.get("graph"), known)
    scores: list[dict[str, Any]] = []
    counted: list[tuple[str, str, list[str], DocumentCounts]] = []
    wrong: list[dict[str, Any]] = []
    examples: list[dict[str, Any]] = []
    for name, text in {"top": test_text, **material.texts}.items():
        actual = test_activations if name == "top" else material.read(name, unit) / a_max
        predicted = {predictor: fitted.predict(text.encoded) for predictor, fitted in predictors.items()}
        counting = {name: text.inside}
        if name == "random":
            seed = [settings.seed, material.layer, unit.number, int(unit.sign < 0)]
            drawn = draw_quantiles(text, actual, settings.quantile_contexts, seed)
            counting["quantiles"] = tokens_of(text, drawn)
            examples = [unit.key() | row for row in drawn_rows(text, drawn, actual * a_max)]
        weights = poisson_weights(text.document_ids, settings.bootstrap_draws, settings.seed)
        curve.add(text, counting, actual, weights)
        for scored_text, tokens in counting.items():
            kind = named(TEXTS)[scored_text].threshold
            for predictor, guess in predicted.items():
                pair, alarm = (actual[tokens], guess[tokens]), thresholds[predictor][kind].threshold
                counts = count_documents(*pair, text.documents[tokens], len(text.document_ids), threshold, alarm)
                scores.append({
                    **unit.key(), "predictor": predictor, "text": scored_text, "threshold": alarm,
                    "ngram_n": getattr(predictors[predictor], "ngram_n", None),
                    **score_row(*pair, counts, weights, threshold),
                })  # fmt: skip
                counted.append((predictor, scored_text, text.document_ids, counts))
        if "graph" in predictors and name != "top":
            alarm = thresholds["graph"][named(TEXTS)[name].threshold].threshold
            wrong += find_counterexamples(
                unit, known.graph, of_unit["rules"], name, text, actual, threshold, alarm, settings.counterexamples
            )
    evaluation, counterexamples = unit_frame("evaluation", scores), unit_frame("counterexamples", wrong)
    measured = of_unit | {"evaluation": evaluation, "counterexamples": counterexamples}
    failures = name_failures(unit, measured, material.shared.vocabulary, a_max, threshold)
    chosen = unit_frame("thresholds", [
        {**unit.key(), "predictor": predictor, "kind": kind, **asdict(own)}
        for predictor, by_kind in thresholds.items() for kind, own in by_kind.items()
    ])  # fmt: skip
    known.forget()
    return {
        "evaluation": evaluation,
        "size_curve": unit_frame("size_curve", curve.rows),
        "thresholds": chosen,
        "document_scores": document_rows(unit, counted),
        "strength_examples": unit_frame("strength_examples", examples),
        "counterexamples": counterexamples,
        "failures": failures,
    }
