"""The code location: what ``defs/`` holds, or studies that are handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from n2g_assets.assets.resource import N2GResource
from n2g_assets.assets.study import Study
from n2g_assets.study import study_definitions


def build_defs(
    studies: Sequence[Study] | None = None, *, project: Path | None = None, resources: Mapping[str, Any] | None = None
) -> dg.Definitions:
    """A fresh code location.

    Args:
        studies: these studies and no others; none loads the ``defs`` folder of ``project``.
        project: a folder within a Dagster project; none means this one.
        resources: replace the resources of the same name; the home is ``n2g``.
    """
    executor = dg.Definitions(executor=dg.in_process_executor)
    if studies is None:
        loaded = dg.load_from_defs_folder(path_within_project=project or Path(__file__).parent)
        parts = [
            dg.Definitions(
                assets=loaded.assets,
                asset_checks=loaded.asset_checks,
                jobs=loaded.jobs,
                schedules=loaded.schedules,
                sensors=loaded.sensors,
            )
        ]
        resources = {**(loaded.resources or {}), **(resources or {})}
    else:
        parts = [study_definitions(study) for study in studies]
        resources = {"n2g": N2GResource(), **(resources or {})}
    return dg.Definitions.merge(*parts, executor, dg.Definitions(resources=resources or {}))


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads."""
    return build_defs()
