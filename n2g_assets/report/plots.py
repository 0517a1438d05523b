"""Plots of scores as SVG, for the metadata of assets and for the report, each on a ``canvas``.

1. ``score_by_layer`` shows how well the graded activation or firing is predicted, with its uncertainty;
   ``precision_recall`` what another threshold would give; ``calibration`` what a predicted activation is worth;
   ``reach_by_tokens`` how local units are.
2. Order, colour and marker of a predictor stand in ``core.registry``.
3. The same frame gives the same bytes.

All lengths are points.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from jaxtyping import Float64

from n2g_assets.core.registry import PREDICTORS, Predictor, Text, named
from n2g_assets.method.tokens import clean_text
from n2g_assets.report.canvas import (
    HEADING,
    LEFT,
    LINE,
    NARROWEST,
    RIGHT,
    add_axes,
    add_key,
    add_layers,
    add_legend,
    as_svg,
    marker,
    new_figure,
    share_tick,
    style,
    write,
)
from n2g_assets.report.svg import GREY, INK, MUTED, PAPER
from n2g_assets.report.text import count_text, share, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PUBLISHED = (
    (0.74, 0.85, 0.74), (0.66, 0.77, 0.64), (0.60, 0.77, 0.60), (0.48, 0.70, 0.48), (0.44, 0.72, 0.46),
    (0.45, 0.67, 0.42),
)  # fmt: skip
"""Mean precision, recall and F1 of firing that the paper (arXiv 2305.19911) gives for the six layers of SoLU-6L, 50
units each."""


@dataclass(frozen=True)
class LayerScore:
    """A mean over units that is drawn by layer."""

    name: str
    """Column of ``layer_scores``; the ends of its interval have ``_low`` and ``_high`` behind that."""
    short: str
    """Name in a list of figures."""
    label: str
    """Name in a title."""
    means: str
    """What is averaged, over which units."""
    undefined: str
    """What becomes of a unit without a score, in a sentence."""
    beside: str
    """Column of ``layer_scores`` with the score that stands beside it in figures."""


PEARSON_R = LayerScore(
    "pearson_r", "r", "Pearson's r of the activation",
    "mean Pearson's r of predicted and actual activation over the units where it is defined",
    "A unit whose r is not defined is left out.", "explained_variance",
)  # fmt: skip
F1 = LayerScore(
    "f1_all", "F1", "F1 of firing", "mean F1 of firing over all units asked for", "A unit without a score counts 0.",
    "average_precision",
)  # fmt: skip

_BAND = "#f6f7f9"


def styles(predictors: Iterable[str]) -> list[Predictor]:
    """The declarations of these predictors in their fixed order; unknown ones come last, by name, in grey."""
    known, names = named(PREDICTORS), set(predictors)
    unknown = [
        Predictor(name, clean_text(name).replace("_", " "), "explanation", MUTED, "P", "")
        for name in sorted(names - set(known))
    ]
    return [*(entry for name, entry in known.items() if name in names), *unknown]


def shown_scores(texts: Iterable[Text]) -> list[tuple[LayerScore, list[Text]]]:
    """The scores that are shown by layer, the leading one first, each with those of the texts on which it is shown."""
    there = list(texts)
    scores = [(PEARSON_R, [text for text in there if text.ordinary]), (F1, there)]
    return [(score, its_texts) for score, its_texts in scores if its_texts]


def as_markdown_image(svg: str) -> str:
    """An SVG document as a markdown image that carries its own data, for places that render markdown."""
    return f"![picture]({as_address(svg)})"


def as_address(svg: str) -> str:
    """An SVG document as an address that carries its own data."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode("utf-8")).decode("ascii")


