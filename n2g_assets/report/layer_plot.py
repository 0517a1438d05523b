"""F1 of firing by layer: one mark a predictor with its interval, side by side at each layer.

1. Place the layers by their number, but no closer than a group of marks is wide.
2. Upper panel: the graph and what it has to beat; the paper's published line, if given, over relative depth.
3. Lower panel, on the same axis: the controls, with the graph again as their measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from n2g_assets.report.axes import Scale, Style, ceiling, curve, legend, marker, rows, styles, whisker
from n2g_assets.report.marks import INK, MUTED, box, document, label, sans_width

PUBLISHED_F1 = {0: 0.74, 1: 0.64, 2: 0.60, 3: 0.48, 4: 0.46, 5: 0.42}
"""Mean F1 of firing by layer that the paper (arXiv 2305.19911) gives for the six layers of SoLU-6L, 50 units each."""

_PUBLISHED = "#1f2933"
_LEFT, _MARGIN, _PANEL, _CONTROLS = 58.0, 28.0, 230.0, 130.0
_STEP, _NARROW, _GAP, _WIDTH = 10.0, 5.2, 8.0, 640.0
_LABEL_ROOM = 19.0


@dataclass(frozen=True)
class _Axis:
    """Where each layer's group of marks stands."""

    layers: tuple[int, ...]
    centres: tuple[float, ...]
    step: float
    right: float

    def at(self, layer: float) -> float:
        """The place of a depth between the layers, beyond them along the mean spacing."""
        if len(self.layers) == 1:
            return self.centres[0]
        return float(np.interp(layer, self.layers, self.centres))


def f1_by_layer(
    scores: pl.DataFrame,
    *,
    title: str,
    published: Mapping[int, float] | None = None,
    n_layers: int | None = None,
) -> str:
    """Mean F1 of firing over all units asked for (``f1_all``) with 95 % intervals, by layer and predictor.

    Args:
        scores: rows of table ``layer_scores`` of one study and one text.
        title: first line.
        published: F1 by layer of another model, drawn over relative depth; None draws none.
        n_layers: layers of the subject model, for the relative depth; None: the deepest layer is the last.

    Returns:
        The SVG document as text.
    """
    series = styles(scores["predictor"].unique().to_list())
    main = {name: style for name, style in series.items() if not style.control}
    controls = {name: style for name, style in series.items() if style.control}
    panels = [(main, _PANEL)]
    if controls:
        lower = {name: main[name] for name in ("graph",) if name in main} | controls
        panels = [(main, _PANEL), (lower, _CONTROLS)] if main else [(lower, _PANEL)]
    axis = _axis(scores["layer"].unique().sort().to_list(), max((len(shown) for shown, _ in panels), default=1))
    line = _published_line(published or {}, axis, n_layers)
    entries = [(marker(0, 0, style, 4.2), style.name) for style in main.values()]
    entries += [(marker(0, 0, style, 4.2), style.name) for style in controls.values()]
    width = max(axis.right + _MARGIN, min(sans_width(title, 16, True), _WIDTH) + 2 * _MARGIN)
    parts = [label(_MARGIN, 36, title, size=16, fill=INK, bold=True, room=width - 2 * _MARGIN)]
    if scores.is_empty():
        parts.append(label(_MARGIN, 66, "nothing evaluated yet", size=12.5, fill=MUTED))
        return document(width, 90, title, parts)
    top = 78.0
    for place, (shown, height) in enumerate(panels):
        words = "mean F1 of firing, all units asked for" if place == 0 else "controls"
        parts.append(label(_MARGIN, top - 16, words, size=11.5, fill=MUTED))
        parts += _panel(scores, shown, axis, top, height, line if place == 0 else [])
        top += height + (44 if place < len(panels) - 1 else 0)
    parts += _layer_labels(axis, top)
    parts.append(label((_LEFT + axis.right) / 2, top + 36, "layer", size=12, fill=MUTED, anchor="middle"))
    keys, bottom = legend(entries, _LEFT, top + 64, axis.right - _LEFT)
    if line:
        key = curve([(-12, 0), (12, 0)], _PUBLISHED, width=1.4, dashes="5 4")
        words = "published for SoLU-6L, another model, at the same relative depth"
        more, bottom = legend([(key, words)], _LEFT, bottom + 20, axis.right - _LEFT)
        keys += more
    note = "Whiskers: 95 % intervals, bootstrap over documents. A unit without a score counts 0."
    parts += [*keys, label(_LEFT, bottom + 26, note, size=11, fill=MUTED, room=axis.right - _LEFT)]
    return document(width, bottom + 44, title, parts)


