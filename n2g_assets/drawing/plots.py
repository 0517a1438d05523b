"""Plots of scores, for the metadata of assets and for the report: small hand-made SVG, no plotting library.

``f1_by_layer`` shows how well firing is predicted with its uncertainty, ``precision_recall`` the choice of another
threshold, ``calibration`` what a predicted activation is worth. What they share is in ``axes``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from n2g_assets.drawing.curves import calibration, precision_recall
from n2g_assets.drawing.layer_plot import PUBLISHED_F1, f1_by_layer
from n2g_assets.drawing.marks import GREY, INK, MUTED, PALE, box, document, label, number, sans_width
from n2g_assets.drawing.text import clean_text

__all__ = ["PUBLISHED_F1", "as_markdown_image", "calibration", "f1_by_layer", "f1_histogram", "precision_recall"]

COLORS = ("#b3202c", "#2f6fab", "#e0a030", "#4b9a6a", "#7c5aa6", "#6b7683")
"""Of predictors, in their order: apart in hue and in lightness."""

_BINS = 10
_LEFT, _TOP, _BIN, _HEIGHT, _MARGIN = 58.0, 78.0, 54.0, 180.0, 28.0


def f1_histogram(f1_by_predictor: Mapping[str, Sequence[float | None]], title: str) -> str:
    """A histogram of F1 over units, the predictors' bars side by side, undefined ones in a column of their own.

    Args:
        f1_by_predictor: F1 of firing of every unit, None where undefined; at most six predictors.
        title: first line.

    Returns:
        The SVG document as text. The legend gives each predictor's mean over the units where F1 is defined.
    """
    counts = {name: _bins(values) for name, values in f1_by_predictor.items()}
    highest, step = _axis(max((max(column) for column in counts.values()), default=0))
    right, floor = _LEFT + _BIN * (_BINS + 1) + 22, _TOP + _HEIGHT
    legend = [_entry(name, values) for name, values in f1_by_predictor.items()]
    width = max([right, *(_LEFT + 20 + sans_width(entry, 12.5) for entry in legend)]) + _MARGIN
    parts = [label(_MARGIN, 36, title, size=16, fill=INK, bold=True, room=width - 2 * _MARGIN)]
    for count in range(0, highest + 1, step):
        y = floor - _HEIGHT * count / highest
        parts.append(_line(_LEFT, y, right, GREY if count == 0 else PALE))
        parts.append(label(_LEFT - 8, y + 4, f"{count:,}", size=11.5, fill=MUTED, anchor="end"))
    parts.append(label(_MARGIN, _TOP - 14, "units", size=11.5, fill=MUTED))
    bar = (_BIN - 12) / max(len(counts), 1)
    numbered = sans_width(str(highest), 9.5) <= bar + 2
    for i, column in enumerate(counts.values()):
        for place, count in enumerate(column):
            height = _HEIGHT * count / highest
            x = _column(place) + 6 + i * bar
            if count:
                parts.append(box(x, floor - height, bar - 1.5, height, fill=COLORS[i % len(COLORS)], radius=1.5))
                if numbered:
                    parts.append(
                        label(x + bar / 2, floor - height - 3, str(count), size=9.5, fill=MUTED, anchor="middle")
                    )
    for tick in range(_BINS + 1):
        share = "0" if tick == 0 else "1" if tick == _BINS else f".{tick}"
        parts.append(label(_LEFT + _BIN * tick, floor + 17, share, size=11.5, fill=MUTED, anchor="middle"))
    centre = _column(_BINS) + _BIN / 2
    parts.append(label(centre, floor + 17, "undefined", size=11.5, fill=MUTED, anchor="middle"))
    parts.append(label(_LEFT + _BIN * _BINS / 2, floor + 36, "F1 of firing", size=12, fill=MUTED, anchor="middle"))
    for i, entry in enumerate(legend):
        y = floor + 62 + 20 * i
        parts.append(box(_LEFT, y - 10, 12, 12, fill=COLORS[i % len(COLORS)], radius=2))
        parts.append(label(_LEFT + 20, y, entry, size=12.5, fill=INK))
    return document(width, floor + 62 + 20 * len(legend) + 4, title, parts)


def as_markdown_image(svg: str, alt: str = "picture") -> str:
    """An SVG document as a markdown image that carries its own data, for places that render markdown."""
    data = base64.b64encode(svg.encode("utf-8")).decode("ascii")
    name = "".join(character for character in clean_text(alt) if character not in "[]()\\<>`!")
    return f"![{name}](data:image/svg+xml;base64,{data})"


def _bins(values: Sequence[float | None]) -> list[int]:
    """Units in each tenth of [0, 1], 1 counted in the last, and undefined ones at the end."""
    counts = [0] * (_BINS + 1)
    for value in values:
        counts[_BINS if value is None else min(int(value * _BINS + 1e-9), _BINS - 1)] += 1
    return counts


def _axis(largest: int) -> tuple[int, int]:
    """Upper end and step of the count axis: round numbers, at most six steps."""
    largest = max(largest, 1)
    step = next(m * 10**k for k in range(12) for m in (1, 2, 5) if m * 10**k * 5 >= largest)
    return step * -(-largest // step), step


def _column(place: int) -> float:
    return _LEFT + _BIN * place + (22 if place == _BINS else 0)


def _entry(name: str, values: Sequence[float | None]) -> str:
    defined = [value for value in values if value is not None]
    mean = (
        f"mean {sum(defined) / len(defined):.2f} over {len(defined):,} unit{'' if len(defined) == 1 else 's'}"
        if defined
        else "nowhere defined"
    )
    undefined = f", undefined for {len(values) - len(defined):,}" if len(defined) < len(values) and defined else ""
    return clean_text(f"{name.replace('_', ' ')}: {mean}{undefined}")


def _line(x: float, y: float, right: float, color: str) -> str:
    return f'<path d="M{number(x)} {number(y)}H{number(right)}" stroke="{color}" stroke-width="1"/>'
