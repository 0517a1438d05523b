"""Views on scores, controls, rule tests and failures, against numbers computed by hand or by Polars."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import polars as pl
import pytest

from n2g_assets.core.home import Home
from n2g_assets.core.tables import STAGES, TABLES
from n2g_assets.core.units import Unit
from n2g_assets.storage.slices import SliceStore
from n2g_assets.storage.warehouse import open_database, publish
from n2g_assets_tests.storage.helpers import rows, write

Database = duckdb.DuckDBPyConnection
UNITS = [Unit(neuron, 1) for neuron in range(5)]
DEAD, NEVER_SCORED = 3, 4
LAYER = {"layer": 7, "study": "demo"}

# predictor, text -> by neuron: F1, average precision, firing tokens
SCORES: dict[tuple[str, str], dict[int, tuple[float | None, float | None, int]]] = {
    ("graph", "top"): {0: (0.75, 0.8, 4), 1: (0.25, 0.5, 6), 2: (None, None, 0)},
    ("token_lookup", "top"): {0: (0.5, 0.6, 4), 1: (0.75, 0.7, 6), 2: (0.0, None, 0)},
    ("ngram", "top"): {0: (0.625, 0.6, 4), 1: (0.75, 0.1, 6)},
    ("skip_bigram", "top"): {0: (0.625, 0.9, 4)},
    ("graph_shuffled", "top"): {0: (0.0, 0.1, 4), 1: (0.125, 0.1, 6), 2: (0.0, None, 0)},
    ("graph_unaugmented", "top"): {0: (1.0, 1.0, 4), 1: (0.0, 0.0, 6), 2: (None, None, 0)},
    ("always_zero", "top"): {0: (0.0, 0.1, 4), 1: (0.0, 0.1, 6), 2: (None, None, 0)},
    ("graph", "random"): {0: (0.5, 0.4, 40), 1: (0.125, 0.2, 60), 2: (0.0, 0.1, 20)},
    ("token_lookup", "random"): {0: (None, 0.3, 40), 1: (0.25, 0.2, 60)},
    ("ngram_backoff", "random"): {1: (0.375, 0.2, 60)},
}


# predictor -> by neuron: Pearson's r and explained variance on held-out text
GRADED: dict[str, dict[int, tuple[float | None, float | None]]] = {
    "graph": {0: (0.5, 0.25), 1: (-0.25, -0.5), 2: (None, 0.0)},
    "token_lookup": {0: (0.75, 0.5), 1: (0.25, 0.0)},
    "ngram_backoff": {1: (0.25, 0.125)},
}


def score_rows() -> list[dict[str, Any]]:
    names = ("f1", "average_precision", "n_firings")
    records = []
    for (predictor, text), by_neuron in SCORES.items():
        for neuron, values in by_neuron.items():
            record = dict(zip(names, values, strict=True)) | {"unit": neuron, "predictor": predictor, "text": text}
            if record["f1"] is not None:
                record |= {"f1_low": record["f1"] - 0.01, "f1_high": record["f1"] + 0.01}
                record |= {"precision": record["f1"] / 2, "recall": record["f1"] / 4}
            if text == "random":
                record |= {"coverage_firings": neuron / 4, "coverage_mass": neuron / 8}
                r, explained = GRADED[predictor][neuron]
                record |= {"pearson_r": r, "explained_variance": explained}
                if r is not None:
                    record |= {"pearson_r_low": r - 0.01, "pearson_r_high": r + 0.01}
                record |= {"explained_variance_low": explained - 0.02, "explained_variance_high": explained + 0.02}
            records.append(record | {"auroc": None if neuron == 2 else 0.5 + neuron / 4})
    return records


def layer_score(predictor: str, text: str, **values: Any) -> dict[str, Any]:
    """A row of layer_scores with intervals that the mean does not stand in: where a number came from can be told."""
    ends = {f"{name}_{end}": i / 64 for i, name in enumerate(("f1", "f1_all")) for end in ("low", "high")}
    given = {"predictor": predictor, "text": text, "units": 5, "evaluated": 3, "without_firing": 1}
    return given | ends | {"average_precision_low": 0.03125, "average_precision_high": 0.96875} | values


LAYER_SCORES = [
    layer_score("graph", "top", average_precision=0.65, f1_gain=-0.0625, f1_gain_low=-0.125, f1_gain_high=0.0),
    layer_score("graph_shuffled", "top", f1_all=0.025),
    layer_score("graph", "random", pearson_r=0.125, pearson_r_low=0.0625, pearson_r_high=0.25,
                explained_variance=-0.25 / 3, explained_variance_low=-0.125, explained_variance_high=0.0),
    layer_score("ngram", "out_of_domain", evaluated=0, without_firing=0),
]  # fmt: skip


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    home = Home(tmp_path_factory.mktemp("views"))
    store = SliceStore(home)

    def put(table: str, *records: dict[str, Any], layer: int = 7, study: str = "demo", part: str = "rows") -> None:
        where = {"study": study} | ({"layer": layer} if TABLES[table].scope == "layer" else {})
        write(store, table, rows(table, *records, **where), study=study, layer=layer, part=part)

    for stage in STAGES:
        dead = {"stage": stage, "status": "dead", "reason": "a_max is 0"}
        ledger = [dead if unit.number == DEAD else {"stage": stage, "status": "ok"} for unit in UNITS]
        records = [record | {"unit": unit.number} for unit, record in zip(UNITS, ledger, strict=True)]
        put("ledger", *records, part=stage)
        put("ledger", *records[:2], layer=8, part=stage)
    words = [(0, "<bos>"), (1, "␣the"), (2, "␣cat"), (3, "["), (4, "␣sat")]
    put("vocabulary", *({"token_id": i, "text": text} for i, text in words))
    put("vocabulary", {"token_id": 2, "text": "wrong study"}, study="other")
    put("neuron_stats", *({"unit": n, "max": float(n)} for n in range(5)))
    put("rules", {"unit": 0, "pattern": "the [cat]"}, {"unit": 0, "rule_id": 1, "pattern": "[sat]"})
    put("graph_nodes", {"unit": 0, "token": b"cat"}, {"unit": 0, "node_id": 1, "token": b"the"})
    put("evaluation", *score_rows())
    put("layer_scores", *LAYER_SCORES)
    tests = [
        {"unit": 0, "rule_id": 0, "n_matches": 4, "fired": 3, "n_near_misses": 4, "silent": 4}
        | {"n_context_near_misses": 3, "context_silent": 3, "held": True},
        {"unit": 0, "rule_id": 1, "n_matches": 2, "fired": 0, "n_near_misses": 4, "silent": 1}
        | {"n_context_near_misses": 1, "context_silent": 0, "held": False},
        {"unit": 1, "rule_id": 0, "n_matches": 2, "fired": 2},
        {"unit": 2, "rule_id": 0, "n_matches": 1, "fired": 0, "n_near_misses": 2, "silent": 1, "held": True},
    ]
    put("rule_tests", *tests)
    wrong = [
        ("random", "false_alarm", 0, 0.9, 0.1, [0, 1, 2], 0),
        ("random", "false_alarm", 1, 0.8, 0.1, [0, 4], 1),
        ("random", "miss", 0, 0.0, 0.75, [0, 1, 3, 99], None),
        ("out_of_domain", "miss", 0, 0.0, 1.5, [0, *[1, 2] * 10], None),
    ]
    names = ("text", "kind", "rank", "predicted", "actual", "token_ids", "rule_id")
    put("counterexamples", *(dict(zip(names, values, strict=True)) | {"unit": 0} for values in wrong))
    kinds = [(0, "weak_peak", 0.5), (0, "over_general_rule", 0.25), (1, "weak_peak", 0.75)]
    put("failures", *({"unit": n, "kind": kind, "share": share} for n, kind, share in kinds))
    publish(store)
    with open_database(home) as connection:
        yield connection


def ask(database: Database, sql: str) -> list[tuple]:
    return database.execute(sql).fetchall()


def one(database: Database, names: str, view: str, where: str) -> tuple:
    (row,) = ask(database, f"SELECT {names} FROM {view} WHERE study = 'demo' AND {where}")
    return row


def mean(values: list[float | None]) -> float | None:
    return pl.Series(values, dtype=pl.Float64).mean()


# ---------------------------------------------------------------------------------------------- layer_summary
def test_layer_summary_has_one_row_for_every_predictor_and_text_that_has_a_score(
    database: Database,
) -> None:
    found = ask(database, "SELECT layer, predictor, text, evaluated FROM layer_summary WHERE study = 'demo'")
    expected = {(7, *key, len(units)) for key, units in SCORES.items()} | {(7, "ngram", "out_of_domain", 0)}
    assert len(found) == len(set(found))
    assert set(found) == expected | {(8, None, None, 0)}


@pytest.mark.parametrize(("predictor", "text"), list(SCORES))
def test_layer_summary_means_equal_a_plain_mean_of_the_units(database: Database, predictor: str, text: str) -> None:
    names = "f1, f1_all, average_precision, auroc, coverage_firings, coverage_mass, pearson_r, explained_variance"
    found = one(database, f"units, {names}", "layer_summary", f"predictor = '{predictor}' AND text = '{text}'")
    mine = [row for row in score_rows() if (row["predictor"], row["text"]) == (predictor, text)]
    f1 = [row["f1"] for row in mine]
    others = [mean([row.get(name) for row in mine]) for name in names.split(", ")[2:]]
    assert found[0] == len(UNITS)
    assert found[1:] == (
        pytest.approx(mean(f1)),
        pytest.approx(sum(value or 0 for value in f1) / len(UNITS)),
        *(value if value is None else pytest.approx(value) for value in others),
    )


def test_layer_summary_takes_intervals_and_gains_from_layer_scores_and_has_none_elsewhere(
    database: Database,
) -> None:
    names = (
        "f1_low, f1_high, f1_all_low, f1_all_high, average_precision_low, average_precision_high, "
        "f1_gain, f1_gain_low, f1_gain_high"
    )
    graph = one(database, names, "layer_summary", "predictor = 'graph' AND text = 'top'")
    assert graph == (0, 0, 1 / 64, 1 / 64, 0.03125, 0.96875, -0.0625, -0.125, 0.0)
    assert one(database, names, "layer_summary", "predictor = 'ngram' AND text = 'top'") == (None,) * 9
    graded = "pearson_r_low, pearson_r_high, explained_variance_low, explained_variance_high"
    random = one(database, graded, "layer_summary", "predictor = 'graph' AND text = 'random'")
    assert random == (0.0625, 0.25, -0.125, 0.0)
    assert one(database, graded, "layer_summary", "predictor = 'token_lookup' AND text = 'random'") == (None,) * 4


def test_layer_summary_counts_0_for_a_predictor_that_has_means_and_no_unit(database: Database) -> None:
    names = "units, evaluated, without_firing, precision, precision_all, f1, f1_all, non_firing_f1_all, micro_f1"
    found = one(database, names, "layer_summary", "predictor = 'ngram' AND text = 'out_of_domain'")
    assert found == (5, 0, 0, None, 0, None, 0, 0, None)


# ---------------------------------------------------------------------------------------------- units
def test_firing_tokens_of_a_unit_are_those_of_its_own_test_contexts(database: Database) -> None:
    for names, view in (("n_firings", "unit_summary"), ("top_n_firings", "fidelity_card")):
        assert ask(database, f"SELECT {names} FROM {view} WHERE study = 'demo' AND layer = 7 ORDER BY unit") == [
            (4,), (6,), (0,), (None,), (None,)
        ]  # fmt: skip


def test_fidelity_card_has_one_line_for_every_unit_asked_for(database: Database) -> None:
    found = ask(database, "SELECT layer, unit, status, a_max, n_rules, n_nodes FROM fidelity_card WHERE study = 'demo'")
    assert found == [
        (7, 0, "ok", 0.0, 2, 2),
        (7, 1, "ok", 1.0, 0, 0),
        (7, 2, "ok", 2.0, 0, 0),
        (7, 3, "dead", 3.0, 0, 0),
        (7, 4, "ok", 4.0, 0, 0),
        (8, 0, "ok", None, 0, 0),
        (8, 1, "ok", None, 0, 0),
    ]


def test_fidelity_card_shows_the_graph_on_every_text_that_was_scored(database: Database) -> None:
    names = "{0}_f1, {0}_f1_low, {0}_f1_high, {0}_average_precision, {0}_n_firings"
    card = {text: names.format(text) for text in ("top", "quantiles", "random", "out_of_domain")}
    unit = "layer = 7 AND unit = {}"
    assert one(database, card["top"], "fidelity_card", unit.format(0)) == pytest.approx((0.75, 0.74, 0.76, 0.8, 4))
    assert one(database, card["random"], "fidelity_card", unit.format(0)) == pytest.approx((0.5, 0.49, 0.51, 0.4, 40))
    assert one(database, card["top"], "fidelity_card", unit.format(2)) == (None, None, None, None, 0)
    assert one(database, card["quantiles"], "fidelity_card", unit.format(0)) == (None,) * 5
    assert one(database, card["out_of_domain"], "fidelity_card", unit.format(DEAD)) == (None,) * 5


def test_the_graded_activation_on_ordinary_text_stands_beside_firing_in_every_view_of_units(database: Database) -> None:
    card = ", ".join(
        f"random_{name}{end}" for name in ("pearson_r", "explained_variance") for end in ("", "_low", "_high")
    )
    unit = "layer = 7 AND unit = {}"
    found = one(database, card, "fidelity_card", unit.format(0))
    assert found == pytest.approx((0.5, 0.49, 0.51, 0.25, 0.23, 0.27))
    assert one(database, card, "fidelity_card", unit.format(2)) == (None, None, None, 0.0, -0.02, 0.02)
    assert one(database, card, "fidelity_card", unit.format(DEAD)) == (None,) * 6
    names = "random_pearson_r, random_explained_variance, out_of_domain_pearson_r, out_of_domain_explained_variance"
    assert one(database, names, "unit_summary", unit.format(1)) == (-0.25, -0.5, None, None)
    best = "random_best_other_by_r, random_best_other_pearson_r"
    assert one(database, best, "fidelity_card", unit.format(0)) == ("token_lookup", 0.75)
    assert one(database, best, "fidelity_card", unit.format(1)) == ("token_lookup", 0.25)  # the simpler of equals
    assert one(database, best, "fidelity_card", unit.format(2)) == (None, None)


def test_fidelity_card_names_the_best_baseline_the_simpler_of_equals_and_no_control(
    database: Database,
) -> None:
    names = "unit, top_best_other, top_best_other_f1, random_best_other, random_best_other_f1"
    assert ask(database, f"SELECT {names} FROM fidelity_card WHERE study = 'demo' AND layer = 7") == [
        (0, "ngram", 0.625, None, None),
        (1, "token_lookup", 0.75, "ngram_backoff", 0.375),
        (2, "token_lookup", 0.0, None, None),
        (3, None, None, None, None),
        (4, None, None, None, None),
    ]


def test_fidelity_card_shows_coverage_rule_tests_failures_and_the_strongest_rule(
    database: Database,
) -> None:
    names = (
        "random_coverage_firings, rules_tested, n_matches, fired_share, n_near_misses, silent_share, "
        "n_context_near_misses, context_silent_share, held_share, failures, top_pattern"
    )
    assert one(database, names, "fidelity_card", "layer = 7 AND unit = 0") == (
        0.0, 2, 6, 0.5, 8, 0.625, 4, 0.75, 0.5, "over_general_rule, weak_peak", "the [cat]"
    )  # fmt: skip
    assert one(database, names, "fidelity_card", "layer = 7 AND unit = 1") == (
        0.25, 1, 2, 1.0, 0, None, 0, None, None, "weak_peak", None
    )  # fmt: skip
    changed_tokens = "n_near_misses, silent_share, n_context_near_misses, context_silent_share"
    assert one(database, changed_tokens, "fidelity_card", "layer = 7 AND unit = 2") == (2, 0.5, 0, None)
    assert one(database, names, "fidelity_card", f"layer = 7 AND unit = {DEAD}") == (
        None, 0, None, None, None, None, None, None, None, None, None
    )  # fmt: skip


def test_worst_units_puts_those_first_whose_graph_falls_furthest_short_and_keeps_every_unit(
    database: Database,
) -> None:
    names = "layer, unit, status, f1_gain, graph_f1, token_lookup_f1, ngram_f1, ngram_backoff_f1, skip_bigram_f1"
    assert ask(database, f"SELECT {names} FROM worst_units WHERE study = 'demo'") == [
        (7, 1, "ok", -0.5, 0.25, 0.75, 0.75, None, None),
        (7, 2, "ok", 0.0, None, 0.0, None, None, None),
        (7, 0, "ok", 0.25, 0.75, 0.5, 0.625, None, 0.625),
        (7, 3, "dead", None, None, None, None, None, None),
        (7, 4, "ok", None, None, None, None, None, None),
        (8, 0, "ok", None, None, None, None, None, None),
        (8, 1, "ok", None, None, None, None, None, None),
    ]
    graded = "random_pearson_r_gain, graph_random_pearson_r, token_lookup_random_pearson_r, random_explained_variance"
    assert ask(database, f"SELECT {graded} FROM worst_units WHERE study = 'demo' AND layer = 7 ORDER BY unit") == [
        (-0.25, 0.5, 0.75, 0.25), (-0.5, -0.25, 0.25, -0.5), (None, None, None, 0.0), (None,) * 4, (None,) * 4,
    ]  # fmt: skip
    found = one(database, "precision, recall, random_f1, failures", "worst_units", "layer = 7 AND unit = 1")
    assert found == (0.125, 0.0625, 0.125, "weak_peak")


def test_worst_units_quotes_the_largest_difference_of_a_unit(database: Database) -> None:
    quoted = ask(database, "SELECT counterexample FROM worst_units WHERE study = 'demo' AND layer = 7 ORDER BY unit")
    tail = "".join(["␣the␣cat"] * 7) + "␣the[␣cat]"
    assert quoted == [(f"miss, out_of_domain (predicted 0.00, actual 1.50): …{tail}",), *[(None,)] * 4]


def test_counterexamples_are_readable_with_the_token_in_question_marked(database: Database) -> None:
    found = ask(database, "SELECT unit, text, kind, rank, predicted, pattern, window_text FROM counterexample_text")
    assert found == [
        (0, "out_of_domain", "miss", 0, 0.0, None, "<bos>" + "␣the␣cat" * 9 + "␣the[␣cat]"),
        (0, "random", "false_alarm", 0, pytest.approx(0.9), "the [cat]", "<bos>␣the[␣cat]"),
        (0, "random", "false_alarm", 1, pytest.approx(0.8), "[sat]", "<bos>[␣sat]"),
        (0, "random", "miss", 0, 0.0, None, "<bos>␣the[[<99>]"),
    ]
    assert ask(database, "SELECT marked_text('demo', [4]), marked_text('none', [4, 4]), marked_text('demo', [])") == [
        ("[␣sat]", "<4>[<4>]", None)
    ]


# ---------------------------------------------------------------------------------------------- layers
def test_controls_stand_beside_the_graph_with_both_intervals_and_the_difference(
    database: Database,
) -> None:
    assert ask(database, "SELECT layer, text, control FROM controls WHERE study = 'demo' ORDER BY ALL") == [
        (7, "top", "always_zero"),
        (7, "top", "graph_shuffled"),
        (7, "top", "graph_unaugmented"),
    ]
    both = ", ".join(
        f"{side}_{name}" for side in ("graph", "control") for name in ("units", "f1_all", "f1_all_low", "f1_all_high")
    )
    found = one(database, both, "controls", "control = 'graph_shuffled'")
    assert found == pytest.approx((5, 0.2, 1 / 64, 1 / 64, 5, 0.025, 1 / 64, 1 / 64))
    names = "graph_average_precision, control_average_precision, f1_all_difference, average_precision_difference"
    assert one(database, names, "controls", "control = 'graph_shuffled'") == pytest.approx((0.65, 0.1, 0.175, 0.55))
    assert one(database, names, "controls", "control = 'graph_unaugmented'") == pytest.approx((0.65, 0.5, 0.0, 0.15))
    assert one(database, "control_f1_all_low", "controls", "control = 'graph_unaugmented'") == (None,)


def test_rule_test_summary_adds_up_the_tests_of_a_layer(database: Database) -> None:
    assert ask(database, "SELECT * EXCLUDE (study) FROM rule_test_summary WHERE study = 'demo'") == [
        (7, 5, 3, 4, 9, 5, 5 / 9, 10, 6, 0.6, 4, 0.75, 3, 2, 2 / 3),
        (8, 2, 0, 0, 0, 0, None, 0, 0, None, 0, None, 0, 0, None),
    ]


def test_failure_summary_counts_units_beside_those_asked_for(database: Database) -> None:
    assert ask(database, "FROM failure_summary") == [
        ("demo", 7, "weak_peak", 5, 3, 2, 0.4, 0.625),
        ("demo", 7, "over_general_rule", 5, 3, 1, 0.2, 0.25),
    ]


# ---------------------------------------------------------------------------------------------- everywhere
def view_names(connection: Database) -> list[str]:
    found = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1").fetchall()
    return [name for (name,) in found]


def test_every_view_answers_while_no_table_has_rows(store: SliceStore) -> None:
    publish(store)
    with open_database(store.home) as connection:
        for name in view_names(connection):
            assert connection.execute(f"FROM {name}").fetchall() == []


def test_units_stay_in_every_view_of_units_before_anything_but_the_ledger_is_there(store: SliceStore) -> None:
    ledger = rows("ledger", {"unit": 1}, {"unit": 2}, layer=7, study="demo", stage=STAGES[0], status="ok")
    write(store, "ledger", ledger, part=STAGES[0])
    publish(store)
    with open_database(store.home) as connection:
        for view in ("unit_status", "unit_summary", "fidelity_card", "worst_units"):
            assert ask(connection, f"SELECT unit, status FROM {view} ORDER BY unit") == [(1, "ok"), (2, "ok")]
        assert ask(connection, "SELECT layer, units, predictor, f1_all, auroc FROM layer_summary") == [
            (7, 2, None, None, None)
        ]
        assert ask(connection, "SELECT units, rules_tested, fired_share FROM rule_test_summary") == [(2, 0, None)]
        for view in ("controls", "failure_summary", "counterexample_text", "problem_units"):
            assert ask(connection, f"FROM {view}") == []


def test_means_without_the_scores_of_units_and_controls_without_a_graph_are_shown(store: SliceStore) -> None:
    write(store, "ledger", rows("ledger", {"stage": STAGES[0], "status": "ok"}, **LAYER), part=STAGES[0])
    write(store, "layer_scores", rows("layer_scores", layer_score("always_zero", "top", units=1), **LAYER))
    publish(store)
    names = "control, graph_units, graph_f1_all, control_units, control_f1_all, f1_all_difference"
    with open_database(store.home) as connection:
        assert ask(connection, f"SELECT {names} FROM controls") == [("always_zero", None, None, 1, 0.0, None)]


def test_all_views_answer_alike_in_a_database_attached_under_another_name(
    database: Database,
) -> None:
    expected = {name: sorted(ask(database, f"FROM {name}"), key=repr) for name in view_names(database)}
    ((path,),) = ask(database, "SELECT path FROM duckdb_databases() WHERE database_name = current_database()")
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{path}' AS results (READ_ONLY)")
        for name, values in expected.items():
            assert sorted(ask(connection, f"FROM results.{name}"), key=repr) == values
