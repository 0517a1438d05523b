"""Stage ``evaluation``: every predictor on every text, with intervals, controls and counterexamples.

Units are scored block by block and only where something they depend on has changed: a unit's own rows, those of its
partner's graph, the texts, the harvest, the settings. The layer's means are made of the units' counts by document and
are a slice with an input hash of its own.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from n2g_assets.assets.metadata import explorer_link
from n2g_assets.assets.session import Session
from n2g_assets.assets.stage import LayerStage, fill_layer, input_hashes, large_layers, read_together
from n2g_assets.assets.study import groups
from n2g_assets.core.progress import Progress
from n2g_assets.core.registry import TEXTS, named
from n2g_assets.core.settings import ScoredMethod, ScoreSettings
from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.evaluate import evaluate_units
from n2g_assets.evaluation.layer_scores import layer_scores
from n2g_assets.evaluation.material import GRAPH_TABLES, UNIT_INPUTS, LayerMaterial, SharedMaterial
from n2g_assets.evaluation.predictors.graph_shuffled import shuffled_partners
from n2g_assets.evaluation.texts import DocumentText
from n2g_assets.explanations.study import LayerExplanations
from n2g_assets.method.class_graphs import Read
from n2g_assets.method.results import BlockResult
from n2g_assets.report.plots import (
    F1,
    as_markdown_image,
    calibration,
    precision_recall,
    score_by_layer,
    shown_scores,
)
from n2g_assets.storage.hashing import hash_json
from n2g_assets.storage.slices import SliceKey
from n2g_assets.storage.stages import StageReport

_MEANS_CODE_VERSION = "2"
_EXPLANATIONS_CODE_VERSION = "1"
_PREVIEWED = (
    "threshold",
    "pearson_r",
    "pearson_r_low",
    "pearson_r_high",
    "precision",
    "recall",
    "f1",
    "f1_low",
    "f1_high",
)


def _work(session: Session, layer: int, show: Progress) -> StageReport:
    with LayerScoring(session, layer) as scoring:
        report = _fill(session, layer, scoring, show)
        _write_explanations(session, layer, scoring.explanations)
    _write_means(session, layer)
    session.drop_evidence(layer)
    session.layers_together = tuple(other for other in session.layers_together if other != layer)
    return report


def _fill(session: Session, layer: int, scoring: "LayerScoring", show: Progress) -> StageReport:
    explained = session.explanation_hashes
    return fill_layer(
        session, STAGE, layer, show,
        inputs=[table for table in UNIT_INPUTS if table != "rule_tests" or "rule_tests" in session.study.stages],
        settings=[session.settings.method.part(ScoredMethod), session.settings.evaluation.part(ScoreSettings)],
        compute=scoring.compute,
        also=session.learning.inputs(layer) | {
            "texts": session.text_hashes, "predictors": session.study.predictors,
            "method": session.settings.method.preset,
        } | ({"explanations": explained} if session.settings.scored_explanations else {}),
        also_by_unit=scoring.partner_hashes,
    )  # fmt: skip


class LayerScoring(AbstractContextManager["LayerScoring"]):
    """Scores the units of a layer block by block; what all blocks share is read when it is first needed."""

    def __init__(self, session: Session, layer: int) -> None:
        self.session, self.layer = session, layer

    def __exit__(self, *error: object) -> None:
        """Close what explanations opened."""
        if "explanations" in self.__dict__:
            self.explanations.__exit__(*error)

    @cached_property
    def explanations(self) -> LayerExplanations:
        """Other people's explanations of the layer's units."""
        session = self.session
        tops = session.read("top_examples", self.layer, columns=["context_id", "split", "token_ids"])
        scored = [*session.held_out_contexts.values(), tops.filter(split="test")]
        return LayerExplanations(
            session.settings.explanations, session.study.folder, self.layer,
            asked={layer: session.units(layer) for layer in session.settings.layer_numbers},
            contexts=session.read("contexts").select("context_id", length=pl.col("token_ids").list.len()),
            token_ids={
                context_id: np.array(token_ids, np.int32)
                for frame in scored
                for context_id, token_ids in frame.select("context_id", "token_ids").iter_rows()
            },
            tokens=session.vocabulary.tokens,
        )  # fmt: skip

    def compute(
        self,
        units: Sequence[Unit],
        rows: Mapping[str, pl.DataFrame],
        a_max: Mapping[Unit, float],
        method: ScoredMethod,
        evaluation: ScoreSettings,
    ) -> BlockResult:
        """The scores of a block of units, whose rows by table are at hand."""
        session, layer = self.session, self.layer
        partners = [self._partners[unit] for unit in units if unit in self._partners]
        both = list(dict.fromkeys([*units, *partners]))
        graphs = {name: session.read(name, layer, units=both) for name in GRAPH_TABLES}
        absent = {table: TABLES[table].empty() for table in UNIT_INPUTS if table not in rows}
        shared = SharedMaterial(
            session.vocabulary, lambda: session.learning.text(layer), method, session.settings.method.preset,
            evaluation.seed,
        )  # fmt: skip
        material = LayerMaterial(
            shared, layer=layer, rows={**rows, **absent, **graphs}, a_max=a_max, texts=self._texts,
            read=self._read, read_harvest=self._read_harvest, partners=self._partners,
            predictors=session.study.fitted_predictors, evaluation=evaluation, given=self.explanations.of_unit,
        )  # fmt: skip
        return evaluate_units(units, material)

    @property
    def partner_hashes(self) -> dict[Unit, list[str]]:
        """By unit, its partner and the hash of the partner's graph."""
        partners = self._partners
        different = sorted(set(partners.values()))
        hashes = [input_hashes(self.session, table, self.layer, different) for table in GRAPH_TABLES]
        return {unit: [str(partner), *(found[partner] for found in hashes)] for unit, partner in partners.items()}

    @cached_property
    def _partners(self) -> dict[Unit, Unit]:
        """By unit, the one whose graph is its control; empty where the study has no such control."""
        session = self.session
        if "graph_shuffled" not in session.study.predictors:
            return {}
        nodes = session.read("graph_nodes", self.layer, columns=["unit", "sign"])
        with_graph = set(nodes.unique().iter_rows())
        units = [unit for unit in session.units(self.layer) if unit in with_graph]
        return shuffled_partners(units, session.settings.evaluation.seed, self.layer)

    @cached_property
    def _texts(self) -> dict[str, DocumentText]:
        """The held-out texts by name."""
        texts, vocabulary = self.session.held_out_contexts, self.session.vocabulary
        return {name: DocumentText.of(contexts, vocabulary) for name, contexts in texts.items()}

    def _read_harvest(self, unit: Unit) -> np.ndarray:
        return self._read_learnt(unit)

    @cached_property
    def _read_learnt(self) -> Read:
        return self.session.learning.read(self.layer)

    def _read(self, text: str, unit: Unit) -> np.ndarray:
        return self.session.cached_texts(self.layer)[text].of_unit(self.layer, unit)


