"""Plots of scores and markdown images."""

import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from n2g_assets.core.registry import PREDICTORS, TEXTS
from n2g_assets.report.plots import (
    F1,
    PEARSON_R,
    PUBLISHED,
    as_markdown_image,
    calibration,
    precision_recall,
    reach_by_tokens,
    score_by_layer,
    shown_scores,
    styles,
)
from n2g_assets.report.text import count_text
from n2g_assets_tests.report.graphs import SVG, image_of, parsed

HOSTILE = "</text><script>alert('1')</script>\x00\u202e&<!--$x^2$"
DRAWN = {"svg", "title", "defs", "style", "g", "path", "text", "use", "clipPath", "rect", "metadata"}
LINK = "{http://www.w3.org/1999/xlink}href"
NAMES = st.sampled_from([*(entry.name for entry in PREDICTORS), HOSTILE, "other", ""])
SHARES = st.none() | st.floats(0, 1) | st.just(float("nan"))
COUNTS = st.lists(st.integers(0, 10**7), min_size=101, max_size=101)
BINS = st.tuples(
    st.lists(st.integers(0, 10**9), min_size=11, max_size=11),
    st.lists(st.floats(0, 1), min_size=11, max_size=11),
    st.lists(st.floats(-0.5, 1.5) | st.just(float("nan")), min_size=11, max_size=11),
)


def reach(rows) -> pl.DataFrame:
    """Rows (layer, last_tokens, pearson_r) as a frame like ``reach_summary``."""
    schema = {"layer": pl.Int32, "last_tokens": pl.Int32, "pearson_r": pl.Float64}
    return pl.DataFrame(list(rows), schema=schema, orient="row")


def scores(rows) -> pl.DataFrame:
    """Rows (layer, predictor, mean, low, high) as a frame like ``layer_scores``; r is F1 doubled less 1."""
    schema = {"layer": pl.Int32, "predictor": pl.String}
    schema |= dict.fromkeys(("f1_all", "f1_all_low", "f1_all_high"), pl.Float64)
    frame = pl.DataFrame(list(rows), schema=schema, orient="row")
    return frame.with_columns(
        (2 * pl.col(f"f1_all{end}") - 1).alias(f"pearson_r{end}") for end in ("", "_low", "_high")
    )


def levels(pairs) -> pl.DataFrame:
    """Firing and silent tokens by level of each predictor, as in ``layer_scores``."""
    schema = {"predictor": pl.String} | dict.fromkeys(("levels_firing", "levels_silent"), pl.List(pl.Int64))
    rows = [(name, list(map(int, a)), list(map(int, b))) for name, (a, b) in pairs.items()]
    return pl.DataFrame(rows, schema=schema, orient="row")


def binned(sums) -> pl.DataFrame:
    """Tokens, sums of predicted and sums of actual activations by bin of each predictor, as in ``evaluation``."""
    schema = {"predictor": pl.String, "calibration_tokens": pl.List(pl.Int64)}
    schema |= {f"calibration_{name}": pl.List(pl.Float64) for name in ("predicted", "actual")}
    rows = [
        (name, *(list(map(kind, column)) for kind, column in zip((int, float, float), columns, strict=True)))
        for name, columns in sums.items()
    ]
    return pl.DataFrame(rows, schema=schema, orient="row")


def assert_sound(svg: str) -> None:
    """Well-formed, only shapes and words, no NaN, nothing that is fetched or run."""
    root = parsed(svg)
    for element in root.iter():
        if not element.tag.startswith(SVG):
            assert element.tag.split("}")[0] in {
                "{http://www.w3.org/1999/02/22-rdf-syntax-ns#", "{http://creativecommons.org/ns#",
                "{http://purl.org/dc/elements/1.1/",
            }  # fmt: skip
            continue
        assert element.tag.removeprefix(SVG) in DRAWN
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            assert "href" not in name or (name == LINK and value.startswith("#"))
            assert "url(" not in value or "url(#" in value
    drawn = " ".join(element.get(name, "") for element in root.iter() for name in ("d", "x", "y", "transform"))
    assert not re.search(r"nan|inf", drawn, re.IGNORECASE)


