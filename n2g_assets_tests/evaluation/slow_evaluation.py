"""A slow, obvious second implementation of ``evaluate``: plain loops over contexts and positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl

from n2g_assets.core.registry import TEXTS, named
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.bootstrap import poisson_weights
from n2g_assets.evaluation.indexes import FARTHEST
from n2g_assets.evaluation.material import GRAPH_TABLES, UnitMaterial
from n2g_assets.evaluation.predictors import ngram_backoff, skip_bigram, suffixes
from n2g_assets.evaluation.texts import draw_quantiles, tokens_of
from n2g_assets.method.class_rows import graph_frames
from n2g_assets.method.classes import grow_graph
from n2g_assets_tests.evaluation.slow_baselines import (
    slow_choice,
    slow_evidence,
    slow_fit,
    slow_predict,
    slow_skip_bigrams,
    slow_suffixes,
    slow_threshold,
)
from n2g_assets_tests.evaluation.small_layer import A_MAX, EVALUATION, LAYER, METHOD, VOCABULARY, SmallLayer
from n2g_assets_tests.method.slow_classes import slow_predict_classes, slow_rules
from n2g_assets_tests.method.slow_graph import slow_merge, slow_nodes, slow_paths
from n2g_assets_tests.method.slow_graph import slow_predict as slow_predict_graph
from n2g_assets_tests.method.toy import BOS

THRESHOLD = METHOD.firing_threshold
PARTS = ("graph", "suffixes", "skip_bigram")
"""What the predictor ``combined`` weighs."""


@dataclass
class SlowContext:
    """A context as a unit sees it."""

    document: str
    token_ids: list[int]
    actual: list[float]
    """Normalised activations."""

    @property
    def forms(self) -> list[int]:
        return forms_of(self.token_ids)

    @property
    def texts(self) -> list[bytes]:
        return [VOCABULARY.forms[form] for form in self.forms]


def mine(layer: SmallLayer, table: str, unit: Unit) -> pl.DataFrame:
    return layer.material.rows[table].filter(unit=unit.number, sign=unit.sign)


def forms_of(token_ids: Sequence[int]) -> list[int]:
    return [int(VOCABULARY.form_of[token]) for token in token_ids]


def own_contexts(layer: SmallLayer, unit: Unit, side: str) -> list[SlowContext]:
    """The unit's top contexts of one side."""
    return [
        SlowContext(row["document_id"], row["token_ids"], [a / A_MAX for a in row["activations"]])
        for row in mine(layer, "top_examples", unit).filter(split=side).iter_rows(named=True)
    ]


def contexts_of(layer: SmallLayer, unit: Unit, text: str) -> list[SlowContext]:
    """The contexts of a text; of ``quantiles``, those that are drawn."""
    if text == "top":
        return own_contexts(layer, unit, "test")
    found = [
        slow_context(layer, unit, document_id, token_ids)
        for _, document_id, token_ids in layer.texts["random" if text == "quantiles" else text].iter_rows()
    ]
    if text != "quantiles":
        return found
    random, read = layer.material.texts["random"], layer.material.read("random", unit)
    seed = [EVALUATION.seed, LAYER, unit.number, int(unit.sign < 0)]
    drawn = tokens_of(random, draw_quantiles(random, read, EVALUATION.quantile_contexts, seed))
    return [context for number, context in enumerate(found) if drawn[random.windows == number].any()]


def slow_context(layer: SmallLayer, unit: Unit, document_id: str, token_ids: list[int]) -> SlowContext:
    return SlowContext(document_id, token_ids, (layer.activations(unit, token_ids) / A_MAX).tolist())


