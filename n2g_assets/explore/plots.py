"""What pages draw: scores by size, by tokens seen and by layer, and how strong a unit is how often."""

from collections.abc import Iterable, Mapping, Sequence
from math import log2
from typing import Any

from markupsafe import Markup

from n2g_assets.explore.charts import Line, Point, bars, lines
from n2g_assets.report.plots import styles
from n2g_assets.report.text import share

Rows = Sequence[Mapping[str, Any]]

OF_SIZES = (("pearson_r", "r"), ("average_precision", "AP of firing"), ("f1", "F1 of firing"))
"""Scores by size that are drawn, with their names."""
_LOOKS = 8
"""Colours of the style sheet."""


def sizes(rows: Rows) -> Markup:
    """A unit's scores by the number of rules: rows of ``size_curve`` of one text."""
    drawn = [
        Line(name, _points(rows, "n_rules", column, doubling=True, interval=column == "pearson_r"), f"c{place}")
        for place, (column, name) in enumerate(OF_SIZES)
    ]
    return lines(_spoken("Scores by rules of the graph", drawn), drawn, _doublings(rows, "n_rules"), "rules")


def reach(rows: Rows) -> Markup:
    """How well the model itself, shown the last tokens alone, reproduces a unit: rows of ``reach`` of one text."""
    drawn = [Line("the model", _points(rows, "last_tokens", "pearson_r", doubling=True))]
    title = _spoken("r of the model by the tokens that it is shown", drawn)
    return lines(title, drawn, _doublings(rows, "last_tokens"), "last tokens that the model is shown")


def strengths(strong: Mapping[str, Any]) -> Markup:
    """How many harvested positions have which strength: ``strong`` of the answer of a unit's page."""
    counts = [(row["from"], row["positions"]) for row in strong["bins"]]
    said = ", ".join(f"{share(begin, 2)}: {count}" for begin, count in counts if count)
    title = f"Harvested positions by activation, as a share of the largest. {said}"
    return bars(title, counts, 1 - counts[-1][0], "activation, as a share of the largest")


def by_layer(rows: Rows) -> Markup:
    """Mean r of each predictor by layer, the graph's with its interval: rows of ``layer_summary`` of one text."""
    drawn = []
    for place, entry in enumerate(styles(row["predictor"] for row in rows)):
        own = [row for row in rows if row["predictor"] == entry.name]
        points = _points(own, "layer", "pearson_r", interval=entry.name == "graph")
        drawn.append(Line(entry.label, points, f"c{place % _LOOKS}" + " control" * (entry.role == "control")))
    ticks = [(layer, str(layer)) for layer in sorted({row["layer"] for row in rows})]
    return lines(_spoken("Mean r by layer", drawn), drawn, ticks, "layer")


def of_layers(rows: Rows, column: str, below: str) -> Markup:
    """Mean r by rules or by tokens seen (``column``), a line a layer: rows of ``size_summary`` or ``reach_summary``."""
    drawn = [
        Line(
            f"layer {layer}",
            _points([row for row in rows if row["layer"] == layer], column, "pearson_r", doubling=True),
            f"c{place % _LOOKS}",
        )
        for place, layer in enumerate(sorted({row["layer"] for row in rows}))
    ]
    return lines(_spoken(f"Mean r by {below}, a line a layer", drawn), drawn, _doublings(rows, column), below)


def _points(
    rows: Iterable[Mapping[str, Any]], place: str, value: str, *, doubling: bool = False, interval: bool = False
) -> list[Point]:
    """The points that have a number; places by their doublings, where they double."""
    found = []
    for row in rows:
        if row[value] is not None:
            low, high = (row[f"{value}_{end}"] for end in ("low", "high")) if interval else (None, None)
            found.append(Point(log2(row[place]) if doubling else row[place], row[value], low, high))
    return found


def _doublings(rows: Rows, column: str) -> list[tuple[float, str]]:
    return [(log2(number), str(number)) for number in sorted({row[column] for row in rows})]


def _spoken(title: str, drawn: Iterable[Line]) -> str:
    """A title that says the first and the last number of each line."""
    there = [(line.name, line.points) for line in drawn if line.points]
    said = [f"{name} from {share(points[0].y, 2)} to {share(points[-1].y, 2)}" for name, points in there]
    return f"{title}: {'; '.join(said)}" if said else title
