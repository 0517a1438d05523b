"""Turns the code of a stage into a Dagster asset: ``whole_asset`` one of the study, ``layer_asset`` a partitioned one.

The step of every asset ends with its checks. That of a partitioned one loops over the layers of its run. Each is
recorded as materialized when it is finished, so that the UI shows it whatever becomes of the run; at the end of the
step, Dagster records all of them again, with pictures of all layers, a preview and what they were made of. A layer that
fails does not stop its siblings: they are finished, then the step fails and names the layer, its cause and its cure.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import polars as pl

from n2g_assets.assets.checks import check_results, checks_of
from n2g_assets.assets.metadata import asset_metadata, preview
from n2g_assets.assets.progress import progress
from n2g_assets.assets.resource import failing_clearly
from n2g_assets.assets.session import Session
from n2g_assets.assets.study import Study, groups
from n2g_assets.core.errors import N2GError, StorageError
from n2g_assets.core.progress import Progress
from n2g_assets.core.registry import STAGES, named
from n2g_assets.core.setting import Settings
from n2g_assets.core.units import Unit
from n2g_assets.method.results import BlockResult, Outcome
from n2g_assets.storage.hashing import hash_json, unit_rows_hashes
from n2g_assets.storage.stages import StageReport, fill_units

_RECORDED_AT_ONCE = "The layer is finished; its pictures and its preview follow when the step ends."
_HASHED_TOGETHER = 128
"""Units whose input rows are in memory at once while they are hashed."""


class StageConfig(dg.Config):
    """What can be set for one run in the launchpad."""

    retry_failed: bool = False
    """Compute units again that the ledger calls failed; otherwise they stay so until their inputs change."""


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
    """Work for all layers of the run together, before the loop."""
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


def whole_asset(study: Study, stage: WholeStage) -> dg.AssetsDefinition:
    """The asset of a stage that works for the whole study."""

    def materialize(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        with failing_clearly():
            study.partitions.asked(context.run.tags)  # so that the first step of a run refuses what holds no layer
            session = Session(study, context.resources.n2g.open(), context.log)
            result = stage.work(session)
            checked = list(check_results(session, stage.name, checks_of(study, stage.name)))
        return dg.MaterializeResult(metadata=result.metadata, data_version=result.data_version, check_results=checked)

    condition = dg.AutomationCondition
    follows = condition.any_deps_updated() & ~condition.any_deps_in_progress() & ~condition.in_progress()
    return _asset(
        study,
        stage,
        materialize,
        backfill_policy=dg.BackfillPolicy.single_run(),  # or a range of layers cannot be asked for together with it
        automation_condition=follows if stage.follows else None,
    )


def layer_asset(study: Study, stage: LayerStage) -> dg.AssetsDefinition:
    """The asset of a per-layer stage, with a partition a layer."""

    def materialize(context: dg.AssetExecutionContext, config: StageConfig) -> Iterator[Any]:
        with failing_clearly():
            layers = {key: study.partition_layers[key] for key in study.partitions.asked(context.run.tags)}
            session = Session(study, context.resources.n2g.open(), context.log, retry_failed=config.retry_failed)
        finished: dict[str, StageReport] = {}
        failures: dict[str, Exception] = {}
        if stage.prepare is not None:
            with failing_clearly(), progress(f"{study.name}/{stage.name}", "tokens", context.log.info) as show:
                stage.prepare(session, list(layers.values()), show)
        for key, layer in layers.items():
            try:
                with progress(f"{study.name}/{stage.name} layer {key}", "units", context.log.info) as show:
                    finished[key] = stage.work(session, layer, show)
                context.log.info(f"{stage.name}, layer {key}: {_summary(finished[key])}")
            except Exception as error:
                context.log.exception(f"{stage.name}, layer {key} failed")
                failures[key] = error
            else:
                counts = _layer_counts(stage, finished[key])
                yield dg.AssetMaterialization(study.key(stage.name), _RECORDED_AT_ONCE, counts, key)
        if failures:
            raise _failure(stage, list(finished), failures)
        for key, report in finished.items():
            with failing_clearly():
                metadata = layer_metadata(session, stage, layers[key], report)
            context.add_asset_metadata(metadata, partition_key=key)
        with failing_clearly():
            checked = list(check_results(session, stage.name, checks_of(study, stage.name), layers))
        yield dg.MaterializeResult(check_results=checked)

    return _asset(study, stage, materialize, partitions_def=study.partitions, backfill_policy=study.backfill_policy)


def _asset(
    study: Study, stage: WholeStage | LayerStage, materialize: Callable[..., Any], **more: Any
) -> dg.AssetsDefinition:
    key, absent = study.key(stage.name), set(named(STAGES)) - set(study.stages)
    return dg.asset(
        materialize,
        key=key,
        group_name=study.name,
        description=stage.description,
        deps=[study.key(name) for name in stage.upstream if name not in absent],
        check_specs=[
            dg.AssetCheckSpec(check.name, asset=key, description=check.description, blocking=check.blocking)
            for check in checks_of(study, stage.name)
        ],
        code_version=stage.code_version,
        metadata=asset_metadata(stage.tables),
        kinds=stage.kinds,
        required_resource_keys={"n2g"},
        **more,
    )


def _summary(report: StageReport) -> str:
    if report.reused:
        return "reused: nothing that it depends on has changed"
    rows = ", ".join(f"{count:,} {table}" for table, count in report.rows.items() if table != "ledger")
    units = f"{report.computed} units computed, {report.kept} kept, {report.carried} ended before"
    return f"{units}, in {report.seconds:.1f} s; {rows}"


def layer_metadata(session: Session, stage: LayerStage, layer: int, report: StageReport) -> dict[str, Any]:
    """What the UI shows of one layer when all of the run are done: its pictures may show the others too."""
    rows = session.read(stage.tables[0], layer, columns=stage.preview_columns, units=session.units(layer))
    if stage.preview_first is not None:
        rows = rows.sort(stage.preview_first, descending=True, maintain_order=True)
    metadata = dict(stage.extra(session, layer)) if stage.extra is not None else {}
    return metadata | _layer_counts(stage, report) | {"preview": preview(rows)}


def _layer_counts(stage: LayerStage, report: StageReport) -> dict[str, Any]:
    main = stage.tables[0]
    return {
        "dagster/row_count": report.rows[main],
        "result": "reused" if report.reused else "computed",
        "seconds": round(report.seconds, 2),
        "units computed": report.computed,
        "units reused": report.kept,
        **{f"rows of {name}": rows for name, rows in report.rows.items()},
        **{f"units {status}": count for status, count in report.ledger.items()},
        "content hash": report.content_hashes[main],
    }


def _failure(stage: LayerStage, finished: Sequence[str], failures: Mapping[str, Exception]) -> dg.Failure:
    causes = "; ".join(
        f"layer {partition}: {error if isinstance(error, N2GError) else f'{type(error).__name__}: {error}'}"
        for partition, error in failures.items()
    )
    done = f" Finished and recorded: layers {', '.join(finished)}." if finished else ""
    return dg.Failure(description=f"{stage.name} failed for {causes}{done}", allow_retries=False)


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

    return fill_units(
        session.store,
        stage=stage.name, tables=stage.tables, study=session.study.name, layer=layer, code_version=stage.code_version,
        settings_hash=hash_json([session.model_hash, [part.hashed() for part in settings], also]),
        units=units,
        unit_inputs={
            unit: hash_json([a_max[unit], others.get(unit), *(hashes[name][unit] for name in inputs)]) for unit in units
        },
        carried={Unit(number, sign): Outcome(*how) for number, sign, *how in ended.iter_rows()},
        compute=compute_block, block_size=session.settings.method.units_per_block, progress=show,
        retry_failed=session.retry_failed,
    )  # fmt: skip


def read_together(session: Session, layers: Sequence[int], show: Progress) -> None:
    """For ``LayerStage.prepare``: evidence that has to be read is read in one pass for all layers of the run."""
    session.layers_together = tuple(layers)


def input_hashes(session: Session, table: str, layer: int, units: Sequence[Unit]) -> dict[Unit, str]:
    """The hash of each unit's rows of a table, of which some units' at a time are in memory."""
    hashes: dict[Unit, str] = {}
    for part in groups(units, _HASHED_TOGETHER):
        hashes |= unit_rows_hashes(session.read(table, layer, units=part), part)
    return hashes
