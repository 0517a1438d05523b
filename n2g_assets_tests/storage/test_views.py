"""Views and macros against numbers computed by hand."""

from __future__ import annotations

import duckdb
import pytest

from n2g_assets.core import registry
from n2g_assets.core.home import Home
from n2g_assets.core.tables import STAGES
from n2g_assets.core.units import Unit
from n2g_assets.storage.slices import SliceStore
from n2g_assets.storage.warehouse import open_database, publish
from n2g_assets_tests.storage.helpers import rows, write

UNITS = [Unit(neuron, 1) for neuron in range(6)]
WHERE = {"study": "demo", "layer": 7}
ENDED = {2: ("activation_cache", "dead", "a_max is 0"), 4: ("top_examples", "too_few_contexts", "3 of 5")} | {
    3: ("neuron_graphs", "failed", "ValueError: x")
}


def ledger_row(neuron: int, stage: str) -> dict:
    """A unit is ok until it ends, and keeps the status with which it ended."""
    if neuron in ENDED and STAGES.index(ENDED[neuron][0]) <= STAGES.index(stage):
        return {"unit": neuron, "stage": stage, "status": ENDED[neuron][1], "reason": ENDED[neuron][2]}
    return {"unit": neuron, "stage": stage, "status": "ok"}


def score(neuron: int, predictor: str, counts: tuple[int, int, int, int], prf: tuple) -> dict:
    names = ("true_positives", "false_positives", "false_negatives", "true_negatives")
    return {
        "unit": neuron,
        "predictor": predictor,
        "text": "top",
        **dict(zip(names, counts, strict=True)),
        **dict(zip(("precision", "recall", "f1"), prf, strict=True)),
        "n_firings": counts[0] + counts[2],
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("views"))
    store = SliceStore(home)
    vocabulary = [
        (0, b" Except", b"except", "·Except"),
        (1, b"except", b"except", "except"),
        (2, b"all", b"all", "all"),
        (3, b" All", b"all", "·All"),
        (4, b"\n", b"\n", "\\n"),
        (5, b" Rare", b"rare", "·Rare"),
        (6, b"\xff", b"\xff", "<ff>"),
    ]
    exact = [(i, token, token, text) for i, token, _, text in vocabulary]
    for study, tokens in (("demo", vocabulary), ("plain", exact)):
        names = ("token_id", "token", "normalised", "text")
        records = [dict(zip(names, token, strict=True)) for token in tokens]
        write(store, "vocabulary", rows("vocabulary", *records, study=study), study=study)
    for stage in STAGES:
        records = [ledger_row(unit.number, stage) for unit in UNITS]
        write(store, "ledger", rows("ledger", *records, **WHERE), part=stage)
    write(
        store,
        "ledger",
        rows("ledger", *(ledger_row(n, STAGES[0]) for n in range(6)), study="demo", layer=8),
        layer=8,
        part=STAGES[0],
    )
    stats = [{"unit": n, "max": 2.0 * n, "share_positive": 0.25} for n in range(9)]
    write(store, "neuron_stats", rows("neuron_stats", *stats, **WHERE))
    evaluation = [
        score(0, "graph", (3, 1, 1, 5), (0.75, 0.75, 0.75)),
        score(1, "graph", (0, 0, 2, 8), (None, 0.0, 0.0)),
        score(5, "graph", (0, 2, 0, 8), (0.0, None, 0.0)),
        score(0, "token_lookup", (2, 0, 2, 6), (1.0, 0.5, 2 / 3)),
    ]
    write(store, "evaluation", rows("evaluation", *evaluation, **WHERE))
    nodes = [
        {"unit": 0, "node_id": 0, "kind": "activating", "token": b"except", "activation": 0.8},
        {"unit": 0, "node_id": 1, "kind": "ignore", "parent_id": 0, "depth": 1, "activation": 0.8},
        {"unit": 0, "node_id": 2, "kind": "context", "token": b"all", "parent_id": 1, "depth": 2, "activation": 0.8},
        {"unit": 1, "node_id": 0, "kind": "activating", "token": b"except", "activation": 1.0},
        {"unit": 1, "node_id": 1, "kind": "activating", "token": b"\n", "activation": 0.6},
        {"unit": 1, "node_id": 2, "kind": "activating", "token": b"\xff", "activation": 0.5},
        {"unit": 5, "node_id": 0, "kind": "activating", "token": b"all", "activation": 0.5},
    ]
    write(store, "graph_nodes", rows("graph_nodes", *nodes, **WHERE))
    rules = [
        {"unit": 0, "rule_id": 0, "pattern": "all * except", "tokens": [b"except", None, b"all"], "activation": 0.8},
        {"unit": 0, "rule_id": 1, "pattern": "except", "tokens": [b"except"], "activation": 0.6, "count": 1},
        {"unit": 1, "rule_id": 0, "pattern": "except", "tokens": [b"except"], "activation": 1.0, "count": 4},
        {"unit": 1, "rule_id": 1, "pattern": "\n", "tokens": [b"\n"], "activation": 0.6},
        {"unit": 5, "rule_id": 0, "pattern": "all all", "tokens": [b"all", b"all"], "activation": 0.5, "count": 1},
    ]
    write(store, "rules", rows("rules", *rules, **WHERE))
    plain = {"study": "plain", "layer": 7}
    write(
        store,
        "graph_nodes",
        rows("graph_nodes", {"kind": "activating", "token": b" Except", "activation": 0.7}, **plain),
        study="plain",
    )
    ledger = rows("ledger", {"stage": STAGES[0], "status": "ok"}, **plain)
    write(store, "ledger", ledger, study="plain", part=STAGES[0])
    publish(store)
    return home


