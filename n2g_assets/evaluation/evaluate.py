"""Stage ``evaluation``: how well every predictor tells a unit's firing tokens, on every text (DESIGN section 6).

1. Fit each unit's predictors: its graph, what it has to beat, and the controls (``predictors``).
2. ``top``: predict the unit's own test contexts, whose activations ``top_examples`` holds.
3. ``random`` and ``out_of_domain``: predict whole held-out documents, shard by shard, for all units on the same
   activations; ``quantiles``: those of its contexts that were drawn for the unit. Scores add up as shards go by.
4. Resample documents for the intervals, of units and of the means over the layer's units.
5. Keep the tokens on which the graph is most confidently wrong, and name the kinds of failure.

Every position but 0 counts. A unit whose graph is empty is predicted silent everywhere and stays in the table. An error
in one unit is its own: the unit is ``failed`` in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64

from n2g_assets.core.errors import N2GError
from n2g_assets.core.settings import EvaluationSettings, MethodSettings
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.baselines import AlwaysZero, NGram, TokenLookup
from n2g_assets.evaluation.bootstrap import poisson_weights
from n2g_assets.evaluation.counterexamples import Counterexamples, rules_of_ends
from n2g_assets.evaluation.failures import name_failures
from n2g_assets.evaluation.layer_scores import LayerScores
from n2g_assets.evaluation.predictors import Predictor, PredictorName
from n2g_assets.evaluation.rivals import Evidence, HarvestText, SkipBigrams, fit_backoff
from n2g_assets.evaluation.scores import Scores
from n2g_assets.evaluation.texts import HeldOutText, TextName, quantile_windows
from n2g_assets.method.graph import build_graphs
from n2g_assets.method.predict import TokenGraph
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.results import BlockResult, Outcome, finish_block, frames_by_unit, unit_frame
from n2g_assets.method.text import EncodedText


@dataclass(frozen=True)
class LayerRows:
    """What was made of some units of one layer; each frame holds the rows of all of them."""

    layer: int
    top_examples: pl.DataFrame
    pruned_examples: pl.DataFrame
    saliencies: pl.DataFrame
    augmented_examples: pl.DataFrame
    graph_nodes: pl.DataFrame
    rules: pl.DataFrame
    rule_tests: pl.DataFrame
    activations: pl.DataFrame
    """The strong positions of the harvest."""

    def of(self, unit: Unit) -> LayerRows:
        """Those of one unit."""
        return LayerRows(layer=self.layer, **{name: self.table(name, unit) for name in self._parts})

    def table(self, name: str, unit: Unit) -> pl.DataFrame:
        """The rows of one unit in one of the tables."""
        part = self._parts[name].get(unit)
        return getattr(self, name).clear() if part is None else part

    @cached_property
    def _parts(self) -> dict[str, dict[Unit, pl.DataFrame]]:
        """By table and unit, its rows."""
        return {name: frames_by_unit(value) for name, value in vars(self).items() if isinstance(value, pl.DataFrame)}


@dataclass(frozen=True)
class Materials:
    """What some units of a layer are evaluated with."""

    rows: LayerRows
    """Theirs; ``graph_nodes`` holds those of their partners as well."""
    a_max: Mapping[Unit, float]
    """Largest activation over the harvest of every unit."""
    vocabulary: Vocabulary
    harvest: HarvestText | None
    """What the rivals learn from; none where they are not asked for."""
    strongest: int
    """Strong positions that the harvest keeps for a unit."""
    texts: Sequence[HeldOutText]
    """The held-out texts that are scored; ``quantiles`` is drawn from ``random``."""
    partners: Mapping[Unit, Unit]
    """By unit, the one whose graph is its shuffled control."""
    predictors: Sequence[PredictorName]
    method: MethodSettings
    evaluation: EvaluationSettings


@dataclass(frozen=True)
class Labelled:
    """A text of one unit: its tokens and what the unit does on them."""

    text: EncodedText
    actual: Float64[np.ndarray, " tokens"]
    """Normalised activations."""
    documents: Int64[np.ndarray, " tokens"]
    """Number of the document of every token."""
    document_ids: list[str]
    """By number."""


def evaluate_units(
    units: Sequence[Unit],
    materials: Materials,
    layer_scores: LayerScores,
    progress: Callable[[int, int], None] | None = None,
) -> BlockResult:
    """Scores every predictor of some units of a layer on every text.

    Args:
        units: units that have a graph.
        materials: what they are evaluated with.
        layer_scores: every unit's scores are added to it.
        progress: told the units done and the units to do.

    Returns:
        Tables ``evaluation``, ``counterexamples`` and ``failures`` and a ledger entry for every unit: ``failed`` where
        its rows cannot be evaluated, ``too_few_contexts`` where it has no train or no test context.
    """
    rows: dict[str, list[dict[str, Any]]] = {"evaluation": [], "counterexamples": []}
    failures = [unit_frame("failures", [])]
    unusual: dict[Unit, Outcome] = {}
    for done, unit in enumerate(units):
        if progress is not None:
            progress(done, len(units))
        mine = materials.rows.of(unit)
        counts = dict(mine.top_examples.group_by("split").len().iter_rows())
        if not counts.get("train") or not counts.get("test"):
            reason = f"{counts.get('train', 0)} train and {counts.get('test', 0)} test contexts."
            unusual[unit] = Outcome("too_few_contexts", reason)
            continue
        try:
            scored, wrong = _Evaluation(unit, mine, materials).run()
            named = _failures(unit, mine, scored, wrong, materials)
        except (N2GError, OSError, MemoryError):
            raise
        except Exception as error:  # of this unit alone: the others go on
            unusual[unit] = Outcome("failed", f"The unit cannot be evaluated: {type(error).__name__}: {error}.")
            continue
        layer_scores.add_unit(unit, scored)
        rows["evaluation"] += [row for row, _ in scored]
        rows["counterexamples"] += wrong
        failures.append(named)
    if progress is not None:
        progress(len(units), len(units))
    tables = {name: unit_frame(name, found) for name, found in rows.items()}
    return finish_block(units, {**tables, "failures": pl.concat(failures)}, unusual)


def _failures(
    unit: Unit,
    mine: LayerRows,
    scored: Sequence[tuple[dict[str, Any], Any]],
    wrong: Sequence[dict[str, Any]],
    materials: Materials,
) -> pl.DataFrame:
    """Rows of ``failures`` of one unit, given its rows of ``evaluation`` with their draws and its counterexamples."""
    return name_failures(
        [unit],
        top_examples=mine.top_examples,
        pruned_examples=mine.pruned_examples,
        rules=mine.rules,
        evaluation=unit_frame("evaluation", [row for row, _ in scored]),
        counterexamples=unit_frame("counterexamples", wrong),
        rule_tests=mine.rule_tests,
        a_max=materials.a_max,
        method=materials.method,
    )


class _Evaluation:
    """One unit."""

    def __init__(self, unit: Unit, mine: LayerRows, materials: Materials) -> None:
        self.unit, self.mine, self.materials = unit, mine, materials
        self.a_max = materials.a_max[unit]
        self.threshold = materials.method.firing_threshold
        self.vocabulary = materials.vocabulary
        self.test = self.labelled("test")
        self.graph = TokenGraph.from_rows(mine.graph_nodes, self.vocabulary)
        self.predictors: dict[PredictorName, Predictor] = dict(self.fitted())

    def labelled(self, side: str) -> Labelled:
        """The unit's own contexts of one side, in order of rank."""
        examples = self.mine.top_examples.filter(pl.col("split") == side).sort("rank")
        document_ids = examples["document_id"].unique().sort().to_list()
        numbers = [document_ids.index(document_id) for document_id in examples["document_id"]]
        return Labelled(
            EncodedText.from_contexts(
                [np.asarray(tokens, np.int32) for tokens in examples["token_ids"]], self.vocabulary
            ),
            np.concatenate([np.asarray(found, np.float64) for found in examples["activations"]]) / self.a_max,
            np.repeat(numbers, examples["token_ids"].list.len().to_numpy()),
            document_ids,
        )

    # ------------------------------------------------------------------------------------ predictors
    def fitted(self) -> Iterator[tuple[PredictorName, Predictor]]:
        """The predictors asked for, each fitted on what it may know of this unit."""
        materials, train = self.materials, self.labelled("train")
        if materials.harvest is not None:
            evidence = self.evidence(materials.harvest)
        for name in materials.predictors:
            if name == "graph":
                yield name, self.graph
            elif name == "token_lookup":
                yield name, TokenLookup().fit(train.text, train.actual)
            elif name == "ngram":
                yield name, NGram.choose(train.text, train.actual, self.threshold)
            elif name == "ngram_backoff" and materials.harvest is not None:
                yield name, fit_backoff(evidence, materials.harvest)
            elif name == "skip_bigram" and materials.harvest is not None:
                yield name, SkipBigrams.fit(evidence, materials.harvest)
            elif name == "always_zero":
                yield name, AlwaysZero()
            elif name == "graph_shuffled" and self.unit in materials.partners:
                other = materials.rows.table("graph_nodes", materials.partners[self.unit])
                yield name, TokenGraph.from_rows(other, self.vocabulary)
            elif name == "graph_unaugmented":
                yield name, self.unaugmented()

    def evidence(self, harvest: HarvestText) -> Evidence:
        """What the rivals may know: everything but the unit's own test documents."""
        return Evidence.of(
            harvest,
            self.mine.activations,
            self.mine.top_examples.filter(pl.col("split") == "train"),
            self.test.document_ids,
            self.a_max,
            strongest=self.materials.strongest,
            threshold=self.threshold,
        )

    def unaugmented(self) -> TokenGraph:
        """The graph as it is without the variants."""
        mine, materials = self.mine, self.materials
        built = build_graphs(
            [self.unit], mine.pruned_examples, mine.saliencies, mine.augmented_examples.clear(),
            materials.a_max, materials.vocabulary, materials.method,
        )  # fmt: skip
        return TokenGraph.from_rows(built.tables["graph_nodes"], self.vocabulary)

    # ------------------------------------------------------------------------------------ texts
    def run(self) -> tuple[list[tuple[dict[str, Any], Any]], list[dict[str, Any]]]:
        """Rows of ``evaluation`` with their draws, and rows of ``counterexamples``."""
        scored = self.on_top()
        wrong: list[dict[str, Any]] = []
        rule_of_end = rules_of_ends(self.mine.rules)
        for text in self.materials.texts:
            actual = [text.read(number, [self.unit])[0] / self.a_max for number in range(len(text.shards))]
            found = Counterexamples(self.unit, text.name, self.threshold, self.materials.evaluation.counterexamples)
            scored += self.on_held_out(text, actual, found)
            wrong += found.rows(rule_of_end)
        return scored, wrong

    def on_top(self) -> list[tuple[dict[str, Any], Any]]:
        """The unit's own test contexts."""
        test = self.test
        inside = test.text.positions > 0
        scores = {}
        for name, predictor in self.predictors.items():
            scores[name] = Scores(len(test.document_ids), self.threshold)
            scores[name].add(test.actual[inside], predictor.predict(test.text)[inside], test.documents[inside])
        return self.rows("top", scores, test.document_ids)

    def on_held_out(
        self, text: HeldOutText, actual: Sequence[np.ndarray], found: Counterexamples
    ) -> list[tuple[dict[str, Any], Any]]:
        """A held-out text and, of ``random``, the contexts drawn for the unit."""
        parts: dict[TextName, list[np.ndarray]] = {text.name: [shard.inside for shard in text.shards]}
        if text.name == "random":
            settings = self.materials.evaluation
            seed = [settings.seed, self.mine.layer, self.unit.number, int(self.unit.sign < 0)]
            parts["quantiles"] = quantile_windows(text, actual, settings.quantile_contexts, seed)
        n_documents = len(text.document_ids)
        scores = {part: {name: Scores(n_documents, self.threshold) for name in self.predictors} for part in parts}
        for i, (shard, values) in enumerate(zip(text.shards, actual, strict=True)):
            for name, predictor in self.predictors.items():
                if name == "graph":
                    predicted, ends = self.graph.predict_with_ends(shard.encoded)
                    found.add(shard, values, predicted, ends, self.graph.roots)
                else:
                    predicted = predictor.predict(shard.encoded)
                for part, inside in parts.items():
                    where = inside[i]
                    scores[part][name].add(values[where], predicted[where], shard.documents[where])
        return [row for part, by_name in scores.items() for row in self.rows(part, by_name, text.document_ids)]

    def rows(
        self, text: TextName, scores: Mapping[PredictorName, Scores], document_ids: Sequence[str]
    ) -> list[tuple[dict[str, Any], Any]]:
        """Rows of ``evaluation`` of one text, with their draws."""
        settings = self.materials.evaluation
        weights = poisson_weights(document_ids, settings.bootstrap_draws, settings.seed)
        made = []
        for name, score in scores.items():
            row, draws = score.row(weights)
            chosen = self.predictors[name]
            n = chosen.n if name == "ngram" and isinstance(chosen, NGram) else None
            made.append(({**self.unit.key(), "predictor": name, "text": text, **row, "ngram_n": n}, draws))
        return made
