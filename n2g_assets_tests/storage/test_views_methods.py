"""The view ``method_comparison``: the graphs of two methods on the same units, against means computed by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import duckdb
import pytest

from n2g_assets_tests.report.published import Frames, database
from n2g_assets_tests.storage.helpers import rows

CORPUS = [{"source": "named", "name": "reviews"}]
AT = {"layer": 7, "predictor": "graph", "text": "random"}


def study(
    method: str, units: Sequence[int], scores: dict[int, float | None], *, corpus: Any = CORPUS, model: str = "a",
    hook: str = "mlp.hook_post", text: str = "random",
) -> Frames:  # fmt: skip
    """A study whose units have this r; the other scores are r too, a half, a quarter and an eighth of it."""
    records = [
        {"unit": unit}
        | {
            name: None if r is None else share * r
            for name, share in (
                ("pearson_r", 1),
                ("explained_variance", 0.5),
                ("average_precision", 0.25),
                ("f1", 0.125),
            )
        }
        for unit, r in scores.items()
    ]
    means = {
        f"{name}_{end}": value
        for name in ("pearson_r", "explained_variance", "average_precision", "f1_all")
        for end, value in (("low", 0.25), ("high", 0.75))
    }
    here = AT | {"text": text}
    return {
        "studies": rows("studies", {"settings": json.dumps({"corpus": corpus, "method": {"preset": method}})}),
        "subject_models": rows("subject_models", {"file_sha256": model, "hook": hook}),
        "ledger": rows("ledger", *({"unit": unit} for unit in units), layer=7, stage="activation_cache", status="ok"),
        "evaluation": rows("evaluation", *records, **here),
        "layer_scores": rows("layer_scores", means, **here),
    }


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    scores = {0: 0.75, 1: 0.25, 2: None}
    return database(
        demo=study("evidence", range(4), scores),  # unit 3 is not scored
        paper=study("paper", (0, 2, 3), {0: 0.5, 2: 0.25, 3: 0.0}),
        again=study("evidence", range(4), scores),
        other_text=study("paper", range(4), scores, corpus=[]),
        other_model=study("paper", range(4), scores, model="b"),
        other_hook=study("paper", range(4), scores, hook="hook_resid_post"),
        other_scores=study("paper", range(4), scores, text="top"),
    )


def ask(connection: duckdb.DuckDBPyConnection, columns: str, study: str) -> list[tuple]:
    return connection.execute(f"SELECT {columns} FROM method_comparison WHERE study = '{study}'").fetchall()


def test_studies_of_another_method_stand_beside_each_other_where_model_hook_and_corpus_are_the_same(connection) -> None:
    pairs = "SELECT study, other_study, method, other_method, layer, text FROM method_comparison"
    assert connection.execute(pairs).fetchall() == [
        ("again", "paper", "evidence", "paper", 7, "random"),
        ("demo", "paper", "evidence", "paper", 7, "random"),
        ("paper", "again", "paper", "evidence", 7, "random"),
        ("paper", "demo", "paper", "evidence", 7, "random"),
    ]


def test_means_are_over_the_units_of_both_and_what_is_undefined_is_left_out_or_counts_0_in_f1(connection) -> None:
    assert ask(connection, "units, pearson_r, other_pearson_r", "demo") == [(3, 0.75, 0.25)]
    assert ask(connection, "explained_variance, other_explained_variance", "demo") == [(0.375, 0.125)]
    assert ask(connection, "average_precision, other_average_precision", "demo") == [(0.1875, 0.0625)]
    assert ask(connection, "f1_all, other_f1_all", "demo") == [(0.75 / 8 / 3, 0.75 / 8 / 3)]


def test_a_mean_has_an_interval_only_where_these_are_all_units_of_its_study(connection) -> None:
    for name in ("pearson_r", "explained_variance", "average_precision", "f1_all"):
        ends = f"{name}_low, {name}_high, other_{name}_low, other_{name}_high"
        assert ask(connection, ends, "demo") == [(None, None, 0.25, 0.75)]
        assert (0.25, 0.75, None, None) in ask(connection, ends, "paper")