def ask(home: Home, sql: str, *values: object) -> list[tuple]:
    with open_database(home) as connection:
        return connection.execute(sql, list(values)).fetchall()


def test_layer_summary_counts_every_unit_asked_for(home: Home) -> None:
    assert ask(
        home,
        "SELECT layer, predictor, units, ok, dead, too_few_contexts, failed, evaluated, without_firing "
        "FROM layer_summary WHERE study = 'demo'",
    ) == [(7, "graph", 6, 3, 1, 1, 1, 3, 1), (7, "token_lookup", 6, 3, 1, 1, 1, 1, 0), (8, None, 6, 5, 1, 0, 0, 0, 0)]


def test_layer_summary_means_under_both_conventions_and_sums(home: Home) -> None:
    def values(names: str) -> list[float]:
        return list(ask(home, f"SELECT {names} FROM layer_summary WHERE layer = 7 AND predictor = 'graph'")[0])

    assert values("precision, recall, f1") == pytest.approx([0.375, 0.375, 0.25])
    assert values("precision_all, recall_all, f1_all") == pytest.approx([0.125, 0.125, 0.125])
    precision, recall, f1 = 5 / 6 + 8 / 10 + 1, 5 / 6 + 1 + 8 / 10, 10 / 12 + 16 / 18 + 16 / 18
    assert values("non_firing_precision, non_firing_recall, non_firing_f1") == pytest.approx(
        [precision / 3, recall / 3, f1 / 3]
    )
    assert values("non_firing_precision_all, non_firing_recall_all, non_firing_f1_all") == pytest.approx(
        [precision / 6, recall / 6, f1 / 6]
    )
    assert values("true_positives, false_positives, false_negatives, true_negatives") == [3, 3, 3, 21]
    assert values("micro_precision, micro_recall, micro_f1") == pytest.approx([0.5, 0.5, 0.5])


def test_unit_summary_has_one_line_for_every_unit_asked_for(home: Home) -> None:
    found = ask(
        home,
        "SELECT unit, status, a_max, share_positive, n_rules, n_nodes, n_firings, graph_f1, token_lookup_f1, "
        "top_pattern FROM unit_summary WHERE study = 'demo' AND layer = 7",
    )
    assert [row[:-3] for row in found] == [
        (0, "ok", 0.0, 0.25, 2, 3, 4),
        (1, "ok", 2.0, 0.25, 2, 3, 2),
        (2, "dead", 4.0, 0.25, 0, 0, None),
        (3, "failed", 6.0, 0.25, 0, 0, None),
        (4, "too_few_contexts", 8.0, 0.25, 0, 0, None),
        (5, "ok", 10.0, 0.25, 1, 1, 0),
    ]
    assert found[0][-3:] == (0.75, pytest.approx(2 / 3), "all * except")
    assert found[1][-3:] == (0.0, None, "except")


def test_unit_rules_are_readable_and_strongest_first(home: Home) -> None:
    found = ask(home, "SELECT rule_id, pattern, activation, raw_activation, count FROM unit_rules WHERE unit = 1")
    assert found == [(0, "except", 1.0, 2.0, 4), (1, "\n", pytest.approx(0.6), pytest.approx(1.2), 0)]


