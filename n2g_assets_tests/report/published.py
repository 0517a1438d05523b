"""A small published database in memory, made up by hand: what a report is rendered from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import duckdb
import polars as pl

from n2g_assets.core.registry import PREDICTORS, TEXTS, Method, Preset, of_study
from n2g_assets.core.tables import STAGES
from n2g_assets.report.page import render_report
from n2g_assets.storage.warehouse import empty_database
from n2g_assets_tests.storage.helpers import rows

HOSTILE = "<script>alert(1)</script>"
UNITS = (3, 5, 8)
"""Units with scores; unit 9 is dead."""
LAYERS = (0, 7, 15)
F1 = {
    "graph": 0.8, "combined": 0.88, "token_lookup": 0.7, "ngram": 0.72, "ngram_backoff": 0.85, "suffixes": 0.84,
    "skip_bigram": 0.86, "always_zero": 0.0, "graph_shuffled": 0.01, "graph_unaugmented": 0.75,
}  # fmt: skip
DECAY = {"top": 1.0, "quantiles": 0.7, "random": 0.5, "out_of_domain": 0.4}
TOKENS = [
    b"<|im_start|>", b" the", b" old", b" house\n", b" stood", "\xa0quietly".encode(), HOSTILE.encode(),
    b"<img src=http://example.org/x>", b"caf", b"\xc3", b"\xa9",
]  # fmt: skip
WINDOW = [0, *[1, 2, 3, 4, 5] * 6, 8, 9, 10, 6, 7]

Frames = dict[str, pl.DataFrame]

_NUMBERS = count()


def scores(layers: Sequence[int], units: Sequence[int], predictors: Sequence[str], texts: Sequence[str]) -> Frames:
    """Evaluation and layer scores whose F1 falls with the layer and the text; at layer 15 the graph fails."""
    evaluation, means = [], []
    for layer in layers:
        for text in texts:
            for name in predictors:
                f1 = F1[name] * DECAY[text] * 0.95**layer - (0.12 if (name, layer) == ("graph", 15) else 0.0)
                f1 = max(f1, 0.0)
                key = {"layer": layer, "predictor": name, "text": text}
                evaluation += [key | _unit_score(unit, f1) for unit in units]
                means.append(key | _layer_score(f1, f1 - F1["token_lookup"] * DECAY[text] * 0.95**layer, len(units)))
    return {"evaluation": rows("evaluation", *evaluation), "layer_scores": rows("layer_scores", *means)}


def _unit_score(unit: int, f1: float) -> dict[str, Any]:
    fires = 40 + unit
    hits = round(fires * f1)
    tokens = [4000] + [int(900 / (k + 1)) for k in range(10)]
    predicted = [0.0] + [tokens[k + 1] * (0.05 + 0.1 * k) for k in range(10)]
    return {
        "unit": unit, "n_tokens": 5000, "n_documents": 12, "n_firings": fires, "true_positives": hits,
        "false_positives": 10, "false_negatives": fires - hits, "true_negatives": 4990 - fires,
        "precision": f1, "recall": f1, "f1": f1, "auroc": 0.5 + f1 / 2, "average_precision": f1,
        "pearson_r": f1 or None, "explained_variance": f1 - 0.2,
        "coverage_firings": f1, "coverage_mass": f1, "calibration_tokens": tokens, "calibration_predicted": predicted,
        "calibration_actual": [value * f1 for value in predicted],
    }  # fmt: skip


def _layer_score(f1: float, gain: float, units: int) -> dict[str, Any]:
    low, high = max(f1 - 0.04, 0.0), min(f1 + 0.04, 1.0)
    return {
        "units": units + 1, "evaluated": units, "f1": f1, "f1_low": low, "f1_high": high, "f1_all": f1,
        "f1_all_low": low, "f1_all_high": high, "average_precision": f1, "average_precision_low": low,
        "average_precision_high": high, "pearson_r": f1 or None, "pearson_r_low": low if f1 else None,
        "pearson_r_high": high if f1 else None, "explained_variance": f1 - 0.2, "explained_variance_low": low - 0.2,
        "explained_variance_high": high - 0.2, "f1_gain": gain, "f1_gain_low": gain - 0.03, "f1_gain_high": gain + 0.03,
        "levels_firing": [round(40 * (1 - f1))] + [round(3 * f1 * k / 50) for k in range(1, 101)],
        "levels_silent": [14000] + [round(6 * (1 - f1) * (100 - k) / 50) for k in range(1, 101)],
    }  # fmt: skip


def study(
    layers: Sequence[int] = LAYERS,
    units: Sequence[int] = UNITS,
    *,
    preset: Preset = "full",
    method: Method = "paper",
    dead: Sequence[int] = (9,),
    **changes: pl.DataFrame,
) -> Frames:
    """Every table of one study named toy; ``changes`` replaces some."""
    texts = [text.name for text in TEXTS if preset in text.presets]
    predictors = [entry.name for entry in of_study(PREDICTORS, preset, method)]
    settings = {
        "preset": preset, "layers": list(layers), "corpus": [], "harvest": {"context_length": 128},
        "method": {"preset": method, "firing_threshold": 0.5, "contexts_per_document": 2, "proposer": "infill"},
        "evaluation": {"bootstrap_draws": 1000}, "note": HOSTILE,
    }  # fmt: skip
    keys = [{"layer": layer, "unit": unit} for layer in layers for unit in units]
    asked = keys + [{"layer": layer, "unit": unit} for layer in layers for unit in dead]
    status = dict.fromkeys(dead, "dead")
    frames = {
        "studies": rows("studies", {"settings": json.dumps(settings), "versions": json.dumps({HOSTILE: HOSTILE})}),
        "subject_models": rows("subject_models", {"model": "tiny-llama", "n_layers": 30, "nats_per_token": 2.5731}),
        "vocabulary": rows("vocabulary", *({"token_id": i, "token": token} for i, token in enumerate(TOKENS))),
        "documents": rows(
            "documents",
            *(
                {"document_id": f"{split}{i}", "source": HOSTILE, "kind": "prose", "split": split, "n_tokens": 700}
                for split in ("harvest", "held_out", "out_of_domain")
                for i in range(2)
            ),
        ),
        "ledger": rows(
            "ledger", *(key | {"stage": STAGES[0], "status": status.get(key["unit"], "ok")} for key in asked)
        ),
        "neuron_stats": rows("neuron_stats", *keys, max=2.0),
        "graph_nodes": rows(
            "graph_nodes",
            *(
                key | node
                for key in keys
                for node in (
                    {"node_id": 0, "kind": "activating", "token": b"except", "activation": 0.97, "end_activation": 0.6},
                    {"node_id": 1, "parent_id": 0, "depth": 1, "kind": "context", "token": HOSTILE.encode(),
                     "activation": 0.97, "importance": 0.9, "end_activation": 0.93, "end_count": 4},
                )
            ),
        ),
        "rules": rows(
            "rules",
            *(
                key | rule
                for key in keys
                for rule in (
                    {"rule_id": 0, "pattern": f"{HOSTILE} [except]", "activation": 0.93, "count": 4},
                    {"rule_id": 1, "pattern": "[except]", "activation": 0.6, "count": 1},
                )
            ),
        ),
        "slices": rows(
            "slices",
            *({"layer": layer, "table_name": "graph_nodes", "rows": 1234, "input_hash": "d4" * 32,
               "content_hash": "e5" * 32, "written_at": datetime(2026, 1, 1)} for layer in layers),
        ),
        **scores(layers, units, predictors, texts),
    }  # fmt: skip
    if preset == "full":
        frames |= _checks(keys)
    return frames | changes


def _checks(keys: Sequence[dict[str, Any]]) -> Frames:
    """Tested rules, reach, failures and counterexamples of every unit."""
    kinds = dict(zip(UNITS, ("over_general_rule", "polysemantic", "weak_peak"), strict=True))
    wrong = (("false_alarm", 0.95, -0.02, "rule fired wrongly", 2), ("miss", 0.3, 0.9, "token unknown", None))
    return {
        "rule_tests": rows(
            "rule_tests",
            *(
                key | {
                    "n_matches": 4, "fired": 4 - (key["layer"] > 0), "n_near_misses": 3, "silent": 2,
                    "near_miss_activations": [0.1, 0.9, 0.2], "near_miss_changes": ["exchanged", "moved", "removed"],
                    "near_miss_tokens": ["context", "context", "activating"], "n_context_near_misses": 2,
                    "context_silent": 1,
                }
                for key in keys
            ),
        ),
        "reach": rows(
            "reach",
            *(
                key | {"text": text, "last_tokens": k, "n_positions": 40, "pearson_r": (k / 32) ** (0.1 + layer / 30)}
                for key in keys
                for layer in [key["layer"]]
                for text in ("random", "out_of_domain")
                for k in (1, 2, 3, 5, 8, 16, 32)
            ),
        ),
        "failures": rows("failures", *(key | {"kind": kinds[key["unit"]], "share": 0.4} for key in keys)),
        "counterexamples": rows(
            "counterexamples",
            *(
                key | {"text": text, "kind": kind, "rank": rank, "position": 4, "predicted": predicted - 0.1 * rank,
                       "actual": actual, "token_ids": WINDOW, "cause": cause, "rule_id": rule}
                for key in keys
                for text in ("random", "out_of_domain")
                for kind, predicted, actual, cause, rule in wrong
                for rank in range(2)
            ),
        ),
    }  # fmt: skip


@cache
def _folder() -> TemporaryDirectory[str]:
    """Where databases are until the process ends."""
    return TemporaryDirectory()


def database(**studies: Frames) -> duckdb.DuckDBPyConnection:
    """A database of these studies, by their names, with all views."""
    path = Path(_folder().name) / f"{next(_NUMBERS)}.duckdb"
    path.write_bytes(empty_database())
    connection = duckdb.connect(path)
    connection.begin()
    for name, frames in studies.items():
        for table, frame in frames.items():
            connection.register("given", frame.with_columns(study=pl.lit(name)))
            connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM given")
            connection.unregister("given")
    connection.commit()
    return connection


def page(studies: Mapping[str, Frames], name: str = "toy", *, pictures: bool = False, **given: Any) -> str:
    """The page of one study of a database; without ``pictures`` plots are empty, which takes a tenth of the time."""
    plots = nullcontext() if pictures else patch.multiple("n2g_assets.report.page", **NO_PLOTS)
    with database(**studies) as connection, plots:
        return render_report(connection, name, **({"made_at": datetime(2026, 11, 3, 9, 5)} | given))[0]


NO_PLOTS = dict.fromkeys(
    ("score_by_layer", "precision_recall", "calibration", "reach_by_tokens", "r_by_rules"),
    lambda *rows, **given: "<svg/>",
)
