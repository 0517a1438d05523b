"""A token graph as one self-contained SVG picture.

The text runs to the right as in a sentence: activating tokens stand in the rightmost column, the context they need to
their left, and a mark at the left end of a path gives what it predicts. The picture brings its own background, uses
the reader's fonts only, and refers to nothing outside itself; every token is escaped and made visible.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from n2g_assets.drawing.layout import Layout, PlacedNode, lay_out
from n2g_assets.drawing.marks import (
    GREY,
    INK,
    MONO,
    MUTED,
    Ramp,
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
from n2g_assets.drawing.text import clean_text, display_text, shorten, text_width

_MARGIN, _ROW, _BOX, _GAP = 28.0, 38.0, 27.0, 44.0
_CHARACTER, _PADDING, _LONGEST = 8.2, 11.0, 24
_PILL, _DOT, _SMALLEST = 36.0, 9.0, 34.0
_LEGEND_WIDTH, _MAX_TITLE = 560.0, 1000.0


@dataclass(frozen=True)
class Box:
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
    note = _note(layout, len(nodes))
    heading = [line for line in (subtitle, note) if line]
    content = sum(_column_widths(layout)) + _GAP * max(len(_column_widths(layout)) - 1, 0)
    text = max([sans_width(clean_text(title), 17, bold=True), *(sans_width(line, 12.5) for line in heading)])
    width = 2 * _MARGIN + max(content, min(text, _MAX_TITLE), _LEGEND_WIDTH)
    top = _MARGIN + 22 + 19 * len(heading) + 18
    bottom = top + layout.rows * _ROW + 14
    parts = [label(_MARGIN, _MARGIN + 13, title, size=17, fill=INK, bold=True, room=width - 2 * _MARGIN)]
    for i, line in enumerate(heading):
        parts.append(label(_MARGIN, _MARGIN + 35 + 19 * i, line, size=12.5, fill=MUTED, room=width - 2 * _MARGIN))
    boxes = _boxes(layout, right=width / 2 + content / 2, top=top)
    parts += _edges(layout, boxes)
    parts += [_node(placed, place) for placed, place in zip(layout.nodes, boxes, strict=True)]
    parts += _legend(_MARGIN, bottom + 16, width)
    return document(width, bottom + 66, title, parts)


def node_boxes(nodes: pl.DataFrame, max_nodes: int = 40) -> list[Box]:
    """The rectangles that ``draw_graph`` would draw, up to a shift, in the order of ``lay_out``; for tests."""
    return _boxes(lay_out(nodes, max_nodes), right=0.0, top=0.0)


def _note(layout: Layout, total: int) -> str:
    if not total:
        return "The graph is empty: it predicts silence everywhere."
    if not layout.hidden_nodes:
        return ""
    rules = f" and {layout.hidden_rules:,} weaker rules" if layout.hidden_rules else ""
    return f"Strongest rules only: {layout.hidden_nodes:,} of {total:,} nodes{rules} are not shown."


def _token(placed: PlacedNode) -> str:
    return display_text(placed.node.token or b"")


def _node_width(placed: PlacedNode) -> float:
    if placed.node.kind == "ignore":
        return 2 * _DOT if placed.run == 1 else 2 * _DOT + _CHARACTER * len(f"×{placed.run}") + 2
    return max(_SMALLEST, 2 * _PADDING + _CHARACTER * text_width(shorten(_token(placed), _LONGEST)))


def _column_widths(layout: Layout) -> list[float]:
    """Width of every column, the rightmost first, with room for end marks."""
    widths: list[float] = []
    for placed in layout.nodes:
        widths.extend([0.0] * (placed.column + 1 - len(widths)))
        pill = _PILL if placed.node.end_activation is not None else 0.0
        widths[placed.column] = max(widths[placed.column], _node_width(placed) + pill)
    return widths


def _boxes(layout: Layout, right: float, top: float) -> list[Box]:
    edges, edge = [], right
    for width in _column_widths(layout):
        edges.append(edge)
        edge -= width + _GAP
    boxes = []
    for placed in layout.nodes:
        width = _node_width(placed)
        height = 2 * _DOT if placed.node.kind == "ignore" else _BOX
        middle = top + (placed.row + 0.5) * _ROW
        boxes.append(Box(edges[placed.column] - width, middle - height / 2, width, height))
    return boxes


def _edges(layout: Layout, boxes: list[Box]) -> list[str]:
    paths = []
    for placed, place in zip(layout.nodes, boxes, strict=True):
        if placed.parent is None:
            continue
        parent, parent_box = layout.nodes[placed.parent], boxes[placed.parent]
        x1, y1 = place.x + place.width, place.y + place.height / 2
        x2, y2 = parent_box.x, parent_box.y + parent_box.height / 2
        if parent.node.end_activation is not None:
            x2 -= _PILL
        bend = max((x2 - x1) / 2, 12.0)
        curve = f"M{number(x1)} {number(y1)}C{number(x1 + bend)} {number(y1)} "
        curve += f"{number(x2 - bend)} {number(y2)} {number(x2)} {number(y2)}"
        paths.append(f'<path d="{curve}" fill="none" stroke="{GREY}" stroke-width="1.6"/>')
    return paths


def _node(placed: PlacedNode, place: Box) -> str:
    node = placed.node
    middle = place.y + place.height / 2
    parts = [f"<title>{_tooltip(placed)}</title>"]
    if node.end_activation is not None:
        parts.append(ending(place.x - _PILL, middle, node.end_activation))
    if node.kind == "ignore":
        radius = place.height / 2
        parts.append(box(place.x, place.y, place.width, place.height, fill="#eceef1", stroke=GREY, radius=radius))
        text = "*" if placed.run == 1 else f"*×{placed.run}"
        drop = 6.5 if placed.run == 1 else 4.5
        parts.append(
            label(place.x + place.width / 2, middle + drop, text, size=13, fill=MUTED, font=MONO, anchor="middle")
        )
    else:
        ramp = activation_ramp if node.kind == "activating" else importance_ramp
        value = node.activation if node.kind == "activating" else node.importance
        text = shorten(_token(placed), _LONGEST)
        parts.append(_filled(place, ramp, value))
        ink = ramp.ink(value) if value is not None else INK
        parts.append(
            label(place.x + place.width / 2, middle + 4.7, text, size=13.5, fill=ink, font=MONO, anchor="middle")
        )
    return f'<g class="node {node.kind}">{"".join(parts)}</g>'


def _filled(place: Box, ramp: Ramp, value: float | None) -> str:
    if value is None:
        return box(place.x, place.y, place.width, place.height, fill="#ffffff", stroke=ramp.line, radius=7, dashed=True)
    return box(place.x, place.y, place.width, place.height, fill=ramp.color(value), stroke=ramp.line, radius=7)


def _tooltip(placed: PlacedNode) -> str:
    node = placed.node
    if node.kind == "ignore":
        lines = ["any token" if placed.run == 1 else f"any {placed.run} tokens"]
    else:
        lines = [_token(placed)]
        if node.kind == "activating":
            lines.append(f"activation {node.activation:.2f} of the largest")
        else:
            lines.append("importance not measured" if node.importance is None else f"importance {node.importance:.2f}")
    if node.end_activation is not None:
        count = f"{node.end_count:,} prompt{'' if node.end_count == 1 else 's'}"
        lines.append(f"a path ends here: predicts {node.end_activation:.2f} ({count})")
    return escaped("; ".join(lines))


def _legend(x: float, y: float, width: float) -> list[str]:
    parts = [f'<path d="M{number(x)} {number(y - 12)}H{number(width - x)}" stroke="#e3e6ea" stroke-width="1"/>']
    cursor = x
    for ramp, name in ((activation_ramp, "activating token: activation"), (importance_ramp, "context: importance")):
        parts.append(label(cursor, y + 10, name, size=11.5, fill=MUTED))
        for i in range(12):
            parts.append(box(cursor + 14 + i * 9, y + 18, 9, 10, fill=ramp.color((i + 0.5) / 12)))
        parts.append(label(cursor, y + 27, "0", size=11.5, fill=MUTED))
        parts.append(label(cursor + 14 + 12 * 9 + 6, y + 27, "1", size=11.5, fill=MUTED))
        cursor += 190
    parts.append(label(cursor, y + 10, "any token", size=11.5, fill=MUTED))
    parts.append(box(cursor, y + 14, 18, 18, fill="#eceef1", stroke=GREY, radius=9))
    parts.append(label(cursor + 9, y + 29.5, "*", size=13, fill=MUTED, font=MONO, anchor="middle"))
    cursor += 80
    parts.append(label(cursor, y + 10, "path ends, predicts", size=11.5, fill=MUTED))
    parts.append(ending(cursor, y + 23, 0.87))
    return parts
