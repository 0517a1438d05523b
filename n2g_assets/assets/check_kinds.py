"""What an asset check is, and how a stage's own step runs the checks of what it has just written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import dagster as dg

from n2g_assets.assets.session import Session
from n2g_assets.assets.study import Study


@dataclass(frozen=True)
class Check:
    """One asset check of one asset of a study."""

    name: str
    description: str
    """What must hold."""
    faults: Callable[..., list[str]]
    """Called with the session and, for a per-layer asset, the layer: what is wrong, one sentence each."""
    blocking: bool = False
    """Whether later stages of the run wait for it."""
    warns: bool = False
    """Whether a fault is a warning rather than an error."""
    applies: Callable[[Study], bool] = lambda _study: True
    """Whether a study has this check."""


def check_specs(study: Study, asset: str, checks: Iterable[Check]) -> list[dg.AssetCheckSpec]:
    """The checks of one asset as Dagster knows them before they run."""
    return [
        dg.AssetCheckSpec(check.name, asset=study.key(asset), description=check.description, blocking=check.blocking)
        for check in checks
        if check.applies(study)
    ]


def check_results(
    session: Session, asset: str, checks: Iterable[Check], layers: Mapping[str, int] | None = None
) -> Iterator[dg.AssetCheckResult]:
    """Runs the checks of one asset.

    ``layers`` are the layers of the run by partition key; a check speaks for all of them, and names those in which
    something is wrong. None for an asset without layers.
    """
    for check in (check for check in checks if check.applies(session.study)):
        if layers is None:
            said, metadata = check.faults(session), {}
        else:
            found = {key: check.faults(session, layer) for key, layer in layers.items()}
            said = [f"layer {key}: {sentence}" for key, sentences in found.items() for sentence in sentences]
            metadata = {"layers": dg.MetadataValue.text(", ".join(layers))}
        yield dg.AssetCheckResult(
            passed=not said,
            check_name=check.name,
            asset_key=session.study.key(asset),
            severity=dg.AssetCheckSeverity.WARN if check.warns else dg.AssetCheckSeverity.ERROR,
            description="; ".join(said) or "sound",
            metadata=metadata,
        )
