"""The search page: units by activating token, by context token or by both, and by a text of one's own.

Every search is an address, and shows the SQL that it ran.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, FiniteFloat

from n2g_assets.core.explorer import unit_address
from n2g_assets.core.units import unit_text
from n2g_assets.explore.page import Answer, Asked, Page
from n2g_assets.explore.tokens import shown_window
from n2g_assets.reading.database import Snapshot
from n2g_assets.reading.search import How, Lit, LitUp, Search, find, light_up, read_tokens
from n2g_assets.reading.study import Study, study_names

MOST_CHARACTERS = 20_000
"""Of a text."""
SHOWN = 30
"""Units that a text lights up and that are shown."""


_Blank = BeforeValidator(lambda value: None if value == "" else value)
"""A field of a form that is left empty asks nothing."""


class AskedSearch(Asked):
    """What is searched."""

    q: str = Field(default="", max_length=200)
    """Activating token, as the box on every page asks for it; it gives way to ``activating``."""
    activating: str = Field(default="", max_length=200)
    """Token on which units fire."""
    context: str = Field(default="", max_length=200)
    """Token that their rules want before it."""
    how: How = "caseless"
    """caseless (any case, with or without spaces around it), exact, prefix, or regex (a regular expression)."""
    nearest: int = Field(default=1, ge=1, le=1000)
    """Fewest places that the context token stands before the activating one."""
    furthest: Annotated[int | None, _Blank] = Field(default=None, ge=1, le=1000)
    """Most places; empty for any."""
    study: str = Field(default="", max_length=200)
    """Only units of this study; empty for all but controls."""
    layer: Annotated[int | None, _Blank] = Field(default=None, ge=0, le=10**6)
    """Only units of this layer."""
    least: Annotated[FiniteFloat | None, _Blank] = None
    """Only units whose graph reaches this r on held-out text."""
    text: str = Field(default="", max_length=MOST_CHARACTERS)
    """A text: which units' graphs light up where."""

    @property
    def search(self) -> Search:
        """The search by tokens."""
        return Search(
            self.activating or self.q, self.context, self.how, self.nearest, self.furthest, self.study, self.layer,
            self.least,
        )  # fmt: skip


def _search(database: Snapshot, asked: AskedSearch) -> Answer:
    names = study_names(database)
    search = asked.search
    study = Study(database, asked.study) if asked.study else None
    answer: Answer = {
        "studies": names, "activating": search.activating, "context": search.context, "sql": "", "hits": [],
        "known": [], "why_nothing": "", "lit": None,
    }  # fmt: skip
    if search.activating or search.context:
        found = find(database, search)
        answer |= {
            "sql": found.sql, "hits": [_named(row) for row in found.hits], "why_nothing": found.why_nothing,
            "known": [each._asdict() for each in found.known],
        }  # fmt: skip
    elif asked.text.strip() and names:
        study = study or Study(database, names[0])
        token_ids, exact = read_tokens(study, asked.text)
        lit = light_up(study, token_ids, layer=search.layer)
        answer |= {"sql": lit.sql, "lit": _lit(study, lit) | {"exact": exact}}
    return answer


def _named(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"name": unit_text(row["layer"], row["unit"], row["sign"])}


def _lit(study: Study, lit: LitUp) -> Answer:
    return {
        "study": study.name, "tokens": len(lit.token_ids) - 1, "tried": lit.tried, "promising": lit.promising,
        "units": [_lit_unit(study, lit, each) for each in lit.units[:SHOWN]],
    }  # fmt: skip


def _lit_unit(study: Study, lit: LitUp, unit: Lit) -> Answer:
    expected = float(unit.prediction.values[unit.position])
    return {
        "layer": unit.layer, "unit": unit.unit, "sign": unit.sign, "address": unit_address(unit.unit, unit.sign),
        "name": unit_text(unit.layer, unit.unit, unit.sign), "position": unit.position,
        "title": f"expects up to {expected:.2f} of its largest activation", "predicted": round(expected, 4),
    } | shown_window(lit.token_ids, unit.position, None, unit.prediction, study.vocabulary)  # fmt: skip


PAGES = (
    Page("/search", AskedSearch, _search, "search.html", "Units by activating token, by context token, or by a text"),
)