def test_problem_units_names_the_first_stage_that_ended_a_unit(home: Home) -> None:
    found = ask(home, "SELECT layer, unit, stage, status, reason FROM problem_units")
    assert found == [
        (7, 2, "activation_cache", "dead", "a_max is 0"),
        (7, 3, "neuron_graphs", "failed", "ValueError: x"),
        (7, 4, "top_examples", "too_few_contexts", "3 of 5"),
        (8, 2, "activation_cache", "dead", "a_max is 0"),
    ]


@pytest.mark.parametrize(
    ("token", "units"),
    [
        ("except", [("demo", 1), ("demo", 0)]),
        (" Except", [("demo", 1), ("demo", 0), ("plain", 0)]),
        ("Except", [("demo", 1), ("demo", 0)]),
        ("·Except", [("demo", 1), ("demo", 0), ("plain", 0)]),
        ("\n", [("demo", 1)]),
        ("\\n", [("demo", 1)]),
        ("<ff>", [("demo", 1)]),
        ("All", [("demo", 5)]),
        ("Rare", []),
    ],
)
def test_units_on_finds_a_token_in_any_of_its_spellings_strongest_first(
    home: Home, token: str, units: list[tuple[str, int]]
) -> None:
    assert ask(home, "SELECT study, unit FROM units_on(?)", token) == units
    quoted = token.replace("'", "''")
    assert ask(home, f"SELECT study, unit FROM units_on('{quoted}')") == units


@pytest.mark.parametrize("token", ["' OR 1 = 1 --", "excep", "[", ""])
@pytest.mark.parametrize(
    "query", ["FROM units_on({})", "SELECT layer FROM units_with_context({}) WHERE study = 'demo'"]
)
def test_a_token_that_no_vocabulary_has_ends_in_a_sentence(home: Home, token: str, query: str) -> None:
    quoted = "'" + token.replace("'", "''") + "'"
    with pytest.raises(duckdb.InvalidInputException, match="No vocabulary of a published study has the token"):
        ask(home, query.format(quoted))
    assert ask(home, f"SELECT token_known({quoted}), token_known('Rare')") == [(False, True)]


def test_units_on_shows_the_rules_of_that_token(home: Home) -> None:
    found = ask(home, "SELECT unit, form, activation, n_rules, top_pattern FROM units_on('except')")
    assert found == [(1, "except", 1.0, 1, "except"), (0, "except", pytest.approx(0.8), 2, "all * except")]


def test_units_with_context_looks_before_the_activating_token_only(home: Home) -> None:
    found = ask(home, "SELECT unit, form, activation, n_rules, top_pattern FROM units_with_context(' All')")
    assert found == [(0, "all", pytest.approx(0.8), 1, "all * except"), (5, "all", 0.5, 1, "all all")]
    assert ask(home, "FROM units_with_context('except')") == []


def test_token_text_reads_bytes_that_are_not_utf8(home: Home) -> None:
    assert ask(
        home, "SELECT token_text(token) FROM vocabulary WHERE study = 'demo' AND token_id IN (0, 6) ORDER BY token_id"
    ) == [
        (" Except",),
        ("\\xFF",),
    ]


def test_views_work_in_a_database_attached_under_another_name(home: Home) -> None:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{home.database}' AS results (READ_ONLY)")
        assert connection.execute("SELECT count(*) FROM results.layer_summary").fetchall() == [(4,)]
        connection.execute("USE results")
        assert len(connection.execute("FROM units_on('except')").fetchall()) == 2


def test_the_reference_tables_say_what_the_registry_declares_in_its_order(home: Home) -> None:
    assert ask(home, "SELECT stage, place FROM stages") == [(stage, i + 1) for i, stage in enumerate(STAGES)]
    assert ask(home, "SELECT tables FROM stages WHERE stage = 'neuron_graphs'") == [
        (["rules", "graph_nodes", "token_classes"],)
    ]
    for name, entries in (("text", registry.TEXTS), ("predictor", registry.PREDICTORS)):
        found = ask(home, f"SELECT {name}, label, meaning FROM {name}s ORDER BY place")
        assert found == [(entry.name, entry.label, entry.meaning) for entry in entries]
    roles = dict(ask(home, "SELECT predictor, role FROM predictors"))
    assert roles == {predictor.name: predictor.role for predictor in registry.PREDICTORS}


def test_rule_support_says_how_many_rules_rest_on_one_prompt(home: Home) -> None:
    assert ask(home, "FROM rule_support") == [("demo", 7, 5, 2, 0.4, None)]
