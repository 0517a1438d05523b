"""Turns the code of a stage into a Dagster asset: ``whole_asset`` one of the study, ``layer_asset`` a partitioned one.

The asset of a per-layer stage is one step that loops over the layers of its run. Where an executor spreads steps over
workers, the same work is a graph of steps:

    pieces -> ahead (a step a piece) -> plan -> layer (a step a layer) -> end

1. ``pieces`` says what can be done ahead, such as shards of the forward pass or blocks of a large layer's units, and
   ``ahead`` does it. A piece that is done is on disk, and whoever needs it finds it; so a step that is repeated does
   nothing twice.
2. ``layer`` computes or reuses a layer, whatever was done ahead. It is recorded as materialized when it is finished, so
   that the UI shows it whatever becomes of the run. A layer that fails does not stop its siblings: they are finished,
   then the step fails and names the layer, its cause and its cure.
3. ``end`` records all layers again, with pictures that may show all of them, and runs the checks.
"""

import inspect
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from n2g_assets.assets.checks import check_results, checks_of
from n2g_assets.assets.executors import check_begun, executor_name, model_queue
from n2g_assets.assets.metadata import asset_metadata, preview
from n2g_assets.assets.progress import progress
from n2g_assets.assets.resource import failing_clearly
from n2g_assets.assets.session import Session
from n2g_assets.assets.stage import LayerStage, WholeStage
from n2g_assets.assets.study import Study
from n2g_assets.assets.values import VALUES
from n2g_assets.core.errors import N2GError
from n2g_assets.core.registry import STAGES, named
from n2g_assets.storage.stages import StageReport

_RECORDED_AT_ONCE = "The layer is finished; its pictures and its preview follow when the last step ends."

Done = dict[str, StageReport]
"""By partition key, what was done for the layer."""
Context = dg.OpExecutionContext | dg.AssetExecutionContext


class StageConfig(dg.Config):
    """What can be set for one run in the launchpad."""

    retry_failed: bool = False
    """Compute units again that the ledger calls failed; otherwise they stay so until their inputs change."""


