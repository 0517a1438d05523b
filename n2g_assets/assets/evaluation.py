"""Stage ``evaluation``: every predictor on every text, with intervals, controls and counterexamples.

Units are scored block by block. What their draws of documents add up to, which no table holds, is kept beside the
blocks until the layer's means are written, so that a killed run need not score again what it had scored.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from n2g_assets.assets.progress import Progress
from n2g_assets.assets.session import Session
from n2g_assets.assets.stage import LayerStage, fill_layer
from n2g_assets.core.errors import StorageError
from n2g_assets.core.settings import PredictionSettings, ScoreSettings, Settings
from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.evaluate import LayerRows, Materials, evaluate_units
from n2g_assets.evaluation.layer_scores import LayerScores
from n2g_assets.evaluation.predictors import shuffled_partners
from n2g_assets.evaluation.texts import HeldOutText, TextName
from n2g_assets.method.results import BlockResult
from n2g_assets.report.plots import PUBLISHED_F1, as_markdown_image, calibration, f1_by_layer, precision_recall
from n2g_assets.storage.files import write_atomically
from n2g_assets.storage.slices import hash_json
from n2g_assets.storage.stages import StageReport

_CODE_VERSION = "3"
_INPUTS = ("top_examples", "pruned_examples", "saliencies", "augmented_examples", "graph_nodes", "rules")


def _prepare(session: Session, layers: Sequence[int], show: Progress) -> None:
    """One pass through the held-out texts for all layers of the run, where something is not evaluated yet."""
    stale = [layer for layer in layers if _can_be_read(session, layer)]
    if stale and session.held_out_contexts:
        session.read_texts(stale, show)


def _can_be_read(session: Session, layer: int) -> bool:
    """Whether a layer is stale and has its inputs; one that lacks some fails by itself, later."""
    try:
        return not _is_fresh(session, layer)
    except StorageError:
        return False


def _is_fresh(session: Session, layer: int) -> bool:
    """Whether the layer's means were made from the inputs and the rows that are there now; they are written last."""
    rows = [session.store.manifest("evaluation", session.study.name, layer)]
    rows.append(session.store.manifest("ledger", session.study.name, layer, STAGE.name))
    return None not in rows and session.is_fresh(["layer_scores"], _input_hash(session, layer), layer)


def _also(session: Session, layer: int) -> dict[str, Any]:
    """What all units of a layer depend on: one's control is another's graph, and means are over all."""
    study = session.study
    tables = [*_INPUTS, "activations", *({"rule_tests"} & set(study.stages))]
    return {
        "strongest": study.settings.harvest.strongest,
        "clusters": session.clusters_hash,
        "tables": {table: session.manifest(table, layer).content_hash for table in tables},
        "harvest": session.harvest_hash,
        "texts": {name: hash_json(frame["context_id"].to_list()) for name, frame in session.held_out_contexts.items()},
        "texts asked for": study.texts,
        "predictors": study.predictors,
        "settings": study.settings.evaluation.part(ScoreSettings).hashed(),
    }


def _input_hash(session: Session, layer: int) -> str:
    """Of the layer's means: of what the rows are made from, and of the rows."""
    rows = [
        session.manifest("evaluation", layer).content_hash,
        session.manifest("ledger", layer, STAGE.name).content_hash,
    ]
    return hash_json([*_origin(session, layer), rows])


def _origin(session: Session, layer: int) -> list[Any]:
    """What the rows are made from."""
    method = session.settings.method.model_dump(exclude={"units_per_block"})
    return [_CODE_VERSION, session.model_hash, session.units(layer), method, _also(session, layer)]


def _work(session: Session, layer: int, show: Progress) -> StageReport:
    scoring = LayerScoring(session, layer, show)
    report = fill_layer(
        session, STAGE, layer,
        previous="neuron_graphs",
        inputs=("top_examples", "graph_nodes"),
        settings=[session.settings.method.part(PredictionSettings)],
        compute=scoring.compute,
        show=show,
        also=_also(session, layer),
    )  # fmt: skip
    if not _is_fresh(session, layer):
        scored = set(session.read("evaluation", layer, columns=["unit", "sign"]).unique().iter_rows())
        if not scored <= scoring.means.units:  # rows of an earlier run were taken over, and their draws are gone
            scoring = LayerScoring(session, layer, show)
            scoring.start_anew()
            scoring.compute_all([unit for unit in session.units(layer) if unit in scored])
        frame = scoring.means.frame()
        session.write(
            "layer_scores", frame, layer=layer, input_hash=_input_hash(session, layer), code_version=_CODE_VERSION
        )
        scoring.start_anew()
    return report


