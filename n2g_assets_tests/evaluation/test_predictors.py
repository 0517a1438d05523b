"""Every predictor of the registry is a module, and which unit's graph is whose control."""

from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from n2g_assets.core.registry import PREDICTORS
from n2g_assets.core.units import Unit
from n2g_assets.evaluation import predictors
from n2g_assets.evaluation.predictors.graph_shuffled import shuffled_partners

UNITS = st.lists(st.builds(Unit, st.integers(0, 500), st.sampled_from([1, -1])), min_size=2, max_size=40, unique=True)
SEEDS = st.integers(0, 2**40)


def test_the_registry_and_the_modules_name_the_same_predictors():
    modules = {path.stem for path in Path(predictors.__file__).parent.glob("*.py")} - {"__init__"}
    assert {predictor.name for predictor in PREDICTORS} == modules
    for name in modules:
        assert callable(import_module(f"{predictors.__name__}.{name}").fit)


def test_a_predictor_without_a_module_is_an_error():
    with pytest.raises(ModuleNotFoundError, match="graph_of_nobody"):
        predictors.fit_predictors(["graph_of_nobody"], None)


@given(UNITS, SEEDS, SEEDS)
def test_every_unit_has_another_one_as_partner_whatever_their_order(units, seed, layer):
    partners = shuffled_partners(units, seed, layer)
    assert sorted(partners) == sorted(units)
    assert all(unit != partner and partner in units for unit, partner in partners.items())
    assert shuffled_partners(units[::-1], seed, layer) == partners


@given(UNITS, SEEDS)
def test_a_unit_that_joins_changes_the_partners_only_of_units_whose_partner_it_becomes(units, seed):
    *before, new = units
    if len(before) < 2:
        return
    old, now = shuffled_partners(before, seed, 3), shuffled_partners(units, seed, 3)
    assert all(now[unit] in (old[unit], new) for unit in before)


def test_a_unit_that_joins_becomes_the_partner_of_about_one():
    units = [Unit(number, sign) for number in range(100) for sign in (1, -1)]
    partners = shuffled_partners(units, 0, 7)
    served = [list(partners.values()).count(unit) for unit in units]
    assert sum(served) == len(units)
    assert max(served) <= 8  # as of 200 draws among 200


def test_another_seed_or_layer_gives_other_partners():
    units = [Unit(number, 1) for number in range(20)]
    drawn = [shuffled_partners(units, seed, layer) for seed, layer in ((0, 0), (0, 1), (1, 0))]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]


def test_fewer_than_two_units_have_no_partners():
    assert shuffled_partners([], 0, 0) == {}
    assert shuffled_partners([Unit(3, 1)], 0, 0) == {}
    assert shuffled_partners([Unit(3, 1), Unit(3, -1)], 0, 0) == {Unit(3, 1): Unit(3, -1), Unit(3, -1): Unit(3, 1)}
