"""A token graph as one self-contained SVG picture.

The text runs to the right as in a sentence: activating tokens stand in the rightmost column, the context they need to
their left, and a mark at the left end of a path gives what it predicts. The picture brings its own background, uses
the reader's fonts only, and refers to nothing outside itself; every token is escaped and made visible. Colours are two
ramps of equal lightness that readers with impaired colour vision can tell apart (red and blue), with ink chosen for
contrast. All lengths are pixels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from html import escape
from typing import NamedTuple

import numpy as np
import polars as pl

from n2g_assets.method.tokens import clean_text, display_text
from n2g_assets.report.layout import Layout, Node, PlacedNode, lay_out
from n2g_assets.report.text import counted, share, shorten, text_width

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


def number(value: float) -> str:
    """A coordinate with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def sans_width(text: str, size: float, bold: bool = False) -> float:
    """Estimated width in pixels of a line in a proportional font, on the safe side."""
    return text_width(text) * size * (0.6 if bold else 0.55)


def label(
    x: float, y: float, text: str, *, size: float, fill: str, font: str = SANS, anchor: str = "start",
    bold: bool = False, room: float | None = None,
) -> str:  # fmt: skip
    """One line of text on a baseline, cut with an ellipsis where it would be wider than ``room`` pixels."""
    text = clean_text(text)
    if room is not None:
        text = shorten(text, max(int(room / sans_width("x", size, bold)), 1))
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{number(x)}" y="{number(y)}" font-family="{font}" font-size="{number(size)}" fill="{fill}" '
        f'text-anchor="{anchor}"{weight} xml:space="preserve">{escape(text)}</text>'
    )


def box(
    x: float, y: float, width: float, height: float, *, fill: str, stroke: str = "none", radius: float = 0.0,
    dashed: bool = False,
) -> str:  # fmt: skip
    """A rectangle, with rounded corners if asked."""
    rounded = f' rx="{number(radius)}"' if radius else ""
    line = "" if stroke == "none" else f' stroke="{stroke}" stroke-width="1.2"'
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    size = f'width="{number(width)}" height="{number(height)}"'
    return f'<rect x="{number(x)}" y="{number(y)}" {size}{rounded} fill="{fill}"{line}{dashes}/>'


def ending(x: float, middle: float, value: float) -> str:
    """The mark of a path's end: a bar, what the path predicts, and a short line to the node that starts at x + 36."""
    return (
        f'<g class="end"><path d="M{number(x + 1)} {number(middle - 9)}v18" stroke="{INK}" stroke-width="2.2" '
        f'stroke-linecap="round"/><path d="M{number(x + 1)} {number(middle)}h35" stroke="{INK}" stroke-width="1.2"/>'
        + box(x + 5, middle - 8.5, 26, 17, fill=INK, radius=8.5)
        + label(x + 18, middle + 4, share(value, 2)[:3], size=11, fill=PAPER, anchor="middle", font=MONO)
        + "</g>"
    )


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
    heading = [line for line in (clean_text(subtitle), _note(layout, len(nodes))) if line]
    text = max([sans_width(clean_text(title), 17, bold=True), *(sans_width(line, 12.5) for line in heading)])
    trees = -_columns(layout, 0.0)[-1][0] if layout.nodes else 0.0
    line_width = min(sum(map(_room, layout.alone)), max(trees, _ALONE_WIDTH))
    inside = max(trees, line_width, min(text, _MAX_TITLE), _LEGEND_WIDTH)
    right = _MARGIN + inside
    parts = [label(_MARGIN, _MARGIN + 13, title, size=17, fill=INK, bold=True, room=inside)]
    for i, line in enumerate(heading):
        parts.append(label(_MARGIN, _MARGIN + 35 + 19 * i, line, size=12.5, fill=MUTED, room=inside))
    top = _MARGIN + 40 + 19 * len(heading)
    columns = _columns(layout, right - (inside - trees) / 2 * (not layout.alone))
    boxes = [_tree_box(placed, columns, top) for placed in layout.nodes]
    parts += _edges(layout, columns, boxes)
    parts += [_node(placed.node, placed.run, place) for placed, place in zip(layout.nodes, boxes, strict=True)]
    top += layout.rows * _ROW
    if layout.alone and layout.nodes:
        top += 26
        parts.append(label(right, top - 6, "without any context:", size=11.5, fill=MUTED, anchor="end"))
    lines = _alone_boxes(layout.alone, max(line_width, _LONGEST_BOX), right, top)
    parts += [_node(node, 1, place) for node, place in zip(layout.alone, lines, strict=True)]
    bottom = max([top, *(place.y + (_ROW + _BOX) / 2 for place in lines)]) + 30
    parts += _legend(_MARGIN, bottom, right)
    width, height = round(inside + 2 * _MARGIN), round(bottom + 50)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img"><title>{escape(clean_text(title))}</title><rect x="0.5" y="0.5" width="{width - 1}" '
        f'height="{height - 1}" rx="10" fill="{PAPER}" stroke="#d5dae1"/>{"".join(parts)}</svg>'
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


