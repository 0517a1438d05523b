"""Files that can be taken away: a unit's graph as SVG, DOT and JSON, and a layer's units as Parquet and CSV.

A PNG is made from the SVG by the reader's browser.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from n2g_assets.core.explorer import LAYER, UNIT
from n2g_assets.core.registry import SHOWN_RULES
from n2g_assets.explore.layer import AskedLayer, units_of
from n2g_assets.explore.page import Asked, OfUnit, Rules
from n2g_assets.reading.database import Snapshot


class AskedGraph(OfUnit):
    """A unit's graph as a file."""

    rules: Rules = SHOWN_RULES
    """Rules of the graph; of a graph of the paper the strongest nodes are drawn."""


@dataclass(frozen=True)
class Download:
    """A file that is made from the database."""

    path: str
    """Address, with the fields of ``asked`` that stand in it between braces."""
    asked: type[Asked]
    make: Callable[[Snapshot, Any], bytes]
    """Takes the database and what was asked."""
    name: Callable[[Any], str]
    """What the file is called."""
    media_type: str
    shown: bool = False
    """Whether a browser shows it rather than keeping it."""


def _named(ending: str) -> Callable[[AskedGraph], str]:
    return lambda asked: f"{asked.study}_{asked.layer}_{asked.unit}_{asked.rules}.{ending}"


def _layer_named(ending: str) -> Callable[[AskedLayer], str]:
    return lambda asked: f"{asked.study}_{asked.layer}_units.{ending}"


def _svg(database: Snapshot, asked: AskedGraph) -> bytes:
    return asked.the_unit(database).svg(asked.rules).encode()


def _dot(database: Snapshot, asked: AskedGraph) -> bytes:
    return asked.the_unit(database).to_dot(asked.rules).encode()


def _json(database: Snapshot, asked: AskedGraph) -> bytes:
    return json.dumps(asked.the_unit(database).to_json(asked.rules), ensure_ascii=False).encode()


def _parquet(database: Snapshot, asked: AskedLayer) -> bytes:
    file = io.BytesIO()
    units_of(database, asked).write_parquet(file)
    return file.getvalue()


def _csv(database: Snapshot, asked: AskedLayer) -> bytes:
    return units_of(database, asked).write_csv().encode()


_GRAPH, _LAYER = f"{UNIT}/graph", f"{LAYER}/units"

DOWNLOADS = (
    Download(f"{_GRAPH}.svg", AskedGraph, _svg, _named("svg"), "image/svg+xml", shown=True),
    Download(f"{_GRAPH}.dot", AskedGraph, _dot, _named("dot"), "text/vnd.graphviz"),
    Download(f"{_GRAPH}.json", AskedGraph, _json, _named("json"), "application/json"),
    Download(f"{_LAYER}.parquet", AskedLayer, _parquet, _layer_named("parquet"), "application/vnd.apache.parquet"),
    Download(f"{_LAYER}.csv", AskedLayer, _csv, _layer_named("csv"), "text/csv"),
)