def _write_explanations(session: Session, layer: int, explanations: LayerExplanations) -> None:
    """Brings the slice ``explanations`` up to date, where there are some or were."""
    there = session.store.manifest(SliceKey("explanations", session.study.name, layer)) is not None
    if not session.settings.explanations and not there:
        return

    def rows() -> dict[str, pl.DataFrame]:
        whole = [id for frame in session.held_out_contexts.values() for id in frame["context_id"]]
        tops = session.read("top_examples", layer, columns=["unit", "sign", "context_id", "split"]).filter(split="test")
        own = {unit: tops.filter(**unit.key())["context_id"].to_list() for unit in session.units(layer)}
        scored = {unit: list(dict.fromkeys([*whole, *context_ids])) for unit, context_ids in own.items()}
        return {"explanations": explanations.rows(scored)}

    inputs = [
        _EXPLANATIONS_CODE_VERSION, session.explanation_hashes, session.text_hashes, session.units(layer),
        session.manifest("top_examples", layer).content_hash,
    ]  # fmt: skip
    session.bring_up_to_date(
        ["explanations"], rows, layer=layer, input_hash=hash_json(inputs), code_version=_EXPLANATIONS_CODE_VERSION
    )


def _write_means(session: Session, layer: int) -> None:
    """Brings the slice ``layer_scores`` up to date: the means of what the units' slices hold."""
    settings, units = session.settings.evaluation, session.units(layer)
    there = {"top", *session.held_out_contexts}
    if "random" in there:
        there.add("quantiles")  # its contexts are drawn from the held-out text
    texts = [text for text in session.study.texts if text in there]
    expected = [(predictor, text) for text in texts for predictor in session.study.predictors]
    draws, seed, size = settings.bootstrap_draws, settings.seed, session.settings.method.units_per_block
    contents = [session.manifest(table, layer).content_hash for table in ("evaluation", "document_scores")]

    def rows() -> dict[str, pl.DataFrame]:
        blocks = (
            (session.read("evaluation", layer, units=part), session.read("document_scores", layer, units=part))
            for part in groups(units, size)
        )
        means = layer_scores(blocks, units_asked=len(units), draws=draws, seed=seed, expected=expected)
        return {"layer_scores": means}

    input_hash = hash_json([_MEANS_CODE_VERSION, contents, len(units), draws, seed, expected])
    session.bring_up_to_date(
        ["layer_scores"], rows, layer=layer, input_hash=input_hash, code_version=_MEANS_CODE_VERSION
    )


