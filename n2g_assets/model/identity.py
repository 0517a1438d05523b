"""Which model a number comes from, and the models that a process has loaded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from n2g_assets.core.settings import HarvestSettings

if TYPE_CHECKING:
    from n2g_assets.model.model import SubjectModel
    from n2g_assets.model.sources import SubjectFiles


def model_identity(facts: Mapping[str, Any]) -> str:
    """Of a row of ``subject_models``, what every number depends on: the files, the hook, BOS and the mask token."""
    return f"{facts['file_sha256']}:{facts['hook']}:{facts['bos_id']}:{facts['mask_id']}"


@lru_cache(maxsize=2)
def loaded_subject(
    files: SubjectFiles, hook: str, harvest: HarvestSettings, mask_token: str, dtype: str, lock: Path
) -> SubjectModel:
    """``load_subject``, once a process; ``lock`` is the file that forward passes of all processes hold."""
    from n2g_assets.model.load import load_subject

    return load_subject(files, hook, harvest, mask_token, dtype, lock)  # type: ignore[arg-type]