def _axis(layers: Sequence[int], marks: int) -> _Axis:
    """Centres in proportion to the layers' numbers, no two groups closer than they are wide."""
    spans = np.diff(np.asarray(layers, dtype=np.float64))
    step = float(np.clip(_WIDTH / max(len(layers), 1) / (marks + 1), _NARROW, _STEP))
    narrowest = marks * step + _GAP
    room = max(_WIDTH, len(layers) * narrowest) - narrowest
    gaps = np.full(len(spans), narrowest)
    free = np.ones(len(spans), dtype=bool)
    while free.any():
        share = (room - gaps[~free].sum()) * spans[free] / spans[free].sum()
        if (share >= narrowest - 1e-9).all():
            gaps[free] = share
            break
        free[np.flatnonzero(free)[share < narrowest]] = False
    first = _LEFT + narrowest / 2 + (room / 2 if len(layers) == 1 else 0)
    centres = first + np.concatenate([[0.0], np.cumsum(gaps)])
    return _Axis(tuple(layers), tuple(centres[: len(layers)].tolist()), step, _LEFT + room + narrowest)


def _panel(
    scores: pl.DataFrame,
    shown: Mapping[str, Style],
    axis: _Axis,
    top: float,
    height: float,
    published: Sequence[tuple[float, float]],
) -> list[str]:
    """One panel: bands, grid, faint lines from layer to layer, intervals, marks."""
    points = {name: _points(scores.filter(pl.col("predictor") == name)) for name in shown}
    values = [value for row in points.values() for triple in row.values() for value in triple if value is not None]
    floor = top + height
    scale = Scale(0.0, ceiling([*values, *(value for _, value in published)]), floor, top)
    half = (len(shown) * axis.step + _GAP - 2) / 2
    parts = [box(centre - half, top, 2 * half, height, fill="#f6f7f9", radius=2) for centre in axis.centres]
    parts += rows(scale, _LEFT, axis.right)
    parts.append(curve([(x, scale(value)) for x, value in published], _PUBLISHED, width=1.4, dashes="5 4"))
    marks = []
    for i, (name, style) in enumerate(shown.items()):
        offset = (i - (len(shown) - 1) / 2) * axis.step
        places = [
            (axis.at(layer) + offset, scale(mean), low, high) for layer, (mean, low, high) in points[name].items()
        ]
        if not style.control:
            parts.append(curve([place[:2] for place in places], style.color, width=1.1, opacity=0.35))
        for x, y, low, high in places:
            if low is not None and high is not None:
                marks.append(whisker(x, scale(low), scale(high), style.color, min(2.5, axis.step / 3.2)))
            marks.append(marker(x, y, style, min(4.0, axis.step * 0.5)))
    return parts + marks


def _points(rows: pl.DataFrame) -> dict[int, tuple[float, float | None, float | None]]:
    """Mean and interval by layer; what is not a number counts as missing."""
    columns = ("f1_all", "f1_all_low", "f1_all_high")
    finite = rows.sort("layer").select(
        "layer", *(pl.when(pl.col(name).is_finite()).then(pl.col(name)) for name in columns)
    )
    return {layer: (mean, low, high) for layer, mean, low, high in finite.iter_rows() if mean is not None}


def _published_line(published: Mapping[int, float], axis: _Axis, n_layers: int | None) -> list[tuple[float, float]]:
    """The published values at the same relative depth, cut at the deepest layer that is shown."""
    if len(published) < 2 or len(axis.layers) < 2:
        return []
    last = (n_layers or axis.layers[-1] + 1) - 1
    first, deepest = min(published), max(published)
    depths = [(layer - first) / (deepest - first) * last for layer in sorted(published)]
    values = [published[layer] for layer in sorted(published)]
    begin, end = axis.layers[0], min(axis.layers[-1], last)
    inside = [depth for depth in depths if begin < depth < end]
    return [(axis.at(depth), float(np.interp(depth, depths, values))) for depth in (begin, *inside, end)]


def _layer_labels(axis: _Axis, floor: float) -> list[str]:
    """Layer numbers under their groups, left out where they would touch."""
    parts, last = [], -_LABEL_ROOM
    for layer, centre in zip(axis.layers, axis.centres, strict=True):
        if centre - last >= _LABEL_ROOM:
            parts.append(label(centre, floor + 17, str(layer), size=11.5, fill=MUTED, anchor="middle"))
            last = centre
    return parts
