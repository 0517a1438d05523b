"""Stage ``rule_tests``: each rule tried on the model, on texts that match it and on texts that nearly do."""

from __future__ import annotations

from n2g_assets.assets.progress import Progress
from n2g_assets.assets.stage import Stage, fill_layer
from n2g_assets.assets.workbench import Workbench, of_units
from n2g_assets.evaluation.rule_tests import try_rules
from n2g_assets.storage.slices import hash_json
from n2g_assets.storage.stages import StageReport


def _work(bench: Workbench, layer: int, show: Progress) -> StageReport:
    rules, nodes = bench.read("rules", layer), bench.read("graph_nodes", layer)
    evaluation = bench.settings.evaluation
    contexts = bench.fresh_contexts
    return fill_layer(
        bench, STAGE, layer,
        previous="neuron_graphs",
        inputs={"rules": rules, "graph_nodes": nodes},
        settings=("firing_threshold", "normalise_tokens"),
        compute=lambda units, a_max: try_rules(
            units, of_units(rules, units), of_units(nodes, units), contexts, a_max, bench.vocabulary,
            bench.prober(layer), bench.settings.method, evaluation,
        ),
        show=show,
        also={
            "settings": evaluation.model_dump(include={"tested_rules", "rule_texts", "seed"}),
            "contexts": hash_json(contexts["context_id"].to_list()),
        },
    )  # fmt: skip


STAGE = Stage(
    name="rule_tests",
    description="Each rule tried on the model: its tokens in fresh contexts should make the unit fire, and with one "
    "required token exchanged, moved or removed it should stay silent.",
    tables=("rule_tests",),
    upstream=("neuron_graphs", "corpus_tokens"),
    code_version="2",
    work=_work,
    preview_columns=["neuron", "sign", "rule_id", "n_matches", "fired", "n_near_misses", "silent"],
    kinds={"torch", "polars", "parquet"},
)
