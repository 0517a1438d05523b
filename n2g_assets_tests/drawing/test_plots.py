"""The F1 histogram and markdown images."""

from hypothesis import given
from hypothesis import strategies as st

from n2g_assets.drawing.plots import COLORS, as_markdown_image, f1_histogram
from n2g_assets_tests.drawing.graphs import SVG, image_of, parsed


def bars(svg: str, color: str) -> list[tuple[float, float]]:
    """Left edge and height of the bars of one colour, the legend's square left out."""
    found = [box for box in parsed(svg).iter(f"{SVG}rect") if box.get("fill") == color and box.get("height") != "12"]
    return [(float(box.get("x")), float(box.get("height"))) for box in found]


def test_bars_stand_for_tenths_and_undefined_units_are_counted_apart():
    svg = f1_histogram({"graph": [0.0, 0.05, 0.1, 0.95, 1.0, None]}, "toy")
    places = bars(svg, COLORS[0])
    unit = places[1][1]
    assert [round(height / unit) for _, height in places] == [2, 1, 2, 1]
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert "mean 0.42 over 5 units, undefined for 1" in svg
    assert ">undefined</text>" in svg


@given(st.dictionaries(st.text(max_size=8), st.lists(st.none() | st.floats(0, 1), max_size=60), max_size=len(COLORS)))
def test_any_scores_give_a_well_formed_picture_inside_its_frame(scores):
    root = parsed(f1_histogram(scores, "<title> & \x00"))
    width, height = float(root.get("width")), float(root.get("height"))
    for box in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(box.get(name)) for name in ("x", "y", "width", "height"))
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height


def test_a_predictor_that_is_nowhere_defined_is_said_to_be():
    assert "token lookup: nowhere defined" in f1_histogram({"token_lookup": [None, None]}, "toy")


def test_a_markdown_image_carries_its_own_data():
    svg = f1_histogram({"graph": [0.5]}, "toy")
    markdown = as_markdown_image(svg, alt="a](javascript:x) b")
    assert markdown.startswith("![ajavascript:x b](data:image/svg+xml;base64,")
    assert image_of(markdown) == svg
