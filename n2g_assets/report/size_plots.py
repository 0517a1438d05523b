"""Plot of what a graph of so many rules is worth, as SVG for the report.

All lengths are points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from n2g_assets.report.canvas import (
    HEADING,
    LEFT,
    NARROWEST,
    RIGHT,
    add_axes,
    add_layers,
    as_svg,
    new_figure,
    style,
    write,
)
from n2g_assets.report.plots import styles
from n2g_assets.report.svg import MUTED

BESIDE = ("suffixes", "combined")
"""Predictors that are marked beside the graphs: what the same evidence gives that nobody can read."""

_HEIGHT, _BELOW = 190.0, 60.0
_COLUMN = 1.9
"""Width of the column of a predictor of ``BESIDE``, in doublings of the number of rules; a dash takes half of it."""


def r_by_rules(sizes: pl.DataFrame, scores: pl.DataFrame, *, title: str) -> str:
    """Mean r of the best graph by its number of rules, a line a layer; dashes beside it are other predictors.

    Args:
        sizes: rows of ``size_summary`` of one study and one text; a mean that is not defined is left out.
        scores: rows of ``layer_scores`` of the same, of which the predictors of ``BESIDE`` are drawn.
        title: first line.
    """
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
        colors = add_layers(axes, sizes.with_columns(pl.col("n_rules").log(2)), "n_rules", "pearson_r")
        for layer, color in colors.items():
            for name, place in zip(labels, columns, strict=True):
                r = beside.filter(layer=layer, predictor=name)["pearson_r"]
                look: dict[str, Any] = {"color": color, "clip_on": False, "linewidth": 2.2}
                axes.hlines(r, place - _COLUMN / 4, place + _COLUMN / 4, gid=f"{name}, layer {layer}", **look)
        note = "Means over units. The deeper a layer, the darker its line. Dashes: predictors that cannot be read."
        write(figure, RIGHT, 12.0, note, color=MUTED, fontsize=8)
        return as_svg(figure, title)
