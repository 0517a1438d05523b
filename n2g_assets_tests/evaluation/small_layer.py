"""A small layer for the tests of ``evaluate``: numpy neurons, a made-up corpus, the real stages up to the graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import polars as pl

from n2g_assets.core.registry import PREDICTORS, Method, of_study
from n2g_assets.core.settings import MethodSettings, ScoreSettings
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.evaluate import evaluate_units
from n2g_assets.evaluation.harvest import HarvestText
from n2g_assets.evaluation.layer_scores import layer_scores
from n2g_assets.evaluation.material import LayerMaterial, SharedMaterial
from n2g_assets.evaluation.predictors.graph_shuffled import shuffled_partners
from n2g_assets.evaluation.texts import DocumentText
from n2g_assets.method.augment import augment_examples
from n2g_assets.method.class_graphs import build_class_graphs
from n2g_assets.method.graph import build_graphs
from n2g_assets.method.prune import prune_examples
from n2g_assets.method.results import BlockResult, unit_frame
from n2g_assets_tests.evaluation.toy_harvest import harvest_of
from n2g_assets_tests.method.toy import BOS, DictionaryProposer, Neuron, ToyProber, hash_neuron, vocabulary_of

LAYER = 3
A_MAX = 2.0
DRAWS = 20
VOCABULARY = vocabulary_of(["a", "b", "c", "d", "e", " Cat", "cat"])
TWINS = ("d0", "d1")
"""Two harvested documents that are near-duplicates."""
UNITS = (Unit(3, 1), Unit(3, -1), Unit(8, 1))
METHOD = MethodSettings(max_rules=12, class_shrinkage=1.0, class_positions=3)
EVALUATION = ScoreSettings(bootstrap_draws=DRAWS, counterexamples=4, quantile_contexts=1, seed=5)
FITTED = tuple(predictor.name for predictor in of_study(PREDICTORS, "full", "paper"))
"""Those of the method ``paper``."""

Corpus = pl.DataFrame
"""Columns context_id, document_id and token_ids; the contexts of a document one behind another."""


def loud_at_bos(neuron: Neuron, loudness: float = 50.0) -> Neuron:
    """The neuron with a very large activation, of the sign given, at position 0."""
    return lambda tokens: np.concatenate([[loudness], neuron(tokens)[1:]])


def neurons_of(seed: int) -> dict[int, Neuron]:
    """Two neurons that look at the last two and three tokens; activations at the threshold (1 of 2) are common."""
    values = (-2, -1.5, -1, -0.5, 0, 0, 0.25, 0.75, 1, 1.5, 2)
    return {3: loud_at_bos(hash_neuron(seed, 2, values)), 8: loud_at_bos(hash_neuron(seed + 1, 3, values), -50.0)}


def activations_of(neurons: Mapping[int, Neuron], unit: Unit, token_ids: Sequence[int]) -> np.ndarray:
    """Of a unit at every position of a context."""
    return (unit.sign * neurons[unit.number](np.asarray(token_ids, np.int32))).astype(np.float32)


def corpus_of(generator: np.random.Generator, prefix: str, documents: int) -> Corpus:
    """Documents of one to three contexts of one to nine tokens; the tokens differ in how common they are."""
    rows = []
    for document in range(documents):
        for window in range(generator.integers(1, 4)):
            length = generator.integers(1, 10)
            tokens = np.minimum(generator.geometric(0.3, length) + 1, len(VOCABULARY.tokens) - 1)
            rows.append((f"{prefix}{document}:{window}", f"{prefix}{document}", [BOS, *tokens.tolist()]))
    return frame_of(rows)


def frame_of(rows: Sequence[tuple[str, str, Sequence[int]]]) -> Corpus:
    schema = {"context_id": pl.String, "document_id": pl.String, "token_ids": pl.List(pl.Int32)}
    return pl.DataFrame(rows, schema=schema, orient="row")


@dataclass(frozen=True, eq=False)
class SmallLayer:
    """What the units of a layer are evaluated with, and what it was made of."""

    neurons: Mapping[int, Neuron]
    harvest: Corpus
    texts: Mapping[str, Corpus]
    """The held-out texts by name."""
    cluster_of: Mapping[str, str]
    augmented: pl.DataFrame
    """Rows of ``augmented_examples``."""
    material: LayerMaterial

    def activations(self, unit: Unit, token_ids: Sequence[int]) -> np.ndarray:
        """Of a unit at every position of a context."""
        return activations_of(self.neurons, unit, token_ids)

    def with_rows(self, **frames: pl.DataFrame) -> SmallLayer:
        """The layer with other rows."""
        return self.but(rows={**self.material.rows, **frames})

    def but(self, harvest: Callable[[], HarvestText] | None = None, **changes) -> SmallLayer:
        """The layer with other material."""
        if harvest is not None:
            changes["shared"] = replace(self.material.shared, harvest=harvest)
        return replace(self, material=replace(self.material, **changes))

    def evaluate(self, units: Sequence[Unit] = UNITS) -> BlockResult:
        return evaluate_units(units, self.material)


def harvested_rows(unit: Unit, harvest: Corpus, neurons: Mapping[int, Neuron], contexts: int) -> list[dict]:
    """Rows of ``top_examples`` of one unit, by definition; every third cluster is test."""
    found = [(*row, activations_of(neurons, unit, row[2])) for row in harvest.iter_rows()]
    found.sort(key=lambda one: -one[3][1:].max())
    top = []
    for rank, (context_id, document_id, token_ids, values) in enumerate(found[:contexts]):
        peak = 1 + int(np.argmax(values[1:]))
        cluster = 0 if document_id in TWINS else int(document_id[1:])
        is_test = (cluster + unit.number + (unit.sign < 0)) % 3 == 0
        top.append({
            **unit.key(), "rank": rank, "context_id": context_id, "document_id": document_id, "peak": peak,
            "split": "test" if is_test else "train", "activation": float(values[peak]), "token_ids": token_ids,
            "activations": values,
        })  # fmt: skip
    return top


def small_layer(
    seed: int,
    *,
    contexts: int = 12,
    units: Sequence[Unit] = UNITS,
    preset: Method = "paper",
    max_rules: int = METHOD.max_rules,
) -> SmallLayer:
    """A layer whose graphs, of the method that is asked for, are right often and wrong often."""
    method = METHOD.model_copy(update={"max_rules": max_rules})
    generator, neurons = np.random.default_rng(seed), neurons_of(seed)
    harvest = corpus_of(generator, "d", 14)
    texts = {"random": corpus_of(generator, "h", 9), "out_of_domain": corpus_of(generator, "o", 4)}
    cluster_of = {**dict.fromkeys(TWINS, "twins"), "d2": "d2"}
    a_max = dict.fromkeys(units, A_MAX)

    top = unit_frame(
        "top_examples", [row for unit in units for row in harvested_rows(unit, harvest, neurons, contexts)]
    )
    prober = ToyProber(neurons, LAYER)
    words = range(2, len(VOCABULARY.tokens))
    proposer = DictionaryProposer({word: [[other] for other in words if other != word] for word in words})
    pruned, saliencies = prune_examples(units, top, a_max, VOCABULARY, prober, METHOD).tables.values()
    augmented = augment_examples(units, pruned, VOCABULARY, prober, proposer, METHOD).tables["augmented_examples"]
    harvest_text = harvest_of(harvest, VOCABULARY, cluster_of)
    activations = partial(activations_of, neurons)
    read_harvest = partial(readings({"harvest": harvest}, activations), "harvest")
    rows = {"top_examples": top, "pruned_examples": pruned, "saliencies": saliencies}
    if preset == "paper":
        built = build_graphs(units, pruned, saliencies, augmented, a_max, VOCABULARY, METHOD)
    else:
        built = build_class_graphs(
            units, rows, a_max, method, text=harvest_text.lagged, read=read_harvest, without=harvest_text.without,
            vocabulary=VOCABULARY, threads=1,
        )  # fmt: skip
    material = LayerMaterial(
        SharedMaterial(VOCABULARY, lambda: harvest_text, method, preset, EVALUATION.seed),
        layer=LAYER,
        rows={**rows, **built.tables, "rule_tests": unit_frame("rule_tests", [])},
        a_max=a_max,
        texts={name: DocumentText.of(corpus, VOCABULARY) for name, corpus in texts.items()},
        read=readings(texts, activations),
        read_harvest=read_harvest,
        partners=shuffled_partners(units, EVALUATION.seed, LAYER),
        predictors=[predictor.name for predictor in of_study(PREDICTORS, "full", preset)],
        evaluation=EVALUATION,
    )  # fmt: skip
    return SmallLayer(neurons, harvest, texts, cluster_of, augmented, material)


def readings(
    texts: Mapping[str, Corpus], activations: Callable[[Unit, Sequence[int]], np.ndarray]
) -> Callable[[str, Unit], np.ndarray]:
    """The activations of a unit on a text, computed when they are asked for."""

    def read(name: str, unit: Unit) -> np.ndarray:
        return np.concatenate([activations(unit, tokens) for tokens in texts[name]["token_ids"]])

    return read


def means_of(result: BlockResult, units_asked: int, expected: Sequence[tuple[str, str]] = ()) -> pl.DataFrame:
    """Rows of ``layer_scores`` of a block."""
    block = result.tables["evaluation"], result.tables["document_scores"]
    return layer_scores([block], units_asked=units_asked, draws=DRAWS, seed=EVALUATION.seed, expected=expected)