def _edges(layout: Layout, columns: list[tuple[float, float]], boxes: list[Box]) -> list[str]:
    """Curves that bend between columns only, so that none runs over a node."""
    paths = []
    for placed, place in zip(layout.nodes, boxes, strict=True):
        if placed.parent is None:
            continue
        parent, parent_box = layout.nodes[placed.parent], boxes[placed.parent]
        x1, y1 = place.x + place.width, place.y + place.height / 2
        x2, y2 = columns[parent.column][0], parent_box.y + parent_box.height / 2
        bend = number((x1 + x2) / 2)
        curve = f"M{number(x1)} {number(y1)}C{bend} {number(y1)} {bend} {number(y2)} {number(x2)} {number(y2)}"
        curve += f"H{number(parent_box.x - _pill(parent.node))}"
        paths.append(f'<path d="{curve}" fill="none" stroke="{GREY}" stroke-width="1.6"/>')
    return paths


def _node(node: Node, run: int, place: Box) -> str:
    middle, centre = place.y + place.height / 2, place.x + place.width / 2
    parts = [f"<title>{_tooltip(node, run)}</title>"]
    if node.end_activation is not None:
        parts.append(ending(place.x - _PILL, middle, node.end_activation))
    if node.kind == "ignore":
        parts.append(box(*place, fill=PALE, stroke=GREY, radius=place.height / 2))
        text, drop = ("*", 6.5) if run == 1 else (f"*×{run}", 4.5)
        parts.append(label(centre, middle + drop, text, size=13, fill=MUTED, font=MONO, anchor="middle"))
    else:
        activating = node.kind == "activating"
        ramp, value = (activation_ramp, node.activation) if activating else (importance_ramp, node.importance)
        fill, ink = (PAPER, INK) if value is None else (ramp.color(value), ramp.ink(value))
        text = shorten(_text(node), _LONGEST)
        parts.append(box(*place, fill=fill, stroke=ramp.line, radius=7, dashed=value is None))
        parts.append(label(centre, middle + 4.7, text, size=13.5, fill=ink, font=MONO, anchor="middle"))
    return f'<g class="node {node.kind}">{"".join(parts)}</g>'


def _tooltip(node: Node, run: int) -> str:
    if node.kind == "ignore":
        lines = ["any token" if run == 1 else f"any {run} tokens"]
    elif node.kind == "activating":
        lines = [_text(node), f"activation {node.activation:.2f} of the largest"]
    elif node.importance is None:
        lines = [_text(node), "importance not measured"]
    else:
        lines = [_text(node), f"importance {node.importance:.2f}"]
    if node.end_activation is not None:
        count = counted(node.end_count, "prompt")
        lines.append(f"a path ends here: predicts {node.end_activation:.2f} ({count})")
    return escape(clean_text("; ".join(lines)))


def _legend(x: float, y: float, right: float) -> list[str]:
    parts = [f'<path d="M{number(x)} {number(y - 12)}H{number(right)}" stroke="#e3e6ea" stroke-width="1"/>']
    cursor = x
    for ramp, name in ((activation_ramp, "activating token: activation"), (importance_ramp, "context: importance")):
        parts.append(label(cursor, y + 10, name, size=11.5, fill=MUTED))
        for i in range(12):
            parts.append(box(cursor + 14 + i * 9, y + 18, 9, 10, fill=ramp.color((i + 0.5) / 12)))
        parts.append(label(cursor, y + 27, "0", size=11.5, fill=MUTED))
        parts.append(label(cursor + 14 + 12 * 9 + 6, y + 27, "1", size=11.5, fill=MUTED))
        cursor += 190
    parts.append(label(cursor, y + 10, "any token", size=11.5, fill=MUTED))
    parts.append(box(cursor, y + 14, 18, 18, fill=PALE, stroke=GREY, radius=9))
    parts.append(label(cursor + 9, y + 29.5, "*", size=13, fill=MUTED, font=MONO, anchor="middle"))
    cursor += 80
    parts.append(label(cursor, y + 10, "path ends, predicts", size=11.5, fill=MUTED))
    parts.append(ending(cursor, y + 23, 0.87))
    return parts


def _luminance(rgb: Iterable[int]) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (channel / 255 for channel in rgb)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
