"""What the plots of scores share: how each predictor looks, scales, markers, grids and legends.

Colours are Okabe and Ito's, which readers with impaired colour vision can tell apart, and every predictor has a
marker of its own besides. Controls are hollow and muted. A predictor looks the same in every plot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from n2g_assets.report.marks import GREY, INK, MUTED, PALE, PAPER, label, number, sans_width


@dataclass(frozen=True)
class Style:
    """How a predictor looks: its name for reading, colour and marker, and whether it is a control."""

    name: str
    color: str
    marker: str
    control: bool = False


STYLES = {
    "graph": Style("graph", "#d55e00", "circle"),
    "token_lookup": Style("token lookup", "#0072b2", "square"),
    "ngram": Style("n-gram", "#56b4e9", "up"),
    "ngram_backoff": Style("back-off n-gram", "#009e73", "diamond"),
    "skip_bigram": Style("skip-bigrams", "#cc79a7", "down"),
    "graph_unaugmented": Style("unaugmented graph", "#b58256", "circle", control=True),
    "graph_shuffled": Style("shuffled graph", "#5b6673", "square", control=True),
    "graph_reinitialised": Style("reinitialised graph", "#7d8894", "diamond", control=True),
    "always_zero": Style("always zero", "#98a2ad", "cross", control=True),
}
"""Of every predictor, in the order of plots and tables."""

_OTHERS = (("#e69f00", "plus"), ("#1f2933", "up"), ("#7c5aa6", "down"))


def styles(predictors: Iterable[str]) -> dict[str, Style]:
    """The styles of these predictors in their fixed order; unknown ones come last, by name."""
    names = set(predictors)
    known = {name: style for name, style in STYLES.items() if name in names}
    unknown = {
        name: Style(name.replace("_", " "), *_OTHERS[i % len(_OTHERS)])
        for i, name in enumerate(sorted(names - set(known)))
    }
    return known | unknown


@dataclass(frozen=True)
class Scale:
    """A straight map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value; values outside are not cut."""
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


def ceiling(values: Iterable[float]) -> float:
    """The upper end of an axis of shares: the smallest of a few round numbers that no value exceeds, at most 1."""
    largest = max(values, default=1.0)
    return next((end for end in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8) if largest <= end), 1.0)


def steps(scale: Scale) -> list[float]:
    """Four to six round values from the lower to the upper end of a scale that begins and ends at round numbers."""
    span = scale.high - scale.low
    step = next(
        step
        for power in range(-2, 9)
        for step in (10.0**power, 2 * 10.0**power, 5 * 10.0**power)
        if span / step <= 6.01
    )
    first = math.ceil(scale.low / step - 1e-9)
    return [step * k for k in range(first, math.floor(scale.high / step + 1e-9) + 1)]


def share_text(value: float, digits: int = 2) -> str:
    """A share as .87, 0 or 1, with a true minus sign; trailing zeros stay where the digits are asked for."""
    text = f"{abs(value):.{digits}f}"
    text = text[1:] if text.startswith("0.") else text
    return ("−" if value < 0 and text.strip(".0") else "") + text


def tick_text(value: float) -> str:
    """A tick of an axis of shares: 0, .2, .05, 1."""
    text = share_text(value).rstrip("0").rstrip(".")
    return text or "0"


def count_text(count: int) -> str:
    """A count in at most four characters or so: 812, 1.2k, 34k, 5.6M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            value = count / size
            return f"{value:.1f}".removesuffix(".0") + letter if value < 9.95 else f"{value:.0f}{letter}"
    return str(count)


def line(x1: float, y1: float, x2: float, y2: float, color: str, *, width: float = 1.0, dashes: str = "") -> str:
    """A straight line."""
    return curve([(x1, y1), (x2, y2)], color, width=width, dashes=dashes)


def curve(
    points: Sequence[tuple[float, float]], color: str, *, width: float = 1.6, dashes: str = "", opacity: float = 1.0
) -> str:
    """A line through points; nothing for fewer than two."""
    if len(points) < 2:
        return ""
    path = "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    pale = f' stroke-opacity="{opacity:g}"' if opacity < 1 else ""
    return (
        f'<path d="{path}" fill="none" stroke="{color}" stroke-width="{number(width)}" stroke-linejoin="round"'
        f"{dashed}{pale}/>"
    )


def marker(x: float, y: float, style: Style, radius: float = 4.0, *, opacity: float = 1.0) -> str:
    """A predictor's marker around a point, all of about the same area; those of controls are hollow."""
    fill = PAPER if style.control else style.color
    paint = (
        f'fill="{fill}" stroke="{style.color if style.control else PAPER}" stroke-width="{1.4 if style.control else 1}"'
    )
    pale = f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
    if style.marker == "circle":
        return f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(radius)}" {paint}{pale}/>'
    if style.marker in ("cross", "plus"):
        r = radius * 0.9
        ways = ((-r, -r, r, r), (-r, r, r, -r)) if style.marker == "cross" else ((-r, 0, r, 0), (0, -r, 0, r))
        return "".join(line(x + a, y + b, x + c, y + d, style.color, width=1.8) for a, b, c, d in ways)
    corners = {
        "square": ((-0.89, -0.89), (0.89, -0.89), (0.89, 0.89), (-0.89, 0.89)),
        "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
        "up": ((0, -1.25), (1.2, 0.9), (-1.2, 0.9)),
        "down": ((0, 1.25), (1.2, -0.9), (-1.2, -0.9)),
    }[style.marker]
    path = "M" + "L".join(f"{x + radius * a:.2f} {y + radius * b:.2f}" for a, b in corners) + "Z"
    return f'<path d="{path}" {paint} stroke-linejoin="round"{pale}/>'


def whisker(x: float, low: float, high: float, color: str, cap: float = 2.5) -> str:
    """An interval: a vertical line with short caps."""
    d = f"M{number(x)} {number(low)}V{number(high)}"
    d += "".join(f"M{number(x - cap)} {number(y)}h{number(2 * cap)}" for y in (low, high)) if cap else ""
    width = 1.3 if cap >= 2 else 1.0
    return f'<path class="interval" d="{d}" stroke="{color}" stroke-width="{number(width)}" fill="none"/>'


def rows(scale: Scale, left: float, right: float) -> list[str]:
    """Horizontal grid lines with their values to the left; the line of 0 is darker."""
    parts = []
    for value in steps(scale):
        y = scale(value)
        parts.append(line(left, y, right, y, GREY if abs(value) < 1e-9 else PALE))
        parts.append(label(left - 8, y + 4, tick_text(value), size=11.5, fill=MUTED, anchor="end"))
    return parts


def legend(entries: Sequence[tuple[str, str]], x: float, y: float, room: float) -> tuple[list[str], float]:
    """A legend in columns of equal width.

    Args:
        entries: drawing of each key around the point (0, 0), at most 24 wide, and its text.
        x: left edge.
        y: first baseline.
        room: width.

    Returns:
        The drawing and the baseline of its last line.
    """
    if not entries:
        return [], y
    column = max(sans_width(text, 12) for _, text in entries) + 46
    columns = max(int((room + 14) / column), 1)
    column = max(column, min(room / columns, 190.0))
    parts = []
    for i, (key, text) in enumerate(entries):
        left, base = x + column * (i % columns), y + 20 * (i // columns)
        parts.append(f'<g transform="translate({number(left + 12)} {number(base - 4)})">{key}</g>')
        parts.append(label(left + 32, base, text, size=12, fill=INK, room=max(room - 32, 24)))
    return parts, y + 20 * ((len(entries) - 1) // columns)
