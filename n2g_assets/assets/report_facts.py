"""Gathers from a study's slices what its report says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from n2g_assets.assets.session import Session
from n2g_assets.assets.study import RANGE_END, RANGE_START
from n2g_assets.core.errors import StorageError
from n2g_assets.core.tables import STAGES, TABLES
from n2g_assets.core.units import Unit, unit_text
from n2g_assets.report.render import ExampleGraph, ReportFacts
from n2g_assets.report.svg import draw_graph

_EXAMPLES = 3
_EXAMPLE_RULES = 8
_EXAMPLE_NODES = 40
"""A larger graph is no example: nobody reads it."""


def report_facts(session: Session) -> ReportFacts:
    """The facts of a study; of layers that are not evaluated it holds none.

    Raises:
        StorageError: no layer is evaluated yet.
    """
    study = session.study
    there = set(session.store.layers("layer_scores", study.name))
    layers = [layer for layer in study.settings.layer_numbers if layer in there]
    if not layers:
        raise StorageError(f"No layer of study '{study.name}' is evaluated yet: materialize evaluation first.")
    counterexamples = _all(session, "counterexamples", layers)
    named = set(counterexamples["token_ids"].explode().drop_nulls().unique().to_list())
    vocabulary = session.read("vocabulary", columns=["token_id", "token"])
    evaluation = _all(session, "evaluation", layers)
    studies = session.read("studies").row(0, named=True)
    return ReportFacts(
        study=study.name,
        made_at=datetime.now(UTC),
        settings=study.settings.model_dump(mode="json"),
        versions=json.loads(studies["versions"]),
        model=session.model_row,
        layers=study.settings.layer_numbers,
        documents=_documents(session),
        text_hashes=_text_hashes(session),
        slices=_slices(session),
        units=pl.concat([_units(session, layer) for layer in layers]),
        layer_scores=_all(session, "layer_scores", layers),
        evaluation=evaluation,
        rule_tests=_all(session, "rule_tests", layers, without=("match_ids", "near_miss_ids")),
        failures=_all(session, "failures", layers),
        counterexamples=counterexamples,
        tokens=dict(vocabulary.filter(pl.col("token_id").is_in(sorted(named))).iter_rows()),
        examples=_examples(session, layers, evaluation),
        commands=_commands(session, layers),
    )


def _all(session: Session, table: str, layers: Sequence[int], *, without: Sequence[str] = ()) -> pl.DataFrame:
    """A table's rows of all layers and the study's units, without columns that are large and of no use here."""
    there = set(session.store.layers(table, session.study.name))
    empty = TABLES[table].empty().drop(without)
    frames = [empty]
    for layer in (layer for layer in layers if layer in there):
        units = session.units(layer) if TABLES[table].by_unit else None
        frames.append(session.read(table, layer, columns=empty.columns, units=units))
    return pl.concat(frames)


def _documents(session: Session) -> pl.DataFrame:
    return (
        session.read("documents")
        .group_by("split", "source", "kind")
        .agg(documents=pl.len().cast(pl.Int64), tokens=pl.col("n_tokens").cast(pl.Int64).sum())
        .sort("split", "source")
    )


def _text_hashes(session: Session) -> dict[str, str]:
    contexts = {"harvest": session.contexts} | dict(session.held_out_contexts)
    return {
        name: hashlib.sha256("\n".join(frame["context_id"].to_list()).encode()).hexdigest()
        for name, frame in contexts.items()
    }


def _slices(session: Session) -> pl.DataFrame:
    rows = []
    for key in session.store.keys(session.study.name):
        manifest = session.store.manifest(key.table, key.study, key.layer, key.part)
        if manifest is not None and key.table != "ledger":
            rows.append((key.table, key.layer, manifest.rows, manifest.input_hash, manifest.content_hash))
    schema = {
        "table_name": pl.String,
        "layer": pl.Int32,
        "rows": pl.Int64,
        "input_hash": pl.String,
        "content_hash": pl.String,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def _units(session: Session, layer: int) -> pl.DataFrame:
    """How the units of a layer ended: in the first stage in which they were not ok."""
    status = dict.fromkeys(map(tuple, session.units(layer)), "ok")
    parts = {key.part for key in session.store.keys(session.study.name) if key.table == "ledger" and key.layer == layer}
    for stage in STAGES:
        if stage in parts:
            for row in session.read("ledger", layer, part=stage).iter_rows(named=True):
                unit = (row["unit"], row["sign"])
                if status.get(unit) == "ok":
                    status[unit] = row["status"]
    counts = {name: list(status.values()).count(name) for name in ("ok", "dead", "too_few_contexts", "failed")}
    return pl.DataFrame([{"layer": layer, "asked": len(status), **counts}])


def _examples(session: Session, layers: Sequence[int], evaluation: pl.DataFrame) -> list[ExampleGraph]:
    """Of some layers, the graph with the best F1 on the unit's own test contexts that is small enough to read."""
    picked = sorted({layers[0], layers[len(layers) // 2], layers[-1]})[:_EXAMPLES]
    examples = []
    for layer in picked:
        nodes = session.read("graph_nodes", layer, columns=["unit", "sign"])
        small = nodes.group_by("unit", "sign").len().filter(pl.col("len") <= _EXAMPLE_NODES)
        best = (
            evaluation.filter(pl.col("layer") == layer, pl.col("predictor") == "graph", pl.col("text") == "top")
            .join(small, on=["unit", "sign"])
            .sort(["f1", "len", "unit"], descending=[True, True, False], nulls_last=True)
        )
        if best.is_empty():
            continue
        neuron, sign = best.select("unit", "sign").row(0)
        nodes, rules = (session.read(name, layer, units=[Unit(neuron, sign)]) for name in ("graph_nodes", "rules"))
        title = unit_text(layer, neuron, sign).capitalize()
        svg = draw_graph(nodes, title=title, subtitle=f"F1 on its test contexts {best['f1'][0] or 0:.2f}")
        examples.append(ExampleGraph(layer, neuron, sign, svg, rules.head(_EXAMPLE_RULES)))
    return examples


def _commands(session: Session, layers: Sequence[int]) -> list[str]:
    """What makes these layers of the study again; the job's tags ask for one run of them."""
    study, keys = session.study, {layer: key for key, layer in session.study.partition_layers.items()}
    if study.name == "demo":
        return ["make demo"]
    tags = {RANGE_START: keys[layers[0]], RANGE_END: keys[layers[-1]]}
    commands = [f"dagster job execute -m n2g_assets.definitions -j {study.name} --tags '{json.dumps(tags)}'"]
    if (Path(__file__).parents[1] / "defs" / study.name).is_dir():
        commands.insert(0, f"n2g-demo --study {study.name} --layers {','.join(map(str, layers))}")
    return commands
