"""Made-up facts of a study, conforming to the tables, for reports."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import polars as pl

from n2g_assets.core.tables import TABLES
from n2g_assets.report.render import ExampleGraph, ReportFacts
from n2g_assets.report.svg import draw_graph
from n2g_assets_tests.report.graphs import frame as graph_frame
from n2g_assets_tests.report.graphs import node

HOSTILE = "<script>alert(1)</script>"
NEURONS = (3, 5, 8)
F1 = {
    "graph": 0.8, "token_lookup": 0.7, "ngram": 0.72, "ngram_backoff": 0.85, "skip_bigram": 0.86, "always_zero": 0.0,
    "graph_shuffled": 0.01, "graph_reinitialised": 0.1, "graph_unaugmented": 0.75,
}  # fmt: skip
DECAY = {"top": 1.0, "quantiles": 0.7, "random": 0.5, "out_of_domain": 0.4}


def evaluation_row(layer: int, neuron: int, predictor: str, text: str, f1: float | None, **given: Any) -> dict:
    fires = 40 + neuron
    hits = round(fires * (f1 or 0))
    row = {
        "study": "toy", "layer": layer, "unit": neuron, "sign": 1, "predictor": predictor, "text": text,
        "n_tokens": 5000, "n_documents": 12, "n_firings": fires, "n_firing_documents": 9,
        "true_positives": hits, "false_positives": 10, "false_negatives": fires - hits,
        "true_negatives": 4950 - fires + hits, "precision": f1, "recall": f1, "f1": f1,
        "f1_low": f1 and f1 * 0.9, "f1_high": f1 and f1 * 1.1, "auroc": f1 and 0.5 + f1 / 2, "average_precision": f1,
        "average_precision_low": f1 and f1 * 0.9, "average_precision_high": f1 and f1 * 1.1, "pearson_r": f1,
        "explained_variance": f1, "coverage_firings": f1, "coverage_mass": f1,
        "calibration_tokens": [4000] + [int(900 / (k + 1)) for k in range(10)],
        "calibration_predicted": [0.0] + [int(900 / (k + 1)) * (0.05 + 0.1 * k) for k in range(10)],
        "calibration_actual": [20.0] + [int(900 / (k + 1)) * (0.05 + 0.1 * k) * (f1 or 0) for k in range(10)],
        "ngram_n": 2 if predictor == "ngram" else None,
    }  # fmt: skip
    return row | given


def layer_row(layer: int, predictor: str, text: str, f1: float, width: float = 0.04, **given: Any) -> dict:
    low, high = max(f1 - width, 0.0), min(f1 + width, 1.0)
    gain = f1 - F1["token_lookup"] * DECAY[text] * 0.95**layer
    row = {
        "study": "toy", "layer": layer, "predictor": predictor, "text": text, "units": len(NEURONS) + 1,
        "evaluated": len(NEURONS), "without_firing": 0, "f1": f1, "f1_low": low, "f1_high": high, "f1_all": f1,
        "f1_all_low": low, "f1_all_high": high, "average_precision": f1, "average_precision_low": low,
        "average_precision_high": high, "f1_gain": gain, "f1_gain_low": gain - 0.03, "f1_gain_high": gain + 0.03,
        "levels_firing": [round(40 * (1 - f1))] + [round(3 * f1 * k / 50) for k in range(1, 101)],
        "levels_silent": [14000] + [round(6 * (1 - f1) * (100 - k) / 50) for k in range(1, 101)],
    }  # fmt: skip
    return row | given


def layer_scores(layers=(0, 7, 15), predictors=tuple(F1), texts=tuple(DECAY)) -> pl.DataFrame:
    rows = []
    for layer in layers:
        for text in texts:
            for place, name in enumerate(predictors):
                graph_fails = name == "graph" and layer == 15
                f1 = F1[name] * DECAY[text] * 0.95**layer - (0.12 if graph_fails else 0.002 * place)
                rows.append(layer_row(layer, name, text, max(f1, 0.0), 0.04 if f1 > 0.05 else 0.004))
    return TABLES["layer_scores"].conform(pl.DataFrame(rows, infer_schema_length=None))


def evaluation(layers=(0, 7, 15), predictors=tuple(F1), texts=tuple(DECAY)) -> pl.DataFrame:
    rows = [
        evaluation_row(layer, neuron, name, text, F1[name] * DECAY[text] * 0.95**layer or None)
        for layer in layers
        for neuron in NEURONS
        for name in predictors
        for text in texts
    ]
    return TABLES["evaluation"].conform(pl.DataFrame(rows, infer_schema_length=None))


def rule_tests(layers=(0, 7, 15)) -> pl.DataFrame:
    rows = [
        {
            "study": "toy", "layer": layer, "unit": neuron, "sign": 1, "rule_id": 0, "n_matches": 4,
            "fired": 4 - (layer > 0), "n_near_misses": 3, "silent": 2, "match_ids": [[0, 1]] * 4,
            "match_activations": [0.9, 0.8, 0.7, 0.6 if layer == 0 else 0.1], "near_miss_ids": [[0, 2]] * 3,
            "near_miss_activations": [0.1, 0.9, 0.2], "near_miss_changes": ["exchanged", "moved", "removed"],
            "near_miss_tokens": ["context", "context", "activating"], "n_context_near_misses": 2, "context_silent": 1,
        }
        for layer in layers
        for neuron in NEURONS
    ]  # fmt: skip
    return TABLES["rule_tests"].conform(pl.DataFrame(rows))


def failures(layers=(0, 7, 15)) -> pl.DataFrame:
    kinds = ("over_general_rule", "polysemantic", "weak_peak")
    rows = [
        {"study": "toy", "layer": layer, "unit": neuron, "sign": 1, "kind": kind, "share": 0.4, "reason": "measured"}
        for layer in layers
        for neuron, kind in zip(NEURONS, kinds, strict=True)
    ]
    return TABLES["failures"].conform(pl.DataFrame(rows))


def counterexamples(layers=(0, 7, 15)) -> pl.DataFrame:
    rows = [
        {
            "study": "toy", "layer": layer, "unit": neuron, "sign": 1, "text": text, "kind": kind, "rank": rank,
            "context_id": "d:0", "position": 4, "predicted": predicted - 0.1 * rank, "actual": actual,
            "token_ids": [0, *[1, 2, 3, 4, 5] * 6, 6, 7], "cause": cause, "rule_id": rule,
        }
        for layer in layers
        for neuron in NEURONS
        for text in ("random", "out_of_domain")
        for kind, predicted, actual, cause, rule in (
            ("false_alarm", 0.95, -0.02, "rule fired wrongly", 2), ("miss", 0.3, 0.9, "token unknown", None),
        )
        for rank in range(2)
    ]  # fmt: skip
    return TABLES["counterexamples"].conform(pl.DataFrame(rows, infer_schema_length=None))


TOKENS = {
    0: b"<|im_start|>", 1: b" the", 2: b" old", 3: b" house\n", 4: b" stood", 5: "\xa0quietly".encode(),
    6: HOSTILE.encode(), 7: b"<img src=http://example.org/x>",
}  # fmt: skip


def example() -> ExampleGraph:
    nodes = graph_frame(
        [
            node(0, None, "activating", b"except", activation=0.97, end=0.6),
            node(1, 0, "context", b"all", depth=1, importance=0.9, end=0.93, count=4),
            node(2, None, "activating", HOSTILE.encode(), activation=0.7, end=0.55),
        ]
    )
    rules = pl.DataFrame(
        {"rule_id": [0, 1], "pattern": ["all [except]", f"[{HOSTILE}]"], "activation": [0.93, 0.55], "count": [4, 1]}
    )
    return ExampleGraph(7, 3, 1, draw_graph(nodes, title="toy: layer 7, neuron 3"), rules)


def facts(layers=(0, 7, 15), **given: Any) -> ReportFacts:
    values: dict[str, Any] = {
        "study": "toy",
        "made_at": datetime(2026, 11, 3, 9, 5),
        "settings": {
            "preset": "full", "layers": list(layers), "method": {"firing_threshold": 0.5, "seed": 0},
            "evaluation": {"bootstrap_draws": 1000},
        },
        "versions": {"python": "3.11.2", "torch": "2.13.0", "polars": "2.1.0"},
        "model": {
            "study": "toy", "model": "tiny-llama", "file_sha256": "bcc8" * 16, "n_layers": 30,
            "nats_per_token": 2.5731,
        },
        "layers": layers,
        "documents": pl.DataFrame(
            {
                "split": ["harvest", "held_out", "out_of_domain"], "source": ["wikipedia", "wikipedia", "speeches"],
                "kind": ["prose", "prose", "speech"], "documents": [77, 19, 120], "tokens": [490_112, 128_040, 230_001],
            }
        ),
        "text_hashes": {"harvest": "a1" * 32, "held_out": "b2" * 32, "out_of_domain": "c3" * 32},
        "slices": pl.DataFrame(
            {
                "table_name": ["graph_nodes"] * len(layers), "layer": list(layers), "rows": [1234] * len(layers),
                "input_hash": ["d4" * 32] * len(layers), "content_hash": ["e5" * 32] * len(layers),
            }
        ),
        "units": pl.DataFrame(
            {
                "layer": list(layers), "asked": [4] * len(layers), "ok": [3] * len(layers), "dead": [1] * len(layers),
                "too_few_contexts": [0] * len(layers), "failed": [0] * len(layers),
            }
        ),
        "layer_scores": layer_scores(layers),
        "evaluation": evaluation(layers),
        "rule_tests": rule_tests(layers),
        "failures": failures(layers),
        "counterexamples": counterexamples(layers),
        "tokens": TOKENS,
        "examples": (example(),),
        "commands": ("dagster job launch -j toy_job", "n2g-demo"),
    }  # fmt: skip
    return ReportFacts(**(values | given))


def paper_facts() -> ReportFacts:
    three, top = ("graph", "token_lookup", "ngram"), ("top",)
    return facts(
        settings={"preset": "paper", "method": {"firing_threshold": 0.5}},
        layer_scores=layer_scores(predictors=three, texts=top),
        evaluation=evaluation(predictors=three, texts=top),
        rule_tests=TABLES["rule_tests"].empty(),
        failures=TABLES["failures"].empty(),
        counterexamples=TABLES["counterexamples"].empty(),
        examples=(),
    )
