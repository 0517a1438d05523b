"""What each ingredient of a graph of token classes is worth: a table with one of them out at a time.

On the activations that a study keeps of its harvest, a fifth of whose documents, near-duplicates together, is left out
and predicted; no held-out text is read, and no model runs. Means over the units of all layers. Seconds are processor
time to grow a graph, tokens those it is grown on.

    python benchmarks/ablation.py                                   # what `make demo` keeps
    python benchmarks/ablation.py --study smollm2 --layers 0,7,15,22,29 --units 6 --seed 1
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import numpy as np

from n2g_assets.assets.session import Session
from n2g_assets.core.home import Home
from n2g_assets.core.settings import ScoredMethod
from n2g_assets.core.unit_settings import NeuronSample
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.bootstrap import poisson_weights
from n2g_assets.evaluation.document_counts import count_documents
from n2g_assets.evaluation.harvest import HarvestText
from n2g_assets.evaluation.material import UNIT_INPUTS, SharedMaterial, UnitMaterial
from n2g_assets.evaluation.predictors import combined, fit_predictors
from n2g_assets.evaluation.scores import score_row
from n2g_assets.evaluation.thresholds import choose_thresholds
from n2g_assets.method import splits
from n2g_assets.method.class_rows import graph_frames
from n2g_assets.method.classes import grow_graph
from n2g_assets.method.results import unit_frame
from n2g_assets.study import shipped_study

SIZES = (10, 30)
"""Sizes of which r is shown beside that of the whole graph."""
PARTS = 5
"""One of so many parts of the documents is predicted."""
_measured_grade = splits.grade


def _no_deviations(tokens: np.ndarray, values: np.ndarray, left: np.ndarray, *rest: Any) -> tuple[np.ndarray, ...]:
    members, counts, means, deviations = _measured_grade(tokens, values, left.copy(), *rest)
    return members, counts, means, np.zeros_like(deviations)


def _relagged(harvest: HarvestText, **changes: np.ndarray) -> HarvestText:
    changed = copy(harvest)
    changed.__dict__["lagged"] = replace(harvest.lagged, **changes)  # what a cached property gives from now on
    return changed


def _halves_of_documents(harvest: HarvestText) -> HarvestText:
    half = harvest.inside(part_of(harvest, 2, "halves")).astype(np.uint8)
    return _relagged(harvest, half=np.where(harvest.real, half, harvest.lagged.half))


def _offsets(count: int) -> Callable[[HarvestText], HarvestText]:
    return lambda harvest: _relagged(harvest, tokens=harvest.lagged.tokens[:count])


@dataclass(frozen=True)
class Variant:
    """The method with something changed."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    text: Callable[[HarvestText], HarvestText] = lambda harvest: harvest
    during: Callable[[], AbstractContextManager] = nullcontext
    scan: bool = True
    """Whether the scan of the vocabulary is learnt from, where the study has one of the layer."""
    share: int = 1
    """One of so many documents is learnt from."""
    predictor: str = "graph"


VARIANTS = (
    Variant("everything"),
    Variant("no scan of the vocabulary (layer 0)", scan=False),
    Variant("tokens of a class all alike", during=lambda: patch.object(splits, "grade", _no_deviations)),
    Variant("halves of documents, not of positions", text=_halves_of_documents),
    Variant("the token alone", text=_offsets(1)),
    Variant("the last 2 tokens", text=_offsets(2)),
    Variant("the last 4 tokens", text=_offsets(4)),
    Variant("no shrinkage", {"class_shrinkage": 1e-3}),
    Variant("classes of one position", {"class_positions": 1}),
    Variant("half of the text", share=2),
    Variant("a quarter of the text", share=4),
    Variant("all evidence", predictor="combined"),
    *(
        Variant(
            f"all evidence but {said}", predictor="combined",
            during=lambda part=part: patch.object(combined, "PARTS", tuple(p for p in combined.PARTS if p != part)),
        )
        for part, said in zip(combined.PARTS, ("the graph", "suffixes", "skip-bigrams"), strict=True)
    ),
)  # fmt: skip


def part_of(harvest: HarvestText, parts: int, salt: str) -> list[str]:
    """The documents of one of so many parts, each with its near-duplicates; none of a scan."""

    def drawn(cluster_id: str) -> bool:
        digest = hashlib.blake2b(f"{salt} {cluster_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") % parts == 0

    pairs = zip(harvest.text.document_ids, harvest.cluster_ids, strict=True)
    return [name for name, cluster_id in pairs if name not in harvest.beside_ids and drawn(cluster_id)]