def score_by_layer(scores: pl.DataFrame, score: LayerScore, *, title: str, published_over: int | None = None) -> str:
    """A mean over units with 95 % intervals, by layer and predictor.

    Args:
        scores: rows of ``layer_scores`` of one study and one text.
        score: what is drawn.
        title: first line.
        published_over: layers of the subject model, over whose depth the published F1 of another model is drawn; None
            draws none.

    Returns:
        The SVG document: predictors above, and below them the controls beside the graph.
    """
    shown = styles(scores["predictor"].unique())
    controls = [entry for entry in shown if entry.role == "control"]
    main = [entry for entry in shown if entry.role != "control"]
    judged = [entry for entry in main if entry.role == "explanation"]
    panels = [(main, 172.0), (judged + controls, 98.0)] if main and controls else [(main or controls, 172.0)]
    layers = scores["layer"].unique().sort().to_list()
    line = _published_line(layers, published_over) if published_over and len(layers) > 1 else []
    # A group of marks takes at most 72 % of the distance of two layers, and a mark at least 3.6 points.
    distance = float(np.diff(layers).min()) if len(layers) > 1 else 1.0
    span = float(layers[-1] - layers[0]) + distance if layers else 1.0
    most = max(len(entries) for entries, _ in panels)
    width = max(NARROWEST, span / distance * (3.6 * most / 0.72))
    step = min(0.72 * distance / max(most, 1), 7.5 * span / width)
    size_of_mark = min(6.0, 1.5 * step * width / span)
    dashes: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": (0, (5, 4))}
    columns = int(width // 130)
    legend = LINE * (-(-len(shown) // columns) + bool(line))
    height = HEADING + sum(size for _, size in panels) + 32.0 * (len(panels) - 1) + 42.0 + legend + 24.0
    with style():
        figure = new_figure(LEFT + width + RIGHT, height, title)
        top = height - HEADING
        for place, (entries, size) in enumerate(panels):
            axes = add_axes(figure, LEFT, top - size, width, size, score.means if place == 0 else "controls")
            half = (len(entries) / 2 + 0.3) * step
            for layer in layers:
                axes.axvspan(layer - half, layer + half, color=_BAND, zorder=0, linewidth=0)
            if line and place == 0:
                axes.plot(*zip(*line, strict=True), gid="published", **dashes)
            for i, entry in enumerate(entries):
                offset = (i - (len(entries) - 1) / 2) * step
                of_entry = scores.filter(pl.col("predictor") == entry.name)
                _means(axes, of_entry, score.name, entry, offset, size_of_mark)
            drawn = scores.filter(pl.col("predictor").is_in([entry.name for entry in entries]))
            values = np.concatenate([drawn[f"{score.name}{end}"] for end in ("", "_low", "_high")])
            if (values < 0).any():
                axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
            bottom = -_ceiling(-values[values < 0]) if (values < 0).any() else 0.0
            axes.set_ylim(bottom, _ceiling([*values, *(y for _, y in line if place == 0)]))
            axes.set_xlim((layers[0] - distance / 2, layers[-1] + distance / 2) if layers else (0, 1))
            last = place == len(panels) - 1
            axes.set_xticks(_apart(layers, 15.0 * span / width) if last else [])
            top -= size + 32.0
        axes.set_xlabel("layer" if layers else "nothing evaluated yet", loc="center")
        add_legend(figure, legend + 22.0, [entry.label for entry in shown], shown, columns)
        if line:
            add_key(figure, [RIGHT, RIGHT + 18.0], 30.0, **dashes)
            name = "published for SoLU-6L, another model, at the same relative depth"
            write(figure, RIGHT + 23.0, 30.0, name, color=INK)
        note = f"Whiskers: 95 % intervals, bootstrap over documents. {score.undefined}"
        write(figure, RIGHT, 12.0, note, color=MUTED, fontsize=8)
        return as_svg(figure, title)


def precision_recall(scores: pl.DataFrame, *, title: str, threshold: float = 0.5) -> str:
    """Precision-recall curves of firing, the predicted activation as score.

    Args:
        scores: rows of ``layer_scores``, with the columns ``predictor``, ``levels_firing`` and ``levels_silent``. Rows
            of one predictor are summed.
        title: first line.
        threshold: prediction from which a token is predicted to fire; marked on every curve.

    Returns:
        The SVG document. A step of a curve has the precision reached at its right end, so that the area under a curve
        is its average precision; the dotted rest are tokens of which the predictor says nothing.
    """
    shown = styles(scores["predictor"].unique())
    names, shares = [], []
    side, legend = 285.0, LINE * -(-len(shown) // 2)
    below = 40.0 + legend + 40.0
    start = int(np.ceil(threshold * 100 - 1e-9))
    with style():
        figure = new_figure(LEFT + side + RIGHT, HEADING + side + below, title)
        axes = add_axes(figure, LEFT, below, side, side, "precision of firing")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="recall of firing")
        axes.xaxis.set_major_formatter(share_tick)
        axes.xaxis.grid(True)
        for entry in shown:
            firing, silent = _sums(scores, entry.name, "levels_firing", "levels_silent")
            if firing.sum() <= 0:
                names.append(f"{entry.label} –")
                continue
            hits, alarms = np.cumsum(firing[::-1]), np.cumsum((firing + silent)[::-1])
            recall, precision = hits / firing.sum(), hits / np.maximum(alarms, 1)
            area = float(np.sum(np.diff(recall, prepend=0.0) * precision))
            names.append(f"{entry.label} {share(area, 2)}")
            shares.append(float(precision[-1]))
            found = np.flatnonzero(recall > 0)
            x = np.concatenate([[0.0], recall[found]])
            y = np.concatenate([precision[found[:1]], precision[found]])
            axes.step(x[:-1], y[:-1], where="pre", color=entry.color, linewidth=1.3, clip_on=False)
            rest: dict[str, Any] = {"linewidth": 0.9, "linestyle": (0, (1.5, 2.5)), "alpha": 0.8, "clip_on": False}
            axes.step(x[-2:], y[-2:], where="pre", color=entry.color, **rest)
            if alarms[-1 - start] > 0:
                mark = marker(entry, 7.5) | {"gid": f"threshold {entry.label}"}
                axes.plot(recall[-1 - start], precision[-1 - start], clip_on=False, zorder=3, **mark)
        add_legend(figure, legend + 38.0, names, shown, 2)
        firing_share = f"{np.median(shares):.2%}".replace("%", " %") if shares else "None"
        marks = f"Numbers: area under the curve. Marks: predicted to fire from {share(threshold, 2, trim=True)} on."
        write(figure, RIGHT, 24.0, marks, color=MUTED, fontsize=8)
        note = f"{firing_share} of the tokens fire. Dotted: where the predictor says nothing."
        write(figure, RIGHT, 12.0, note, color=MUTED, fontsize=8)
        return as_svg(figure, title)


def calibration(rows: pl.DataFrame, *, title: str) -> str:
    """Mean actual activation by mean predicted activation, and how many tokens stand behind each mean.

    Args:
        rows: of ``evaluation``, with the columns ``predictor``, ``calibration_tokens``, ``calibration_predicted`` and
            ``calibration_actual``. Rows of one predictor are summed; controls are left out.
        title: first line.
    """
    shown = [entry for entry in styles(rows["predictor"].unique()) if entry.role != "control"]
    binned = ("calibration_tokens", "calibration_predicted", "calibration_actual")
    left, column, side = 100.0, 23.0, 225.0
    below = 54.0 + LINE * len(shown) + 12.0
    with style():
        figure = new_figure(left + 11 * column + RIGHT, HEADING + side + below, title)
        axes = add_axes(figure, left, below, 11 * column, side, "mean actual activation")
        axes.set(xlim=(-0.1, 1), xlabel="mean predicted activation", xticks=[-0.05, 0.2, 0.4, 0.6, 0.8, 1])
        axes.set_xticklabels(["0", ".2", ".4", ".6", ".8", "1"])
        axes.xaxis.grid(True)
        axes.axvspan(-0.1, 0, color=_BAND, zorder=0, linewidth=0)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle=(0, (5, 4)))
        axes.annotate("tokens", (RIGHT - left, -44), xycoords="axes points", color=MUTED, fontsize=8)
        low, high = 0.0, 1.0
        for i, entry in enumerate(shown):
            tokens, predicted, actual = _sums(rows, entry.name, *binned)
            used = (tokens > 0) & np.isfinite(predicted) & np.isfinite(actual)
            count, x, y = tokens[used], predicted[used] / tokens[used], actual[used] / tokens[used]
            low, high = min([low, *y]), max([high, *y])
            axes.plot(x[x > 0], y[x > 0], color=entry.color, linewidth=0.8, alpha=0.45)
            x = np.where(x > 0, np.minimum(x, 1.05), -0.1 + 0.1 * (i + 1) / (len(shown) + 1))
            size = (3.6 + 0.75 * np.log10(count)) ** 2
            paint: dict[str, Any] = {"facecolors": entry.color, "edgecolors": PAPER, "linewidths": 0.6}
            axes.scatter(x, y, size, marker=entry.marker, alpha=0.85, zorder=3, gid=f"bins {entry.label}", **paint)
            line = -44.0 - LINE * (i + 1)
            place = [(RIGHT - left + 3) / (11 * column)], [(line + 3) / side]
            axes.plot(*place, clip_on=False, transform=axes.transAxes, **marker(entry, 5.5))
            words: dict[str, Any] = {"xycoords": "axes points", "color": INK, "fontsize": 8}
            axes.annotate(shorten(entry.label, 16), (RIGHT - left + 11, line), **words)
            words |= {"color": MUTED, "fontsize": 7.2, "ha": "center"}
            for bin_, number in enumerate(tokens):
                text = count_text(int(number)) if number else "–"
                axes.annotate(text, ((bin_ + 0.5) * column, line), **words)
        axes.set_ylim(np.floor(low * 10 + 1e-9) / 10, np.ceil(high * 10 - 1e-9) / 10)
        axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
        return as_svg(figure, title)


def reach_by_tokens(means: pl.DataFrame, *, title: str) -> str:
    """Mean correlation with the full text by the number of last tokens that the model is shown, a line a layer.

    Args:
        means: rows of ``reach_summary`` of one study and one text; a mean that is not defined is left out.
        title: first line.
    """
    means = means.filter(pl.col("pearson_r").is_finite()).sort("layer", "last_tokens")
    layers = means["layer"].unique().sort().to_list()
    height, below = 172.0, 58.0
    with style():
        figure = new_figure(LEFT + NARROWEST + RIGHT, HEADING + height + below, title)
        axes = add_axes(figure, LEFT, below, NARROWEST, height, "mean correlation with the full text (r)")
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
        tokens = means["last_tokens"].unique().sort().to_list()
        axes.set_xticks(tokens, labels=[str(number) for number in tokens])
        axes.set_xlabel("last tokens shown" if layers else "nothing measured yet", loc="center")
        lowest = means["pearson_r"].to_numpy().min(initial=0.0)
        axes.set_ylim(np.floor(10 * lowest) / 10, 1)
        axes.set_xlim((tokens[0] / 2, tokens[-1] * 1.1) if tokens else (1, 2))
        add_layers(axes, means, "last_tokens", "pearson_r")
        note = "The model itself, shown BOS and these tokens alone. The deeper a layer, the darker its line."
        write(figure, RIGHT, 12.0, note, color=MUTED, fontsize=8)
        return as_svg(figure, title)


def _means(axes: Axes, rows: pl.DataFrame, score: str, entry: Predictor, offset: float, size: float) -> None:
    """One predictor's means, their intervals, and a faint line from layer to layer."""
    rows = rows.sort("layer").filter(pl.col(score).is_finite())
    x, low, high = rows["layer"].to_numpy() + offset, f"{score}_low", f"{score}_high"
    if entry.role != "control":
        axes.plot(x, rows[score], color=entry.color, linewidth=0.8, alpha=0.35)
    ends = rows.filter(pl.col(low).is_finite(), pl.col(high).is_finite())
    bars: dict[str, Any] = {"color": entry.color, "linewidth": 1.0, "gid": f"intervals {entry.label}"}
    axes.vlines(ends["layer"].to_numpy() + offset, ends[low], ends[high], **bars)
    mark = marker(entry, size) | {"gid": f"means {entry.label}"}
    axes.plot(x, rows[score], clip_on=False, zorder=3, **mark)


def _published_line(layers: Sequence[int], n_layers: int) -> list[tuple[float, float]]:
    """The published F1 at the same relative depth, cut at the deepest layer that is shown."""
    depths = np.linspace(0, n_layers - 1, len(PUBLISHED))
    begin, end = layers[0], min(layers[-1], n_layers - 1)
    places = [begin, *depths[(depths > begin) & (depths < end)].tolist(), end]
    return [(place, float(np.interp(place, depths, [f1 for _, _, f1 in PUBLISHED]))) for place in places]


def _sums(rows: pl.DataFrame, predictor: str, *columns: str) -> list[Float64[np.ndarray, " bins"]]:
    """Columns of lists of one length, summed over a predictor's rows."""
    chosen = rows.filter(pl.col("predictor") == predictor)
    bins = [chosen[name].explode().cast(pl.Float64).to_numpy().reshape(len(chosen), -1) for name in columns]
    return [values.sum(axis=0) for values in bins]


def _ceiling(values: Iterable[float]) -> float:
    """The upper end of an axis of shares: the smallest of a few round numbers that no value exceeds, at most 1."""
    largest = max(filter(np.isfinite, values), default=1.0)
    return next((end for end in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8) if largest <= end), 1.0)


def _apart(layers: Sequence[int], distance: float) -> list[int]:
    """The layers whose labels do not touch."""
    kept: list[int] = []
    for layer in layers:
        if not kept or layer - kept[-1] >= distance:
            kept.append(layer)
    return kept
