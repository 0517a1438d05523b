"""What the code of a stage is, for the whole study or layer by layer, and how a layer's units are brought up to date.

``steps`` makes Dagster's assets of stages.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import polars as pl

from n2g_assets.assets.session import Session
from n2g_assets.assets.sizes import UNITS_A_PIECE
from n2g_assets.assets.study import groups
from n2g_assets.core.errors import StorageError
from n2g_assets.core.progress import Progress
from n2g_assets.core.registry import STAGES, named
from n2g_assets.core.setting import Settings
from n2g_assets.core.units import Unit
from n2g_assets.method.results import BlockResult, Outcome
from n2g_assets.storage.hashing import hash_json, unit_rows_hashes
from n2g_assets.storage.stages import StageReport, fill_units

_HASHED_TOGETHER = 128
"""Units whose input rows are in memory at once while they are hashed."""


@dataclass(frozen=True)
class Ahead:
    """What of a per-layer stage's work can be done in pieces, by any worker in any order, before the layers are."""

    pieces: Callable[[Session, Sequence[int]], Sequence[Any]]
    """The pieces that are not done yet of some layers; each can be pickled."""
    do: Callable[[Session, Any, Progress], None]
    """Does one; whoever needs it finds it on disk."""


@dataclass(frozen=True, kw_only=True)
class WholeStage:
    """The code of a stage that works for the whole study, not layer by layer."""

    name: str
    description: str
    code_version: str
    """Raised by hand when the same inputs would give other rows."""
    work: Callable[[Session], dg.MaterializeResult]
    """Brings it up to date, and gives its metadata and data version."""
    kinds: set[str]
    runs_model: bool = False
    """Whether its steps go to workers that run the model."""
    tables: tuple[str, ...] = ()
    """Tables that it writes, the main one first."""
    upstream: tuple[str, ...] = ()
    """Assets that it reads, as far as a study has them."""
    follows: bool = False
    """Whether Dagster's automation, once turned on, makes it anew after one of them."""


@dataclass(frozen=True, kw_only=True)
class LayerStage:
    """The code of a per-layer stage."""

    name: str
    """Of the stage in ``core/registry.py``, where its tables stand and what it reads."""
    description: str
    code_version: str
    """Raised by hand when the same inputs would give other rows."""
    work: Callable[[Session, int, Progress], StageReport]
    """Computes or reuses one layer."""
    prepare: Callable[[Session, Sequence[int], Progress], None] | None = None
    """Work for all layers of a step together, before the loop."""
    ahead: Ahead | None = None
    """What workers can do before, where there are several."""
    runs_model: bool = False
    """Whether its steps go to workers that run the model."""
    extra: Callable[[Session, int], Mapping[str, Any]] | None = None
    """More metadata, such as figures and pictures; it stands first."""
    preview_columns: list[str]
    preview_first: pl.Expr | None = None
    """Rows for which it holds stand first in the preview."""
    kinds: set[str] = field(default_factory=lambda: {"torch", "polars", "parquet"})

    @property
    def tables(self) -> tuple[str, ...]:
        """Tables that it writes, the main one first."""
        return named(STAGES)[self.name].tables

    @property
    def upstream(self) -> tuple[str, ...]:
        """Assets that it reads; after the first stage, the first one's ledger says which units have ended."""
        return named(STAGES)[self.name].upstream


class DoneAhead(Exception):  # noqa: N818  # it ends the work of a stage that is asked for a share alone
    """The units of a share are computed, and nothing else is to be done."""


def large_layers(work: Callable[[Session, int, Progress], object]) -> Ahead:
    """Blocks of the units of large layers: by them the work of a layer, which ``fill_layer`` does, is done ahead."""

    def pieces(session: Session, layers: Sequence[int]) -> list[tuple[int, Sequence[Unit]]]:
        parts = {layer: groups(session.units(layer), UNITS_A_PIECE) for layer in layers}
        return [(layer, part) for layer, some in parts.items() if len(some) > 1 for part in some]

    def do(session: Session, piece: tuple[int, Sequence[Unit]], show: Progress) -> None:
        layer, session.share = piece
        try:
            with suppress(DoneAhead):
                work(session, layer, show)
        finally:
            session.share = None

    return Ahead(pieces, do)


def fill_layer(
    session: Session, stage: LayerStage, layer: int, show: Progress, *, inputs: Sequence[str],
    settings: Sequence[Settings], compute: Callable[..., BlockResult], also: Any = None,
    also_by_unit: Mapping[Unit, Any] | None = None,
) -> StageReport:  # fmt: skip
    """Run one layer of a stage: only the units whose input rows or settings changed are computed.

    A unit's input is its rows of the tables ``inputs``. ``compute`` is called with a block of units, their rows by
    table, their a_max and each of ``settings``: what the work is handed of the study's settings enters the hash, and it
    is handed nothing else. ``also`` is what else every unit's result depends on, and ``also_by_unit`` that of some
    units, both as JSON. The ledger of the first asset that the stage reads says which units have already ended.
    """
    units = session.units(layer)
    a_max = session.a_max(layer, units)
    hashes = {name: input_hashes(session, name, layer, units) for name in inputs}
    previous = next(name for name in stage.upstream if name in session.study.stages)
    ledger = session.read("ledger", layer, part=previous)
    missing = set(units) - {Unit(number, sign) for number, sign in ledger.select("unit", "sign").iter_rows()}
    if missing:
        raise StorageError(
            f"{previous} of layer {layer} has not seen {len(missing)} of the units asked for: materialize it first."
        )
    ended = ledger.filter(pl.col("status") != "ok").select("unit", "sign", "status", "reason")
    others = also_by_unit or {}

    def compute_block(block: list[Unit]) -> BlockResult:
        rows = {name: session.read(name, layer, units=block) for name in inputs}
        return compute(block, rows, {unit: a_max[unit] for unit in block}, *settings)

    report = fill_units(
        session.store,
        stage=stage.name, tables=stage.tables, study=session.study.name, layer=layer, code_version=stage.code_version,
        settings_hash=hash_json([session.units_hash(layer), [part.hashed() for part in settings], also]),
        units=units,
        unit_inputs={
            unit: hash_json([a_max[unit], others.get(unit), *(hashes[name][unit] for name in inputs)]) for unit in units
        },
        carried={Unit(number, sign): Outcome(*how) for number, sign, *how in ended.iter_rows()},
        compute=compute_block, block_size=session.settings.method.units_per_block, progress=show,
        retry_failed=session.retry_failed, share=session.share,
    )  # fmt: skip
    if report is None:
        raise DoneAhead
    return report


def read_together(session: Session, layers: Sequence[int], show: Progress) -> None:
    """For ``LayerStage.prepare``: evidence that has to be read is read in one pass for all layers of the run."""
    session.layers_together = tuple(layers)


def input_hashes(session: Session, table: str, layer: int, units: Sequence[Unit]) -> dict[Unit, str]:
    """The hash of each unit's rows of a table, of which some units' at a time are in memory."""
    hashes: dict[Unit, str] = {}
    for part in groups(units, _HASHED_TOGETHER):
        hashes |= unit_rows_hashes(session.read(table, layer, units=part), part)
    return hashes
