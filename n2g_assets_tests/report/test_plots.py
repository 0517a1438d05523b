"""Plots of scores and markdown images."""

import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from n2g_assets.report.axes import STYLES, count_text, styles
from n2g_assets.report.plots import (
    PUBLISHED_F1,
    as_markdown_image,
    calibration,
    f1_by_layer,
    precision_recall,
)
from n2g_assets_tests.report.graphs import SVG, image_of, parsed

HOSTILE = "</text><script>alert('1')</script>\x00\u202e&<!--"
SAFE_TAGS = {SVG + tag for tag in ("svg", "title", "g", "rect", "path", "text", "circle")}


def test_a_markdown_image_carries_its_own_data():
    svg = precision_recall({"graph": ([0] * 100 + [1], [5] + [0] * 100)}, title="toy")
    markdown = as_markdown_image(svg, alt="a](javascript:x) b")
    assert markdown.startswith("![ajavascript:x b](data:image/svg+xml;base64,")
    assert image_of(markdown) == svg


# ------------------------------------------------------------------------------------------ plots of scores
NAMES = st.sampled_from([*STYLES, HOSTILE, "other", ""])
SHARES = st.none() | st.floats(0, 1) | st.just(float("nan"))


def scores(rows) -> pl.DataFrame:
    """Rows (layer, predictor, f1_all, low, high) as a frame like ``layer_scores``."""
    schema = {"layer": pl.Int32, "predictor": pl.String}
    schema |= dict.fromkeys(("f1_all", "f1_all_low", "f1_all_high"), pl.Float64)
    return pl.DataFrame(list(rows), schema=schema, orient="row")


def assert_sound(svg: str) -> None:
    """Well-formed, safe, without NaN, everything inside its frame."""
    root = parsed(svg)
    assert {element.tag for element in root.iter()} <= SAFE_TAGS
    assert not re.search(r"nan|inf", re.sub(r">[^<]*<", "><", svg), re.IGNORECASE)
    width, height = float(root.get("width")), float(root.get("height"))
    moved = {child for group in root.iter(f"{SVG}g") for child in group.iter() if group.get("transform")}
    for element in root.iter():
        for name in element.attrib:
            assert not name.startswith("on")
            assert "href" not in name
        if element not in moved:
            assert all(-0.5 <= float(element.get(name, 0)) <= width + 0.5 for name in ("x", "cx"))
            assert all(-0.5 <= float(element.get(name, 0)) <= height + 0.5 for name in ("y", "cy"))


def marks(svg: str, color: str) -> list[tuple[float, float]]:
    """Centres of the circles of one colour, the legend's left out."""
    root = parsed(svg)
    keys = {child for group in root.iter(f"{SVG}g") for child in group.iter(f"{SVG}circle")}
    found = [one for one in root.iter(f"{SVG}circle") if one.get("fill") == color and one not in keys]
    return [(float(one.get("cx")), float(one.get("cy"))) for one in found]


def intervals(svg: str, color: str) -> list[tuple[float, float, float]]:
    """Place, lower and upper end of the whiskers of one colour."""
    drawn = [path.get("d") for path in parsed(svg).iter(f"{SVG}path") if path.get("class") == "interval"
             and path.get("stroke") == color]  # fmt: skip
    return [tuple(map(float, re.match(r"M([\d.]+) ([\d.]+)V([\d.]+)", d).groups())) for d in drawn]


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(st.tuples(st.integers(0, 40), NAMES), st.tuples(SHARES, SHARES, SHARES), max_size=60),
    st.booleans(),
)
def test_any_layer_scores_give_a_sound_picture(rows, published):
    frame = scores((*key, *values) for key, values in rows.items())
    assert_sound(f1_by_layer(frame, title=HOSTILE, published=PUBLISHED_F1 if published else None, n_layers=41))


COUNTS = st.lists(st.integers(0, 10**7), min_size=101, max_size=101)


