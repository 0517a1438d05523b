"""The views of ``summaries.sql`` against values computed by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import duckdb
import pytest

from n2g_assets.storage.schema import create_schema
from n2g_assets_tests.storage.helpers import rows


def insert(connection: duckdb.DuckDBPyConnection, table: str, *records: dict, **common: object) -> None:
    connection.register("given", rows(table, *records, study="demo", **common))
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM given")
    connection.unregister("given")


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        create_schema(connection)
        yield connection


@pytest.fixture(autouse=True)
def nothing_left(database: duckdb.DuckDBPyConnection) -> Iterator[None]:
    yield
    for (table,) in database.execute("SELECT table_name FROM duckdb_tables() WHERE NOT internal").fetchall():
        if table not in ("stages", "texts", "predictors"):
            database.execute(f"DELETE FROM {table}")


def test_the_corpus_is_summed_by_split_and_source_and_its_hash_is_of_its_texts(database) -> None:
    documents = [("b", "wiki", 20, "bb"), ("a", "wiki", 10, "aa"), ("c", "code", 5, "cc")]
    records = [{"document_id": d, "source": s, "n_tokens": n, "sha256": h} for d, s, n, h in documents]
    insert(database, "documents", *records, split="harvest", kind="prose")
    found = database.execute("SELECT source, documents, tokens, sha256 FROM corpus_summary").fetchall()
    assert found == [
        ("code", 1, 5, hashlib.sha256(b"cc").hexdigest()),
        ("wiki", 2, 30, hashlib.sha256(b"aabb").hexdigest()),
    ]


def test_a_text_is_summed_over_the_units_of_the_graph_alone(database) -> None:
    units = [{"unit": 1, "n_tokens": 9, "n_documents": 2, "n_firings": 3}, {"unit": 2, "n_tokens": 4, "n_documents": 2}]
    insert(database, "evaluation", *units, predictor="graph", text="top")
    insert(database, "evaluation", units[0], predictor="ngram", text="top")
    assert database.execute("SELECT * EXCLUDE (study) FROM text_summary").fetchall() == [("top", 2, 4, 9, 2, 2, 3, 1)]


def test_the_paired_interval_decides_against_the_token_lookup_and_others_must_lie_apart(
    database,
) -> None:
    """By layer: F1 of the graph with an interval of .05 on each side, and its paired difference."""

    def score(mean: float) -> dict:
        return {"f1_all": mean, "f1_all_low": mean - 0.05, "f1_all_high": mean + 0.05}

    for layer, mean, low, high in ((0, 0.52, 0.01, 0.03), (1, 0.70, -0.01, 0.4), (2, 0.39, -0.2, -0.02)):
        where = {"layer": layer, "text": "top"}
        gains = {"f1_gain": mean - 0.5, "f1_gain_low": low, "f1_gain_high": high}
        insert(database, "layer_scores", score(mean) | gains, predictor="graph", **where)
        for baseline in ("token_lookup", "ngram_backoff"):
            insert(database, "layer_scores", score(0.5), predictor=baseline, **where)
        insert(database, "layer_scores", score(0.0), predictor="graph_shuffled", **where)
    verdicts = "SELECT list(verdict ORDER BY layer) FROM graph_comparison WHERE score = 'f1_all' AND baseline = ?"
    assert database.execute(verdicts, ["token_lookup"]).fetchone() == (["better", "not told apart", "worse"],)
    assert database.execute(verdicts, ["ngram_backoff"]).fetchone() == (["not told apart", "better", "worse"],)
    assert database.execute("SELECT count(*) FROM graph_comparison WHERE score <> 'f1_all'").fetchone() == (0,)
    assert database.execute("SELECT DISTINCT baseline FROM graph_comparison ORDER BY 1").fetchall() == [
        ("ngram_backoff",), ("token_lookup",)
    ]  # fmt: skip


def test_reach_is_the_mean_over_the_units_with_a_score_by_text_and_number_of_last_tokens(database) -> None:
    units = [
        {"unit": 1, "pearson_r": 0.5, "explained_variance": -1.0, "average_precision": 0.5, "f1": 0.25},
        {"unit": 2, "pearson_r": 0.25, "explained_variance": 0.5},
        {"unit": 2, "sign": -1},
    ]
    insert(database, "reach", *units, layer=7, text="random", last_tokens=8)
    insert(database, "reach", units[0], layer=7, text="random", last_tokens=16)
    found = database.execute("SELECT * EXCLUDE (study, layer, text) FROM reach_summary").fetchall()
    assert found == [(8, 3, 0.375, -0.25, 0.5, 0.25), (16, 1, 0.5, -1.0, 0.5, 0.25)]


def test_by_r_the_intervals_of_the_graph_and_a_baseline_must_lie_apart(database) -> None:
    for layer, mean in enumerate((0.375, 0.5, 0.75)):
        where, end = {"layer": layer, "text": "random"}, 0.125
        graph = {"pearson_r": mean, "pearson_r_low": mean - end, "pearson_r_high": mean + end}
        insert(database, "layer_scores", graph, predictor="graph", **where)
        other = {"pearson_r": 0.5625, "pearson_r_low": 0.53125, "pearson_r_high": 0.59375}
        insert(database, "layer_scores", other, predictor="token_lookup", **where)
        insert(database, "layer_scores", dict.fromkeys(other), predictor="ngram", **where)
    found = database.execute("SELECT difference, paired, verdict FROM graph_comparison WHERE score = 'pearson_r'")
    assert found.fetchall() == [
        (-0.1875, False, "worse"), (-0.0625, False, "not told apart"), (0.1875, False, "better"),
    ]  # fmt: skip


def test_near_misses_are_counted_by_change_with_the_studys_own_threshold(database) -> None:
    insert(database, "studies", {"settings": '{"method": {"firing_threshold": 0.25}}'})
    tests = {"near_miss_activations": [0.1, 0.3, 0.2], "near_miss_changes": ["moved", "moved", "removed"]}
    insert(database, "rule_tests", tests | {"near_miss_tokens": ["context", "context", "activating"]}, layer=7)
    found = database.execute(
        "SELECT layer, token, change, texts, silent, silent_share FROM near_miss_summary"
    ).fetchall()
    assert found == [(7, "activating", "removed", 1, 1, 1.0), (7, "context", "moved", 2, 1, 0.5)]


def test_near_misses_of_class_rules_show_how_much_of_the_expected_change_came(database) -> None:
    insert(database, "studies", {"settings": '{"method": {"firing_threshold": 0.5}}'})
    insert(
        database,
        "rule_tests",
        {
            "rule_id": 0, "predicted": 0.75, "match_mean": 1.0, "near_miss_activations": [0.5, 1.0],
            "near_miss_tokens": ["activating", "context"], "near_miss_changes": ["exchanged"] * 2,
            "near_miss_expected": [0.0, 0.25],
        },
        {
            "rule_id": 1, "predicted": -0.5, "match_mean": -0.25, "near_miss_activations": [0.0],
            "near_miss_tokens": ["activating"], "near_miss_changes": ["exchanged"], "near_miss_expected": [0.0],
        },
        {
            "rule_id": 2, "match_mean": 1.0, "near_miss_activations": [0.0],
            "near_miss_tokens": ["context"], "near_miss_changes": ["removed"],
        },
    )  # fmt: skip
    found = database.execute("SELECT token, texts, silent, changed_share FROM near_miss_summary").fetchall()
    assert found == [("activating", 2, 1, 0.75 / 1.25), ("context", 1, 0, 0.0), ("context", 1, 1, None)]


def test_of_counterexamples_the_worst_of_each_unit_come_first_with_the_exact_bytes_of_their_window(database) -> None:
    insert(database, "vocabulary", {"token_id": 0, "token": b"\xff"}, {"token_id": 1, "token": b" a"})
    where = {"text": "random", "kind": "miss", "token_ids": [1, 0, 5]}
    wrong = [(1, 0, 0.5), (1, 1, 0.75), (2, 0, 0.5), *((unit, 0, 0.25) for unit in range(3, 30))]
    insert(database, "counterexamples", *({"unit": u, "rank": r, "actual": a} for u, r, a in wrong), **where)
    found = database.execute("SELECT rank, unit, actual, tokens FROM top_counterexamples").fetchall()
    assert [row[:3] for row in found[:3]] == [(1, 1, 0.75), (2, 2, 0.5), (3, 3, 0.25)]
    assert len(found) == 20
    assert found[0][3] == [b" a", b"\xff", b"<5>"]
