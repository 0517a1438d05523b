"""Stage ``evaluation``: how well each predictor tells a unit's firing tokens on its own test contexts.

1. Normalise the activations of the unit's top contexts by its a_max and map token ids to forms.
2. Predict every test context with the unit's token graph.
3. Fit the baselines on the unit's train contexts, the ones its graph was built from, and predict the same.
4. Count firing and silent tokens over every position but 0 (DESIGN section 6, step 7).

A unit whose graph is empty is predicted silent everywhere and stays in the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float64, Int32

from n2g_assets.evaluation.baselines import NGram, TokenLookup
from n2g_assets.evaluation.metrics import Counts, count_firings
from n2g_assets.method.predict import TokenGraph, predict
from n2g_assets.method.probing import Unit, Vocabulary
from n2g_assets.method.results import BlockResult, Outcome, finish_block, unit_frame
from n2g_assets.settings import MethodSettings

PREDICTORS = ("graph", "token_lookup", "ngram")
"""Predictors of the table ``evaluation``, in order."""


@dataclass(frozen=True)
class LabelledContext:
    """One context as predictors see it."""

    forms: Int32[np.ndarray, " length"]
    """Index into ``Vocabulary.forms`` at every position, BOS at 0."""
    activations: Float64[np.ndarray, " length"]
    """Normalised activation at every position."""


def evaluate_units(
    units: Sequence[Unit],
    top_examples: pl.DataFrame,
    graph_nodes: pl.DataFrame,
    a_max: Mapping[Unit, float],
    vocabulary: Vocabulary,
    settings: MethodSettings,
) -> BlockResult:
    """Evaluates the token graphs of a block and the baselines on each unit's own test contexts.

    Args:
        units: the block.
        top_examples: table ``top_examples`` of these units, whole windows of both sides.
        graph_nodes: table ``graph_nodes`` of these units.
        a_max: largest activation of each unit over the harvest.
        vocabulary: forms under which tokens match.
        settings: ``firing_threshold`` is read.

    Returns:
        Table ``evaluation``, three rows a unit, and a ledger entry for every unit: ``failed`` where its rows cannot
        be evaluated, ``too_few_contexts`` where it has no train or no test context.
    """
    examples = top_examples.partition_by("neuron", "sign", as_dict=True)
    nodes = graph_nodes.partition_by("neuron", "sign", as_dict=True)
    rows: list[dict[str, object]] = []
    unusual: dict[Unit, Outcome] = {}
    for unit in units:
        key = (unit.neuron, unit.sign)
        if key not in examples:
            unusual[unit] = Outcome("failed", "The unit has no top examples.")
            continue
        train, test = (
            labelled_contexts(examples[key].filter(pl.col("split") == side), a_max[unit], vocabulary)
            for side in ("train", "test")
        )
        if not train or not test:
            unusual[unit] = Outcome("too_few_contexts", f"{len(train)} train and {len(test)} test contexts.")
            continue
        graph = TokenGraph.from_rows(nodes.get(key, graph_nodes.clear()), vocabulary)
        try:
            scores, n = _evaluate(graph, train, test, settings.firing_threshold)
        except ValueError as error:
            unusual[unit] = Outcome("failed", f"The unit's test contexts cannot be evaluated: {error}.")
            continue
        for predictor, counts in scores.items():
            rows.append({**unit._asdict(), **_row(predictor, counts), "ngram_n": n if predictor == "ngram" else None})
    return finish_block(units, {"evaluation": unit_frame("evaluation", rows)}, unusual)


def labelled_contexts(examples: pl.DataFrame, a_max: float, vocabulary: Vocabulary) -> list[LabelledContext]:
    """The contexts of one unit's rows of ``top_examples``, in order of rank, normalised by ``a_max``."""
    examples = examples.sort("rank")
    return [
        LabelledContext(vocabulary.form_of[tokens.to_numpy()], activations.to_numpy().astype(np.float64) / a_max)
        for tokens, activations in zip(examples["token_ids"], examples["activations"], strict=True)
    ]


def _evaluate(
    graph: TokenGraph, train: Sequence[LabelledContext], test: Sequence[LabelledContext], threshold: float
) -> tuple[dict[str, Counts], int]:
    """Counts of every predictor over the test contexts, and the n that the n-gram baseline chose."""
    seen, activations = [context.forms for context in train], [context.activations for context in train]
    lookup, ngram = TokenLookup().fit(seen, activations), NGram.choose(seen, activations, threshold)
    predictions = {
        "graph": [predict(graph, context.forms) for context in test],
        "token_lookup": [lookup.predict(context.forms) for context in test],
        "ngram": [ngram.predict(context.forms) for context in test],
    }
    truth = np.concatenate([context.activations[1:] for context in test])
    return {
        name: count_firings(truth, np.concatenate([one[1:] for one in predicted]), threshold)
        for name, predicted in predictions.items()
    }, ngram.n


def _row(predictor: str, counts: Counts) -> dict[str, object]:
    return {
        "predictor": predictor,
        "text": "top",
        **counts._asdict(),
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "n_firings": counts.n_firings,
    }
