"""Precision-recall curves and calibration of predictors, from counts that were summed over units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from n2g_assets.report.axes import (
    Scale,
    Style,
    count_text,
    curve,
    legend,
    line,
    marker,
    rows,
    share_text,
    steps,
    styles,
    tick_text,
)
from n2g_assets.report.marks import GREY, INK, MUTED, PALE, box, document, label, number, sans_width

_LEFT, _MARGIN, _TOP, _SIDE = 58.0, 24.0, 78.0, 380.0
_HEADS, _COLUMN, _HEIGHT = 136.0, 31.0, 300.0


def precision_recall(
    levels: Mapping[str, tuple[Sequence[int], Sequence[int]]], *, title: str, threshold: float = 0.5
) -> str:
    """Precision-recall curves of firing, the predicted activation as score.

    Args:
        levels: of each predictor, firing and silent tokens by their prediction in hundredths, 0 to 100 (columns
            ``levels_firing`` and ``levels_silent`` of table ``layer_scores``, summed over what is pooled).
        title: first line.
        threshold: prediction from which a token is predicted to fire; marked on every curve.

    Returns:
        The SVG document as text. A step of a curve has the precision reached at its right end, so that the area
        under a curve is its average precision; the dotted rest are tokens of which the predictor says nothing.
    """
    right, floor = _LEFT + _SIDE, _TOP + _SIDE
    x, y = Scale(0.0, 1.0, _LEFT, right), Scale(0.0, 1.0, floor, _TOP)
    parts = rows(y, _LEFT, right)
    for value in steps(x):
        parts.append(line(x(value), _TOP, x(value), floor, GREY if value == 0 else PALE))
        parts.append(label(x(value), floor + 17, tick_text(value), size=11.5, fill=MUTED, anchor="middle"))
    parts.append(label((_LEFT + right) / 2, floor + 36, "recall of firing", size=12, fill=MUTED, anchor="middle"))
    curves, points, entries, shares = [], [], [], []
    for name, style in styles(levels).items():
        firing, silent = (np.asarray(counts, dtype=np.float64) for counts in levels[name])
        key = marker(0, 0, style, 4.4)
        if firing.sum() <= 0:
            entries.append((key, f"{style.name} –"))
            continue
        recall, precision = _sweep(firing, silent)
        shares.append(float(precision[-1]))
        area = float(np.sum(np.diff(recall, prepend=0.0) * precision))
        entries.append((key, f"{style.name} {share_text(area)}"))
        corners = _staircase(recall[:-1], precision[:-1])
        curves.append(curve([(x(r), y(p)) for r, p in corners], style.color, width=1.8))
        rest = [*corners[-1:], *_staircase(recall[-2:], precision[-2:])[-2:]]
        curves.append(curve([(x(r), y(p)) for r, p in rest], style.color, width=1.2, dashes="1.5 3", opacity=0.8))
        if firing[_from(threshold) :].sum() + silent[_from(threshold) :].sum() > 0:
            at = len(firing) - 1 - _from(threshold)
            points.append(marker(x(float(recall[at])), y(float(precision[at])), style, 5.2))
    parts += [*curves, *points]
    share = f"{np.median(shares):.2%}".replace("%", " %") if shares else "None"
    notes = (
        f"Numbers: area under the curve. Marks: predicted to fire from {tick_text(threshold)} on.",
        f"{share} of the tokens fire. Dotted: where the predictor says nothing.",
    )
    return _finished(parts, entries, title, "precision of firing", right, floor + 64, notes)


def calibration(bins: Mapping[str, tuple[Sequence[int], Sequence[float], Sequence[float]]], *, title: str) -> str:
    """Mean actual activation by mean predicted activation, and how many tokens stand behind each mean.

    Args:
        bins: of each predictor, tokens, sum of the predicted and sum of the actual normalised activations in eleven
            bins of the prediction (columns ``calibration_*`` of table ``evaluation``, summed over units): 0, (0, .1),
            [.1, .2) and so on, .9 and more.
        title: first line.

    Returns:
        The SVG document as text.
    """
    shown = styles(bins)
    means = {name: _means(*bins[name]) for name in shown}
    actual = np.concatenate([mean[:, 1] for mean in means.values()] or [np.zeros(0)])
    low = min(0.0, np.floor(float(np.min(actual, initial=0.0)) * 10 + 1e-9) / 10)
    high = max(1.0, np.ceil(float(np.max(actual, initial=0.0)) * 10 - 1e-9) / 10)
    left, right, floor = _HEADS + _COLUMN, _HEADS + 11 * _COLUMN, _TOP + _HEIGHT
    x, y = Scale(0.0, 1.0, left, right), Scale(low, high, floor, _TOP)
    parts = [box(_HEADS, _TOP, _COLUMN, _HEIGHT, fill="#f6f7f9"), *rows(y, _HEADS, right)]
    for value in steps(Scale(0.0, 1.0, 0.0, 1.0)):
        place = x(value) if value > 0 else _HEADS + _COLUMN / 2
        parts.append(line(x(value), _TOP, x(value), floor, PALE))
        parts.append(label(place, floor + 17, tick_text(value), size=11.5, fill=MUTED, anchor="middle"))
    parts.append(line(x(0), y(0), x(1), y(1), GREY, width=1.2, dashes="5 4"))
    drawn = []
    for i, (name, style) in enumerate(shown.items()):
        silent = _HEADS + _COLUMN * (i + 1) / (len(shown) + 1)
        places = [(x(min(p, 1.05)) if p > 0 else silent, y(a), n) for p, a, n in means[name]]
        parts.append(curve([place[:2] for place in places if place[0] >= left], style.color, width=1.1, opacity=0.45))
        drawn += [(n, marker(px, py, style, 2.4 + 0.5 * np.log10(n), opacity=0.85)) for px, py, n in places]
    parts += [mark for _, mark in sorted(drawn, key=lambda pair: -pair[0])]
    middle = (_HEADS + right) / 2
    parts.append(label(middle, floor + 36, "mean predicted activation", size=12, fill=MUTED, anchor="middle"))
    top = floor + 62
    parts.append(label(_MARGIN, top, "tokens", size=11, fill=MUTED))
    for i, (name, style) in enumerate(shown.items()):
        base = top + 19 * (i + 1)
        parts += _counted(style, bins[name][0], base)
    return _finished(parts, [], title, "mean actual activation", right, top + 19 * len(shown) + 26, ())


def _sweep(
    firing: Float64[np.ndarray, " levels"], silent: Float64[np.ndarray, " levels"]
) -> tuple[Float64[np.ndarray, " levels"], Float64[np.ndarray, " levels"]]:
    """Recall and precision with the threshold at each level, from the highest level to 0; precision 1 before any."""
    hits, alarms = np.cumsum(firing[::-1]), np.cumsum((firing + silent)[::-1])
    return hits / firing.sum(), np.where(alarms > 0, hits / np.maximum(alarms, 1), 1.0)


def _staircase(
    recall: Float64[np.ndarray, " levels"], precision: Float64[np.ndarray, " levels"]
) -> list[tuple[float, float]]:
    """The corners of a curve whose every step has the precision of its right end."""
    corners: list[tuple[float, float]] = []
    before = 0.0
    for r, p in zip(recall.tolist(), precision.tolist(), strict=True):
        if r > before:
            corners += [(before, p), (r, p)]
        elif corners:
            corners.append((r, p))
        before = r
    return corners


def _from(threshold: float) -> int:
    """The first level at or above the threshold."""
    return int(np.ceil(threshold * 100 - 1e-9))


def _means(
    tokens: Sequence[int], predicted: Sequence[float], actual: Sequence[float]
) -> Float64[np.ndarray, " bins 3"]:
    """Mean predicted, mean actual and number of tokens of every bin that holds any and whose sums are numbers."""
    table = np.stack([np.asarray(column, dtype=np.float64) for column in (predicted, actual, tokens)], axis=1)
    table = table[(table[:, 2] > 0) & np.isfinite(table).all(axis=1)]
    return np.concatenate([table[:, :2] / table[:, 2:], table[:, 2:]], axis=1)


def _counted(style: Style, tokens: Sequence[int], base: float) -> list[str]:
    """One line under the axis: marker, name and the tokens of each bin."""
    parts = [
        f'<g transform="translate({number(_MARGIN + 5)} {number(base - 4)})">{marker(0, 0, style, 4.0)}</g>',
        label(_MARGIN + 16, base, style.name, size=11, fill=INK, room=_HEADS - _MARGIN - 16),
    ]
    for place, count in enumerate(tokens):
        centre = _HEADS + _COLUMN * (place + 0.5)
        parts.append(
            label(centre, base, count_text(int(count)) if count else "–", size=10, fill=MUTED, anchor="middle")
        )
    return parts


def _finished(
    parts: list[str],
    entries: Sequence[tuple[str, str]],
    title: str,
    vertical: str,
    right: float,
    bottom: float,
    notes: Sequence[str],
) -> str:
    """The document: title and name of the vertical axis above, legend and notes below."""
    width = right + _MARGIN
    bold_room = width - 2 * _MARGIN
    keys, end = legend(entries, _MARGIN, bottom, right - _MARGIN)
    for i, note in enumerate(notes):
        keys.append(label(_MARGIN, end + 25 + 16 * i, note, size=10.5, fill=MUTED, room=width - _MARGIN))
    end += 25 + 16 * (len(notes) - 1) if notes else -12
    size = 16 if sans_width(title, 16, True) <= bold_room else 14
    heading = [
        label(_MARGIN, 36, title, size=size, fill=INK, bold=True, room=bold_room),
        label(_MARGIN, _TOP - 16, vertical, size=11.5, fill=MUTED),
    ]
    return document(width, end + 20, title, [*heading, *parts, *keys])
