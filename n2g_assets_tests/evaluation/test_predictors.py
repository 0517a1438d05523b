"""Which unit's graph is whose control."""

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from n2g_assets.core.units import Unit
from n2g_assets.evaluation.predictors import PAPER_PREDICTORS, PREDICTORS, PredictorName, shuffled_partners

UNITS = st.lists(st.builds(Unit, st.integers(0, 500), st.sampled_from([1, -1])), min_size=2, max_size=40, unique=True)
SEEDS = st.lists(st.integers(0, 2**40), min_size=1, max_size=3)


@given(UNITS, SEEDS)
def test_no_unit_is_its_own_partner_and_each_serves_once(units, seed):
    partners = shuffled_partners(units, seed)
    assert sorted(partners) == sorted(units)
    assert sorted(partners.values()) == sorted(units)
    assert all(unit != partner for unit, partner in partners.items())


@given(UNITS, SEEDS)
def test_the_seed_decides(units, seed):
    assert shuffled_partners(units, seed) == shuffled_partners(units, seed)


def test_another_seed_or_layer_gives_other_partners():
    units = [Unit(neuron, 1) for neuron in range(20)]
    drawn = [shuffled_partners(units, seed) for seed in ([0, 0], [0, 1], [1, 0])]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]


def test_fewer_than_two_units_have_no_partners():
    assert shuffled_partners([], [0]) == {}
    assert shuffled_partners([Unit(3, 1)], [0]) == {}
    assert shuffled_partners([Unit(3, 1), Unit(3, -1)], [0]) == {Unit(3, 1): Unit(3, -1), Unit(3, -1): Unit(3, 1)}


def test_the_names_of_the_predictors_are_listed_once():
    assert get_args(PredictorName) == PREDICTORS
    assert set(PAPER_PREDICTORS) < set(PREDICTORS)
