"""Where pages are: those of the explorer, for whoever links to them from outside, and those of Dagster.

``$N2G_EXPLORER`` says where the explorer is served, or where its exported pages are hosted; ``$N2G_DAGSTER`` where the
Dagster UI is.
"""

import os
from urllib.parse import quote, urlsplit

from n2g_assets.core.errors import SettingsError

STUDY, LAYER, UNIT = "/study/{study}", "/study/{study}/{layer}", "/study/{study}/{layer}/{unit}"
"""Paths of the explorer's pages about a study, a layer and a unit."""

HERE = "http://127.0.0.1:8777"
"""Where the explorer is when nothing else is said."""
DAGSTER_HERE = "http://127.0.0.1:3000"
"""Where the Dagster UI is then."""


def explorer_root() -> str:
    """The address of the explorer, without a slash at its end.

    Raises:
        SettingsError: ``$N2G_EXPLORER`` is no address of the web.
    """
    return _root("N2G_EXPLORER", "an explorer", HERE)


def explorer_address(study: str, layer: int | None = None, unit: int | None = None, sign: int = 1) -> str:
    """The address of the explorer's page about a study, about a layer of it, or about a unit of that.

    Raises:
        SettingsError: as ``explorer_root``.
    """
    path = STUDY if layer is None else LAYER if unit is None else UNIT
    written = "" if unit is None else unit_address(unit, sign)
    return explorer_root() + path.format(study=quote(study, safe=""), layer=layer, unit=written)


def unit_address(number: int, sign: int) -> str:
    """How an address writes a unit: its number, and behind it ``-`` for the negative sign."""
    return f"{number}{'' if sign > 0 else '-'}"


def dagster_address(study: str, asset: str = "") -> str:
    """The address of the Dagster UI's page about an asset of a study, or about all of them.

    Raises:
        SettingsError: ``$N2G_DAGSTER`` is no address of the web.
    """
    path = "/".join(quote(part, safe="") for part in (study, asset) if part)
    return f"{_root('N2G_DAGSTER', 'the Dagster UI', DAGSTER_HERE)}/assets/{path}"


def _root(variable: str, what: str, here: str) -> str:
    given = os.environ.get(variable, "").strip() or here
    try:
        parts = urlsplit(given)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
    except ValueError:
        good = False
    if not good or any(character.isspace() for character in given):
        raise SettingsError(
            f"{variable} ({given}) is not where {what} can be: write an address such as {here}, or unset it."
        )
    return given.rstrip("/")
