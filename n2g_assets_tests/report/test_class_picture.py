"""Pictures of graphs of token classes: well-formed, safe, inside their frame, and true to their rows."""

import re
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings

from n2g_assets.method.class_rows import graph_of_rows, stored_importances
from n2g_assets.method.classes import ClassGraph
from n2g_assets.method.tokens import display_text
from n2g_assets.report.class_layout import is_background, lay_out_classes, rules_fire
from n2g_assets.report.class_picture import FIRES, LOWERS, RAISES, draw_classes
from n2g_assets.report.svg import importance_ramp
from n2g_assets_tests.report.class_graphs import TOKENS, Side, Split, class_frames, class_graphs, example
from n2g_assets_tests.report.graphs import HOSTILE, SVG, parsed

SAFE_TAGS = {SVG + tag for tag in ("svg", "title", "g", "rect", "path", "text")}


def graph_of(frames: dict[str, pl.DataFrame]) -> tuple[ClassGraph, dict[int, float]]:
    graph = graph_of_rows(frames["graph_nodes"], frames["token_classes"], bos_id=-1)
    return graph, stored_importances(frames["graph_nodes"])


def draw(frames: dict[str, pl.DataFrame], tokens: list[bytes] = TOKENS, **given) -> str:
    given = {"threshold": 0.5, "title": "toy: layer 7, neuron 7"} | given
    return draw_classes(*graph_of(frames), tokens, **given)


def groups(svg: str, kind: str) -> list[list[str]]:
    """The words of each group of a class."""
    found = [group for group in parsed(svg).iter(f"{SVG}g") if group.get("class") == kind]
    return [[text.text or "" for text in group.findall(f"{SVG}text")] for group in found]


def layout_of(frames: dict[str, pl.DataFrame], n_rules: int):
    return lay_out_classes(*graph_of(frames), n_rules=n_rules, threshold=0.5)


# ---------------------------------------------------------------------------------------- structure
@settings(deadline=None, max_examples=40)
@given(class_graphs())
def test_any_graph_gives_a_well_formed_picture_that_keeps_to_its_frame_and_whose_chips_do_not_overlap(graph):
    frames, tokens = graph
    root = parsed(svg := draw(frames, tokens, n_rules=20, subtitle="made up"))
    assert {element.tag for element in root.iter()} <= SAFE_TAGS
    for element in root.iter():
        assert not any(name.startswith("on") or "href" in name or name == "style" for name in element.attrib)
        assert not any("url(" in value for value in element.attrib.values())
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]", svg)
    width, height = float(root.get("width")), float(root.get("height"))
    assert root.get("viewBox") == f"0 0 {width:.0f} {height:.0f}"
    assert width <= 1264
    for rectangle in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(rectangle.get(name)) for name in ("x", "y", "width", "height"))
        assert min(x, y, w, h) >= 0
        assert x + w <= width
        assert y + h <= height
    boxes = [
        (float(box.get("y")), float(box.get("x")), float(box.get("width")))
        for group in root.iter(f"{SVG}g")
        if (group.get("class") or "").startswith("class")
        for box in group.findall(f"{SVG}rect")
        if box.get("height") != "2.5"  # the line under a token
    ]
    for (y, x, width), (next_y, next_x, _) in zip(sorted(boxes), sorted(boxes)[1:], strict=False):
        assert y != next_y or x + width <= next_x + 0.1


@settings(deadline=None, max_examples=40)
@given(class_graphs())
def test_every_rule_is_a_row_or_in_the_background_and_every_class_of_a_row_in_one_cell(graph):
    frames, _ = graph
    for n_rules in (1, 5, 30):
        layout = layout_of(frames, n_rules)
        folded = layout.background.rules if layout.background else 0
        here = frames["rules"].filter((pl.col("rank") <= n_rules) & (pl.col("until").fill_null(99) >= n_rules))
        assert len(layout.rules) + folded == len(here)
        for row, rule in enumerate(layout.rules):
            covering = [cell for cell in layout.cells if cell.row <= row < cell.row + cell.rows]
            assert {cell.offset for cell in covering} == set(rule.classes)
            for cell in covering:
                assert cell.found.tokens.tolist() == rule.classes[cell.offset].tokens.tolist()
                assert cell.found.all_but == rule.classes[cell.offset].all_but


