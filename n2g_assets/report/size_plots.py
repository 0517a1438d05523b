"""Plot of what a graph of so many rules is worth, as SVG for the report.

All lengths are points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from n2g_assets.report.canvas import HEADING, LEFT, NARROWEST, RIGHT, add_axes, as_svg, new_figure, style, write
from n2g_assets.report.plots import styles
from n2g_assets.report.svg import INK, MUTED

BESIDE = ("suffixes", "combined")
"""Predictors that are marked beside the graphs: what the same evidence gives that nobody can read."""

_HEIGHT, _BELOW = 190.0, 60.0
_COLUMN = 1.9
"""Width of the column of a predictor of ``BESIDE``, in doublings of the number of rules; a dash takes half of it."""
_APART = 0.06
"""Least distance in r of two lines that both have their name."""


def r_by_rules(sizes: pl.DataFrame, scores: pl.DataFrame, *, title: str) -> str:
    """Mean r of the best graph by its number of rules, a line a layer; dashes beside it are other predictors.

    Args:
        sizes: rows of ``size_summary`` of one study and one text; a mean that is not defined is left out.
        scores: rows of ``layer_scores`` of the same, of which the predictors of ``BESIDE`` are drawn.
        title: first line.
    """
    from matplotlib import colormaps

    sizes = sizes.filter(pl.col("pearson_r").is_finite()).sort("layer", "n_rules")
    layers, rules = (sizes[column].unique().sort().to_list() for column in ("layer", "n_rules"))
    beside = scores.filter(
        pl.col("predictor").is_in(BESIDE), pl.col("pearson_r").is_finite(), pl.col("layer").is_in(layers)
    )
    labels = {entry.name: entry.label for entry in reversed(styles(beside["predictor"].unique()))}
    ticks = np.log2(rules)
    columns = ticks.max(initial=0.0) + _COLUMN * np.arange(1, len(labels) + 1)
    with style():
        figure = new_figure(LEFT + NARROWEST + RIGHT, HEADING + _HEIGHT + _BELOW, title)
        axes = add_axes(figure, LEFT, _BELOW, NARROWEST, _HEIGHT, "mean r of predicted and actual activation")
        axes.set_xticks([*ticks, *columns], labels=[*map(str, rules), *labels.values()])
        axes.set_xlabel("rules of the graph" if layers else "nothing measured yet", loc="left")
        axes.set_xlim(ticks.min(initial=1.0) - 1, max([*ticks, *columns], default=1.0) + _COLUMN / 2)
        values = np.concatenate([frame["pearson_r"].to_numpy() for frame in (sizes, beside)])
        axes.set_ylim(np.floor(10 * values.min(initial=0.0)) / 10, np.ceil(10 * values.max(initial=0.1)) / 10)
        colors = colormaps["viridis_r"](np.linspace(0.2 if len(layers) > 1 else 1, 1, len(layers)))
        named = np.empty(0)
        for layer, color in zip(layers, colors, strict=True):
            x, y = (sizes.filter(layer=layer)[column].to_numpy() for column in ("n_rules", "pearson_r"))
            look: dict[str, Any] = {"color": color, "clip_on": False}
            axes.plot(np.log2(x), y, linewidth=1.3, marker="o", markersize=4, gid=f"layer {layer}", **look)
            for name, place in zip(labels, columns, strict=True):
                r = beside.filter(layer=layer, predictor=name)["pearson_r"]
                ends = place - _COLUMN / 4, place + _COLUMN / 4
                axes.hlines(r, *ends, linewidth=2.2, gid=f"{name}, layer {layer}", **look)
            if (np.abs(named - y[0]) >= _APART).all():
                named = np.append(named, y[0])
                words: dict[str, Any] = {"textcoords": "offset points", "color": INK, "fontsize": 8, "ha": "right"}
                axes.annotate(f"layer {layer}", (np.log2(x[0]), y[0]), (-7, -3), **words)
        note = "Means over units. The deeper a layer, the darker its line. Dashes: predictors that cannot be read."
        write(figure, RIGHT, 12.0, note, color=MUTED, fontsize=8)
        return as_svg(figure, title)
