"""Asset ``report``: one self-contained page of HTML about a study, from its slices."""

import dagster as dg

from n2g_assets.assets.resource import failing_clearly
from n2g_assets.assets.session import Session
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
        code_version="1",
        kinds={"html"},
        required_resource_keys={"n2g"},
    )
    @failing_clearly()
    def report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from n2g_assets.assets.report_facts import report_facts
        from n2g_assets.report.render import render_report
        from n2g_assets.storage.files import write_atomically

        session = Session(study, context.resources.n2g.open(), context.log)
        facts = report_facts(session)
        page = render_report(facts)
        path = session.home.reports / f"{study.name}.html"
        write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
        return dg.MaterializeResult(
            metadata={
                "page": dg.MetadataValue.path(str(path)),
                "url": dg.MetadataValue.url(path.as_uri()),
                "bytes": len(page.encode()),
                "layers": len(facts.layer_scores["layer"].unique()),
            }
        )

    return report
