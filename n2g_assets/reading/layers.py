"""Layers that are asked for by number."""

from n2g_assets.core.errors import MissingError
from n2g_assets.reading.database import Snapshot
from n2g_assets.report.text import layers_listed


def check_layer(database: Snapshot, study: str, layer: int | None) -> None:
    """That a study has a layer, or any study where none is named.

    Raises:
        MissingError: it has not.
    """
    found = database.rows(
        "SELECT DISTINCT layer FROM ledger WHERE $study = '' OR study = $study ORDER BY layer", study=study
    )
    layers = [row["layer"] for row in found]
    if layer is not None and layer not in layers:
        said = f"Study {study!r} has no layer {layer}: it has" if study else f"No study has layer {layer}: they have"
        raise MissingError(f"{said} {layers_listed(layers)}.")