def measure(session: Session, layer: int, unit: Unit, activations: np.ndarray, variant: Variant) -> list[float]:
    """r by size, AP and F1 of firing on the documents that are left out; rules, seconds and tokens."""
    harvest, method = variant.text(session.learning.text(layer)), session.settings.method.part(ScoredMethod)
    method = method.model_copy(update=dict(variant.settings))
    held = part_of(harvest, PARTS, "held")
    learnt = set(part_of(harvest, variant.share, "learnt")) - set(held)
    learnt |= harvest.beside_ids
    if not variant.scan:
        learnt -= set(harvest.text.contexts["document_id"].tail(harvest.scanned))
    left_out = [document_id for document_id in harvest.text.document_ids if document_id not in learnt]
    counted = np.flatnonzero(harvest.without(left_out))
    a_max = float(activations[harvest.without(held)].max())
    values = (activations / a_max).astype(np.float32)
    bos_id, firing = session.vocabulary.bos_id, method.firing_threshold
    shared = SharedMaterial(session.vocabulary, lambda: harvest, method, "evidence", seed=0)
    with variant.during():
        grow_graph(harvest.lagged, values, counted[:: len(counted) // 999], bos_id, firing, method)  # compiles
        began = time.process_time()
        graph = grow_graph(harvest.lagged, values, counted, bos_id, firing, method)
        seconds = time.process_time() - began
        rows = {table: unit_frame(table, []) for table in UNIT_INPUTS}
        rows |= graph_frames(unit, graph, {}, session.vocabulary)
        known = UnitMaterial(shared, unit, a_max, rows, left_out, lambda: activations, None)
        fitted = fit_predictors([variant.predictor], known)
        [thresholds] = choose_thresholds(fitted, known).values()
        text, inside = harvest.text, harvest.text.inside & harvest.inside(held)
        told = {size: graph.predict_sizes(text.encoded.token_ids, text.encoded.positions, [size])[0] for size in SIZES}
        told["largest"] = fitted[variant.predictor].predict(text.encoded)
    known.forget()
    weights, scores = poisson_weights(text.document_ids, 1, 0), []
    for predicted in told.values():
        pair = values[inside], predicted[inside]
        counts = count_documents(
            *pair, text.documents[inside], len(text.document_ids), firing, thresholds["ordinary"].threshold
        )
        scores.append(score_row(*pair, counts, weights, firing))
    of_sizes = [np.nan] * len(SIZES) if variant.predictor != "graph" else [row["pearson_r"] for row in scores[:-1]]
    largest = [scores[-1][name] for name in ("pearson_r", "average_precision", "f1")]
    found = [*of_sizes, *largest, len(graph.rules_of(method.max_rules)), seconds, len(counted)]
    return [np.nan if value is None else float(value) for value in found]


def table(session: Session, layers: Sequence[int], n_units: int, variants: Sequence[Variant]) -> Iterator[str]:
    """The lines of the table, in Markdown."""
    heads = [*(f"r, {size} rules" for size in SIZES), "r, largest", "AP", "F1", "rules", "seconds", "tokens"]
    yield f"| {' | '.join(['', *heads])} |"
    yield f"| {' | '.join(['---'] * (len(heads) + 1))} |"
    read = [
        (layer, unit, session.learning.read(layer)(unit)) for layer in layers for unit in session.units(layer)[:n_units]
    ]  # fmt: skip
    for variant in variants:
        found = np.array([measure(session, *each, variant) for each in read])
        defined = np.isfinite(found)
        means = np.where(defined, found, 0).sum(0) / np.where(defined.any(0), defined.sum(0), np.nan)
        texts = ["" if np.isnan(value) else f"{value:.3f}" for value in means[: len(SIZES) + 3]]
        numbers = [*texts, f"{means[-3]:.0f}", f"{means[-2]:.2f}", f"{means[-1]:,.0f}"]
        yield f"| {' | '.join([variant.name, *numbers])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="demo")
    parser.add_argument("--layers", help="such as 0,7,15; all of the study's by default")
    parser.add_argument("--units", type=int, default=6, help="of each layer")
    parser.add_argument("--seed", type=int, help="of the sample of neurons, where the study's is not meant")
    asked = parser.parse_args()
    study = shipped_study(asked.study)
    changes: dict[str, Any] = {}
    if asked.layers is not None:
        changes["layers"] = [int(layer) for layer in asked.layers.split(",")]
    if asked.seed is not None:
        changes["neurons"] = NeuronSample(sample=64, seed=asked.seed)
    study = replace(study, settings=study.settings.model_copy(update=changes))
    session = Session(study, Home.from_environment(), logging.getLogger(__name__))
    for line in table(session, study.settings.layer_numbers, asked.units, VARIANTS):
        print(line, flush=True)


if __name__ == "__main__":
    main()
