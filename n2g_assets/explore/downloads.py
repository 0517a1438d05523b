"""Files that can be taken away: a unit's graph as SVG, DOT and JSON, the tables of pages, and a study's report.

A PNG is made from the SVG by the reader's browser.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from n2g_assets.core.errors import MissingError
from n2g_assets.core.explorer import STUDY, UNIT
from n2g_assets.core.registry import SHOWN_RULES
from n2g_assets.explore import layer, search, similar, studies, unit
from n2g_assets.explore.page import Asked, OfStudy, OfUnit, Rules, Table, named_in
from n2g_assets.reading.database import Snapshot
from n2g_assets.reading.plain import csv_text

TABLES: tuple[Table, ...] = (*studies.TABLES, *layer.TABLES, *unit.TABLES, *similar.TABLES, *search.TABLES)
"""Every table that can be taken away."""


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
    media_type: str
    shown: bool = False
    """Whether a browser shows it rather than keeping it."""
    headers: dict[str, str] = field(default_factory=dict)
    """What its answer carries in place of what every answer does."""

    def name(self, asked: Asked) -> str:
        """What the file is called: the values in its address, and its end."""
        values = [str(getattr(asked, name)) for name in named_in(self.path)]
        return "_".join([*values, self.path.rpartition("/")[2]])


def _svg(database: Snapshot, asked: AskedGraph) -> bytes:
    return asked.the_unit(database).svg(asked.rules).encode()


def _dot(database: Snapshot, asked: AskedGraph) -> bytes:
    return asked.the_unit(database).to_dot(asked.rules).encode()


def _json(database: Snapshot, asked: AskedGraph) -> bytes:
    return json.dumps(asked.the_unit(database).to_json(asked.rules), ensure_ascii=False).encode()


def _parquet(table: Table, database: Snapshot, asked: Asked) -> bytes:
    file = io.BytesIO()
    table.frame(database, asked).write_parquet(file)
    return file.getvalue()


def _csv(table: Table, database: Snapshot, asked: Asked) -> bytes:
    return csv_text(table.frame(database, asked), for_spreadsheets=True).encode()


def _report(database: Snapshot, asked: OfStudy) -> bytes:
    report = studies.report_of(asked.the_study(database))
    if report is None:
        raise MissingError(f"Study {asked.study!r} has no report here: materialize its report.")
    return report.encode()


REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""A report has its style and its pictures in itself, and no script."""

_GRAPH = f"{UNIT}/graph"

DOWNLOADS = (
    Download(f"{_GRAPH}.svg", AskedGraph, _svg, "image/svg+xml", shown=True),
    Download(f"{_GRAPH}.dot", AskedGraph, _dot, "text/vnd.graphviz"),
    Download(f"{_GRAPH}.json", AskedGraph, _json, "application/json"),
    Download(
        f"{STUDY}/report", OfStudy, _report, "text/html", shown=True,
        headers={"Content-Security-Policy": REPORT_POLICY},
    ),
    *(
        Download(f"{table.path}.{ending}", table.asked, partial(make, table), media_type)
        for table in TABLES
        for ending, make, media_type in (
            ("parquet", _parquet, "application/vnd.apache.parquet"), ("csv", _csv, "text/csv"),
        )
    ),
)  # fmt: skip