def group(svg: str, name: str) -> list:
    """What is drawn in the groups of a name, such as ``means graph``."""
    return [part for found in parsed(svg).iter(f"{SVG}g") if found.get("id") == name for part in found.iter()]


def marks(svg: str, name: str) -> list[tuple[float, float]]:
    return [(float(use.get("x")), float(use.get("y"))) for use in group(svg, name) if use.tag == f"{SVG}use"]


def lines(svg: str, name: str) -> list[list[tuple[float, float]]]:
    paths = [part.get("d") for part in group(svg, name) if part.tag == f"{SVG}path"]
    return [[tuple(map(float, point.split())) for point in re.split("[ML]", d) if point.strip()] for d in paths]


def words(svg: str) -> list[str]:
    return [text.text for text in parsed(svg).iter(f"{SVG}text")]


# ------------------------------------------------------------------------------------------ any input
@settings(max_examples=5)
@given(
    st.dictionaries(st.tuples(st.integers(0, 40), NAMES), st.tuples(SHARES, SHARES, SHARES), max_size=40),
    st.dictionaries(NAMES, st.tuples(COUNTS, COUNTS), max_size=4),
    st.dictionaries(NAMES, BINS, max_size=5),
    st.dictionaries(st.tuples(st.integers(0, 40), st.integers(1, 128)), st.none() | st.floats(-1, 1), max_size=40),
    st.booleans(),
)
def test_any_scores_give_sound_pictures(by_layer, by_level, by_bin, by_tokens, published):
    frame = scores((*key, *values) for key, values in by_layer.items())
    assert_sound(score_by_layer(frame, F1, title=HOSTILE, published_over=41 if published else None))
    assert_sound(score_by_layer(frame, PEARSON_R, title=HOSTILE))
    assert_sound(precision_recall(levels(by_level), title=HOSTILE))
    assert_sound(reach_by_tokens(reach((*key, r) for key, r in by_tokens.items()), title=HOSTILE))
    sums = {
        name: (tokens, *([n * mean for n, mean in zip(tokens, means, strict=True)] for means in both))
        for name, (tokens, *both) in by_bin.items()
    }
    assert_sound(calibration(binned(sums), title=HOSTILE))


@pytest.mark.parametrize("level", [0, 1, 50, 100])
def test_counts_at_a_single_level_or_none_give_a_sound_picture(level):
    one, none = [0] * 101, [0] * 101
    one[level] = 7
    for pair in ((one, none), (none, one), (one, one), (none, none)):
        assert_sound(precision_recall(levels({"graph": pair}), title="toy"))


def test_the_same_scores_give_the_same_bytes_and_hostile_names_stay_text():
    frame = scores([(0, HOSTILE, 0.5, 0.4, 0.6), (1, "graph", 0.5, 0.4, 0.6)])
    svg = score_by_layer(frame, F1, title=HOSTILE)
    assert svg == score_by_layer(frame, F1, title=HOSTILE)
    assert any("<script>alert('1')</script>" in text and "$x^2$" in text for text in words(svg))
    assert not re.search(r"\d{4}-\d\d-\d\d|matplotlib\.org|DOCTYPE", svg)


def test_a_markdown_image_carries_its_own_data():
    svg = precision_recall(levels({"graph": ([0] * 100 + [1], [5] + [0] * 100)}), title="toy")
    markdown = as_markdown_image(svg)
    assert markdown.startswith("![picture](data:image/svg+xml;base64,")
    assert image_of(markdown) == svg


# ------------------------------------------------------------------------------------------ F1 by layer
@pytest.mark.parametrize("layers", [[0, 7, 15, 22, 29], list(range(30)), [3], [0, 1, 29]], ids=str)
def test_marks_of_a_layer_stand_side_by_side_and_layers_stand_apart_at_their_numbers(layers):
    shown = [entry for entry in PREDICTORS if entry.role != "control"]
    frame = scores((layer, entry.name, 0.5, 0.4, 0.6) for layer in layers for entry in shown)
    svg = score_by_layer(frame, F1, title="toy")
    places = {entry.label: [x for x, _ in marks(svg, f"means {entry.label}")] for entry in shown}
    everywhere = sorted((x, name) for name, found in places.items() for x in found)
    assert [name for _, name in everywhere] == [entry.label for entry in shown] * len(layers)
    steps = np.diff([x for x, _ in everywhere])
    assert steps.min() >= 3.5
    if len(layers) > 1:
        assert np.diff(places["graph"]).min() >= 5 * steps.min()
        assert np.corrcoef(layers, places["graph"])[0, 1] == pytest.approx(1)


