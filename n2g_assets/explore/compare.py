"""Two units side by side, of one study or of two."""

from pydantic import Field

from n2g_assets.core.errors import MissingError
from n2g_assets.core.registry import SHOWN_RULES
from n2g_assets.explore.page import Answer, Asked, OfUnit, Page, Rules
from n2g_assets.explore.unit import elsewhere, top_examples, unit_head
from n2g_assets.reading.database import Snapshot

EXAMPLES = 3
"""Contexts of each unit."""


class AskedPair(Asked):
    """Two units, each as the end of its address: study, layer and unit with slashes between them."""

    a: str = Field(default="", max_length=300)
    """The first, such as ``demo/7/372``."""
    b: str = Field(default="", max_length=300)
    """The second."""
    rules: Rules = SHOWN_RULES
    """Rules of both graphs."""

    def pair(self) -> list[OfUnit]:
        """Both units, or fewer while they are not chosen.

        Raises:
            MissingError: one is not written like that.
        """
        return [_unit(text) for text in (self.a, self.b) if text]


def _unit(text: str) -> OfUnit:
    parts = text.strip("/ ").rsplit("/", 2)
    if len(parts) != 3 or not parts[1].isdecimal():
        raise MissingError(f"{text!r:.60} names no unit: write study, layer and unit, such as demo/7/372.")
    study, layer, unit = parts
    return OfUnit.model_validate({"study": study, "layer": layer, "unit": unit})


def _compare(database: Snapshot, asked: AskedPair) -> Answer:
    units = [each.the_unit(database) for each in asked.pair()]
    return {
        "units": [unit_head(unit, asked.rules) | top_examples(unit, asked.rules, EXAMPLES) for unit in units],
        "elsewhere": elsewhere(units[0]) if len(units) == 1 else [],
    }


PAGES = (Page("/compare", AskedPair, _compare, "compare.html", "Two units side by side, of one study or of two"),)
