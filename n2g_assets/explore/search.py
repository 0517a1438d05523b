"""The search page: units by activating token, by context token or by both, and by a text of one's own.

Every search is an address, and shows the SQL that it ran.
"""

from typing import Annotated, Any

import polars as pl
from pydantic import BeforeValidator, Field, FiniteFloat

from n2g_assets.core.explorer import unit_address
from n2g_assets.core.units import unit_text
from n2g_assets.explore.page import BLANK, Answer, Asked, Page, Table
from n2g_assets.explore.tokens import shown_window
from n2g_assets.reading.database import Snapshot
from n2g_assets.reading.lighting import LEAST_EXPECTED, Lit, LitUp, light_up, read_tokens
from n2g_assets.reading.ordered import Before, How
from n2g_assets.reading.search import Search, find, search_study
from n2g_assets.reading.study import Study, study_names, unit_words

MOST_CHARACTERS = 20_000
"""Of a text."""
SHOWN = 30
"""Units that a text lights up and that are shown."""


Nearest = Annotated[int, BeforeValidator(lambda value: 1 if value == "" else value), Field(ge=1, le=1000)]
"""A number of places; a field that is left empty asks for one or more."""
Furthest = Annotated[Annotated[int, Field(ge=1, le=1000)] | None, BLANK]


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
    nearest: Nearest = 1
    """Fewest places that the context token stands before the activating one."""
    furthest: Furthest = None
    """Most places; empty for any."""
    context2: str = Field(default="", max_length=200)
    """Token that the same rule wants before that one."""
    nearest2: Nearest = 1
    """Fewest places that it stands before the activating one."""
    furthest2: Furthest = None
    """Most places; empty for any."""
    context3: str = Field(default="", max_length=200)
    """Token that the same rule wants before that one."""
    nearest3: Nearest = 1
    """Fewest places that it stands before the activating one."""
    furthest3: Furthest = None
    """Most places; empty for any."""
    study: str = Field(default="", max_length=200)
    """Only units of this study; empty for all but controls."""
    layer: Annotated[int | None, BLANK] = Field(default=None, ge=0, le=10**6)
    """Only units of this layer."""
    least: Annotated[FiniteFloat | None, BLANK] = None
    """Only units whose graph reaches this r on held-out text."""
    text: str = Field(default="", max_length=MOST_CHARACTERS)
    """A text: which units' graphs light up where."""

    @property
    def befores(self) -> list[Before]:
        """The tokens before the activating one, as they stand in the form."""
        return [
            Before(self.context, self.nearest, self.furthest),
            Before(self.context2, self.nearest2, self.furthest2),
            Before(self.context3, self.nearest3, self.furthest3),
        ]

    def with_token(self, field: str, given: str, plain: str) -> dict[str, Any]:
        """What the same search asks with a token, exactly as it is, in the place of one that is given."""
        fields = ("q", "activating") if field == "activating" else ("context", "context2", "context3")
        place = next(name for name in fields if getattr(self, name) == given)
        changed = {"how": "exact", "q": "", place.replace("q", "activating"): plain}
        return self.model_copy(update=changed).model_dump(exclude_defaults=True)

    @property
    def search(self) -> Search:
        """The search by tokens."""
        first, *earlier = [each for each in self.befores if each.token] or [Before("")]
        return Search(
            self.activating or self.q, first.token, self.how, first.nearest, first.furthest, tuple(earlier), self.study,
            self.layer, self.least,
        )  # fmt: skip


def units_found(database: Snapshot, asked: AskedSearch) -> pl.DataFrame:
    """The units that a search finds, or those whose graphs a text lights up, the strongest first."""
    search = asked.search
    if search.tokens:
        find(database, search)  # says what is wrong with it
        return database.frame(search.sql)
    study = _asked_study(database, asked)
    return search_study(study, search, asked.text).insert_column(0, pl.lit(study.name).alias("study"))


def _search(database: Snapshot, asked: AskedSearch) -> Answer:
    search = asked.search
    if asked.study:
        Study(database, asked.study)  # says what studies there are
    answer: Answer = {
        "studies": study_names(database), "activating": search.activating, "befores": search.befores, "sql": "",
        "hits": [], "known": [], "why_nothing": "", "lit": None,
    }  # fmt: skip
    if search.tokens:
        found, words = find(database, search), unit_words(database)
        answer |= {
            "sql": found.sql, "hits": [_hit(row, words[row["study"]]) for row in found.hits],
            "why_nothing": found.why_nothing, "known": [each._asdict() for each in found.known],
        }  # fmt: skip
    elif asked.text.strip() and answer["studies"]:
        study = _asked_study(database, asked)
        token_ids, exact = read_tokens(study, asked.text)
        lit = light_up(study, token_ids, layer=search.layer)
        answer |= {"sql": lit.sql, "lit": _lit(study, lit) | {"exact": exact}}
    return answer


def _asked_study(database: Snapshot, asked: AskedSearch) -> Study:
    """The study whose units are tried on a text: the first one, where none is named."""
    return Study(database, asked.study or next(iter(study_names(database)), ""))


def _hit(row: dict[str, Any], word: str) -> dict[str, Any]:
    """A row that is found, with its unit's name, its tokens and how many places before the activating one each stands.

    ``word`` is what units of its study are called.
    """
    tokens = [{"text": row.get("activating_form"), "before": 0}] if row.get("activating_form") else []
    forms, offsets = row.get("forms", [row.get("form")]), row.get("offsets", [row.get("offset", 0)])
    tokens += [{"text": form, "before": -offset} for form, offset in zip(forms, offsets, strict=True)]
    return row | {"name": unit_text(row["layer"], row["unit"], row["sign"], word), "tokens": tokens}


def _lit(study: Study, lit: LitUp) -> Answer:
    return {
        "study": study.name, "tokens": len(lit.token_ids) - 1, "tried": lit.tried, "promising": lit.promising,
        "there": lit.there, "least": LEAST_EXPECTED, "found": len(lit.units),
        "units": [_lit_unit(study, lit, each) for each in lit.units[:SHOWN]],
    }  # fmt: skip


def _lit_unit(study: Study, lit: LitUp, unit: Lit) -> Answer:
    expected = float(unit.prediction.values[unit.position])
    return {
        "layer": unit.layer, "unit": unit.unit, "sign": unit.sign, "address": unit_address(unit.unit, unit.sign),
        "name": unit_text(unit.layer, unit.unit, unit.sign, study.word), "position": unit.position,
        "title": f"expects up to {expected:.2f} of its largest activation", "predicted": round(expected, 4),
    } | shown_window(lit.token_ids, unit.position, None, unit.prediction, study.vocabulary)  # fmt: skip


TABLES = (Table("/search/units", AskedSearch, units_found),)
PAGES = (
    Page("/search", AskedSearch, _search, "search.html", "Units by activating token, by context token, or by a text"),
)
