"""Gathers from a study's slices what its report says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from n2g_assets.assets.workbench import RANGE_END, RANGE_START, Workbench
from n2g_assets.drawing.svg import draw_graph
from n2g_assets.errors import StorageError
from n2g_assets.evaluation.report import ExampleGraph, ReportFacts
from n2g_assets.method.display import unit_text
from n2g_assets.method.probing import Unit
from n2g_assets.storage.tables import STAGES, TABLES

_EXAMPLES = 3
_EXAMPLE_RULES = 8
_EXAMPLE_NODES = 40
"""A larger graph is no example: nobody reads it."""


def report_facts(bench: Workbench) -> ReportFacts:
    """The facts of a study; of layers that are not evaluated it holds none.

    Raises:
        StorageError: no layer is evaluated yet.
    """
    study = bench.study
    there = set(bench.store.layers("layer_scores", study.name))
    layers = [layer for layer in study.settings.layer_numbers if layer in there]
    if not layers:
        raise StorageError(f"No layer of study '{study.name}' is evaluated yet: materialize evaluation first.")
    counterexamples = _all(bench, "counterexamples", layers)
    named = set(counterexamples["token_ids"].explode().drop_nulls().unique().to_list())
    vocabulary = bench.read("vocabulary", columns=["token_id", "token"])
    evaluation = _all(bench, "evaluation", layers)
    studies = bench.read("studies").row(0, named=True)
    return ReportFacts(
        study=study.name,
        made_at=datetime.now(UTC),
        settings=study.settings.model_dump(mode="json"),
        versions=json.loads(studies["versions"]),
        model=bench.model_row,
        layers=study.settings.layer_numbers,
        documents=_documents(bench),
        text_hashes=_text_hashes(bench),
        slices=_slices(bench),
        units=pl.concat([_units(bench, layer) for layer in layers]),
        layer_scores=_all(bench, "layer_scores", layers),
        evaluation=evaluation,
        rule_tests=_all(bench, "rule_tests", layers, without=("match_ids", "near_miss_ids")),
        failures=_all(bench, "failures", layers),
        counterexamples=counterexamples,
        tokens=dict(vocabulary.filter(pl.col("token_id").is_in(sorted(named))).iter_rows()),
        examples=_examples(bench, layers, evaluation),
        commands=_commands(bench, layers),
    )


def _all(bench: Workbench, table: str, layers: Sequence[int], *, without: Sequence[str] = ()) -> pl.DataFrame:
    """A table's rows of all layers and the study's units, without columns that are large and of no use here."""
    there = set(bench.store.layers(table, bench.study.name))
    empty = TABLES[table].empty().drop(without)
    frames = [empty]
    for layer in (layer for layer in layers if layer in there):
        units = bench.units(layer) if TABLES[table].by_unit else None
        frames.append(bench.read(table, layer, columns=empty.columns, units=units))
    return pl.concat(frames)


def _documents(bench: Workbench) -> pl.DataFrame:
    return (
        bench.read("documents")
        .group_by("split", "source", "kind")
        .agg(documents=pl.len().cast(pl.Int64), tokens=pl.col("n_tokens").cast(pl.Int64).sum())
        .sort("split", "source")
    )


def _text_hashes(bench: Workbench) -> dict[str, str]:
    contexts = {"harvest": bench.contexts} | dict(bench.held_out_contexts)
    return {
        name: hashlib.sha256("\n".join(frame["context_id"].to_list()).encode()).hexdigest()
        for name, frame in contexts.items()
    }


def _slices(bench: Workbench) -> pl.DataFrame:
    rows = []
    for key in bench.store.keys(bench.study.name):
        manifest = bench.store.manifest(key.table, key.study, key.layer, key.part)
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


def _units(bench: Workbench, layer: int) -> pl.DataFrame:
    """How the units of a layer ended: in the first stage in which they were not ok."""
    status = dict.fromkeys(map(tuple, bench.units(layer)), "ok")
    parts = {key.part for key in bench.store.keys(bench.study.name) if key.table == "ledger" and key.layer == layer}
    for stage in STAGES:
        if stage in parts:
            for row in bench.read("ledger", layer, part=stage).iter_rows(named=True):
                unit = (row["neuron"], row["sign"])
                if status.get(unit) == "ok":
                    status[unit] = row["status"]
    counts = {name: list(status.values()).count(name) for name in ("ok", "dead", "too_few_contexts", "failed")}
    return pl.DataFrame([{"layer": layer, "asked": len(status), **counts}])


def _examples(bench: Workbench, layers: Sequence[int], evaluation: pl.DataFrame) -> list[ExampleGraph]:
    """Of some layers, the graph with the best F1 on the unit's own test contexts that is small enough to read."""
    picked = sorted({layers[0], layers[len(layers) // 2], layers[-1]})[:_EXAMPLES]
    examples = []
    for layer in picked:
        nodes = bench.read("graph_nodes", layer, columns=["neuron", "sign"])
        small = nodes.group_by("neuron", "sign").len().filter(pl.col("len") <= _EXAMPLE_NODES)
        best = (
            evaluation.filter(pl.col("layer") == layer, pl.col("predictor") == "graph", pl.col("text") == "top")
            .join(small, on=["neuron", "sign"])
            .sort(["f1", "len", "neuron"], descending=[True, True, False], nulls_last=True)
        )
        if best.is_empty():
            continue
        neuron, sign = best.select("neuron", "sign").row(0)
        nodes, rules = (bench.read(name, layer, units=[Unit(neuron, sign)]) for name in ("graph_nodes", "rules"))
        title = unit_text(layer, neuron, sign).capitalize()
        svg = draw_graph(nodes, title=title, subtitle=f"F1 on its test contexts {best['f1'][0] or 0:.2f}")
        examples.append(ExampleGraph(layer, neuron, sign, svg, rules.head(_EXAMPLE_RULES)))
    return examples


def _commands(bench: Workbench, layers: Sequence[int]) -> list[str]:
    """What makes these layers of the study again; the job's tags ask for one run of them."""
    study, keys = bench.study, {layer: key for key, layer in bench.study.partition_layers.items()}
    if study.name == "demo":
        return ["make demo"]
    tags = {RANGE_START: keys[layers[0]], RANGE_END: keys[layers[-1]]}
    commands = [f"dagster job execute -m n2g_assets.definitions -j {study.name} --tags '{json.dumps(tags)}'"]
    if (Path(__file__).parents[1] / "defs" / study.name).is_dir():
        commands.insert(0, f"n2g-demo --study {study.name} --layers {','.join(map(str, layers))}")
    return commands
