"""Views on graphs of every size and on what the last tokens allow, against numbers computed by hand."""

from __future__ import annotations

import duckdb
import pytest

from n2g_assets_tests.report.published import database
from n2g_assets_tests.storage.helpers import rows


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    at = {"layer": 7, "text": "random"}
    curve = [
        {"unit": unit, "n_rules": n, "pearson_r": r, "f1": f1}
        for unit, n, r, f1 in (
            (0, 5, 0.25, 0.5),
            (1, 5, 0.75, None),
            (2, 5, None, None),
            (0, 30, 0.5, 1.0),
            (1, 30, 0.875, None),
        )
    ]
    scores = [
        {"unit": unit, "predictor": name, "pearson_r": r}
        for unit, name, r in ((0, "combined", 0.625), (0, "suffixes", 0.75), (1, "suffixes", 0.5), (2, "graph", 0.125))
    ]
    reach = [{"unit": 0, "last_tokens": k, "pearson_r": k / 8} for k in (3, 5, 8)]
    elsewhere = {"layer": 7, "text": "out_of_domain"}
    return database(
        toy={
            "studies": rows("studies", {"settings": "{}"}),
            "ledger": rows("ledger", *({"unit": n} for n in range(3)), layer=7, stage="activation_cache", status="ok"),
            "size_curve": rows("size_curve", *curve, **at).vstack(rows("size_curve", curve[1], **elsewhere)),
            "evaluation": rows("evaluation", *scores, **at).vstack(rows("evaluation", scores[1], **elsewhere)),
            "reach": rows("reach", *reach, **at).vstack(rows("reach", reach[1] | {"pearson_r": 1.0}, **elsewhere)),
        }
    )


def test_size_summary_averages_over_the_units_where_a_score_is_defined(connection) -> None:
    columns = "n_rules, units, pearson_r, f1"
    found = connection.execute(f"SELECT {columns} FROM size_summary WHERE text = 'random'").fetchall()
    assert found == [(5, 3, 0.5, 0.5), (30, 2, 0.6875, 1.0)]
    errors = "SELECT n_rules, pearson_r_error FROM size_summary"  # of .25 and .75: half of their distance
    assert connection.execute(f"{errors} WHERE text = 'random' AND n_rules = 5").fetchone() == (5, pytest.approx(0.25))
    assert connection.execute(f"{errors} WHERE text = 'out_of_domain'").fetchone() == (5, None)


def test_a_units_card_sets_r_of_few_rules_beside_all_that_was_counted_and_the_last_tokens(connection) -> None:
    columns = "unit, random_r_5, random_r_30, random_r_all, reach_5"
    assert connection.execute(f"SELECT {columns} FROM fidelity_card").fetchall() == [
        (0, 0.25, 0.5, 0.625, 0.625), (1, 0.75, 0.875, 0.5, None), (2, None, None, None, None),
    ]  # fmt: skip