def test_means_and_intervals_are_drawn_to_scale_and_a_missing_interval_is_left_out():
    frame = scores([(0, "graph", 0.5, 0.25, 1.0), (1, "graph", 0.0, None, None), (2, "graph", 1.0, 0.9, 1.0)])
    svg = score_by_layer(frame, F1, title="toy")
    (_, half), (_, zero), (_, one) = marks(svg, "means graph")
    assert half == pytest.approx((zero + one) / 2, abs=0.1)
    ((_, low), (_, high)), _ = lines(svg, "intervals graph")
    assert (low, high) == pytest.approx((zero + 0.25 * (one - zero), one), abs=0.1)


def test_a_score_below_0_is_drawn_to_scale_below_a_line_at_0_and_says_what_it_leaves_out():
    means = {-1.0: 0.0, 0.0: 0.5, 0.5: 0.75}
    frame = scores((layer, "graph", mean, mean, mean) for layer, mean in enumerate(means.values()))
    svg = score_by_layer(frame, PEARSON_R, title="toy")
    (_, lowest), (_, zero), (_, half) = marks(svg, "means graph")
    assert (lowest - zero) / (zero - half) == pytest.approx(2, abs=0.01)
    assert {"−1", "0"} <= set(words(svg))
    assert PEARSON_R.means in words(svg)
    assert any(PEARSON_R.undefined in text for text in words(svg))
    assert not any(F1.undefined in text for text in words(svg))


def test_the_graded_activation_leads_on_ordinary_text_alone():
    shown = [(score.name, [text.name for text in texts]) for score, texts in shown_scores(TEXTS)]
    names = [text.name for text in TEXTS]
    assert shown == [("pearson_r", ["random", "out_of_domain"]), ("f1_all", names)]
    assert [score.name for score, _ in shown_scores(TEXTS[:1])] == ["f1_all"]
    assert shown_scores([]) == []


def test_controls_stand_below_with_the_graph_as_their_measure():
    frame = scores([(0, "graph", 0.5, 0.4, 0.6), (0, "graph_shuffled", 0.0, 0.0, 0.1)])
    svg = score_by_layer(frame, F1, title="toy")
    assert len(marks(svg, "means graph")) == 2
    assert len(marks(svg, "means shuffled graph")) == 1
    assert "controls" in words(svg)
    assert "controls" not in words(score_by_layer(frame.head(1), F1, title="toy"))


def test_the_published_line_runs_over_relative_depth_and_is_named_as_another_model():
    frame = scores((layer, "graph", 1.0 if layer == 0 else 0.0, None, None) for layer in range(11))
    svg = score_by_layer(frame, F1, title="toy", published_over=11)
    (line,) = lines(svg, "published")
    places = marks(svg, "means graph")
    one, zero = places[0][1], places[1][1]
    assert [x for x, _ in line] == pytest.approx([places[layer][0] for layer in range(0, 11, 2)], abs=0.2)
    assert [(y - zero) / (one - zero) for _, y in line] == pytest.approx([f1 for _, _, f1 in PUBLISHED], abs=0.002)
    assert any("SoLU-6L, another model" in text for text in words(svg))
    half = score_by_layer(frame.filter(pl.col("layer") <= 5), F1, title="toy", published_over=11)
    (cut,) = lines(half, "published")
    assert (cut[-1][1] - zero) / (one - zero) == pytest.approx((0.60 + 0.48) / 2, abs=0.002)


