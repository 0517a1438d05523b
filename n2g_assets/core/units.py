"""Units: what a study explains. A unit is a neuron of a layer together with a sign."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import polars as pl


class Unit(NamedTuple):
    """A neuron of a layer and a sign."""

    number: int
    """Index of the neuron in its layer, from 0: the column ``unit``."""
    sign: int
    """+1 reads the activation, -1 the negated activation."""

    def key(self) -> dict[str, int]:
        """The columns ``unit`` and ``sign`` of the unit's rows."""
        return {"unit": self.number, "sign": self.sign}

    def __str__(self) -> str:
        """The unit as text such as ``17:-1``, its key in the ``unit_hashes`` of a manifest."""
        return f"{self.number}:{self.sign}"


def key_frame(units: Iterable[Unit]) -> pl.DataFrame:
    """Units as a frame with the columns ``unit`` and ``sign``, to join rows with."""
    return pl.DataFrame(list(units), schema={"unit": pl.Int32, "sign": pl.Int8}, orient="row")


def unit_text(layer: int, number: int, sign: int) -> str:
    """A unit for reading, such as ``layer 7, neuron 12, negative``."""
    return f"layer {layer}, neuron {number}" + ("" if sign > 0 else ", negative")
