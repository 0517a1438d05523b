"""The resources of this code location."""

import dagster as dg

from n2g_assets.assets.resource import N2GResource


@dg.definitions
def resources() -> dg.Definitions:
    """The home folder, under the key that the assets ask for."""
    return dg.Definitions(resources={"n2g": N2GResource()})