# ------------------------------------------------------------------------------------------ curves
def test_the_area_and_the_mark_of_a_curve_are_average_precision_and_the_scores_at_the_threshold():
    generator = np.random.default_rng(0)
    level = generator.integers(0, 101, 4000)
    fires = generator.random(4000) < level / 150
    firing, silent = np.bincount(level[fires], minlength=101), np.bincount(level[~fires], minlength=101)
    halves = [
        levels({"graph": (firing // 2, silent // 2)}),
        levels({"graph": (firing - firing // 2, silent - silent // 2)}),
    ]
    svg = precision_recall(pl.concat(halves), title="toy")
    assert f"graph {average_precision_score(fires, level):.2f}".replace(" 0.", " .") in words(svg)
    ((x, y),) = marks(svg, "threshold graph")
    left, bottom, side = 36, 54 + 285, 285
    called = level >= 50
    assert (x - left) / side == pytest.approx(np.mean(called[fires]), abs=0.002)
    assert (bottom - y) / side == pytest.approx(np.mean(fires[called]), abs=0.002)


def test_a_predictor_that_never_says_anything_has_no_mark():
    svg = precision_recall(levels({"graph": ([5] + [0] * 100, [95] + [0] * 100)}), title="toy")
    assert marks(svg, "threshold graph") == []
    assert any("5.00 % of the tokens fire" in text for text in words(svg))


def test_calibration_points_stand_at_their_means_with_their_tokens_and_controls_are_left_out():
    tokens = [90_000, 0, 0, 0, 0, 0, 200, 0, 0, 0, 1_500_000]
    predicted = [0.0, 0, 0, 0, 0, 0, 110.0, 0, 0, 0, 1_425_000.0]
    actual = [0.0, 0, 0, 0, 0, 0, 50.0, 0, 0, 0, 1_425_000.0]
    sums = (tokens, predicted, actual)
    svg = calibration(binned({"graph": sums, "graph_shuffled": sums}), title="toy")
    drawn = [
        np.array(re.findall(r"[\d.]+", part.get("d")), float) for part in group(svg, "bins graph") if part.get("d")
    ]
    zero, middle, top = sorted(((d[::2].min() + d[::2].max()) / 2, (d[1::2].min() + d[1::2].max()) / 2) for d in drawn)
    assert zero[0] < middle[0] < top[0]
    assert (zero[1] - middle[1]) / (zero[1] - top[1]) == pytest.approx(0.25 / 0.95, abs=0.005)
    assert {"90k", "200", "1.5M", "–"} <= set(words(svg))
    assert group(svg, "bins shuffled graph") == []


# ------------------------------------------------------------------------------------------ reach
def test_reach_is_drawn_to_scale_by_doublings_of_the_tokens_and_a_label_that_would_cover_another_is_left_out():
    ends = {0: 1.0, 7: 0.5, 15: 0.45}  # a quarter of them at one token
    frame = reach((layer, k, end * k / 4) for layer, end in ends.items() for k in (1, 2, 4))
    svg = reach_by_tokens(frame, title="toy")
    top, middle, _ = (marks(svg, f"layer {layer}") for layer in ends)
    first, second, third = (x for x, _ in top)
    assert third - second == pytest.approx(second - first, abs=0.1)
    assert first < second
    zero = 2 * top[1][1] - top[2][1]
    assert [(y - zero) / (top[2][1] - zero) for _, y in (*top, *middle)] == pytest.approx(
        [0.25, 0.5, 1, 0.125, 0.25, 0.5], abs=0.002
    )
    assert [word for word in words(svg) if word.startswith("layer ")] == ["layer 0", "layer 7"]
    assert "nothing measured yet" in words(reach_by_tokens(frame.clear(), title="toy"))


# ------------------------------------------------------------------------------------------ styles, numbers
def test_every_predictor_has_a_colour_or_marker_of_its_own_and_keeps_its_place():
    looks = {(entry.color, entry.marker, entry.role == "control") for entry in PREDICTORS}
    assert len(looks) == len(PREDICTORS)
    assert [entry.name for entry in styles(["skip_bigram", "zzz", "graph"])] == ["graph", "skip_bigram", "zzz"]


def test_counts_are_short():
    assert [count_text(n) for n in (0, 812, 999, 1000, 1234, 99_950, 999_999, 5_240_000)] == [
        "0", "812", "999", "1k", "1.2k", "100k", "1M", "5.2M",
    ]  # fmt: skip
