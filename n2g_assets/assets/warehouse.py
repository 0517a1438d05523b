"""Asset ``warehouse``: publishes the study's slices into the one shared DuckDB file."""

import dagster as dg

from n2g_assets.assets.resource import failing_clearly
from n2g_assets.assets.session import Session
from n2g_assets.assets.study import Study
from n2g_assets.storage.warehouse import publish


def warehouse_asset(study: Study) -> dg.AssetsDefinition:
    """The unpartitioned asset that publishes whatever slices of the study are there."""

    @dg.asset(
        key=study.key("warehouse"),
        group_name=study.name,
        backfill_policy=dg.BackfillPolicy.single_run(),  # or a range of layers cannot be asked for together with it
        description="The slices of the study in the shared DuckDB file, with comments, views "
        "and macros; readers keep their snapshot.",
        deps=[study.key(name) for name in ("subject_model", "corpus_tokens", *study.stages)],
        automation_condition=(
            dg.AutomationCondition.any_deps_updated()
            & ~dg.AutomationCondition.any_deps_in_progress()
            & ~dg.AutomationCondition.in_progress()
        ),
        code_version="1",
        kinds={"duckdb"},
        required_resource_keys={"n2g"},
    )
    @failing_clearly()
    def warehouse(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        session = Session(study, context.resources.n2g.open(), context.log)
        units = {layer: session.units(layer) for layer in study.settings.layer_numbers}
        report = publish(session.store, study.name, units)
        for warning in report.warnings:
            context.log.warning(warning)
        return dg.MaterializeResult(
            metadata={
                "database": dg.MetadataValue.path(str(report.database)),
                "slices replaced": len(report.replaced),
                "slices kept": report.kept,
                "slices dropped": len(report.dropped),
                "replaced": dg.MetadataValue.json(report.replaced),
                "seconds": round(report.seconds, 2),
                "rows": dg.MetadataValue.json(report.rows),
            }
        )

    return warehouse