def whole_asset(study: Study, stage: WholeStage) -> dg.AssetsDefinition:
    """The asset of a stage that works for the whole study."""

    def materialize(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        with failing_clearly():
            session = _session(study, context)
            result = stage.work(session)
            checked = list(check_results(session, stage.name, checks_of(study, stage.name)))
        return dg.MaterializeResult(metadata=result.metadata, data_version=result.data_version, check_results=checked)

    condition = dg.AutomationCondition
    follows = condition.any_deps_updated() & ~condition.any_deps_in_progress() & ~condition.in_progress()
    return dg.asset(
        materialize,
        **_about(study, stage),
        deps=[study.key(name) for name in _upstream(study, stage)],
        op_tags=model_queue() if stage.runs_model else {},
        backfill_policy=dg.BackfillPolicy.single_run(),  # or a range of layers cannot be asked for together with it
        automation_condition=follows if stage.follows else None,
        required_resource_keys={"n2g"},
    )


def layer_asset(study: Study, stage: LayerStage) -> dg.AssetsDefinition:
    """The asset of a per-layer stage, with a partition a layer: one step, or the graph of steps that workers share."""
    name = executor_name(study.settings.executor)
    steps = _Steps(study, stage)
    about = _about(study, stage) | {"partitions_def": study.partitions, "backfill_policy": study.backfill_policy}
    if name != "in_process":
        return _graph_asset(steps, about)

    def materialize(context: dg.AssetExecutionContext, config: StageConfig) -> Iterator[Any]:
        with failing_clearly():
            session = steps.session(context, config)
        done = yield from steps.do_layers(context, session, study.partitions.asked(context.run.tags))
        yield steps.do_end(context, session, done)

    deps = [study.key(name) for name in _upstream(study, stage)]
    return dg.asset(materialize, **about, deps=deps, required_resource_keys={"n2g"})


def _session(study: Study, context: Context, *, retry_failed: bool = False) -> Session:
    """What a step works with; fails where the run asks for no layer of the study, or the step kills its workers."""
    study.partitions.asked(context.run.tags)
    check_begun(context.instance, context.run_id, context.get_step_execution_context().step.key)
    return Session(study, context.resources.n2g.open(), context.log, retry_failed=retry_failed)


@dataclass(frozen=True)
class _Steps:
    """What the steps of a per-layer stage do, whether in one step or in several."""

    study: Study
    stage: LayerStage

    def session(self, context: Context, config: StageConfig) -> Session:
        """What a step works with; fails as ``_session``."""
        return _session(self.study, context, retry_failed=config.retry_failed)

    def do_layers(
        self, context: Context, session: Session, keys: Sequence[str]
    ) -> Generator[dg.AssetMaterialization, None, Done]:
        """Bring layers up to date, and record each."""
        study, stage = self.study, self.stage
        layers = {key: study.partition_layers[key] for key in keys}
        finished: Done = {}
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
        return finished

    def do_end(self, context: dg.AssetExecutionContext, session: Session, done: Done) -> dg.MaterializeResult:
        """Record all layers with their pictures, and check them."""
        layers = {key: self.study.partition_layers[key] for key in done}
        for key, report in done.items():
            with failing_clearly():
                metadata = layer_metadata(session, self.stage, layers[key], report)
            context.add_asset_metadata(metadata, partition_key=key)
        with failing_clearly():
            checks = checks_of(self.study, self.stage.name)
            return dg.MaterializeResult(check_results=list(check_results(session, self.stage.name, checks, layers)))


def _graph_asset(steps: _Steps, about: Mapping[str, Any]) -> dg.AssetsDefinition:
    """The asset of a per-layer stage as a graph."""
    study, stage = steps.study, steps.stage
    pieces_of = stage.ahead

    def pieces(context: dg.OpExecutionContext, config: StageConfig) -> Iterator[dg.DynamicOutput]:
        assert pieces_of is not None
        with failing_clearly():
            layers = [study.partition_layers[key] for key in study.partitions.asked(context.run.tags)]
            for number, piece in enumerate(pieces_of.pieces(steps.session(context, config), layers)):
                yield dg.DynamicOutput(piece, mapping_key=f"{number:05d}")

    def ahead(context: dg.OpExecutionContext, config: StageConfig, piece: Any) -> None:
        assert pieces_of is not None
        with failing_clearly(), progress(f"{study.name}/{stage.name}", "parts", context.log.info) as show:
            pieces_of.do(steps.session(context, config), piece, show)

    def plan(context: dg.OpExecutionContext) -> Iterator[dg.DynamicOutput]:
        with failing_clearly():
            asked = study.partitions.asked(context.run.tags)
        for key in asked:
            yield dg.DynamicOutput(key, mapping_key=key)

    def layer(context: dg.OpExecutionContext, config: StageConfig, key: str) -> Iterator[Any]:
        with failing_clearly():
            session = steps.session(context, config)
        done = yield from steps.do_layers(context, session, [key])
        yield dg.Output(done)

    def end(context: dg.AssetExecutionContext, config: StageConfig, done: list[Done]) -> Iterator[dg.MaterializeResult]:
        with failing_clearly():
            session = steps.session(context, config)
        yield steps.do_end(context, session, dict(sorted(pair for part in done for pair in part.items())))

    def step(compute: Callable[..., Any], **options: Any) -> Any:
        name = f"{about['key'].to_python_identifier()}__{compute.__name__}"
        made = dg.op(name=name, required_resource_keys={"n2g"}, **options)(compute)
        return made.alias(compute.__name__)

    upstream = {f"after_{name}": study.key(name) for name in _upstream(study, stage)}
    value, values = dg.Out(io_manager_key=VALUES), dg.DynamicOut(io_manager_key=VALUES)
    tags = model_queue() if stage.runs_model else {}
    waits = dict.fromkeys(upstream, dg.In(dg.Nothing))
    configured = ["layer", "end"]
    if pieces_of is not None:
        do_pieces, do_ahead = step(pieces, ins=waits, out=values), step(ahead, out=dg.Out(dg.Nothing), tags=tags)
        waits = {"done_ahead": dg.In(dg.Nothing)}
        configured += ["pieces", "ahead"]
    do_plan, do_layer = step(plan, ins=waits, out=values), step(layer, out=value, tags=tags)
    checks = {spec.get_python_identifier(): spec.name for spec in about["check_specs"]}
    do_end = step(end, out=dict.fromkeys(["result", *checks.values()], dg.Out(dg.Nothing)))

    def compose(**after: Any) -> dict[str, Any]:
        if pieces_of is not None:
            after = {"done_ahead": do_pieces(**after).map(do_ahead).collect()}
        ended = do_end(do_plan(**after).map(do_layer).collect())
        return {name: getattr(ended, of) if checks else ended for name, of in ({"result": "result"} | checks).items()}

    names = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in upstream]
    compose.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]  # which Dagster reads
    ins = {name: dg.AssetIn(key, dagster_type=dg.Nothing) for name, key in upstream.items()}
    return dg.graph_asset(**about, ins=ins, config=_to_steps(configured))(compose)


def _to_steps(names: Sequence[str]) -> dg.ConfigMapping:
    """What is set for an asset is set for all of its steps."""

    @dg.config_mapping
    def mapping(config: StageConfig) -> dict[str, Any]:
        return {name: {"config": config.model_dump()} for name in names}

    return mapping


def _about(study: Study, stage: WholeStage | LayerStage) -> dict[str, Any]:
    """What is told to Dagster of the asset of any stage."""
    key = study.key(stage.name)
    return {
        "key": key,
        "group_name": study.name,
        "description": stage.description,
        "check_specs": [
            dg.AssetCheckSpec(check.name, asset=key, description=check.description, blocking=check.blocking)
            for check in checks_of(study, stage.name)
        ],
        "code_version": stage.code_version,
        "metadata": asset_metadata(stage.tables),
        "kinds": stage.kinds,
    }


def _upstream(study: Study, stage: WholeStage | LayerStage) -> list[str]:
    """The assets that a stage reads, as far as the study has them."""
    return [name for name in stage.upstream if name not in set(named(STAGES)) - set(study.stages)]


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
