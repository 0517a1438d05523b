"""A check of a per-layer asset: it speaks for the layers of its run, and names those in which something is wrong."""

from collections.abc import Callable

import dagster as dg

from n2g_assets.assets.session import Session, Study

LayerCheck = Callable[[Session, int], list[str]]
"""What is wrong with a layer, one sentence each; empty where all is well."""


def layer_check(
    study: Study,
    stage: str,
    name: str,
    check: LayerCheck,
    description: str,
    *,
    blocking: bool = False,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetChecksDefinition:
    """A check of one stage of a study.

    Args:
        study: the study.
        stage: the stage whose asset it checks.
        name: of the check.
        check: finds what is wrong with a layer.
        description: what must hold.
        blocking: whether later stages wait for it.
        severity: how bad it is where it does not hold.
    """

    @dg.asset_check(
        asset=study.key(stage),
        name=name,
        description=description,
        blocking=blocking,
        required_resource_keys={"n2g"},
    )
    def run(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        session = Session(study, context.resources.n2g.open(), context.log)
        keys = _layers_spoken_of(context, session, stage)
        wrong = {key: found for key in keys if (found := check(session, study.partition_layers[key]))}
        said = "; ".join(f"layer {key}: {sentence}" for key, found in wrong.items() for sentence in found)
        return dg.AssetCheckResult(
            passed=not wrong,
            severity=severity,
            description=said or _sound_layers(keys),
            metadata={"layers": dg.MetadataValue.text(", ".join(keys))},
        )

    return run


def _layers_spoken_of(context: dg.AssetCheckExecutionContext, session: Session, stage: str) -> list[str]:
    """The layers of the run, or, for a check that is run by itself, all layers that are there."""
    if context.has_partition_key or context.run.tags.get("dagster/asset_partition_range_start"):
        return list(context.partition_keys)
    there = {key.layer for key in session.store.keys(session.study.name) if key.table == "ledger" and key.part == stage}
    return [key for key, layer in session.study.partition_layers.items() if layer in there]


def _sound_layers(keys: list[str]) -> str:
    return f"layer {keys[0]} is sound" if len(keys) == 1 else f"layers {', '.join(keys)} are sound"
