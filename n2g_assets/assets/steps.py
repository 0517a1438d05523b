"""Turns the code of a stage into a Dagster asset: ``whole_asset`` one of the study, ``layer_asset`` a partitioned one.

The asset of a per-layer stage is a graph of steps, which Dagster's executor places:

    [ pieces -> ahead (a step a piece) -> ]  plan -> layers (a step a group of layers) -> end

1. Where steps spread over several workers, ``pieces`` says what can be done ahead, such as shards of the forward pass
   or blocks of a large layer's units, and ``ahead`` does it. A piece that is done is on disk, and whoever needs it
   finds it; so a step that is repeated does nothing twice.
2. ``plan`` says which layers the run asks for: all together where one process does everything, else one a step.
3. ``layers`` computes or reuses layers, whatever was done ahead. Each is recorded as materialized when it is finished,
   so that the UI shows it whatever becomes of the run. A layer that fails does not stop its siblings: they are
   finished, then the step fails and names the layer, its cause and its cure.
4. ``end`` records all layers again, with pictures that may show all of them, and runs the checks.
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import dagster as dg

from n2g_assets.assets.checks import check_results, checks_of
from n2g_assets.assets.executors import executor_name, model_queue
from n2g_assets.assets.metadata import asset_metadata, preview
from n2g_assets.assets.progress import progress
from n2g_assets.assets.resource import failing_clearly
from n2g_assets.assets.session import Session
from n2g_assets.assets.stage import LayerStage, WholeStage
from n2g_assets.assets.study import Study, groups
from n2g_assets.assets.values import VALUES
from n2g_assets.core.errors import N2GError
from n2g_assets.core.home import Home
from n2g_assets.core.registry import STAGES, named
from n2g_assets.storage.stages import StageReport

_RECORDED_AT_ONCE = "The layer is finished; its pictures and its preview follow when the last step ends."

Done = dict[str, StageReport]
"""By partition key, what was done for the layer."""


class StageConfig(dg.Config):
    """What can be set for one run in the launchpad."""

    retry_failed: bool = False
    """Compute units again that the ledger calls failed; otherwise they stay so until their inputs change."""


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
    return dg.asset(
        materialize,
        **_about(study, stage),
        deps=[study.key(name) for name in _upstream(study, stage)],
        op_tags=_tags(stage),
        backfill_policy=dg.BackfillPolicy.single_run(),  # or a range of layers cannot be asked for together with it
        automation_condition=follows if stage.follows else None,
        required_resource_keys={"n2g"},
    )


def layer_asset(study: Study, stage: LayerStage) -> dg.AssetsDefinition:
    """The asset of a per-layer stage, with a partition a layer."""
    upstream, checks = _upstream(study, stage), checks_of(study, stage.name)
    spread = executor_name(study.settings.executor) != "in_process"
    at_once = 1 if spread else "all"

    def pieces(context: dg.OpExecutionContext, config: StageConfig) -> Iterator[dg.DynamicOutput]:
        with failing_clearly():
            layers = [study.partition_layers[key] for key in study.partitions.asked(context.run.tags)]
            for number, piece in enumerate(stage.ahead.pieces(session_of(context, config), layers)):
                yield dg.DynamicOutput(piece, mapping_key=f"{number:05d}")

    def ahead(context: dg.OpExecutionContext, config: StageConfig, piece: Any) -> None:
        with failing_clearly(), progress(f"{study.name}/{stage.name}", "tokens", context.log.info) as show:
            stage.ahead.do(session_of(context, config), piece, show)

    def plan(context: dg.OpExecutionContext, config: StageConfig) -> Iterator[dg.DynamicOutput]:
        with failing_clearly():
            asked = study.partitions.asked(context.run.tags)
        for group in groups(asked, at_once):
            yield dg.DynamicOutput(list(group), mapping_key="_to_".join(dict.fromkeys((group[0], group[-1]))))

    def layers(
        context: dg.OpExecutionContext, config: StageConfig, keys: list[str]
    ) -> Iterator[Any]:
        numbers = {key: study.partition_layers[key] for key in keys}
        with failing_clearly():
            session = session_of(context, config)
        finished: Done = {}
        failures: dict[str, Exception] = {}
        if stage.prepare is not None:
            with failing_clearly(), progress(f"{study.name}/{stage.name}", "tokens", context.log.info) as show:
                stage.prepare(session, list(numbers.values()), show)
        for key, layer in numbers.items():
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
        yield dg.Output(finished)

    def end(context: dg.AssetExecutionContext, config: StageConfig, done: list[Done]) -> Iterator[dg.MaterializeResult]:
        finished = dict(sorted((key, report) for part in done for key, report in part.items()))
        numbers = {key: study.partition_layers[key] for key in finished}
        with failing_clearly():
            session = session_of(context, config)
            for key, report in finished.items():
                metadata = layer_metadata(session, stage, numbers[key], report)
                context.add_asset_metadata(metadata, partition_key=key)
            checked = list(check_results(session, stage.name, checks, numbers))
        yield dg.MaterializeResult(check_results=checked)

    def session_of(context: dg.OpExecutionContext, config: StageConfig) -> Session:
        home = context.resources.n2g.open()
        return _session(context.run.run_id, study, stage.name, home, context.log, retry_failed=config.retry_failed)

    about, specs, tags = _about(study, stage), _check_specs(study, stage), _tags(stage)
    waits = [f"after_{name}" for name in upstream]
    step = partial(_step, about["key"])
    after = dict.fromkeys(waits, dg.In(dg.Nothing))
    value, nothing = dg.Out(io_manager_key=VALUES), dg.Out(dg.Nothing)
    dynamic = dg.DynamicOut(io_manager_key=VALUES)
    steps = ["plan", "layers", "end"]
    if spread and stage.ahead is not None:
        steps += ["pieces", "ahead"]
        do_pieces = step(pieces, ins=after, out=dynamic)
        do_ahead = step(ahead, out=nothing, tags=tags)
        after = {"done_ahead": dg.In(dg.Nothing)}
    do_plan = step(plan, ins=after, out=dynamic)
    do_layers = step(layers, out=value, tags=tags)
    do_end = step(end, out=dict.fromkeys(["result", *(spec.name for spec in specs)], nothing))

    def compose(**after: Any) -> dict[str, Any]:
        if spread and stage.ahead is not None:
            after = {"done_ahead": do_pieces(**after).map(do_ahead).collect()}
        ended = do_end(do_plan(**after).map(do_layers).collect())
        outputs = {spec.get_python_identifier(): spec.name for spec in specs} | {"result": "result"}
        return {name: getattr(ended, of) if specs else ended for name, of in outputs.items()}

    names = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in waits]
    compose.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]  # which Dagster reads
    return dg.graph_asset(
        **about,
        ins={
            wait: dg.AssetIn(study.key(name), dagster_type=dg.Nothing)
            for wait, name in zip(waits, upstream, strict=True)
        },
        partitions_def=study.partitions,
        backfill_policy=study.backfill_policy,
        config=_to_steps(steps),
    )(compose)


def _to_steps(names: Sequence[str]) -> dg.ConfigMapping:
    """What is set for an asset is set for all of its steps."""

    @dg.config_mapping
    def mapping(config: StageConfig) -> dict[str, Any]:
        return {name: {"config": config.model_dump()} for name in names}

    return mapping


def _step(asset: dg.AssetKey, compute: Callable[..., Any], **about: Any) -> Any:
    name = f"{asset.to_python_identifier()}__{compute.__name__}"
    step = dg.op(name=name, required_resource_keys={"n2g"}, **about)(compute)
    return step.alias(compute.__name__)


def _tags(stage: WholeStage | LayerStage) -> dict[str, str]:
    return model_queue() if stage.runs_model else {}


def _about(study: Study, stage: WholeStage | LayerStage) -> dict[str, Any]:
    """What is told to Dagster of the asset of any stage."""
    key = study.key(stage.name)
    return {
        "key": key,
        "group_name": study.name,
        "description": stage.description,
        "check_specs": _check_specs(study, stage),
        "code_version": stage.code_version,
        "metadata": asset_metadata(stage.tables),
        "kinds": stage.kinds,
    }


def _check_specs(study: Study, stage: WholeStage | LayerStage) -> list[dg.AssetCheckSpec]:
    key = study.key(stage.name)
    return [
        dg.AssetCheckSpec(check.name, asset=key, description=check.description, blocking=check.blocking)
        for check in checks_of(study, stage.name)
    ]


def _upstream(study: Study, stage: WholeStage | LayerStage) -> list[str]:
    """The assets that a stage reads, as far as the study has them."""
    return [name for name in stage.upstream if name not in set(named(STAGES)) - set(study.stages)]


_last_session: dict[Any, Session] = {}
"""The session of the last stage of this process, whose steps share what was read."""


def _session(
    run_id: str, study: Study, stage: str, home: Home, log: logging.Logger, *, retry_failed: bool
) -> Session:
    key = (run_id, study.name, stage, home.root, retry_failed)
    if key not in _last_session:
        _last_session.clear()
        _last_session[key] = Session(study, home, log, retry_failed=retry_failed)
    session = _last_session[key]
    session.log = log
    return session


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


