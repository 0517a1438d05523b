"""Hashes of rows, units and settings: they see every change of a value, and nothing else."""

from __future__ import annotations

import datetime

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.units import Unit
from n2g_assets.storage.hashing import content_hash, hash_json, unit_rows_hashes
from n2g_assets_tests.storage.helpers import rows

VALUES: dict[pl.DataType | type[pl.DataType], st.SearchStrategy] = {
    pl.String: st.text(max_size=5),
    pl.Binary: st.binary(max_size=5),
    pl.Boolean: st.booleans(),
    pl.Int8: st.sampled_from([1, -1]),
    pl.Int32: st.integers(-(2**31), 2**31 - 1),
    pl.Int64: st.integers(-(2**63), 2**63 - 1),
    pl.Float32: st.floats(width=32, allow_nan=False),
    pl.Float64: st.floats(allow_nan=False),
    pl.Datetime("us"): st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2100, 1, 1)),
    pl.List(pl.Int32): st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
    pl.List(pl.Int64): st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    pl.List(pl.List(pl.Int32)): st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3), max_size=3),
    pl.List(pl.String): st.lists(st.text(max_size=5), max_size=3),
    pl.List(pl.Float32): st.lists(st.floats(width=32, allow_nan=False), max_size=3),
    pl.List(pl.Float64): st.lists(st.floats(allow_nan=False), max_size=3),
    pl.List(pl.Binary): st.lists(st.none() | st.binary(max_size=4), max_size=3),
}


def test_the_hash_sees_every_change_of_a_value() -> None:
    common = {"layer": 7, "unit": 1}
    variants = [
        rows("rules", {"tokens": [b"ab", None]}, **common),
        rows("rules", {"tokens": [b"ab", b""]}, **common),
        rows("rules", {"tokens": [b"a", b"b"]}, **common),
        rows("rules", {"tokens": [b"ab"]}, **common),
        rows("rules", {"tokens": []}, **common),
        rows("rules", {"tokens": [], "count": 1}, **common),
        rows("rules", {"tokens": [], "activation": 1e-30}, **common),
        rows("rules", {"tokens": [], "pattern": " "}, **common),
        rows("rules", **common),
    ]
    assert len({content_hash(frame) for frame in variants}) == len(variants)


def test_the_hash_sees_where_a_text_of_a_list_of_texts_ends() -> None:
    lists: list[list[list[int]]] = [[], [[]], [[], []], [[1, 2]], [[1], [2]], [[], [1, 2]], [[1, 2], []], [[2, 1]]]
    words = [["ab"], ["a", "b"], ["", "ab"], ["ab", ""], [""], []]
    counts = [[1, 2], [2, 1], [1, 2, 0], [2**40], []]
    variants = [rows("rule_tests", {"match_ids": value}) for value in lists]
    variants += [rows("rule_tests", {"near_miss_ids": value}) for value in lists[1:]]
    for name in ("near_miss_changes", "near_miss_tokens"):
        variants += [rows("rule_tests", {name: value}) for value in words[:-1]]
    variants += [rows("layer_scores", {"levels_firing": value}) for value in counts]
    variants += [rows("layer_scores", {"levels_silent": value}) for value in counts[:-1]]
    assert len({content_hash(frame) for frame in variants}) == len(variants)


def test_the_hash_does_not_depend_on_chunks_or_on_what_lies_under_a_null() -> None:
    whole = rows("graph_nodes", *({"node_id": i, "token": b"x" if i % 2 else None} for i in range(6)))
    pieces = pl.concat([whole[:2], whole[2:5], whole[5:]], rechunk=False)
    masked = whole.with_columns(token=pl.when(pl.col("node_id") % 2 == 1).then(pl.lit(b"x")))
    assert content_hash(pieces) == content_hash(masked) == content_hash(whole)


def test_hashes_of_settings_depend_on_their_values_alone() -> None:
    assert hash_json({"a": 1, "b": [2.5, None]}) == hash_json({"b": [2.5, None], "a": 1})


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_unit_hashes_equal_the_hash_of_each_units_rows_alone(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([1, -1])), max_size=12))
    records = [
        {"unit": neuron, "sign": sign, "rule_id": i, "tokens": data.draw(VALUES[pl.List(pl.Binary)])}
        for i, (neuron, sign) in enumerate(names)
    ]
    frame = rows("rules", *records)
    units = [Unit(neuron, sign) for neuron in range(5) for sign in (1, -1)]
    together = unit_rows_hashes(frame, units)
    own = {unit: frame.filter((pl.col("unit") == unit.number) & (pl.col("sign") == unit.sign)) for unit in units}
    bare = {unit: rows_of_unit.drop("unit", "sign") for unit, rows_of_unit in own.items()}
    for unit in units:
        assert unit_rows_hashes(own[unit], [unit]) == {unit: together[unit]}
        # the slow second opinion: equal hashes where and only where the rows are equal, key aside
        for other in units:
            same = (unit == other or own[unit].height == 0) and bare[unit].equals(bare[other])
            assert (together[unit] == together[other]) == same
    relabelled = frame.with_columns(study=pl.lit("other"), layer=pl.lit(3, pl.Int32))
    assert unit_rows_hashes(relabelled, units) == together


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_unit_hashes_of_lists_of_lists_speak_of_each_units_rows_alone(data: st.DataObject) -> None:
    few = st.lists(st.lists(st.integers(0, 1), max_size=2), max_size=2)
    names = data.draw(st.lists(st.integers(0, 3), min_size=2, max_size=8))
    records = [
        {"unit": n, "match_ids": data.draw(few)}
        | {name: data.draw(VALUES[pl.List(pl.String)]) for name in ("near_miss_changes", "near_miss_tokens")}
        for n in names
    ]
    frame = rows("rule_tests", *({"rule_id": i} | record for i, record in enumerate(records)))
    units = [Unit(n, 1) for n in range(4)]
    together = unit_rows_hashes(frame, units)
    for unit in units:
        own = frame.filter(pl.col("unit") == unit.number)
        assert unit_rows_hashes(own, [unit]) == {unit: together[unit]}
        if own.height:
            changed = frame.with_columns(
                match_ids=pl.when(pl.col("unit") == unit.number)
                .then(pl.lit([[7]], pl.List(pl.List(pl.Int32))))
                .otherwise(pl.col("match_ids"))
            )
            other = unit_rows_hashes(changed, units)
            assert [u for u in units if other[u] != together[u]] == [unit]
