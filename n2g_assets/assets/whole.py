"""Turns a step that works for the whole study, not layer by layer, into an asset without partitions."""

from collections.abc import Callable, Sequence

import dagster as dg

from n2g_assets.assets.check_kinds import Check, check_results, check_specs
from n2g_assets.assets.metadata import asset_metadata
from n2g_assets.assets.resource import failing_clearly
from n2g_assets.assets.session import Session
from n2g_assets.assets.study import Study


def whole_asset(
    study: Study,
    name: str,
    work: Callable[[Session], dg.MaterializeResult],
    *,
    description: str,
    code_version: str,
    kinds: set[str],
    deps: Sequence[str] = (),
    follows: bool = False,
    tables: Sequence[str] = (),
    checks: Sequence[Check] = (),
) -> dg.AssetsDefinition:
    """An asset without partitions, whose step ends with its checks.

    Args:
        study: the study.
        name: of the asset.
        work: brings it up to date, and gives its metadata and data version.
        description: what the UI shows, as do ``kinds`` and ``tables``, the main table first.
        code_version: of the work.
        kinds: labels.
        deps: assets of the study that it reads.
        follows: whether Dagster's automation, once turned on, makes it anew after one of them.
        tables: tables that it writes.
        checks: its checks.
    """

    def materialize(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        with failing_clearly():
            session = Session(study, context.resources.n2g.open(), context.log)
            result = work(session)
            checked = list(check_results(session, name, checks))
        return dg.MaterializeResult(metadata=result.metadata, data_version=result.data_version, check_results=checked)

    condition = dg.AutomationCondition
    return dg.asset(
        materialize,
        key=study.key(name),
        group_name=study.name,
        backfill_policy=dg.BackfillPolicy.single_run(),  # or a range of layers cannot be asked for together with it
        description=description,
        deps=[study.key(dep) for dep in deps],
        automation_condition=(
            condition.any_deps_updated() & ~condition.any_deps_in_progress() & ~condition.in_progress()
            if follows
            else None
        ),
        code_version=code_version,
        check_specs=check_specs(study, name, checks),
        metadata=asset_metadata(tables),
        kinds=kinds,
        required_resource_keys={"n2g"},
    )
