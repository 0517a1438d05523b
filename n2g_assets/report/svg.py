"""A token graph as one self-contained SVG picture.

The text runs to the right as in a sentence: activating tokens stand in the rightmost column, the context they need to
their left, and a mark at the left end of a path gives what it predicts. The picture brings its own background, uses
the reader's fonts only, and refers to nothing outside itself; every token is escaped and made visible. Colours are two
ramps of equal lightness that readers with impaired colour vision can tell apart (red and blue), with ink chosen for
contrast. All lengths are pixels.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from markupsafe import Markup, escape

from n2g_assets.method.tokens import clean_text, display_text
from n2g_assets.report.layout import Layout, Node, PlacedNode, lay_out
from n2g_assets.report.text import at, shorten, templates, text_width

INK, MUTED, GREY, PALE, PAPER = "#1f2933", "#5b6673", "#aab2bd", "#eceef1", "#ffffff"
SANS = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
MONO = "ui-monospace, 'SFMono-Regular', Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"


class Ramp(NamedTuple):
    """Colours for values from 0 to 1, evenly spaced stops; values outside are cut."""

    stops: tuple[tuple[int, int, int], ...]
    line: str
    """Colour of lines around it."""

    def rgb(self, value: float) -> tuple[int, ...]:
        """The colour as three numbers from 0 to 255."""
        places = np.linspace(0, 1, len(self.stops))
        return tuple(round(float(np.interp(value, places, channel))) for channel in zip(*self.stops, strict=True))

    def color(self, value: float) -> str:
        """The colour as #rrggbb."""
        return "#{:02x}{:02x}{:02x}".format(*self.rgb(value))

    def ink(self, value: float) -> str:
        """Colour of text that stands on it: of dark ink and white, the one with more contrast."""
        background = _luminance(self.rgb(value))
        dark = _luminance(bytes.fromhex(INK[1:]))
        return PAPER if 1.05 / (background + 0.05) > (background + 0.05) / (dark + 0.05) else INK


activation_ramp = Ramp(((255, 255, 255), (254, 224, 210), (252, 160, 130), (222, 64, 52), (140, 10, 24)), "#a3353b")
"""White to deep red: activation of activating tokens."""

importance_ramp = Ramp(((255, 255, 255), (222, 235, 247), (158, 202, 232), (66, 133, 193), (10, 60, 120)), "#2f6398")
"""White to deep blue: importance of context tokens."""


BOLD, PLAIN = 0.6, 0.55
"""Estimated width of a column of a proportional font as a share of its size, on the safe side: bold and plain."""
_MARGIN, _ROW, _BOX, _GAP = 28.0, 38.0, 27.0, 44.0
_CHARACTER, _PADDING, _LONGEST = 8.2, 11.0, 24
_PILL, _DOT, _SMALLEST = 36.0, 9.0, 34.0
_ALONE_GAP, _ALONE_WIDTH, _LONGEST_BOX = 16.0, 720.0, 280.0
_LEGEND_WIDTH, _MAX_TITLE = 590.0, 1000.0


class Box(NamedTuple):
    """The rectangle of one node, its end mark not included."""

    x: float
    y: float
    width: float
    height: float


def draw_graph(nodes: pl.DataFrame, *, title: str, subtitle: str = "", max_nodes: int = 40) -> str:
    """Draws one unit's token graph.

    Args:
        nodes: the unit's rows of the table ``graph_nodes``.
        title: first line, such as study, layer, neuron and sign.
        subtitle: second line, such as the F1.
        max_nodes: nodes drawn; the strongest rules are taken, and a note says how much is not shown.

    Returns:
        The SVG document as text.
    """
    layout = lay_out(nodes, max_nodes)
    title = clean_text(title)
    heading = [line for line in (clean_text(subtitle), _note(layout, len(nodes))) if line]
    text = max([text_width(title) * 17 * BOLD, *(text_width(line) * 12.5 * PLAIN for line in heading)])
    trees = -_columns(layout, 0.0)[-1][0] if layout.nodes else 0.0
    line_width = min(sum(map(_room, layout.alone)), max(trees, _ALONE_WIDTH))
    inside = max(trees, line_width, min(text, _MAX_TITLE), _LEGEND_WIDTH)
    right = _MARGIN + inside
    top = _MARGIN + 40 + 19 * len(heading)
    columns = _columns(layout, right - (inside - trees) / 2 * (not layout.alone))
    boxes = [_tree_box(placed, columns, top) for placed in layout.nodes]
    alone_top = top + layout.rows * _ROW + (26 if layout.alone and layout.nodes else 0)
    lines = _alone_boxes(layout.alone, max(line_width, _LONGEST_BOX), right, alone_top)
    bottom = max([alone_top, *(place.y + (_ROW + _BOX) / 2 for place in lines)]) + 30
    shown = [*((placed.node, placed.run) for placed in layout.nodes), *((node, 1) for node in layout.alone)]
    return render_svg(
        "graph.svg", width=round(inside + 2 * _MARGIN), height=round(bottom + 50), left=_MARGIN, right=right,
        bottom=bottom, title=title, headline=shorten(title, int(inside / (17 * BOLD))),
        heading=[shorten(line, int(inside / (12.5 * PLAIN))) for line in heading],
        edges=_edges(layout, columns, boxes), n_in_trees=len(layout.nodes), alone_top=alone_top,
        nodes=[(node, _text(node), run, place) for (node, run), place in zip(shown, boxes + lines, strict=True)],
        activation=activation_ramp,
    )  # fmt: skip