@settings(deadline=None, max_examples=20)
@given(st.dictionaries(NAMES, st.tuples(COUNTS, COUNTS), max_size=4))
def test_any_counts_by_level_give_a_sound_picture(levels):
    assert_sound(precision_recall(levels, title=HOSTILE))


@pytest.mark.parametrize("level", [0, 1, 50, 100])
def test_counts_at_a_single_level_or_none_give_a_sound_picture(level):
    one, none = [0] * 101, [0] * 101
    one[level] = 7
    for pair in ((one, none), (none, one), (one, one), (none, none)):
        assert_sound(precision_recall({"graph": pair}, title="toy"))


BINS = st.tuples(
    st.lists(st.integers(0, 10**9), min_size=11, max_size=11),
    st.lists(st.floats(0, 1), min_size=11, max_size=11),
    st.lists(st.floats(-0.5, 1.5) | st.just(float("nan")), min_size=11, max_size=11),
)


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(NAMES, BINS, max_size=9))
def test_any_calibration_gives_a_sound_picture(bins):
    sums = {
        name: (tokens, [n * p for n, p in zip(tokens, predicted, strict=True)],
               [n * a for n, a in zip(tokens, actual, strict=True)])
        for name, (tokens, predicted, actual) in bins.items()
    }  # fmt: skip
    assert_sound(calibration(sums, title=HOSTILE))


@pytest.mark.parametrize("layers", [[0, 7, 15, 22, 29], list(range(30)), [3], [0, 1, 29]], ids=str)
def test_marks_of_a_layer_stand_side_by_side_and_layers_do_not_meet(layers):
    names = [name for name, style in STYLES.items() if not style.control]
    frame = scores((layer, name, 0.5, 0.4, 0.6) for layer in layers for name in names)
    svg = f1_by_layer(frame, title="toy")
    places = sorted((x, name) for name in names for x, _, _ in intervals(svg, STYLES[name].color))
    assert [name for _, name in places] == names * len(layers)
    gaps = np.diff([x for x, _ in places])
    assert gaps.min() >= 4.5
    centres = [x for x, name in places if name == names[2]]
    assert all(gap >= 5 * gaps.min() for gap in np.diff(centres))


def test_layers_that_have_room_stand_at_their_numbers():
    frame = scores((layer, "graph", 0.5, 0.4, 0.6) for layer in (0, 7, 15, 22, 29))
    xs = [x for x, _ in marks(f1_by_layer(frame, title="toy"), STYLES["graph"].color)]
    np.testing.assert_allclose(np.interp(xs, [xs[0], xs[-1]], [0, 29]), [0, 7, 15, 22, 29], atol=0.01)


def test_means_and_intervals_are_drawn_to_scale_and_a_missing_interval_is_left_out():
    frame = scores([(0, "graph", 0.5, 0.25, 1.0), (1, "graph", 0.0, None, None), (2, "graph", 1.0, 0.9, 1.0)])
    svg = f1_by_layer(frame, title="toy")
    color = STYLES["graph"].color
    (_, half), (_, zero), (_, one) = marks(svg, color)
    assert half == pytest.approx((zero + one) / 2, abs=0.1)
    (_, low, high), _ = intervals(svg, color)
    assert (low, high) == pytest.approx((zero + 0.25 * (one - zero), one), abs=0.1)


def test_controls_stand_below_with_the_graph_as_their_measure():
    frame = scores([(0, "graph", 0.5, 0.4, 0.6), (0, "graph_shuffled", 0.0, 0.0, 0.1)])
    svg = f1_by_layer(frame, title="toy")
    assert len(marks(svg, STYLES["graph"].color)) == 2
    assert ">controls</text>" in svg
    assert ">controls</text>" not in f1_by_layer(frame.head(1), title="toy")


def dashed(svg: str) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, point.split())) for point in path.get("d")[1:].split("L")]
        for path in parsed(svg).iter(f"{SVG}path")
        if path.get("stroke-dasharray") == "5 4" and not path.get("d").startswith("M-12")
    ]


