"""The code location of this package: the studies of its folder ``defs``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from n2g_assets.assets.shared import with_resources
from n2g_assets.assets.study import Study
from n2g_assets.core.study_file import check_files
from n2g_assets.study import study_definitions


def build_defs(studies: Sequence[Study], *, resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """A fresh code location of these studies; ``resources`` replace the shared ones (the home is ``n2g``)."""
    shared = with_resources(resources or {})
    return dg.Definitions.merge(*(study_definitions(study) for study in studies), shared)


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads: the definitions as the folder gives them, which hold its components too."""
    package = Path(__file__).parent
    check_files(sorted(package.glob("defs/*/defs.yaml")))
    return dg.load_from_defs_folder(path_within_project=package)
