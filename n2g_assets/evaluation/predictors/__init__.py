"""The predictors that are scored, one module each, found by its name in ``core/registry.PREDICTORS``.

Every module has one function ``fit(material) -> Predictor | None``; it answers None where the unit gives nothing to fit
on. A new predictor is a new module here and its line in the registry.
"""

from collections.abc import Iterable
from importlib import import_module

from n2g_assets.evaluation.material import Predictor, UnitMaterial


def fit_predictors(names: Iterable[str], material: UnitMaterial) -> dict[str, Predictor]:
    """The predictors of these names, fitted on one unit; those that have nothing to fit on are left out.

    Raises:
        ModuleNotFoundError: a name has no module here.
    """
    fitted = {name: import_module(f"{__name__}.{name}").fit(material) for name in names}
    return {name: predictor for name, predictor in fitted.items() if predictor is not None}
