"""Units: what a study explains. A unit is a neuron of a layer, a latent of its encoder, or a head, with a sign."""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from n2g_assets.core.errors import SettingsError
from n2g_assets.core.unit_settings import NeuronSample, NeuronSelection


class Unit(NamedTuple):
    """A neuron, latent or head of a layer and a sign."""

    number: int
    """Index of the neuron, latent or head in its layer, from 0: the column ``unit``."""
    sign: int
    """+1 reads the activation, -1 the negated activation."""

    def key(self) -> dict[str, int]:
        """The columns ``unit`` and ``sign`` of the unit's rows."""
        return {"unit": self.number, "sign": self.sign}

    def __str__(self) -> str:
        """The unit as text such as ``17:-1``, its key in the ``unit_hashes`` of a manifest."""
        return f"{self.number}:{self.sign}"


def of_units(units: Collection[Unit]) -> pl.Expr:
    """Whether a row is of one of these units, by its columns ``unit`` and ``sign``."""
    positive, negative = (
        pl.col("unit").is_in([unit.number for unit in units if unit.sign == sign]) for sign in (1, -1)
    )
    return pl.when(pl.col("sign") > 0).then(positive).otherwise(negative)


def unit_text(layer: int, number: int, sign: int, word: str = "neuron") -> str:
    """A unit for reading, such as ``layer 7, neuron 12, negative``; ``word`` is what it is called."""
    return f"layer {layer}, {word} {number}" + ("" if sign > 0 else ", negative")


def select_units(
    selection: NeuronSelection, signs: Sequence[int], layer: int, width: int, word: str = "neuron"
) -> list[Unit]:
    """The units of one layer that a study asks about, ordered by number and then as ``signs`` are.

    A sample of n is the first n of one seeded order of the layer's ``width`` neurons, or what ``word`` says they are,
    so that a larger sample holds every smaller one.

    Raises:
        SettingsError: a number is out of range, or the sample is larger than the layer.
    """
    neurons: Iterable[int]
    if selection == "all":
        neurons = range(width)
    elif isinstance(selection, NeuronSample):
        if selection.sample > width:
            raise SettingsError(
                f"A sample of {selection.sample} {word}s was asked for but a layer has {width}: "
                "lower neurons.sample or write 'neurons: all'."
            )
        order = np.random.default_rng(np.random.SeedSequence([selection.seed, layer])).permutation(width)
        neurons = order[: selection.sample].tolist()
    else:
        neurons = set(selection)
        if wrong := [neuron for neuron in selection if not 0 <= neuron < width]:
            raise SettingsError(
                f"{word.capitalize()}s {wrong} do not exist: {word}s of this model go from 0 to {width - 1}."
            )
    return [Unit(neuron, sign) for neuron in sorted(neurons) for sign in signs]
