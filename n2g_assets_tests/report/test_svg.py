"""Pictures of token graphs: well-formed, safe, complete, inside their frame."""

import re

import pytest
from hypothesis import given, settings

from n2g_assets.method.tokens import display_text
from n2g_assets.report.svg import activation_ramp, draw_graph, importance_ramp
from n2g_assets.report.text import shorten
from n2g_assets_tests.report.graphs import HOSTILE, SVG, frame, graphs, node, parsed, texts

SAFE_TAGS = {SVG + tag for tag in ("svg", "title", "g", "rect", "path", "text")}


@settings(deadline=None, max_examples=60)
@given(graphs())
def test_any_graph_gives_a_well_formed_picture_that_refers_to_nothing_outside(nodes):
    svg = draw_graph(nodes, title="toy: layer 7, neuron 3", subtitle="F1 .87")
    root = parsed(svg)
    assert {element.tag for element in root.iter()} <= SAFE_TAGS
    for element in root.iter():
        assert not any(name.startswith("on") or "href" in name or name == "style" for name in element.attrib)
        assert not any("url(" in value for value in element.attrib.values())
    width, height = float(root.get("width")), float(root.get("height"))
    assert root.get("viewBox") == f"0 0 {width:.0f} {height:.0f}"
    for rectangle in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(rectangle.get(name)) for name in ("x", "y", "width", "height"))
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height


@settings(deadline=None, max_examples=60)
@given(graphs(max_nodes=30))
def test_every_token_of_a_shown_rule_stands_in_the_picture(nodes):
    root = parsed(draw_graph(nodes, title="toy"))
    for kind in ("activating", "context"):
        expected = [shorten(display_text(token), 24) for token in nodes.filter(kind=kind)["token"]]
        assert sorted(texts(root, kind)) == sorted(expected)


@pytest.mark.parametrize("token", HOSTILE, ids=repr)
def test_a_hostile_token_is_text_and_nothing_else(token):
    svg = draw_graph(frame([node(0, None, "activating", token, end=0.9)]), title=token.decode(errors="replace"))
    root = parsed(svg)
    assert {element.tag for element in root.iter()} <= SAFE_TAGS
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]", svg)
    assert texts(root, "activating") == [shorten(display_text(token), 24)]


def test_a_picture_says_how_much_it_does_not_show():
    nodes = frame([node(i, None, "activating", b"t%d" % i, end=0.6) for i in range(1234)])
    svg = draw_graph(nodes, title="toy")
    assert "1,194 of 1,234 nodes and 1,194 weaker rules are not shown" in svg
    assert "not shown" not in draw_graph(nodes.head(40), title="toy")


def test_an_empty_graph_is_said_to_be_empty():
    assert "predicts silence everywhere" in draw_graph(frame([]), title="toy")


def test_ends_show_what_they_predict_and_a_tooltip_gives_the_evidence():
    svg = draw_graph(frame([node(0, None, "activating", b"x", activation=0.97, end=0.87, count=4)]), title="toy")
    assert ">.87</text>" in svg
    assert "x; activation 0.97 of the largest; a path ends here: predicts 0.87 (4 prompts)" in svg


def test_a_long_title_is_cut_and_the_picture_keeps_its_size():
    root = parsed(draw_graph(frame([]), title="t" * 5000, subtitle="s" * 5000))
    assert float(root.get("width")) < 1200
    assert max(len(text.text) for text in root.iter(f"{SVG}text")) < 200


def test_the_same_graph_gives_the_same_picture_in_any_order_of_rows():
    rows = [node(0, None, "activating", b"x"), node(1, 0, "context", b"a", end=0.5), node(2, 0, "context", b"b", end=1)]
    assert draw_graph(frame(rows), title="toy") == draw_graph(frame(rows[::-1]), title="toy")


def _contrast(one, other):
    def luminance(rgb):
        parts = [c / 255 for c in rgb]
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("ramp", [activation_ramp, importance_ramp])
def test_words_are_readable_on_every_colour(ramp):
    for step in range(101):
        ink = ramp.ink(step / 100)
        rgb = tuple(int(ink[i : i + 2], 16) for i in (1, 3, 5))
        assert _contrast(ramp.rgb(step / 100), rgb) >= 3.5
