"""The layers that a run is asked for: one partition or a range of them; what holds no layer of the study is refused.

Dagster takes a range that runs backwards for an empty one, and a run of it succeeds with nothing done. Its command line
learns of it from the definition below, before a run begins. The page creates runs without this code: there the
first step of the run refuses.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import click
import dagster as dg

from n2g_assets.core.errors import SettingsError

PARTITION = "dagster/partition"
"""Run tag that asks for one layer."""
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
"""Run tags that ask for a range of layers in one run."""


class PartitionError(SettingsError, click.ClickException):
    """A run is asked for no layer of the study; Dagster's command line says so without a traceback."""


class LayerPartitions(dg.StaticPartitionsDefinition):
    """One static partition a layer: ``"00"``, ``"01"`` and so on."""

    def asked(self, tags: Mapping[str, str]) -> Sequence[str]:
        """The partition keys that the tags of a run ask for; none where no tag speaks of partitions.

        Raises:
            PartitionError: they ask for a partition that the study lacks, or for a range that holds none.
        """
        if PARTITION in tags:
            return self._between(tags[PARTITION], tags[PARTITION])
        if RANGE_START in tags or RANGE_END in tags:
            return self._between(tags.get(RANGE_START, ""), tags.get(RANGE_END, ""))
        return []

    def get_partition_keys_in_range(self, partition_key_range: Any) -> Sequence[str]:
        """The keys from one to another, both included; fails as ``asked`` does."""
        return self._between(partition_key_range.start, partition_key_range.end)

    def validate_partition_key(self, partition_key: str, context: Any) -> None:
        """Fails as ``asked`` does."""
        self._between(partition_key, partition_key)

    def _between(self, first: str, last: str) -> Sequence[str]:
        keys = list(self.get_partition_keys())
        for key in (first, last):
            if key not in keys:
                raise PartitionError(
                    f"There is no layer '{key}' in this study, whose partitions are {', '.join(keys)}: "
                    f"ask for one of them, or for a range such as {keys[0]}...{keys[-1]}."
                )
        chosen = keys[keys.index(first) : keys.index(last) + 1]
        if not chosen:
            raise PartitionError(
                f"The range {first}...{last} runs backwards and holds no layer: ask for {last}...{first}."
            )
        return chosen

    def __repr__(self) -> str:
        """As that of a definition without the refusals, which it equals; Dagster's hash is that of this text."""
        return repr(dg.StaticPartitionsDefinition(self.get_partition_keys()))
