"""A token graph as one self-contained SVG picture.

The text runs to the right as in a sentence: activating tokens stand in the rightmost column, the context they need to
their left, and a mark at the left end of a path gives what it predicts. The picture brings its own background, uses
the reader's fonts only, and refers to nothing outside itself; every token is escaped and made visible.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import polars as pl

from n2g_assets.report.layout import Layout, Node, lay_out
from n2g_assets.report.marks import (
    GREY,
    INK,
    MONO,
    MUTED,
    PALE,
    PAPER,
    activation_ramp,
    box,
    document,
    ending,
    escaped,
    importance_ramp,
    label,
    number,
    sans_width,
)
from n2g_assets.report.text import clean_text, display_text, shorten, text_width

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
    inside = max(_trees_width(layout), _alone_width(layout), min(text, _MAX_TITLE), _LEGEND_WIDTH)
    right = _MARGIN + inside
    parts = [label(_MARGIN, _MARGIN + 13, title, size=17, fill=INK, bold=True, room=inside)]
    for i, line in enumerate(heading):
        parts.append(label(_MARGIN, _MARGIN + 35 + 19 * i, line, size=12.5, fill=MUTED, room=inside))
    top = _MARGIN + 40 + 19 * len(heading)
    boxes = _tree_boxes(layout, right - (inside - _trees_width(layout)) / 2 * (not layout.alone), top)
    parts += _edges(layout, boxes)
    parts += [_node(placed.node, placed.run, place) for placed, place in zip(layout.nodes, boxes, strict=True)]
    top += layout.rows * _ROW
    if layout.alone and layout.nodes:
        top += 26
        parts.append(label(right, top - 6, "without any context:", size=11.5, fill=MUTED, anchor="end"))
    lines = _alone_boxes(layout, right, top)
    parts += [_node(node, 1, place) for node, place in zip(layout.alone, lines, strict=True)]
    bottom = max([top, *(place.y + (_ROW + _BOX) / 2 for place in lines)]) + 30
    parts += _legend(_MARGIN, bottom, right)
    return document(inside + 2 * _MARGIN, bottom + 50, title, parts)


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


def _columns(layout: Layout, right: float) -> list[tuple[float, float]]:
    """Left and right edge of every column of the trees, the rightmost first, with room for end marks."""
    widths: list[float] = []
    for placed in layout.nodes:
        widths.extend([0.0] * (placed.column + 1 - len(widths)))
        widths[placed.column] = max(widths[placed.column], _node_width(placed.node, placed.run) + _pill(placed.node))
    columns = []
    for width in widths:
        columns.append((right - width, right))
        right -= width + _GAP
    return columns


def _trees_width(layout: Layout) -> float:
    columns = _columns(layout, 0.0)
    return -columns[-1][0] if columns else 0.0


def _alone_width(layout: Layout) -> float:
    """Width of the lines of nodes without context: as wide as the trees, if that is enough to be readable."""
    everything = sum(_alone(node) for node in layout.alone)
    return min(everything, max(_trees_width(layout), _ALONE_WIDTH))


def _tree_boxes(layout: Layout, right: float, top: float) -> list[Box]:
    columns = _columns(layout, right)
    boxes = []
    for placed in layout.nodes:
        width = _node_width(placed.node, placed.run)
        height = 2 * _DOT if placed.node.kind == "ignore" else _BOX
        middle = top + (placed.row + 0.5) * _ROW
        boxes.append(Box(columns[placed.column][1] - width, middle - height / 2, width, height))
    return boxes


def _alone_boxes(layout: Layout, right: float, top: float) -> list[Box]:
    """Nodes without context in lines that end on the right, the first the strongest."""
    room, used = max(_alone_width(layout), _LONGEST_BOX), 0.0
    lines: list[list[Node]] = [[]]
    for node in layout.alone:
        width = _alone(node)
        if lines[-1] and used + width > room + _ALONE_GAP:
            lines.append([])
            used = 0.0
        lines[-1].append(node)
        used += width
    boxes = []
    for i, line in enumerate(lines):
        x = right + _ALONE_GAP - sum(_alone(node) for node in line)
        for node in line:
            boxes.append(Box(x + _pill(node), top + i * _ROW + (_ROW - _BOX) / 2, _node_width(node, 1), _BOX))
            x += _alone(node)
    return boxes


def _alone(node: Node) -> float:
    """Room that a node takes in a line of nodes without context."""
    return _node_width(node, 1) + _pill(node) + _ALONE_GAP


def _edges(layout: Layout, boxes: list[Box]) -> list[str]:
    """Curves that bend between columns only, so that none runs over a node."""
    right = max((place.x + place.width for place in boxes), default=0.0)
    columns = _columns(layout, right)
    paths = []
    for placed, place in zip(layout.nodes, boxes, strict=True):
        if placed.parent is None:
            continue
        parent, parent_box = layout.nodes[placed.parent], boxes[placed.parent]
        x1, y1 = place.x + place.width, place.y + place.height / 2
        x2, y2 = columns[parent.column][0], parent_box.y + parent_box.height / 2
        curve = f"M{number(x1)} {number(y1)}C{number((x1 + x2) / 2)} {number(y1)} "
        curve += f"{number((x1 + x2) / 2)} {number(y2)} {number(x2)} {number(y2)}"
        curve += f"H{number(parent_box.x - _pill(parent.node))}"
        paths.append(f'<path d="{curve}" fill="none" stroke="{GREY}" stroke-width="1.6"/>')
    return paths


def _node(node: Node, run: int, place: Box) -> str:
    middle, centre = place.y + place.height / 2, place.x + place.width / 2
    parts = [f"<title>{_tooltip(node, run)}</title>"]
    if node.end_activation is not None:
        parts.append(ending(place.x - _PILL, middle, node.end_activation))
    if node.kind == "ignore":
        radius = place.height / 2
        parts.append(box(*place, fill=PALE, stroke=GREY, radius=radius))
        text, drop = ("*", 6.5) if run == 1 else (f"*×{run}", 4.5)
        parts.append(label(centre, middle + drop, text, size=13, fill=MUTED, font=MONO, anchor="middle"))
    else:
        activating = node.kind == "activating"
        ramp, value = (activation_ramp, node.activation) if activating else (importance_ramp, node.importance)
        text = shorten(_text(node), _LONGEST)
        ink = ramp.ink(value) if value is not None else INK
        look: dict[str, Any] = {"fill": PAPER, "dashed": True} if value is None else {"fill": ramp.color(value)}
        parts.append(box(*place, stroke=ramp.line, radius=7, **look))
        parts.append(label(centre, middle + 4.7, text, size=13.5, fill=ink, font=MONO, anchor="middle"))
    return f'<g class="node {node.kind}">{"".join(parts)}</g>'


def _tooltip(node: Node, run: int) -> str:
    if node.kind == "ignore":
        lines = ["any token" if run == 1 else f"any {run} tokens"]
    else:
        lines = [_text(node)]
        if node.kind == "activating":
            lines.append(f"activation {node.activation:.2f} of the largest")
        else:
            lines.append("importance not measured" if node.importance is None else f"importance {node.importance:.2f}")
    if node.end_activation is not None:
        count = f"{node.end_count:,} prompt{'' if node.end_count == 1 else 's'}"
        lines.append(f"a path ends here: predicts {node.end_activation:.2f} ({count})")
    return escaped("; ".join(lines))


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
