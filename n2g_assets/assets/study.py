"""``Study``: one study's name, folder and settings, and what Dagster derives from them: keys, partitions, policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg

from n2g_assets.assets.partitions import RANGE_END, RANGE_START, LayerPartitions
from n2g_assets.core import registry
from n2g_assets.core.settings import StudySettings

STUDY = "study"
"""In a job's metadata, the folder and the settings of its study."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class Study:
    """One study: its name, the folder its relative paths count from, and its settings."""

    name: str
    folder: Path
    settings: StudySettings

    def key(self, stage: str) -> dg.AssetKey:
        """The asset key of one of its stages."""
        return dg.AssetKey([self.name, stage])

    @property
    def stages(self) -> tuple[str, ...]:
        """Its per-layer stages, in the order of the pipeline."""
        return tuple(self._of_study(registry.STAGES))

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that its units are scored on."""
        return tuple(self._of_study(registry.TEXTS))

    @property
    def predictors(self) -> tuple[str, ...]:
        """The predictors that are scored: ours, and explanations of others."""
        return (*self.fitted_predictors, *self.settings.scored_explanations)

    @property
    def fitted_predictors(self) -> tuple[str, ...]:
        """Ours, which are learnt from the harvest."""
        return tuple(self._of_study(registry.PREDICTORS))

    def _of_study(self, entries: Sequence[registry.Entry]) -> dict[str, registry.Entry]:
        return registry.named(registry.of_study(entries, self.settings.preset, self.settings.method.preset))

    @property
    def partitions(self) -> LayerPartitions:
        """One static partition a layer: ``"00"``, ``"01"`` and so on."""
        return LayerPartitions(list(self.partition_layers))

    @property
    def partition_layers(self) -> dict[str, int]:
        """The layer of every partition key."""
        layers = self.settings.layer_numbers
        width = max(2, len(str(layers[-1])))
        return {f"{layer:0{width}d}": layer for layer in layers}

    @property
    def backfill_policy(self) -> dg.BackfillPolicy:
        """The same for every per-layer asset: mixed policies would repeat the forward pass for every layer."""
        if self.settings.layers_at_once == "all":
            return dg.BackfillPolicy.single_run()
        return dg.BackfillPolicy.multi_run(max_partitions_per_run=self.settings.layers_at_once)

    @property
    def all_layers_tags(self) -> dict[str, str]:
        """The run tags that make one run of all layers."""
        keys = list(self.partition_layers)
        return {RANGE_START: keys[0], RANGE_END: keys[-1]}

    @property
    def job_metadata(self) -> dict[str, Any]:
        """What ``study_of`` reads."""
        return {STUDY: {"folder": str(self.folder), "settings": self.settings.model_dump(mode="json")}}

    @property
    def run_tags(self) -> list[dict[str, str]]:
        """The run tags of each group of layers that goes through the pipeline together."""
        parts = groups(list(self.partition_layers), self.settings.layers_at_once)
        return [{RANGE_START: part[0], RANGE_END: part[-1]} for part in parts]


def groups(items: Sequence[Item], at_once: int | str) -> list[Sequence[Item]]:
    """The items, such as layers or their partition keys, ``at_once`` together; or ``all``."""
    size = len(items) if at_once == "all" else int(at_once)
    return [items[start : start + size] for start in range(0, len(items), size)]


def study_of(job: dg.JobDefinition) -> Study:
    """The study whose job this is."""
    about: Any = job.metadata[STUDY].value
    return Study(job.name, Path(about["folder"]), StudySettings(**about["settings"]))
