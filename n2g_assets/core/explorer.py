"""Where the explorer is: addresses of its pages, for whoever links to them from outside, such as reports and Dagster.

``$N2G_EXPLORER`` says where it is served, or where its exported pages are hosted.
"""

import os
from urllib.parse import quote, urlsplit

from n2g_assets.core.errors import SettingsError

STUDY, LAYER, UNIT = "/study/{study}", "/study/{study}/{layer}", "/study/{study}/{layer}/{unit}"
"""Paths of its pages about a study, a layer and a unit."""

HERE = "http://127.0.0.1:8777"
"""Where it is when nothing else is said."""


def explorer_root() -> str:
    """The address of the explorer, without a slash at its end.

    Raises:
        SettingsError: ``$N2G_EXPLORER`` is no address of the web.
    """
    given = os.environ.get("N2G_EXPLORER", "").strip() or HERE
    try:
        parts = urlsplit(given)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
    except ValueError:
        good = False
    if not good or any(character.isspace() for character in given):
        raise SettingsError(
            f"N2G_EXPLORER ({given}) is not where an explorer can be: write an address such as {HERE}, or unset it."
        )
    return given.rstrip("/")


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