def test_the_published_line_runs_over_relative_depth_and_is_named_as_another_model():
    frame = scores((layer, "graph", 1.0 if layer == 0 else 0.0, None, None) for layer in range(11))
    svg = f1_by_layer(frame, title="toy", published=PUBLISHED_F1, n_layers=11)
    (line,) = dashed(svg)
    places = marks(svg, STYLES["graph"].color)
    one, zero = places[0][1], places[1][1]
    assert [x for x, _ in line] == pytest.approx([places[layer][0] for layer in range(0, 11, 2)], abs=0.2)
    assert [(y - zero) / (one - zero) for _, y in line] == pytest.approx(list(PUBLISHED_F1.values()), abs=0.002)
    assert "SoLU-6L, another model" in svg
    half = f1_by_layer(frame.filter(pl.col("layer") <= 5), title="toy", published=PUBLISHED_F1, n_layers=11)
    (cut,) = dashed(half)
    assert (cut[-1][1] - zero) / (one - zero) == pytest.approx((0.60 + 0.48) / 2, abs=0.002)


def test_the_area_and_the_mark_of_a_curve_are_average_precision_and_the_scores_at_the_threshold():
    generator = np.random.default_rng(0)
    level = generator.integers(0, 101, 4000)
    fires = generator.random(4000) < level / 150
    firing, silent = np.bincount(level[fires], minlength=101), np.bincount(level[~fires], minlength=101)
    svg = precision_recall({"graph": (firing, silent)}, title="toy")
    assert f">graph {average_precision_score(fires, level):.2f}<".replace(" 0.", " .") in svg
    ((x, y),) = marks(svg, STYLES["graph"].color)
    left, bottom, side = 58, 458, 380
    called = level >= 50
    assert (x - left) / side == pytest.approx(np.mean(called[fires]), abs=0.002)
    assert (bottom - y) / side == pytest.approx(np.mean(fires[called]), abs=0.002)


def test_a_predictor_that_never_says_anything_has_no_mark():
    firing, silent = [5] + [0] * 100, [95] + [0] * 100
    svg = precision_recall({"graph": (firing, silent)}, title="toy")
    assert marks(svg, STYLES["graph"].color) == []
    assert "5.00 % of the tokens fire" in svg


def test_calibration_points_stand_at_their_means_with_their_tokens():
    tokens = [90_000, 0, 0, 0, 0, 0, 200, 0, 0, 0, 1_500_000]
    predicted = [0.0, 0, 0, 0, 0, 0, 110.0, 0, 0, 0, 1_425_000.0]
    actual = [0.0, 0, 0, 0, 0, 0, 50.0, 0, 0, 0, 1_425_000.0]
    svg = calibration({"graph": (tokens, predicted, actual)}, title="toy")
    zero, middle, top = sorted(marks(svg, STYLES["graph"].color))
    assert zero[0] < middle[0] < top[0]
    assert (zero[1] - middle[1]) / (zero[1] - top[1]) == pytest.approx(0.25 / 0.95, abs=0.005)
    for words in ("90k", "200", "1.5M", "–"):
        assert f">{words}</text>" in svg


def test_every_predictor_has_a_colour_or_marker_of_its_own_and_keeps_it():
    looks = {(style.color, style.marker, style.control) for style in STYLES.values()}
    assert len(looks) == len(STYLES)
    assert list(styles(["skip_bigram", "zzz", "graph"])) == ["graph", "skip_bigram", "zzz"]
    assert styles(["graph"])["graph"] == styles(STYLES)["graph"]


def test_counts_are_short():
    assert [count_text(n) for n in (0, 812, 999, 1000, 1234, 99_950, 999_999, 5_240_000)] == [
        "0", "812", "999", "1k", "1.2k", "100k", "1M", "5.2M",
    ]  # fmt: skip
