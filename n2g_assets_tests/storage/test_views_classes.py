"""Views and macros over rules and tokens, of a study with graphs of token classes beside one with the paper's."""

from __future__ import annotations

import duckdb
import polars as pl
import pytest

from n2g_assets.core.registry import SHOWN_RULES
from n2g_assets_tests.report.class_graphs import EXAMPLE, TOKENS, Side, Split, class_frames
from n2g_assets_tests.report.published import database
from n2g_assets_tests.storage.helpers import rows

COLON = "{:}"
LIKED = "[{␣except|try}]"
VALUE = "round(CAST(activation AS DOUBLE), 2)"


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    numbers = Split(5, -2, [(9, 30, -0.4)], Side(-0.4, 30), Side(-0.4, 100))
    further = [Split(7 + 2 * k, -3 - k, [(9, 9, -0.4)], Side(-0.41, 20 - k), Side(-0.39, 5)) for k in range(6)]
    last = Split(3, -1, [(4, 10, 0.95)], Side(0.95, 10, 10, 1), Side(0.88, 20, 17))
    splits = [*EXAMPLE, numbers, *further, last]
    assert len(splits) > SHOWN_RULES  # the strongest rule of the largest graph is not in the one that is shown
    frames = class_frames(splits, TOKENS, Side(0.04, 1000, 60))
    names = [{"token_id": i, "token": token, "text": token.decode()} for i, token in enumerate(TOKENS)]
    forms = [token.decode().strip().lower().encode() or token for token in TOKENS]
    words = [name | {"normalised": form} for name, form in zip(names, forms, strict=True)]
    at = {"layer": 3}
    classes = {name: frame.with_columns(layer=pl.lit(3)) for name, frame in frames.items()}
    shared = {"vocabulary": rows("vocabulary", *words)}
    ledger = rows("ledger", {"unit": 7, "stage": "activation_cache", "status": "ok"}, **at)
    paper_rules = [
        {"rule_id": 0, "pattern": ": [except]", "tokens": [b"except", b":"], "activation": 0.8, "count": 1},
        {"rule_id": 1, "pattern": "[except]", "tokens": [b"except"], "activation": 0.6, "count": 4},
    ]
    paper = {
        "graph_nodes": rows("graph_nodes", {"kind": "activating", "token": b"except", "activation": 0.8}, unit=7, **at),
        "rules": rows("rules", *paper_rules, unit=7, **at),
    }
    stats = {"neuron_stats": rows("neuron_stats", {"unit": 7, "max": 2.0}, **at), "ledger": ledger}
    return database(classes=classes | shared | stats, paper=paper | shared | stats)


def ask(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple]:
    return connection.execute(sql).fetchall()


def test_graph_rules_are_those_of_the_best_graph_of_n_rules_strongest_first(connection) -> None:
    def asked(n: int, study: str = "classes", columns: str = f"pattern, {VALUE}") -> list[tuple]:
        return ask(connection, f"SELECT {columns} FROM graph_rules('{study}', 3, 7, 1, {n})")

    assert asked(1) == [("[*]", 0.04)]
    assert asked(2) == [(LIKED, 0.6), ("[{not ␣except|try}]", -0.02)]
    four = asked(4)
    assert four == [
        (f"{COLON} {LIKED}", 0.9), (f"{{not :}} {LIKED}", 0.3), ("[{not ␣except|1|␣2|try|3}]", 0.01),
        ("[{1|␣2|3}]", -0.4),
    ]  # fmt: skip
    assert [len(asked(n)) for n in (5, 10, 12, 500)] == [5, 10, 12, 12]
    numbers = "raw_activation, count, rank, documents, firings, firing_share"
    assert asked(4, columns=numbers)[0] == (pytest.approx(1.8), 30, 3, 4, 27, 0.9)
    assert asked(1, "paper", "rule_id, firing_share") == [(0, None), (1, None)]


def test_unit_rules_are_those_of_the_largest_graph(connection) -> None:
    found = ask(connection, "SELECT rule_id, pattern FROM unit_rules WHERE study = 'classes'")
    assert len(found) == 12
    assert found == ask(connection, "SELECT rule_id, pattern FROM graph_rules('classes', 3, 7, 1, 12)")
    assert ask(connection, "SELECT count(*) FROM unit_rules WHERE study = 'paper'") == [(2,)]


def test_unit_summary_counts_the_largest_graph_and_shows_a_rule_of_the_graph_that_is_shown(connection) -> None:
    found = ask(connection, "SELECT study, n_rules, n_nodes, top_pattern FROM unit_summary ORDER BY study")
    assert found == [("classes", 12, 23, f"{COLON} {LIKED}"), ("paper", 2, 1, ": [except]")]


def test_rule_support_counts_prompts_of_the_papers_rules_and_documents_of_those_of_classes(connection) -> None:
    assert ask(connection, "FROM rule_support") == [("classes", 3, 12, 0, 0.0, 1), ("paper", 3, 2, 1, 0.5, None)]


def test_units_on_finds_a_token_in_a_class_at_offset_0(connection) -> None:
    found = ask(connection, f"SELECT study, unit, form, {VALUE}, n_rules, top_pattern FROM units_on('except')")
    assert found == [("classes", 7, " except", 0.9, 1, LIKED), ("paper", 7, "except", 0.8, 2, ": [except]")]
    assert ask(connection, "FROM units_on('1')") == []  # lowers the unit
    assert ask(connection, "FROM units_on('of')") == []  # in no class at offset 0


def test_units_with_context_finds_a_token_in_a_class_before_it(connection) -> None:
    columns = f"study, unit, {VALUE}, n_rules, top_pattern"
    found = ask(connection, f"SELECT {columns} FROM units_with_context(':')")
    assert found == [("classes", 7, 0.95, 2, f"{COLON} {LIKED}"), ("paper", 7, 0.8, 1, ": [except]")]
    assert ask(connection, "FROM units_with_context('try')") == []