def test_thirty_rules_stay_on_one_screen():
    tokens = [b"<s>", b"<m>", *(b" " + bytes([97 + i % 26]) * 20 + b"%d" % i for i in range(400))]
    splits = []
    for k in range(29):
        members = [(2 + 12 * k + i, 9, 0.5) for i in range(12)]
        splits.append(Split(2 * k, -(k % 8), members, Side((-1) ** k * 0.7, 300, 10), Side(0.3, 300)))
    root = parsed(draw(class_frames(splits, tokens, Side(0.3, 5000)), tokens, n_rules=30))
    assert float(root.get("width")) <= 1264
    assert float(root.get("height")) <= 900


def test_the_same_rows_give_the_same_picture_in_any_order():
    frames = example(importances={1: 0.5})
    turned = {name: frame.reverse() for name, frame in frames.items()}
    assert draw(frames) == draw(turned)


# ------------------------------------------------------------------------------------------ content
def test_a_row_says_what_its_rule_expects_and_what_it_rests_on_strongest_first_and_what_lowers_last():
    svg = draw(example())
    assert groups(svg, "rule fires") == [[".90", "90\N{NO-BREAK SPACE}%", "30", "4"]]
    assert groups(svg, "rule") == [
        [".30", "47\N{NO-BREAK SPACE}%", "70", "9"],
        ["−.40", "0\N{NO-BREAK SPACE}%", "130", "9"],
    ]
    everything_else = "everything else: 1 rule, 77\N{NO-BREAK SPACE}% of the text"
    assert groups(svg, "background") == [[everything_else, ".01", "0\N{NO-BREAK SPACE}%", "770"]]
    assert "The graph of 4 rules, from 1,000 positions in 9 documents." in svg


def test_classes_show_the_tokens_that_matter_most_whole_and_all_but_what_is_left_out():
    svg = draw(example())
    assert groups(svg, "class") == [[":"], ["␣except", "try"], ["numbers", "1", "␣2", "3"]]
    assert groups(svg, "class all-but") == [["not", ":"]]
    fewer = draw(example(), n_rules=3)
    assert groups(fewer, "class") == [[":"], ["␣except", "try"]]
    assert groups(draw(example(), n_rules=1), "rule") == [["any text", ".040", "6.0\N{NO-BREAK SPACE}%", "1,000", "9"]]


def test_rules_that_share_a_class_share_its_cell():
    layout = layout_of(example(), 4)
    assert [(cell.offset, cell.row, cell.rows) for cell in layout.cells] == [
        (-1, 0, 1),
        (-1, 1, 1),
        (0, 0, 2),
        (0, 2, 1),
    ]
    assert layout.offsets == [-1, 0]
    assert (layout.background.rules, layout.background.positions) == (1, 770)


def test_a_large_class_says_how_many_tokens_it_does_not_show_and_a_long_token_is_cut():
    tokens = [b"<s>", b"<m>", b"xyz" * 60, b"-" * 40, *(b"abc%d" % i for i in range(1300))]
    members = [(2, 90, 0.9), (3, 80, 0.9), *((i, 1, 0.5) for i in range(4, 1304))]
    svg = draw(class_frames([Split(0, 0, members, Side(0.8, 500), Side(0, 500))], tokens, Side(0.4, 1000)), tokens)
    assert groups(svg, "class") == [["xyzxyzxyzxyzxyzxy…", "-×40", "abc0", "abc1", "abc2", "+1,297"]]
    assert max(len(text.text or "") for text in parsed(svg).iter(f"{SVG}text")) < 120


