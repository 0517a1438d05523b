"""Two units side by side, of one study or of two."""

from pydantic import Field

from n2g_assets.core.errors import MissingError
from n2g_assets.core.registry import SHOWN_RULES
from n2g_assets.explore.page import Answer, Asked, Page, Rules
from n2g_assets.explore.unit import AskedUnit, unit_answer
from n2g_assets.reading.database import Snapshot


class AskedPair(Asked):
    """Two units, each as the end of its address: study, layer and unit with slashes between them."""

    a: str = Field(default="", max_length=300)
    """The first, such as ``demo/7/372``."""
    b: str = Field(default="", max_length=300)
    """The second."""
    rules: Rules = SHOWN_RULES
    """Rules of both graphs."""

    def units(self) -> list[AskedUnit]:
        """Both units, or none while they are not chosen.

        Raises:
            MissingError: one is not written like that.
        """
        return [self._unit(text) for text in (self.a, self.b) if text]

    def _unit(self, text: str) -> AskedUnit:
        parts = text.strip("/ ").rsplit("/", 2)
        if len(parts) != 3 or not parts[1].isdecimal():
            raise MissingError(f"{text!r:.60} names no unit: write study, layer and unit, such as demo/7/372.")
        study, layer, unit = parts
        return AskedUnit.model_validate(
            {"study": study, "layer": layer, "unit": unit, "rules": self.rules, "examples": 3}
        )


def _compare(database: Snapshot, asked: AskedPair) -> Answer:
    return {"units": [unit_answer(database, unit) for unit in asked.units()]}


PAGES = (Page("/compare", AskedPair, _compare, "compare.html", "Two units side by side, of one study or of two"),)