def slow_predictions(
    layer: SmallLayer, unit: Unit, predictor: str, contexts: list[SlowContext], left_out: Sequence[str] = ()
) -> list[list[float]]:
    """What a predictor says of every position of some contexts; of documents ``left_out`` it has learnt nothing."""
    paper = layer.material.shared.preset == "paper"
    train = own_contexts(layer, unit, "train")
    labelled = [one.forms for one in train], [one.actual for one in train]
    if predictor == "always_zero":
        return [[0.0] * len(one.forms) for one in contexts]
    if predictor == "ngram" or (predictor == "token_lookup" and paper):
        n = chosen_n(layer, unit) if predictor == "ngram" else 1
        means = slow_fit(*labelled, n)
        return [slow_predict(means, one.forms, n).tolist() for one in contexts]
    if predictor in ("graph", "graph_shuffled"):
        owner = unit if predictor == "graph" else layer.material.partners[unit]
        if not paper:
            rows = [mine(layer, table, owner) for table in GRAPH_TABLES]
            rules = slow_rules(*(grown_without(layer, unit, left_out) if owner == unit and left_out else rows))
            return [slow_predict_classes(rules, one.token_ids)[0] for one in contexts]
        nodes = mine(layer, "graph_nodes", owner)
        return [slow_predict_graph(nodes, one.texts)[0] for one in contexts]
    if predictor == "combined":
        return weighed(layer, unit, [slow_predictions(layer, unit, part, contexts) for part in PARTS])
    if predictor == "graph_unaugmented":
        nodes = graph_without_variants(layer, unit)
        return [slow_predict_graph(nodes, one.texts)[0] for one in contexts]
    if predictor in ("token_lookup", "suffixes"):
        rows = labelled_harvest(layer, unit, list, left_out)
        shrinkage = suffixes.SHRINKAGE[: 1 if predictor == "token_lookup" else None]
        return [slow_suffixes(rows, list(one.token_ids), shrinkage).tolist() for one in contexts]
    rows = labelled_harvest(layer, unit, forms_of, left_out)
    if predictor == "ngram_backoff":
        return [slow_suffixes(rows, one.forms, ngram_backoff.SHRINKAGE).tolist() for one in contexts]
    assert predictor == "skip_bigram"
    shrinkage = skip_bigram.SHRINKAGE[layer.material.shared.preset]
    return [slow_skip_bigrams(rows, one.forms, FARTHEST, shrinkage).tolist() for one in contexts]


def unit_material(layer: SmallLayer, unit: Unit) -> UnitMaterial:
    """What the predictors of a unit may know."""
    material, top = layer.material, mine(layer, "top_examples", unit)
    rows = {table: mine(layer, table, unit) for table in material.rows}
    return UnitMaterial(
        material.shared, unit, A_MAX, rows | {"top_examples": top.filter(split="train").sort("rank")},
        left_out=sorted(set(top.filter(split="test")["document_id"])), read_harvest=lambda: material.read_harvest(unit),
        partner_rows={table: mine(layer, table, material.partners[unit]) for table in GRAPH_TABLES},
    )  # fmt: skip


@cache
def slow_left_out(layer: SmallLayer, unit: Unit, predictor: str) -> list[list[float]]:
    """What a predictor says of every harvested context, fitted without its document and what is left out with that."""
    if predictor == "combined":
        return weighed(layer, unit, [slow_left_out(layer, unit, part) for part in PARTS])
    harvest = layer.material.shared.harvest()
    folds = [set(fold) for fold in harvest.folds(EVALUATION.seed)]
    if predictor in ("token_lookup", "suffixes"):
        folds = [{document} for document in harvest.text.document_ids]
    found = []
    for _, document_id, token_ids in layer.harvest.iter_rows():
        context, fold = slow_context(layer, unit, document_id, token_ids), next(f for f in folds if document_id in f)
        found += slow_predictions(layer, unit, predictor, [context], sorted(fold))
    return found


