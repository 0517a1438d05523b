"""What a page is: an address, what can be asked in it, and a function that answers with plain data.

The same answer is shown by the page's template, and given as JSON at the same address below ``/api``. What can be asked
is declared once, as a pydantic model: it checks the address, and the description of the API is made from it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import polars as pl
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from n2g_assets.core.explorer import UNIT
from n2g_assets.reading.database import Snapshot
from n2g_assets.reading.study import Study, Unit

Answer = dict[str, Any]
"""Values that JSON knows."""

RULE = f"{UNIT}/rule/{{node}}"
"""Path of the page about a rule of a unit's graph."""

Rules = Annotated[int, Field(ge=1, le=1000)]
"""How many rules of a graph can be asked for."""

BLANK = BeforeValidator(lambda value: None if value == "" else value)
"""Of a field of a form that asks nothing where it is left empty."""

SIGNS = {"": 1, "-": -1}
"""How an address writes the sign of a unit, behind its number."""


class Asked(BaseModel):
    """What an address asks; fields of the path and of the query together."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


class OfStudy(Asked):
    """A page of one study."""

    study: str = Field(max_length=200)
    """Name of the study."""

    def the_study(self, database: Snapshot) -> Study:
        """The study; MissingError where it is not there."""
        return Study(database, self.study)


class OfLayer(OfStudy):
    """A page of one layer of a study."""

    layer: int = Field(ge=0, le=10**6)
    """Layer, from 0."""


class OfUnit(OfLayer):
    """A page of one unit of a study."""

    unit: str = Field(pattern=r"^\d{1,9}-?$")
    """Index of the neuron, latent or head, with ``-`` behind it for the negative sign."""

    def the_unit(self, database: Snapshot) -> Unit:
        """The unit; MissingError where it is not there."""
        return self.the_study(database).unit(
            self.layer, int(self.unit.rstrip("-")), SIGNS[self.unit.lstrip("0123456789")]
        )


@dataclass(frozen=True)
class Page:
    """A page and its twin in JSON."""

    path: str
    """Address, with the fields of ``asked`` that stand in it between braces."""
    asked: type[Asked]
    answer: Callable[[Snapshot, Any], Answer]
    """Takes the database and what was asked."""
    template: str
    """File in ``templates/``."""
    summary: str
    """What it shows, for the description of the API."""

    @property
    def in_path(self) -> list[str]:
        """The fields of ``asked`` that stand in the address."""
        return named_in(self.path)


@dataclass(frozen=True)
class Table:
    """Rows that a page shows and that can be taken away, as Parquet and as CSV."""

    path: str
    """Address without its ending, with the fields of ``asked`` that stand in it between braces."""
    asked: type[Asked]
    frame: Callable[[Snapshot, Any], pl.DataFrame]
    """Takes the database and what was asked."""


def unit_facts(unit: Unit) -> Answer:
    """Which unit a page is about."""
    return {"study": unit.study.name, **unit.key, "name": str(unit), "word": unit.study.word}


def named_in(path: str) -> list[str]:
    """The fields that stand in a path."""
    return re.findall(r"\{(\w+)\}", path)


def address(path: str, values: Mapping[str, Any]) -> str:
    """The address of a page: values that its path names go into it, the others behind it; None is left out."""
    named = named_in(path)
    for name in named:
        path = path.replace("{" + name + "}", quote(str(values[name]), safe=""))
    rest = [(name, str(value)) for name, value in values.items() if name not in named and value not in (None, "")]
    return path + ("?" + urlencode(rest) if rest else "")
