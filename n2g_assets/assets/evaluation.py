"""Stage ``evaluation``: how well graph and baselines predict firing (DESIGN section 6, step 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from n2g_assets.assets.progress import Progress
from n2g_assets.assets.stage import Stage, fill_layer
from n2g_assets.assets.workbench import Workbench, of_units
from n2g_assets.drawing.plots import as_markdown_image, f1_histogram
from n2g_assets.evaluation.evaluate import evaluate_units
from n2g_assets.storage.stages import StageReport


def _work(bench: Workbench, layer: int, show: Progress) -> StageReport:
    top_examples, nodes = bench.read("top_examples", layer), bench.read("graph_nodes", layer)
    return fill_layer(
        bench, STAGE, layer,
        previous="neuron_graphs",
        inputs={"top_examples": top_examples, "graph_nodes": nodes},
        settings=("firing_threshold", "normalise_tokens"),
        compute=lambda units, a_max: evaluate_units(
            units, of_units(top_examples, units), of_units(nodes, units), a_max, bench.vocabulary, bench.settings.method
        ),
        show=show,
    )  # fmt: skip


def _histogram(bench: Workbench, layer: int) -> Mapping[str, Any]:
    rows = bench.read("evaluation", layer)
    if rows.is_empty():
        return {}
    f1 = {
        name: frame["f1"].to_list()
        for (name,), frame in rows.sort("predictor").group_by("predictor", maintain_order=True)
    }
    figure = f1_histogram(f1, f"{bench.study.name}: F1 of firing on test contexts, layer {layer}")
    asked = len(bench.units(layer))
    means = {
        f"mean F1 of {name} over {asked} units, undefined counted 0": round(sum(f or 0 for f in values) / asked, 4)
        for name, values in f1.items()
    }
    return {"F1 of the layer": dg.MetadataValue.md(as_markdown_image(figure)), **means}


STAGE = Stage(
    name="evaluation",
    description="Firing predicted on the unit's own test contexts by its graph, by a token lookup and by n-grams, all "
    "trained on the same train contexts.",
    tables=("evaluation",),
    upstream=("neuron_graphs", "top_examples"),
    code_version="1",
    work=_work,
    extra=_histogram,
    preview_columns=["neuron", "sign", "predictor", "precision", "recall", "f1", "n_firings"],
)
