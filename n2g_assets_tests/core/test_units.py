"""Samples are nested, and neurons that do not exist are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from n2g_assets.core.errors import SettingsError
from n2g_assets.core.unit_settings import NeuronSample
from n2g_assets.core.units import Unit, select_units


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5), st.integers(0, 30))
def test_a_larger_sample_holds_every_smaller_one(first, second, seed, layer):
    small, large = sorted((first, second))
    chosen = [set(select_units(NeuronSample(sample=n, seed=seed), [1], layer, 40)) for n in (small, large)]
    assert len(chosen[0]) == small
    assert chosen[0] <= chosen[1]


def test_layers_have_orders_of_their_own():
    sample = NeuronSample(sample=10)
    assert select_units(sample, [1], 0, 1000) != select_units(sample, [1], 1, 1000)


def test_both_signs_of_a_neuron_stand_side_by_side():
    assert select_units([3, 1], [1, -1], 0, 4) == [Unit(1, 1), Unit(1, -1), Unit(3, 1), Unit(3, -1)]


@pytest.mark.parametrize("selection", [[0, 4], [-1], NeuronSample(sample=5)])
def test_neurons_that_do_not_exist_are_refused_with_the_range(selection):
    with pytest.raises(SettingsError, match=r"4|3"):
        select_units(selection, [1], 0, 4)
