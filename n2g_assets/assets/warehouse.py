"""Asset ``warehouse``: publishes the slices of all studies into the one shared DuckDB file."""

from __future__ import annotations

import dagster as dg

from n2g_assets.assets.session import Session
from n2g_assets.assets.study import Study
from n2g_assets.assets.whole import whole_asset
from n2g_assets.storage.warehouse import publish


def warehouse_asset(study: Study) -> dg.AssetsDefinition:
    """The asset that publishes whatever slices are there."""
    return whole_asset(
        study, "warehouse", _work,
        description="The slices of all studies in one DuckDB file, with comments, views and macros; it is made anew "
        "when a slice has changed, and readers keep their snapshot.",
        deps=["subject_model", "corpus_tokens", *study.stages], follows=True, code_version="2", kinds={"duckdb"},
    )  # fmt: skip


def _work(session: Session) -> dg.MaterializeResult:
    report = publish(session.store)
    for warning in report.warnings:
        session.log.warning(warning)
    for name in report.dropped:
        session.log.warning(f"The study {name} left the database: it has no slices any more.")
    return dg.MaterializeResult(
        metadata={
            "database": dg.MetadataValue.path(str(session.home.database)),
            "made anew": report.changed,
            "rows": dg.MetadataValue.json(report.rows.get(session.study.name, {})),
            "studies": dg.MetadataValue.json(list(report.rows)),
            "studies added": dg.MetadataValue.json(report.added),
            "studies dropped": dg.MetadataValue.json(report.dropped),
            "size": f"{session.home.database.stat().st_size / 1e6:.1f} MB",
            "seconds": round(report.seconds, 2),
        }
    )