def grown_without(layer: SmallLayer, unit: Unit, left_out: Sequence[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of the graph that is grown on what may be learnt of a unit without some documents."""
    labels = [label for _, labels in labelled_harvest(layer, unit, list, left_out) for label in labels]
    counted = np.array([place for place, label in enumerate(labels) if label is not None])
    values = np.array([label or 0.0 for label in labels], np.float32)
    graph = grow_graph(layer.material.shared.harvest().lagged, values, counted, BOS, THRESHOLD, METHOD)
    frames = graph_frames(unit, graph, {}, VOCABULARY)
    return frames["graph_nodes"], frames["token_classes"]


def weighed(layer: SmallLayer, unit: Unit, parts: list[list[list[float]]]) -> list[list[float]]:
    """The sum of predictions with the weights of ``slow_weights``; 0 at BOS."""
    *weights, constant = slow_weights(layer, unit)
    sums = [np.dot(weights, context) + constant for context in zip(*parts, strict=True)]
    return [[0.0, *values[1:].tolist()] for values in sums]


@cache
def slow_weights(layer: SmallLayer, unit: Unit) -> list[float]:
    """Of some predictions and a constant, by least squares, on what was predicted of left-out documents."""
    labels = [label for _, labels in labelled_harvest(layer, unit, list, []) for label in labels]
    counted = [place for place, label in enumerate(labels) if label is not None]
    told = [np.concatenate(slow_left_out(layer, unit, part))[counted] for part in PARTS]
    design, actual = np.column_stack([*told, np.ones(len(counted))]), np.array([labels[place] for place in counted])
    return np.linalg.lstsq(design, actual, rcond=None)[0].tolist()


def slow_thresholds(layer: SmallLayer, unit: Unit, predictor: str) -> dict[str, float]:
    """By text, from which prediction on the unit is predicted to fire."""
    if layer.material.shared.preset == "paper":
        return dict.fromkeys(named(TEXTS), THRESHOLD)
    top = mine(layer, "top_examples", unit)
    train, test = (
        set(top.filter(split=side)[name]) for side, name in (("train", "context_id"), ("test", "document_id"))
    )
    clusters = {layer.cluster_of.get(document, document) for document in test}
    pairs: dict[str, list[tuple[float, float]]] = {"top": [], "ordinary": []}
    predicted = slow_left_out(layer, unit, predictor)
    for (name, document, tokens), guess in zip(layer.harvest.iter_rows(), predicted, strict=True):
        if layer.cluster_of.get(document, document) in clusters:
            continue
        actual = (layer.activations(unit, tokens) / A_MAX).tolist()
        there = list(zip(actual, np.float32(guess).tolist(), strict=True))[1:]
        pairs["ordinary"] += there
        pairs["top"] += there if name in train else []
    found = {kind: slow_threshold(*zip(*there, strict=True), THRESHOLD)[0] for kind, there in pairs.items()}
    return {text: found[entry.threshold] for text, entry in named(TEXTS).items()}


def chosen_n(layer: SmallLayer, unit: Unit) -> int:
    train = own_contexts(layer, unit, "train")
    return slow_choice([one.forms for one in train], [np.array(one.actual) for one in train], THRESHOLD)


def graph_without_variants(layer: SmallLayer, unit: Unit) -> pl.DataFrame:
    """Rows of ``graph_nodes`` of the paths of the pruned prompts alone, as far as prediction reads them."""
    pruned, saliencies = (mine(layer, name, unit) for name in ("pruned_examples", "saliencies"))
    a_max = layer.material.a_max[unit]
    paths = slow_paths(unit, pruned, saliencies, layer.augmented.clear(), a_max, VOCABULARY, METHOD)
    nodes = slow_nodes(slow_merge(paths))
    numbers = {forms: number for number, forms in enumerate(sorted(nodes, key=len))}
    rows = [(number, numbers.get(forms[:-1]), forms[-1], nodes[forms][2]) for forms, number in numbers.items()]
    schema = {"node_id": pl.Int32, "parent_id": pl.Int32, "token": pl.Binary, "end_activation": pl.Float32}
    return pl.DataFrame(rows, schema=schema, orient="row")


def labelled_harvest(
    layer: SmallLayer, unit: Unit, symbols: Callable[[list[int]], list[int]], left_out: Sequence[str]
) -> list[tuple[list[int], list[float | None]]]:
    """Symbols of every harvested context and what may be learnt of the unit there."""
    contexts = {name: (document, symbols(tokens)) for name, document, tokens in layer.harvest.iter_rows()}
    activations = {name: layer.activations(unit, tokens).tolist() for name, _, tokens in layer.harvest.iter_rows()}
    test = mine(layer, "top_examples", unit).filter(split="test")["document_id"]
    known = slow_evidence(contexts, layer.cluster_of, activations, [*test, *left_out], A_MAX)
    return [(contexts[name][1], labels) for name, labels in known.items()]


def slow_scores(contexts: list[SlowContext], predicted: list[list[float]], alarm: float, draws: int, seed: int) -> dict:
    """Columns of ``evaluation``; position 0 never counts. An interval is drawn document by document."""
    tokens = [
        (context.document, actual, guess)
        for context, guesses in zip(contexts, predicted, strict=True)
        for actual, guess in list(zip(context.actual, guesses, strict=True))[1:]
    ]
    documents = sorted({document for document, _, _ in tokens})
    of_document = {
        document: slow_counts([one for one in tokens if one[0] == document], alarm) for document in documents
    }
    hits, alarms, firings = (sum(one[i] for one in of_document.values()) for i in range(3))
    weights = poisson_weights(documents, draws, seed)
    drawn = []
    for times in weights.tolist():
        taken = [
            sum(n * of_document[document][i] for n, document in zip(times, documents, strict=True)) for i in range(3)
        ]
        if (taken[2] or not firings) and taken[1] + taken[2]:
            drawn.append(2 * taken[0] / (taken[1] + taken[2]))
    f1 = 2 * hits / (alarms + firings) if alarms + firings else None
    firing_documents = sum(counts[2] > 0 for counts in of_document.values())
    low, high = slow_interval(drawn, f1) if f1 is not None and firing_documents >= 5 else (None, None)
    actual, guess = (np.array([one[i] for one in tokens]) for i in (1, 2))
    places = np.array([documents.index(document) for document, _, _ in tokens])
    copies = [np.repeat(np.arange(len(tokens)), times[places]) for times in weights]
    graded = {}
    for name, slow in (("pearson_r", slow_pearson_r), ("explained_variance", slow_explained_variance)):
        value, redrawn = slow(actual, guess), [slow(actual[copy], guess[copy]) for copy in copies]
        told = [draw for draw in redrawn if draw is not None]
        ends = slow_interval(told, value) if value is not None and len(documents) >= 5 else (None, None)
        graded |= {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}
    return {
        "n_tokens": len(tokens),
        "n_documents": len(documents),
        "n_firings": firings,
        "n_firing_documents": firing_documents,
        "true_positives": hits,
        "false_positives": alarms - hits,
        "false_negatives": firings - hits,
        "true_negatives": len(tokens) - alarms - firings + hits,
        "precision": hits / alarms if alarms else None,
        "recall": hits / firings if firings else None,
        "f1": f1,
        "f1_low": low,
        "f1_high": high,
        **graded,
        "coverage_firings": float((guess[actual >= THRESHOLD] > 0).mean()) if firings else None,
    }


def slow_pearson_r(actual: np.ndarray, guess: np.ndarray) -> float | None:
    """None where one of the two is constant."""
    varies = len(actual) and np.ptp(actual) > 0 and np.ptp(guess) > 0
    return float(np.corrcoef(actual, guess)[0, 1]) if varies else None


def slow_explained_variance(actual: np.ndarray, guess: np.ndarray) -> float | None:
    """None where what is explained is constant."""
    return float(1 - np.var(actual - guess) / np.var(actual)) if len(actual) and np.ptp(actual) > 0 else None


def slow_interval(draws: Sequence[float], score: float) -> tuple[float, float] | tuple[None, None]:
    """Efron's bias-corrected percentiles of the draws that are defined, widened to the score where that lies outside.

    The bias is where the score stands among the draws, as a quantile of the normal; a draw that equals it counts half
    on either side, and it stands half a draw from the end at most.
    """
    defined = sorted(float(draw) for draw in draws if not math.isnan(draw))
    if not defined:
        return None, None
    halves = 0
    for draw in defined:
        halves += 1 if abs(draw - score) <= 1e-6 else 2 if draw < score else 0
    halves = min(max(halves, 1), 2 * len(defined) - 1)
    bias = normal_quantile(halves / (2 * len(defined)))
    low, high = (slow_quantile(defined, normal_share(2 * bias + z)) for z in (-1.959963984540054, 1.959963984540054))
    return min(low, score), max(high, score)


def normal_share(z: float) -> float:
    """The share of a standard normal below z."""
    return math.erfc(-z / math.sqrt(2)) / 2


def normal_quantile(share: float) -> float:
    """Where a standard normal has a share of itself below, by halving."""
    low, high = -9.0, 9.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if normal_share(middle) < share else (low, middle)
    return low


def slow_quantile(ordered: Sequence[float], share: float) -> float:
    """A quantile of ordered numbers, on the straight line between the two beside it."""
    place = share * (len(ordered) - 1)
    left = int(place)
    right = min(left + 1, len(ordered) - 1)
    return ordered[left] + (place - left) * (ordered[right] - ordered[left])


def slow_counts(tokens: list[tuple[str, float, float]], alarm: float) -> tuple[int, int, int]:
    """Right alarms, alarms and firing tokens."""
    fires = [actual >= THRESHOLD for _, actual, _ in tokens]
    alarms = [np.float32(guess) >= alarm for _, _, guess in tokens]
    return sum(a and b for a, b in zip(fires, alarms, strict=True)), sum(alarms), sum(fires)


def slow_counterexamples(layer: SmallLayer, unit: Unit, text: str, kind: str) -> list[dict]:
    """All errors of one kind, the most confident first, of equals the first in the text; their ranks are left 0."""
    nodes = mine(layer, "graph_nodes", unit)
    known = set(nodes.filter(kind="activating")["token"])
    rule_of = {rule["end_node_id"]: rule["rule_id"] for rule in mine(layer, "rules", unit).iter_rows(named=True)}
    rows = []
    for context_id, _, token_ids in layer.texts[text].iter_rows():
        forms = [VOCABULARY.form(token) for token in token_ids]
        actual = (layer.activations(unit, token_ids) / A_MAX).tolist()
        values, ends = slow_predict_graph(nodes, forms)
        for position in range(1, len(forms)):
            fires, alarm = actual[position] >= THRESHOLD, values[position] >= THRESHOLD
            if kind == "false_alarm" and alarm and not fires:
                cause = "rule fired wrongly"
            elif kind == "miss" and fires and not alarm:
                matched = "context unmatched" if forms[position] in known else "token unknown"
                cause = "value too low" if ends[position] >= 0 else matched
            else:
                continue
            rows.append({
                "unit": unit.number, "sign": unit.sign, "text": text, "kind": kind, "rank": 0,
                "context_id": context_id, "position": position, "predicted": values[position],
                "actual": actual[position], "token_ids": token_ids[: position + 1], "cause": cause,
                "rule_id": rule_of.get(ends[position]),
            })  # fmt: skip
    return sorted(rows, key=lambda row: -abs(np.float32(row["predicted"]) - np.float32(row["actual"])))
