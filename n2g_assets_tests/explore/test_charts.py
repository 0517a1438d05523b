"""Small pictures of numbers: where their points stand, names that do not touch, and hostile names."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from n2g_assets.explore.charts import HEIGHT, WIDTH, Line, Point, bars, lines

HOSTILE = '"><script>alert(1)</script>&'


def read(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def test_points_stand_where_their_numbers_say_and_say_them() -> None:
    drawn = [Line("a", [Point(0, 0.0), Point(1, 0.5), Point(2, 1.0)])]
    picture = read(lines("title", drawn, [(0, "1"), (1, "2"), (2, "4")], "rules"))
    places = [(float(each.get("cx")), float(each.get("cy"))) for each in picture.iter("circle")]
    assert places[1] == pytest.approx(((places[0][0] + places[2][0]) / 2, (places[0][1] + places[2][1]) / 2))
    assert [each.find("title").text for each in picture.iter("circle")] == ["a: .000", "a: .500", "a: 1.000"]
    ticks = {each.text: float(each.get("y")) - 4 for each in picture.iter("text") if each.text in {"0", ".0", "1.0"}}
    assert sorted(ticks.values()) == pytest.approx([places[2][1], places[0][1]])


@pytest.mark.parametrize("values", [[0.5] * 9, [1.0] * 9, [0.0] * 9, [-0.3, 0.2, 0.21, 0.22, 1.0]])
def test_names_at_the_ends_of_lines_do_not_touch_and_stay_in_the_picture(values: list[float]) -> None:
    drawn = [Line(f"line {place}", [Point(0, value)], f"c{place % 8}") for place, value in enumerate(values)]
    names = [each for each in read(lines("t", drawn, [(0, "0")], "layer")).iter("text") if "name" in each.get("class")]
    heights = sorted(float(each.get("y")) for each in names)
    assert all(after - before >= 12.9 for before, after in pairwise(heights))
    assert 0 < heights[0] <= heights[-1] < HEIGHT
    assert all(0 < float(each.get("x")) < WIDTH for each in names)


def test_an_interval_is_a_band_and_bars_are_higher_for_more() -> None:
    picture = read(lines("t", [Line("a", [Point(0, 0.5, 0.4, 0.6), Point(1, 0.5, 0.4, 0.6)])], [], "x"))
    [band] = picture.iter("polygon")
    assert len(band.get("points").split()) == 4
    heights = [
        float(each.get("height")) for each in read(bars("t", [(0.0, 99), (0.5, 9), (0.75, 0)], 0.25, "x")).iter("rect")
    ]
    assert len(heights) == 2  # none for nothing
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.2)  # by the logarithm of one more


def test_hostile_names_stay_text_and_empty_pictures_are_pictures() -> None:
    picture = read(lines(HOSTILE, [Line(HOSTILE, [Point(0, 0.5)])], [(0, HOSTILE)], HOSTILE))
    assert picture.get("aria-label") == HOSTILE
    assert not list(picture.iter("script"))
    assert HOSTILE in [each.text for each in picture.iter("text")]
    assert read(lines("t", [], [], "x")).get("role") == read(bars("t", [(0.5, 0)], 0.5, "x")).get("role") == "img"