def render_svg(template: str, **values: Any) -> str:
    """A picture by its template, which has the colours and fonts of all pictures; line ends and indents go out."""
    svg = templates().get_template(template).render(
        importance=importance_ramp, sans=Markup(SANS), mono=Markup(MONO), ink=INK, muted=MUTED, grey=GREY, pale=PALE,
        paper=PAPER, label=_label, box=_box, **values,
    )  # fmt: skip
    return "".join(line.strip() for line in svg.split("\n"))


def _label(
    x: float, y: float, text: str, size: float = 11.5, fill: str = MUTED, font: str = SANS, anchor: str = "start",
    weight: str = "",
) -> Markup:  # fmt: skip
    """A text of a picture; a picture has a hundred, of which a template would take most of the picture's time."""
    bold = f' font-weight="{weight}"' if weight else ""
    return Markup(
        f'<text x="{at(x)}" y="{at(y)}" font-family="{font}" font-size="{at(size)}" fill="{fill}" '
        f'text-anchor="{anchor}"{bold} xml:space="preserve">{escape(text)}</text>'
    )


def _box(
    x: float, y: float, width: float, height: float, fill: str, stroke: str = "", radius: float = 0,
    dashed: bool = False,
) -> Markup:  # fmt: skip
    """A rectangle of a picture."""
    corners = f' rx="{at(radius)}"' if radius else ""
    line = f' stroke="{stroke}" stroke-width="1.2"' if stroke else ""
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    return Markup(
        f'<rect x="{at(x)}" y="{at(y)}" width="{at(width)}" height="{at(height)}"{corners} fill="{fill}"'
        f"{line}{dashes}/>"
    )


def _note(layout: Layout, total: int) -> str:
    if not total:
        return "The graph is empty: it predicts silence everywhere."
    if not layout.hidden_nodes:
        return ""
    rules = f" and {layout.hidden_rules:,} weaker rules" if layout.hidden_rules else ""
    return f"Strongest rules only: {layout.hidden_nodes:,} of {total:,} nodes{rules} are not shown."


def _text(node: Node) -> str:
    return display_text(node.token or b"")


def _pill(node: Node) -> float:
    return _PILL if node.end_activation is not None else 0.0


def _node_width(node: Node, run: int) -> float:
    if node.kind == "ignore":
        return 2 * _DOT if run == 1 else 2 * _DOT + _CHARACTER * len(f"×{run}") + 2
    return max(_SMALLEST, 2 * _PADDING + _CHARACTER * text_width(shorten(_text(node), _LONGEST)))


def _room(node: Node) -> float:
    """Room that a node takes in a line of nodes without context."""
    return _node_width(node, 1) + _pill(node) + _ALONE_GAP


def _columns(layout: Layout, right: float) -> list[tuple[float, float]]:
    """Left and right edge of every column of the trees, the rightmost first, with room for end marks."""
    widths: defaultdict[int, float] = defaultdict(float)
    for node, _, run, column, _ in layout.nodes:
        widths[column] = max(widths[column], _node_width(node, run) + _pill(node))
    columns = []
    for column in sorted(widths):
        columns.append((right - widths[column], right))
        right -= widths[column] + _GAP
    return columns


def _tree_box(placed: PlacedNode, columns: list[tuple[float, float]], top: float) -> Box:
    width = _node_width(placed.node, placed.run)
    height = 2 * _DOT if placed.node.kind == "ignore" else _BOX
    return Box(columns[placed.column][1] - width, top + (placed.row + 0.5) * _ROW - height / 2, width, height)


def _alone_boxes(alone: list[Node], room: float, right: float, top: float) -> list[Box]:
    """Nodes without context in lines that end on the right, the first the strongest."""
    lines: list[list[Node]] = []
    used = 0.0
    for node in alone:
        if not lines or used + _room(node) > room + _ALONE_GAP:
            lines.append([])
            used = 0.0
        lines[-1].append(node)
        used += _room(node)
    boxes = []
    for i, line in enumerate(lines):
        x = right + _ALONE_GAP - sum(map(_room, line))
        for node in line:
            boxes.append(Box(x + _pill(node), top + i * _ROW + (_ROW - _BOX) / 2, _node_width(node, 1), _BOX))
            x += _room(node)
    return boxes


def _edges(layout: Layout, columns: list[tuple[float, float]], boxes: list[Box]) -> list[tuple[float, ...]]:
    """Both ends of each curve, and how far it runs on: curves bend between columns, so that none runs over a node."""
    edges: list[tuple[float, ...]] = []
    for placed, place in zip(layout.nodes, boxes, strict=True):
        if placed.parent is not None:
            parent, parent_box = layout.nodes[placed.parent], boxes[placed.parent]
            start = place.x + place.width, place.y + place.height / 2
            end = columns[parent.column][0], parent_box.y + parent_box.height / 2
            edges.append((*start, *end, parent_box.x - _pill(parent.node)))
    return edges


def _luminance(rgb: Iterable[int]) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (channel / 255 for channel in rgb)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
