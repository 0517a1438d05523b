"""Which units of a layer a study asks about. Samples are nested: a larger one holds every smaller one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from n2g_assets.core.errors import SettingsError
from n2g_assets.core.settings import NeuronSample, NeuronSelection
from n2g_assets.core.units import Unit


def select_neurons(selection: NeuronSelection, layer: int, width: int) -> list[int]:
    """The neurons of one layer that a study asks about, ascending.

    A sample of n is the first n of one seeded order of the layer's ``width`` neurons, so that a larger sample
    holds every smaller one.

    Raises:
        SettingsError: a neuron is out of range, or the sample is larger than the layer.
    """
    if selection == "all":
        return list(range(width))
    if isinstance(selection, NeuronSample):
        if selection.sample > width:
            raise SettingsError(
                f"A sample of {selection.sample} neurons was asked for but a layer has {width}: "
                "lower neurons.sample or write 'neurons: all'."
            )
        order = np.random.default_rng(np.random.SeedSequence([selection.seed, layer])).permutation(width)
        return sorted(order[: selection.sample].tolist())
    wrong = [neuron for neuron in selection if not 0 <= neuron < width]
    if wrong:
        raise SettingsError(f"Neurons {wrong} do not exist: neurons of this model go from 0 to {width - 1}.")
    return sorted(set(selection))


def select_units(selection: NeuronSelection, signs: Sequence[int], layer: int, width: int) -> list[Unit]:
    """The units of one layer, ordered by neuron and then as ``signs`` are."""
    return [Unit(neuron, sign) for neuron in select_neurons(selection, layer, width) for sign in signs]
