"""The page of a layer: its units in a table that is sorted, filtered and paged by its address."""

from typing import Annotated, Literal

import polars as pl
from pydantic import Field, FiniteFloat

from n2g_assets.core.errors import MissingError
from n2g_assets.core.explorer import LAYER
from n2g_assets.explore.page import BLANK, Answer, OfLayer, Page, Table
from n2g_assets.reading.database import Snapshot

Order = Literal[
    "unit", "a_max", "random_r_5", "random_r_30", "random_r_all", "random_pearson_r", "random_average_precision",
    "random_f1", "top_f1", "reach_5", "held_share", "random_n_firings", "n_rules",
]  # fmt: skip
"""Columns that units can be sorted by."""

PER_PAGE = 100
"""Units of a page."""


class AskedLayer(OfLayer):
    """Which units of a layer are shown, and in which order."""

    sort: Order = "random_pearson_r"
    """Column of ``fidelity_card`` to sort by; the largest first, units by their number."""
    contains: str = Field(default="", max_length=200)
    """Only units whose strongest rule holds this text."""
    status: Literal["", "ok", "dead", "too_few_contexts", "failed"] = ""
    """Only units of this status."""
    least: Annotated[FiniteFloat | None, BLANK] = None
    """Only units whose value in the column of ``sort`` is at least this."""
    page: int = Field(default=1, ge=1, le=10**6)
    """Page, from 1."""


def units_of(database: Snapshot, asked: AskedLayer) -> pl.DataFrame:
    """The units that are asked for, of all pages, in the order that is asked for: rows of ``fidelity_card``.

    Raises:
        MissingError: the study has no such layer.
    """
    study = asked.the_study(database)
    if asked.layer not in study.layers:
        there = ", ".join(map(str, study.layers))
        raise MissingError(f"Study {study.name!r} has no layer {asked.layer}: choose one of {there}.")
    order = "unit, sign DESC" if asked.sort == "unit" else f"{asked.sort} DESC NULLS LAST, unit, sign DESC"
    query = f"""FROM fidelity_card WHERE study = $study AND layer = $layer
        AND contains(lower(coalesce(top_pattern, '')), lower($contains))
        AND ($status = '' OR status = $status) AND ($least IS NULL OR {asked.sort} >= $least) ORDER BY {order}"""
    return study.frame(query, layer=asked.layer, contains=asked.contains, status=asked.status, least=asked.least)


def _layer(database: Snapshot, asked: AskedLayer) -> Answer:
    found = units_of(database, asked)
    pages = max(1, -(-len(found) // PER_PAGE))
    if asked.page > pages:
        raise MissingError(f"The units asked for fill {pages} pages: there is no page {asked.page}.")
    return {
        "study": asked.study, "layer": asked.layer, "layers": asked.the_study(database).layers, "found": len(found),
        "page": asked.page, "pages": pages,
        "units": found.slice(PER_PAGE * (asked.page - 1), PER_PAGE).to_dicts(),
    }  # fmt: skip


TABLES = (Table(f"{LAYER}/units", AskedLayer, units_of),)
PAGES = (Page(LAYER, AskedLayer, _layer, "layer.html", "The units of a layer, sorted and filtered"),)
