"""Kinds of units of one model beside each other: what the report says of neurons, latents, heads and their controls.

All lengths are points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from n2g_assets.core.registry import Predictor
from n2g_assets.method.tokens import clean_text
from n2g_assets.report.canvas import (
    HEADING,
    LEFT,
    LINE,
    NARROWEST,
    RIGHT,
    add_axes,
    add_legend,
    as_svg,
    marker,
    new_figure,
    style,
    write,
)
from n2g_assets.report.svg import MUTED
from n2g_assets.report.text import UNIT_KINDS, kind_name

SHOWN_TEXT = "random"

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_LOOKS = dict(zip(UNIT_KINDS, zip(_COLORS, "osD^vX", strict=True), strict=True))
"""Colour, of Okabe and Ito's, and marker of a kind; others are grey. Controls are hollow and dashed."""
_BESIDE = {"token_lookup_pearson_r": "token lookup", "reach_5": "last 5 tokens"}
"""Columns of ``unit_kinds`` that are marked beside the graphs."""
_HEIGHT = 190.0
_COLUMN = 1.9
"""Width of the column of one of ``_BESIDE``, in doublings of the number of rules."""


def kinds_beside(frame: Callable[..., pl.DataFrame]) -> dict[int, list[dict[str, Any]]]:
    """What can be set beside a study, by layer; nothing where no other study explains its model on its text.

    Args:
        frame: rows of a query, in which ``$study`` is the study.

    Returns:
        For each layer with others the study's own row of ``unit_kinds``, then the rows of ``kinds_beside``.
    """
    others = frame("FROM kinds_beside($study) WHERE text = $text", text=SHOWN_TEXT)
    if others.is_empty():
        return {}
    own = frame("FROM unit_kinds WHERE study = $study AND text = $text", text=SHOWN_TEXT)
    layers = others["layer"].unique().sort().to_list()
    return {layer: [*own.filter(layer=layer).to_dicts(), *others.filter(layer=layer).to_dicts()] for layer in layers}


def sizes_of(frame: Callable[..., pl.DataFrame], layer: int, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The rows of ``size_summary`` of what ``kinds_beside`` gave for a layer; ``frame`` as there."""
    return frame(
        """FROM size_summary
        WHERE layer = $layer AND text = $text AND (study = $study OR list_contains($others, study))""",
        layer=layer, text=SHOWN_TEXT, others=[row["study"] for row in rows],
    )  # fmt: skip


def r_by_kind(rows: Sequence[Mapping[str, Any]], sizes: pl.DataFrame, *, title: str) -> str:
    """Mean r of the best graph by its number of rules, a line a study; marks beside it need no graph.

    Args:
        rows: of ``unit_kinds``, of one layer and one text.
        sizes: rows of ``size_summary`` of the same studies, layer and text; a mean that is not defined is left out.
        title: first line.
    """
    sizes = sizes.filter(pl.col("pearson_r").is_finite()).sort("n_rules")
    entries = {row["study"]: _entry(row) for row in rows}
    rules = sizes["n_rules"].unique().sort().to_list()
    ticks = np.log2(rules)
    columns = ticks.max(initial=0.0) + _COLUMN * np.arange(1, len(_BESIDE) + 1)
    apart = 0.09 * (np.arange(len(entries)) - (len(entries) - 1) / 2)
    below = 40.0 + LINE * len(entries) + 20.0
    with style():
        figure = new_figure(LEFT + NARROWEST + RIGHT, HEADING + _HEIGHT + below, title)
        axes = add_axes(figure, LEFT, below, NARROWEST, _HEIGHT, "mean r of predicted and actual activation")
        axes.set_xticks([*ticks, *columns], labels=[*map(str, rules), *_BESIDE.values()])
        axes.set_xlabel("rules of the graph" if rules else "nothing measured yet", loc="left")
        axes.set_xlim(ticks.min(initial=1.0) - 0.5, columns[-1] + _COLUMN / 2)
        drawn = [np.array([0.0, 0.1])]
        for row, offset in zip(rows, apart, strict=True):
            entry, of_study = entries[row["study"]], sizes.filter(study=row["study"])
            mark, dashes = marker(entry, 6.0), (0, (4, 3)) if entry.role == "control" else "solid"
            x, r = np.log2(of_study["n_rules"].to_numpy()) + offset, of_study["pearson_r"].to_numpy()
            margin = 1.96 * of_study["pearson_r_error"].fill_null(0).to_numpy()
            axes.plot(x, r, color=entry.color, linewidth=1.2, linestyle=dashes, gid=f"line {entry.name}")
            axes.vlines(x, r - margin, r + margin, color=entry.color, linewidth=1.0, gid=f"intervals {entry.name}")
            axes.plot(x, r, zorder=3, clip_on=False, **mark)
            beside = np.array([row[name] for name in _BESIDE], np.float64)
            axes.plot(columns + offset, beside, zorder=3, clip_on=False, gid=f"beside {entry.name}", **mark)
            drawn += [r - margin, r + margin, beside]
        values = np.concatenate(drawn)
        axes.set_ylim(np.floor(10 * np.nanmin(values)) / 10, min(np.ceil(10 * np.nanmax(values)) / 10, 1))
        add_legend(figure, below - 38.0, [entry.label for entry in entries.values()], [*entries.values()], 1)
        note = "Means over units, with 95 % intervals over units drawn anew. Controls: the model with random weights."
        write(figure, RIGHT, 12.0, note, color=MUTED, fontsize=8)
        return as_svg(figure, title)


def _entry(row: Mapping[str, Any]) -> Predictor:
    """How the units of a study are drawn and named."""
    color, sign = _LOOKS.get(row["kind"], (MUTED, "P"))
    label = f"{row['study']}: {row['scored']} {kind_name(row)}"
    name, label = clean_text(row["study"]), clean_text(label)
    return Predictor(name, label, "control" if row["control"] else "explanation", color, sign, "")
