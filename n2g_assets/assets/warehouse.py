"""Asset ``warehouse``: publishes the slices of all studies into the one shared DuckDB file."""

import dagster as dg

from n2g_assets.assets.resource import failing_clearly
from n2g_assets.assets.session import Session
from n2g_assets.assets.study import Study
from n2g_assets.storage.warehouse import publish


def warehouse_asset(study: Study) -> dg.AssetsDefinition:
    """The unpartitioned asset that publishes whatever slices are there."""

    @dg.asset(
        key=study.key("warehouse"),
        group_name=study.name,
        backfill_policy=dg.BackfillPolicy.single_run(),  # or a range of layers cannot be asked for together with it
        description="The slices of all studies in one DuckDB file, with comments, views and macros; it is made anew "
        "when a slice has changed, and readers keep their snapshot.",
        deps=[study.key(name) for name in ("subject_model", "corpus_tokens", *study.stages)],
        automation_condition=(
            dg.AutomationCondition.any_deps_updated()
            & ~dg.AutomationCondition.any_deps_in_progress()
            & ~dg.AutomationCondition.in_progress()
        ),
        code_version="2",
        kinds={"duckdb"},
        required_resource_keys={"n2g"},
    )
    @failing_clearly()
    def warehouse(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        session = Session(study, context.resources.n2g.open(), context.log)
        report = publish(session.store)
        for warning in report.warnings:
            context.log.warning(warning)
        for name in report.dropped:
            context.log.warning(f"The study {name} left the database: it has no slices any more.")
        return dg.MaterializeResult(
            metadata={
                "database": dg.MetadataValue.path(str(report.database)),
                "made anew": report.changed,
                "rows": dg.MetadataValue.json(report.rows.get(study.name, {})),
                "studies": dg.MetadataValue.json(list(report.rows)),
                "studies added": dg.MetadataValue.json(report.added),
                "studies dropped": dg.MetadataValue.json(report.dropped),
                "size": f"{report.file_bytes / 1e6:.1f} MB",
                "seconds": round(report.seconds, 2),
            }
        )

    return warehouse
