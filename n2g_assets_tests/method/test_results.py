import numpy as np
import polars as pl

from n2g_assets.core.units import Unit
from n2g_assets.method.results import Outcome, finish_block, rows_by_unit, unit_frame, unit_schema

ONE, TWO = Unit(1, 1), Unit(1, -1)


def saliency(unit: Unit, activation: float, importances: list[float]) -> dict[str, object]:
    return {**unit.key(), "rank": 0, "position": 1, "activation": activation, "importances": np.array(importances)}


def test_rows_with_numpy_lists_get_the_schema_of_their_table_without_study_and_layer():
    frame = unit_frame("saliencies", [saliency(ONE, 1.0, [0.0, 0.5])])
    assert frame.schema == unit_schema("saliencies")
    assert list(frame.schema) == ["unit", "sign", "rank", "position", "activation", "importances"]
    assert frame["importances"].to_list() == [[0.0, 0.5]]
    assert unit_frame("saliencies", []).schema == unit_schema("saliencies")


def test_arrays_of_any_length_give_the_rows_that_lists_give():
    lists = [[0.5], [], [0.25, float("nan"), 1.0], []]
    rows = [saliency(ONE, 1.0, each) for each in lists]
    assert unit_frame("saliencies", rows).equals(
        unit_frame("saliencies", [{**rows[0], "importances": each} for each in lists])
    )
    assert unit_frame("saliencies", rows[1:2])["importances"].to_list() == [[]]


def test_a_unit_with_a_number_that_is_not_finite_fails_and_loses_its_rows_while_others_stay():
    for bad in (saliency(TWO, float("nan"), [0.0]), saliency(TWO, 1.0, [0.0, float("inf")])):
        result = finish_block([ONE, TWO], {"saliencies": unit_frame("saliencies", [saliency(ONE, 1.0, [0.0]), bad])})
        assert result.ledger[ONE] == Outcome("ok")
        assert result.ledger[TWO].status == "failed"
        assert "saliencies" in result.ledger[TWO].reason
        assert result.tables["saliencies"].select("unit", "sign").rows() == [(1, 1)]


def test_null_and_empty_lists_are_no_failure():
    frame = pl.DataFrame({"unit": [1], "sign": [1], "a": [None], "b": [[]]}).cast(
        {"a": pl.Float32, "b": pl.List(pl.Float32)}
    )
    assert finish_block([ONE], {"any": frame}).ledger == {ONE: Outcome("ok")}


def test_rows_of_units_outside_the_block_are_left_out():
    frame = unit_frame("saliencies", [saliency(ONE, 1.0, [0.0]), saliency(TWO, 2.0, [0.0])])
    assert [row["activation"] for row in rows_by_unit([TWO], frame)[TWO]] == [2.0]
