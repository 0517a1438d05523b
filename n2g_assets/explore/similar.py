"""The page of units that are like one unit: by what their rules want, and by what they do on the same text.

It takes up to a second in a whole model, so that the page of the unit links to it, and its script shows it there once
the reader comes near.
"""

import polars as pl
from pydantic import Field

from n2g_assets.core.explorer import UNIT
from n2g_assets.core.units import unit_text
from n2g_assets.explore.page import Answer, OfUnit, Page, Table, unit_facts
from n2g_assets.reading.database import Snapshot
from n2g_assets.reading.study import unit_words

SIMILAR = f"{UNIT}/similar"
"""Path of the page."""
MEASURES = {"rule_cosine": "cosine of the rules", "correlation": "correlation on the same text"}
"""Columns of ``similar_units`` that say how alike two units are; the larger one says in which order they stand."""
MUCH_ALIKE = 0.2
"""Where no measure of any unit reaches it, the page says that none is much alike."""


class AskedSimilar(OfUnit):
    """How many units are wanted that are like one."""

    most: int = Field(default=20, ge=1, le=10_000)
    """Units at the most, those that are most alike by any measure."""


def similar_frame(database: Snapshot, asked: AskedSimilar) -> pl.DataFrame:
    """The units that are like one, those first that are most alike by any measure: rows of ``similar_units``."""
    unit = asked.the_unit(database)
    return unit.study.frame(
        f"""FROM similar_units($study, $layer, $unit, of_sign := $sign, controls := $controls)
        ORDER BY greatest({", ".join(MEASURES)}) DESC, study, layer, unit, sign DESC LIMIT $most""",
        **unit.key, controls=unit.study.control_of is not None, most=asked.most,
    )  # fmt: skip


def _similar(database: Snapshot, asked: AskedSimilar) -> Answer:
    found = similar_frame(database, asked)
    words = unit_words(database)
    rows = [
        row | {"name": unit_text(row["layer"], row["unit"], row["sign"], words[row["study"]])}
        for row in found.to_dicts()
    ]
    values = [row[name] for row in rows for name in MEASURES if row[name] is not None]
    return unit_facts(asked.the_unit(database)) | {
        "measures": MEASURES, "similar": rows, "most_alike": max(values, default=None), "much_alike": MUCH_ALIKE,
    }  # fmt: skip


TABLES = (Table(SIMILAR, AskedSimilar, similar_frame),)
PAGES = (Page(SIMILAR, AskedSimilar, _similar, "similar.html", "Units that are like a unit, in any layer and study"),)
