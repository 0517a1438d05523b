"""Asset ``report``: one self-contained page of HTML about a study, from the published database."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from n2g_assets.assets.resource import failing_clearly
from n2g_assets.assets.study import Study


def report_asset(study: Study) -> dg.AssetsDefinition:
    """The unpartitioned asset of the study's report."""

    @dg.asset(
        key=study.key("report"),
        group_name=study.name,
        backfill_policy=dg.BackfillPolicy.single_run(),  # or a range of layers cannot be asked for together with it
        description="One page of HTML: protocol, results with intervals, controls, rule tests, failures, hashes and "
        "how to make it again; it asks for nothing outside itself.",
        deps=[study.key("warehouse")],
        automation_condition=(
            dg.AutomationCondition.any_deps_updated()
            & ~dg.AutomationCondition.any_deps_in_progress()
            & ~dg.AutomationCondition.in_progress()
        ),
        code_version="2",
        kinds={"html"},
        required_resource_keys={"n2g"},
    )
    @failing_clearly()
    def report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from n2g_assets.report.page import render_report
        from n2g_assets.storage.files import write_atomically
        from n2g_assets.storage.warehouse import open_database

        home = context.resources.n2g.open()
        with open_database(home) as connection:
            page = render_report(connection, study.name, made_at=datetime.now(UTC), commands=commands_of(study))
        path = home.reports / f"{study.name}.html"
        write_atomically(path, lambda temporary: temporary.write_text(page.html, encoding="utf-8"))
        context.log.info(f"The report of study '{study.name}' is {path}, the database {home.database}.")
        return dg.MaterializeResult(
            metadata={
                "page": dg.MetadataValue.path(str(path)),
                "url": dg.MetadataValue.url(path.as_uri()),
                "bytes": len(page.html.encode()),
                "layers": len(page.layers),
            }
        )

    return report


def commands_of(study: Study) -> list[str]:
    """Command lines that make a study again where it lives: in this project, or in a user's own Dagster project."""
    shipped = Path(__file__).parents[1] / "defs" / study.name
    if study.folder.absolute() != shipped.absolute():
        return [f"dg launch --job {study.name}"]
    return ["make demo"] if study.name == "demo" else [f"n2g run {study.name}"]
