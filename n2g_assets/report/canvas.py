"""What all plots of scores share: a figure with its title, axes of shares, a legend, and the SVG document of it.

Matplotlib draws, with its SVG backend and without its global state. Text stays text, and a study's name is never read
as a formula. Markers of controls are hollow. All lengths are points.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from n2g_assets.core.registry import Predictor
from n2g_assets.method.tokens import clean_text
from n2g_assets.report.svg import GREY, INK, MUTED, PALE, PAPER, SANS
from n2g_assets.report.text import share, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEFT, HEADING, NARROWEST = 36.0, 54.0, 480.0
RIGHT, LINE = 18.0, 14.0
"""Room beside a picture, and the height of a line of its legend."""
_APART = 0.06
"""Least distance of the left ends of two lines that both have their name."""


def style() -> AbstractContextManager[None]:
    """Matplotlib's settings for the time of one picture."""
    from matplotlib import rc_context

    settings: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": "n2g_assets", "text.parse_math": False, "text.usetex": False,
        "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 8.6, "axes.labelsize": 9.0,
        "axes.unicode_minus": True, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
        "axes.edgecolor": GREY, "axes.labelcolor": MUTED, "axes.labelpad": 5.0, "axes.grid": True,
        "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": PALE, "grid.linewidth": 0.8,
        "xtick.color": MUTED, "ytick.color": MUTED, "xtick.major.size": 0.0, "ytick.major.size": 0.0,
        "xtick.major.pad": 6.5, "figure.facecolor": PAPER, "axes.facecolor": "none", "path.simplify": False,
    }  # fmt: skip
    return rc_context(settings)


def new_figure(width: float, height: float, title: str) -> Figure:
    """A figure of a size, with its title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    text = shorten(clean_text(title), max(int((width - 2 * RIGHT) / 7.4), 1))
    write(figure, RIGHT, height - 26.0, text, color=INK, fontsize=12, fontweight="bold")
    return figure


def add_axes(figure: Figure, left: float, bottom: float, width: float, height: float, heading: str) -> Axes:
    """Axes of shares on a figure, at a place in points from its lower left corner, with a heading above them."""
    from matplotlib.ticker import MaxNLocator

    size = figure.get_size_inches() * 72
    axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=min(int(height / 24), 6), steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(share_tick)
    axes.annotate(heading, (RIGHT - left, height + 8), xycoords="axes points", color=MUTED)
    return axes


def share_tick(value: float, _: float) -> str:
    """A tick of an axis of shares."""
    return share(value, 2, trim=True)


def write(figure: Figure, x: float, y: float, text: str, **look: Any) -> None:
    """A line of text at a place in points from the lower left corner of a figure."""
    width, height = figure.get_size_inches() * 72
    figure.text(x / width, y / height, text, **look)


def marker(entry: Predictor, size: float) -> dict[str, Any]:
    """A predictor's marker for ``Axes.plot``."""
    crossed, hollow = entry.marker in ("x", "+"), entry.role == "control"
    return {
        "linestyle": "none", "marker": entry.marker, "markersize": size * (0.85 if entry.marker in "sD" else 1.0),
        "markerfacecolor": PAPER if hollow else entry.color, "color": entry.color,
        "markeredgecolor": entry.color if hollow or crossed else PAPER,
        "markeredgewidth": 1.3 if crossed else 1.0 if hollow else 0.6,
    }  # fmt: skip


def add_legend(figure: Figure, top: float, names: Sequence[str], entries: Sequence[Predictor], columns: int) -> None:
    """The legend in lines of ``columns``, each entry under its name."""
    column = (figure.get_size_inches()[0] * 72 - 2 * RIGHT) / max(min(columns, len(entries)), 1)
    for i, (name, entry) in enumerate(zip(names, entries, strict=True)):
        x, y = RIGHT + 6.0 + i % columns * column, top - LINE * (i // columns + 1) + 8.0
        add_key(figure, [x], y, **marker(entry, 6.0))
        write(figure, x + 11.0, y, shorten(name, int(column / 5.0)), color=INK)


def add_layers(axes: Axes, rows: pl.DataFrame, x: str, y: str) -> dict[int, Any]:
    """Draws a line a layer from rows that are ordered by layer and place; the deeper a layer, the darker its line.

    A line has its name at its left end, unless one that is named begins within ``_APART`` of it.

    Returns:
        The colour of each layer.
    """
    from matplotlib import colormaps

    layers = rows["layer"].unique(maintain_order=True).to_list()
    shades = colormaps["viridis_r"](np.linspace(0.2 if len(layers) > 1 else 1, 1, len(layers)))
    colors, named = dict(zip(layers, shades, strict=True)), np.empty(0)
    look: dict[str, Any] = {"linewidth": 1.3, "marker": "o", "markersize": 4, "clip_on": False}
    words: dict[str, Any] = {"textcoords": "offset points", "color": INK, "fontsize": 8, "ha": "right"}
    for layer, color in colors.items():
        places, values = rows.filter(layer=layer).select(x, y)
        axes.plot(places, values, color=color, gid=f"layer {layer}", **look)
        if (np.abs(named - values[0]) >= _APART).all():
            named = np.append(named, values[0])
            axes.annotate(f"layer {layer}", (places[0], values[0]), (-7, -3), **words)
    return colors


def add_key(figure: Figure, places: Sequence[float], y: float, **look: Any) -> None:
    """The marker or the line that a name in the legend explains."""
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches() * 72
    points = [x / width for x in places], [(y + 3) / height] * len(places)
    figure.add_artist(Line2D(*points, transform=figure.transFigure, **look))


def as_svg(figure: Figure, title: str) -> str:
    """The figure as a document with an accessible title, without date and document type."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file = io.StringIO()
    metadata = {"Title": clean_text(title), "Date": None, "Creator": None, "Format": None, "Type": None}
    FigureCanvasSVG(figure).print_svg(file, metadata=metadata)
    svg = file.getvalue()
    return svg[svg.index("<svg") :].replace("'DejaVu Sans', sans-serif", SANS)