def test_what_fires_what_raises_and_what_lowers_have_colours_of_their_own_and_only_these_are_explained():
    svg = draw(example())
    drawn = Counter(box.get("fill") for box in parsed(svg).iter(f"{SVG}rect") if box.get("height") != "2.5")
    assert all(drawn[color] == 2 for color in (FIRES, RAISES, LOWERS))  # a bar and the legend
    assert "most of its positions do" in svg
    quiet = draw(example(), threshold=0.95, n_rules=2)
    assert FIRES in quiet  # expects .6, and fires at 60 of 100
    silent = draw(class_frames([Split(0, 0, [(2, 9, 0.3)], Side(0.3, 9), Side(0, 90))], TOKENS, Side(0.1, 99)))
    assert FIRES not in silent
    assert LOWERS not in silent
    assert "any token but these" not in silent


def test_a_rule_fires_if_it_expects_the_threshold_or_most_of_its_positions_fire():
    values, shares = np.array([0.5, 0.49, 0.1, -0.3]), np.array([0.0, 0.5, 0.6, 0.0])
    assert rules_fire(values, shares, 0.5).tolist() == [True, False, True, False]


def test_rules_that_expect_next_to_nothing_are_background_unless_they_fire():
    values, fires = np.array([0.8, 0.09, 0.07, -0.07, -0.5, 0.01]), np.array([True, False, False, False, False, True])
    assert is_background(values, fires).tolist() == [False, False, True, True, False, False]
    assert not is_background(np.array([0.0]), np.array([False])).any()


def test_a_measured_importance_is_the_colour_of_its_chips():
    plain, measured = draw(example()), draw(example(importances={3: 0.5}))
    color = importance_ramp.color(0.5)
    assert color not in plain
    assert "importance" not in plain
    assert measured.count(color) == 2  # the class in one cell, and the legend
    assert "measured importance of the token" in measured
    assert ":; importance 0.50" in measured


def test_a_line_under_a_token_says_what_it_adds_by_its_length_and_takes_away_by_its_colour():
    svg = draw(example())
    lines = [
        (box.get("fill"), float(box.get("width")))
        for group in parsed(svg).iter(f"{SVG}g") if group.get("class") == "class"
        for box in group.findall(f"{SVG}rect") if float(box.get("height")) == 2.5
    ]  # fmt: skip
    widest = max(width for _, width in lines)
    assert {color for color, _ in lines} == {FIRES, LOWERS}
    assert (FIRES, widest) in lines  # " except", +.30: the most, with "try", -.30, a shorter word
    assert " except +0.30" in svg.replace("\u2423", " ")
    assert "the token itself adds, or takes away" in svg
    same = [Split(0, 0, [(2, 9, 0.9), (3, 9, 0.9)], Side(0.9, 18), Side(0, 90))]
    plain = draw(class_frames(same, TOKENS, Side(0.1, 99)))
    assert "the token itself" not in plain
    assert 'height="2.5"' not in plain


@pytest.mark.parametrize("token", HOSTILE, ids=repr)
def test_a_hostile_token_is_text_and_nothing_else(token):
    frames = class_frames([Split(0, 0, [(2, 9, 0.9)], Side(0.9, 9), Side(0, 90))], [b"s", b"m", token], Side(0.1, 99))
    svg = draw(frames, [b"s", b"m", token], title=token.decode(errors="replace"))
    assert {element.tag for element in parsed(svg).iter()} <= SAFE_TAGS
    (words,) = groups(svg, "class")
    assert words[0] == display_text(token) or "×" in words[0] or words[0].endswith("…")


def test_a_long_title_is_cut_and_an_empty_graph_is_said_to_be_empty():
    empty = {name: frame.clear() for name, frame in example().items()}
    svg = draw(empty, title="t" * 5000, subtitle="s" * 5000)
    assert "The graph is empty" in svg
    assert float(parsed(svg).get("width")) < 1000
    assert max(len(text.text or "") for text in parsed(svg).iter(f"{SVG}text")) < 200