class LayerScoring:
    """Scores units of a layer block by block, and keeps the layer's means."""

    def __init__(self, session: Session, layer: int, show: Progress) -> None:
        self.session, self.layer, self.show = session, layer, show

    @cached_property
    def means(self) -> LayerScores:
        """The layer's means so far; those of an interrupted run are taken over with its rows."""
        means = self._no_means()
        try:
            with np.load(self._kept, allow_pickle=False) as kept:
                if str(kept["origin"]) == self._origin:
                    means.take_over(kept)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            pass  # nothing was kept, or it is damaged: units whose rows are there are then scored again
        return means

    def start_anew(self) -> None:
        """Forget what is kept of the means on disk."""
        self._kept.unlink(missing_ok=True)

    @property
    def _kept(self) -> Path:
        return self.session.home.cache / "sums" / self.session.study.name / f"{self.layer}.npz"

    @cached_property
    def _origin(self) -> str:
        return hash_json(_origin(self.session, self.layer))

    def _no_means(self) -> LayerScores:
        asked = len(self.session.units(self.layer))
        study = self.session.study
        texts = ["top", *(name for name in study.texts if name in self.session.held_out_contexts)]
        if "random" in texts:
            texts.append("quantiles")
        expected = [(predictor, text) for text in texts for predictor in study.predictors]
        return LayerScores(asked, study.settings.evaluation.bootstrap_draws, expected)

    def compute(self, units: list[Unit], a_max: Mapping[Unit, float], *_settings: Settings) -> BlockResult:
        """The rows of a block of units; the means take in each unit once, however often it is asked about."""
        block = evaluate_units(units, self._materials(units, a_max), self.means)
        kept = {"origin": np.array(self._origin), **self.means.sums()}
        write_atomically(self._kept, lambda temporary: _save(temporary, kept))
        return block

    def compute_all(self, units: Sequence[Unit]) -> None:
        """Scores units for the means alone: their rows are there."""
        a_max = self.session.a_max(self.layer, units)
        size = self.session.settings.method.units_per_block
        for start in range(0, len(units), size):
            self.show(start, len(units))
            self.compute(list(units[start : start + size]), a_max)

    def _materials(self, units: list[Unit], a_max: Mapping[Unit, float]) -> Materials:
        session, layer = self.session, self.layer
        study = session.study
        frames = {name: session.read(name, layer, units=units) for name in (*_INPUTS, "activations")}
        partners = [self._partners[unit] for unit in units if unit in self._partners]
        frames["graph_nodes"] = session.read("graph_nodes", layer, units=[*units, *partners])
        if "rule_tests" in study.stages:
            frames["rule_tests"] = session.read("rule_tests", layer, units=units)
        else:
            frames["rule_tests"] = TABLES["rule_tests"].empty()
        rivals = {"ngram_backoff", "skip_bigram"} & set(study.predictors)
        return Materials(
            rows=LayerRows(layer=layer, **frames),
            a_max=a_max,
            vocabulary=session.vocabulary,
            harvest=session.harvest_text if rivals else None,
            strongest=session.settings.harvest.strongest,
            texts=self._texts,
            partners=self._partners,
            predictors=study.predictors,
            method=study.settings.method,
            evaluation=study.settings.evaluation,
        )

    @cached_property
    def _partners(self) -> dict[Unit, Unit]:
        """By unit, the one whose graph is its control."""
        session = self.session
        nodes = session.read("graph_nodes", self.layer, columns=["unit", "sign"])
        with_graph = set(nodes.unique().iter_rows())
        seed = [session.study.settings.evaluation.seed, self.layer]
        return shuffled_partners([unit for unit in session.units(self.layer) if unit in with_graph], seed)

    @cached_property
    def _texts(self) -> list[HeldOutText]:
        session, layer = self.session, self.layer
        if not session.held_out_contexts:
            return []

        def read(name: TextName, shard: int, units: Sequence[Unit]) -> Any:
            found = readings[name].activations(layer, shard, [unit.number for unit in units])
            return found * np.array([[unit.sign] for unit in units], np.float32)

        readings = session.read_texts([layer], self.show)
        return [
            HeldOutText.of(name, found.shards, session.vocabulary, partial(read, name))
            for name, found in readings.items()
        ]


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # given a name, NumPy would add an ending to it
        np.savez(file, allow_pickle=False, **arrays)


def _pictures(session: Session, layer: int) -> Mapping[str, Any]:
    """F1 by layer, as far as layers are evaluated, and precision-recall and calibration of this one."""
    name = session.study.name
    there = [other for other in session.store.layers("layer_scores", name) if other in session.settings.layer_numbers]
    means = pl.concat([session.read("layer_scores", other) for other in there]).drop("study")
    n_layers = session.model_row["n_layers"]
    metadata: dict[str, Any] = {}
    for text in session.study.texts:
        scores = means.filter(pl.col("text") == text)
        if scores.is_empty():
            continue
        published = PUBLISHED_F1 if text == "top" else None
        figure = f1_by_layer(
            scores, title=f"{name}: F1 of firing by layer, text {text}", published=published, n_layers=n_layers
        )
        metadata[f"F1 by layer, {text}"] = dg.MetadataValue.md(as_markdown_image(figure))
        mine = scores.filter(pl.col("layer") == layer)
        curves = mine.filter(pl.col("predictor") != "always_zero")
        figure = precision_recall(curves, title=f"{name}: precision and recall, layer {layer}, text {text}")
        metadata[f"precision and recall, {text}"] = dg.MetadataValue.md(as_markdown_image(figure))
        graph = mine.filter(pl.col("predictor") == "graph")
        if graph.height:
            row = graph.row(0, named=True)
            metadata[f"mean F1 of the graph, {text}"] = round(row["f1_all"], 4)
    binned = [name for name in TABLES["evaluation"].schema if name.startswith("calibration_")]
    evaluation = session.read("evaluation", layer, columns=["predictor", "text", *binned])
    text = "random" if "random" in set(evaluation["text"]) else "top"
    bins = evaluation.filter(pl.col("text") == text)
    figure = calibration(bins, title=f"{name}: calibration, layer {layer}, text {text}")
    metadata["calibration"] = dg.MetadataValue.md(as_markdown_image(figure))
    return metadata


STAGE = LayerStage(
    name="evaluation",
    description="Firing predicted on the unit's own test contexts, on contexts of every strength, on held-out text and "
    "on text of another kind; by its graph, by what it has to beat and by controls; with 95 % intervals.",
    code_version=_CODE_VERSION,
    work=_work,
    prepare=_prepare,
    extra=_pictures,
    preview_columns=["unit", "sign", "predictor", "text", "precision", "recall", "f1", "f1_low", "f1_high"],
    kinds={"torch", "polars", "parquet"},
)
