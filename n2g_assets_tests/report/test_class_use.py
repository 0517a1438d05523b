"""What graphs are made of, counted by hand."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from n2g_assets.report import class_use as module
from n2g_assets.report.class_use import class_use
from n2g_assets_tests.report.class_graphs import TOKENS, Side, Split, class_frames, example
from n2g_assets_tests.report.parsed import tables
from n2g_assets_tests.report.published import database, page, study
from n2g_assets_tests.storage.helpers import rows

SINGLE = class_frames([Split(0, 0, [(9, 60, 0.9)], Side(0.6, 100, 60), Side(0.0, 900))], TOKENS, Side(0.04, 1000, 60))
"""One rule of one token, and the rest."""


def graphs(*units: tuple[int, int, dict[str, pl.DataFrame]]) -> dict[str, pl.DataFrame]:
    """Tables of graphs by layer and number of their unit."""
    return {
        table: pl.concat(
            [
                frames[table].with_columns(layer=pl.lit(layer, pl.Int32), unit=pl.lit(unit, pl.Int32))
                for layer, unit, frames in units
            ]
        )
        for table in SINGLE
    }


WORDS = rows("vocabulary", *({"token_id": i, "token": token} for i, token in enumerate(TOKENS)))
BOTH = graphs((0, 3, example()), (7, 5, SINGLE), (7, 8, SINGLE))


def use_of(**frames: pl.DataFrame) -> Any:
    with database(toy=study(**frames)) as connection:

        def frame(query: str, **values: Any) -> pl.DataFrame:
            return connection.sql(query, params={"study": "toy"} | values).pl()

        return class_use(frame, TOKENS)


def test_rules_are_counted_by_what_they_ask_for_and_classes_by_their_size():
    use = use_of(**BOTH)
    top, deep = use.layers
    assert (use.units, use.read, top.layer, top.units, deep.layer, deep.units) == (3, 3, 0, 1, 7, 2)
    # {:} [{except|try}]; [{except|try}] where no colon stands before; numbers; what is left
    assert dict(top.rules) == {"context": 1, "class": 2, "rest": 1}
    assert dict(deep.rules) == {"token": 2, "rest": 2}
    assert (sorted(top.sizes[True]), top.sizes[False]) == ([2, 3], [1])
    assert (top.median(True), top.single(True), top.single(False), deep.single(True)) == (2, 0, 1, 2)
    assert deep.median(False) is None


def test_names_stand_with_the_first_class_that_has_them():
    use = use_of(**BOTH)
    found = {name.name: (name.classes, name.example, name.key) for name in use.names}
    assert found["numbers"] == ({True: 1, False: 0}, "1  ␣2  3", (0, 3, 1))
    assert found["one or two tokens"][0] == {True: 3, False: 1}
    assert set(found) == {"numbers", "one or two tokens"}


def test_of_many_units_some_are_read_spread_evenly(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_UNITS", 2)
    use = use_of(**graphs(*((layer, unit, SINGLE) for layer in (0, 7, 15) for unit in (3, 5, 8))))
    assert (use.units, use.read, [layer.layer for layer in use.layers]) == (9, 2, [0, 15])


def test_a_study_without_graphs_of_classes_has_nothing_to_count():
    use = use_of()
    assert (use.units, use.layers, use.names) == (0, [], [])


def test_the_report_has_a_section_on_classes_and_sizes():
    sizes = rows(
        "size_curve", *({"layer": 0, "unit": 3, "text": "random", "n_rules": n, "pearson_r": 0.5} for n in (3, 10))
    )
    html = page({"toy": study(method="evidence", vocabulary=WORDS, size_curve=sizes, **BOTH)})
    found = tables(html)
    space = "\N{NO-BREAK SPACE}"
    assert found["Rules by what they ask for, and their share."] == [
        ["0", "1", "4", f"0 0{space}%", f"2 50{space}%", f"1 25{space}%", f"1 25{space}%"],
        ["7", "2", "4", f"2 50{space}%", f"0 0{space}%", f"0 0{space}%", f"2 50{space}%"],
    ]
    caption = "Classes of these rules, each counted once a unit: of the token itself, and of tokens before it."
    assert found[caption][1] == ["7", "2", f"2 100{space}%", "1", "0", "0 –", "–"]
    assert ["numbers", "1", "0", "1  ␣2  3", "layer 0, neuron 3"] in found["Names of classes."]
    assert '<a href="http://127.0.0.1:8777/study/toy/0/3"' in html
