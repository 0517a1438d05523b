"""The view ``controls``: a control study beside the study that it names, against means computed by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import duckdb
import pytest

from n2g_assets.core.home import Home
from n2g_assets.core.tables import STAGES
from n2g_assets.storage.slices import SliceStore
from n2g_assets.storage.warehouse import open_database, publish
from n2g_assets_tests.storage.helpers import rows, write

Score = tuple[float | None, float | None]
"""F1 and average precision."""


def put_study(
    store: SliceStore,
    study: str,
    units: Sequence[int],
    scores: dict[int, Score],
    *,
    control_of: str | None = None,
    layer: int = 7,
    interval: tuple[float, float] | None = None,
) -> None:
    """A study with these units and the scores of some of their graphs on the text top."""
    where = {"study": study, "layer": layer}
    about = rows("studies", {"settings": f'{{"layers": [{layer}]}}', "control_of": control_of}, study=study)
    write(store, "studies", about, study=study)
    ledger = rows("ledger", *({"unit": unit} for unit in units), stage=STAGES[0], status="ok", **where)
    write(store, "ledger", ledger, study=study, layer=layer, part=STAGES[0])
    records = [
        {"unit": unit, "f1": f1, "average_precision": ap, "pearson_r": ap, "explained_variance": f1}
        for unit, (f1, ap) in scores.items()
    ]
    write(
        store,
        "evaluation",
        rows("evaluation", *records, predictor="graph", text="top", **where),
        study=study,
        layer=layer,
    )
    if interval is not None:
        ends = {
            f"{name}_{end}": at
            for name in ("f1_all", "pearson_r")
            for end, at in zip(("low", "high"), interval, strict=True)
        }
        means = rows("layer_scores", ends, predictor="graph", text="top", **where)
        write(store, "layer_scores", means, study=study, layer=layer)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    store = SliceStore(Home(tmp_path_factory.mktemp("controls")))
    # unit 2 has no firing token, unit 3 is not scored
    scores = {0: (0.75, 0.5), 1: (0.25, 0.25), 2: (None, None)}
    put_study(store, "demo", range(5), scores, interval=(0.125, 0.5))
    put_study(store, "few", (0, 2, 3, 9), {0: (0.5, 0.25), 9: (0.5, None)}, control_of="demo", interval=(0.0, 0.625))
    put_study(store, "all", range(5), {0: (0.25, None)}, control_of="demo")
    put_study(store, "elsewhere", (0,), {0: (0.5, 0.5)}, control_of="demo", layer=8)
    put_study(store, "orphan", (0,), {0: (0.5, 0.5)}, control_of="gone")
    publish(store)
    with open_database(store.home) as connection:
        yield connection


def row(database: duckdb.DuckDBPyConnection, control_study: str, names: str) -> tuple:
    (found,) = database.execute(f"SELECT {names} FROM controls WHERE control_study = '{control_study}'").fetchall()
    return found


NAMES = "graph_units, graph_f1_all, graph_average_precision, control_units, control_f1_all, control_average_precision"


def test_a_control_study_stands_beside_the_graphs_of_the_same_units_with_both_numbers_of_units(
    database: duckdb.DuckDBPyConnection,
) -> None:
    # of the control's four units, the study asks for 0, 2 and 3; undefined and missing count 0 in f1_all
    assert row(database, "few", NAMES) == (3, 0.25, 0.5, 4, 0.25, 0.25)
    assert row(database, "few", "f1_all_difference, average_precision_difference") == (0.0, 0.25)
    graded = [f"{side}_{name}" for name in ("pearson_r", "explained_variance") for side in ("graph", "control")]
    assert row(database, "few", ", ".join(graded)) == (0.5, 0.25, 0.75, 0.5)
    assert row(database, "few", "pearson_r_difference, explained_variance_difference") == (0.25, 0.25)
    assert row(database, "few", "study, layer, text, control") == ("demo", 7, "top", "reinitialised")


def test_a_mean_over_some_units_of_a_layer_has_no_interval_and_one_over_all_has_the_layers(
    database: duckdb.DuckDBPyConnection,
) -> None:
    ends = "graph_f1_all_low, graph_f1_all_high, control_f1_all_low, control_f1_all_high"
    for names in (ends, ends.replace("f1_all", "pearson_r")):
        assert row(database, "few", names) == (None, None, 0.0, 0.625)
        assert row(database, "all", names) == (0.125, 0.5, None, None)
    assert row(database, "all", NAMES) == (5, 0.2, 0.375, 5, 0.05, None)


def test_each_control_study_has_its_rows_and_none_without_a_counterpart_is_left_out(
    database: duckdb.DuckDBPyConnection,
) -> None:
    found = database.execute("SELECT study, layer, control_study, graph_units, control_units FROM controls").fetchall()
    assert found == [
        ("demo", 7, "all", 5, 5),
        ("demo", 7, "few", 3, 4),
        ("demo", 8, "elsewhere", None, 1),
        ("gone", 7, "orphan", None, 1),
    ]


def test_the_means_of_a_study_are_its_own_whatever_controls_it_has(database: duckdb.DuckDBPyConnection) -> None:
    found = database.execute("SELECT study, units, evaluated, f1_all FROM layer_summary WHERE layer = 7").fetchall()
    assert found == [("all", 5, 1, 0.05), ("demo", 5, 3, 0.2), ("few", 4, 2, 0.25), ("orphan", 1, 1, 0.5)]