def _figures(session: Session, layer: int) -> Mapping[str, Any]:
    """The layer's figures, then pictures: scores by layer as far as layers are evaluated, and two of this layer.

    Figures and pictures of the graded activation stand first, those of firing after them.
    """
    name, texts = session.study.name, [named(TEXTS)[text] for text in session.study.texts]
    means = session.read("layer_scores", layer).drop("study")
    metadata: dict[str, Any] = {}
    for score, its_texts in shown_scores(texts):
        for text, predictor in product(its_texts, ("graph", "token_lookup")):
            for row in means.filter(text=text.name, predictor=predictor).iter_rows(named=True):
                said = f"{predictor.replace('_', ' ')}, {text.name}"
                for figure, value in ((score.short, row[score.name]), (score.beside, row[score.beside])):
                    if value is not None:
                        metadata[f"mean {figure.replace('_', ' ')}, {said}"] = round(value, 4)
                metadata.setdefault("units evaluated", f"{row['evaluated']} of {row['units']}")
    metadata |= {title: dg.MetadataValue.md(image) for title, image in _by_layer(session).items()}
    for text in texts:
        scores = means.filter(pl.col("text") == text.name, pl.col("predictor") != "always_zero")
        if scores.is_empty():
            continue
        figure = precision_recall(scores, title=f"{name}: precision and recall, layer {layer}, text {text.name}")
        metadata[f"precision and recall, {text.name}"] = dg.MetadataValue.md(as_markdown_image(figure))
    binned = [column for column in TABLES["evaluation"].schema if column.startswith("calibration_")]
    evaluation = session.read("evaluation", layer, columns=["predictor", "text", *binned])
    shown = "random" if "random" in set(evaluation["text"]) else "top"
    figure = calibration(evaluation.filter(text=shown), title=f"{name}: calibration, layer {layer}, text {shown}")
    metadata["calibration"] = dg.MetadataValue.md(as_markdown_image(figure))
    return metadata | explorer_link(name, layer)


@lru_cache(maxsize=1)
def _by_layer(session: Session) -> dict[str, str]:
    """By title, pictures of scores by layer; drawn once a run, since they show all layers that are evaluated."""
    name, texts = session.study.name, [named(TEXTS)[text] for text in session.study.texts]
    layers = session.settings.layer_numbers
    there = [layer for layer in layers if session.store.manifest(SliceKey("layer_scores", name, layer)) is not None]
    means = pl.concat([session.read("layer_scores", layer) for layer in there]).drop("study")
    images = {}
    for score, its_texts in shown_scores(texts):
        for text in its_texts:
            rows = means.filter(text=text.name)
            if rows.height:
                over = session.model_row["n_layers"] if (score, text.name) == (F1, "top") else None
                title = f"{name}: {score.label} by layer, text {text.name}"
                figure = score_by_layer(rows, score, title=title, published_over=over)
                images[f"{score.short} by layer, {text.name}"] = as_markdown_image(figure)
    return images


STAGE = LayerStage(
    name="evaluation",
    description="Activation and firing predicted on the unit's own test contexts, on contexts of every strength, on "
    "held-out text and on text of another kind; by its graph, by what it has to beat and by controls; with 95 % "
    "intervals.",
    code_version="8",
    work=_work,
    ahead=large_layers(_work),
    runs_model=True,
    prepare=read_together,
    extra=_figures,
    preview_columns=["unit", "sign", "predictor", "text", *_PREVIEWED],
    preview_first=pl.col("predictor") == "graph",
)
