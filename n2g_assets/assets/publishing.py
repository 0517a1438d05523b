"""Stages ``warehouse`` and ``report``: the one shared DuckDB file of all studies, and from it a page about a study."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from n2g_assets.assets.metadata import explorer_link
from n2g_assets.assets.session import Session
from n2g_assets.assets.stage import WholeStage
from n2g_assets.assets.study import Study
from n2g_assets.core.registry import STAGES, named
from n2g_assets.report.page import render_report
from n2g_assets.storage.files import write_atomically
from n2g_assets.storage.objects import place_of
from n2g_assets.storage.warehouse import open_database, publish


def _publish(session: Session) -> dg.MaterializeResult:
    report = publish(session.store)
    for warning in report.warnings:
        session.log.warning(warning)
    for name in report.dropped:
        session.log.warning(f"The study {name} left the database: it has no slices any more.")
    return dg.MaterializeResult(
        metadata=explorer_link(session.study.name)
        | {
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


WAREHOUSE = WholeStage(
    name="warehouse",
    description="The slices of all studies in one DuckDB file, with comments, views and macros; it is made anew "
    "when a slice has changed, and readers keep their snapshot.",
    code_version="2",
    work=_publish,
    upstream=("subject_model", "corpus_tokens", *named(STAGES)),
    follows=True,
    kinds={"duckdb"},
)


def _report(session: Session) -> dg.MaterializeResult:
    study, home = session.study, session.home
    with open_database(home) as connection:
        html, n_layers = render_report(connection, study.name, made_at=datetime.now(UTC), commands=commands_of(study))
    path = home.reports / f"{study.name}.html"
    place_of(home).supersede(html, path)
    write_atomically(path, lambda temporary: temporary.write_text(html, encoding="utf-8"))
    session.log.info(f"The report of study '{study.name}' is {path}, the database {home.database}.")
    return dg.MaterializeResult(
        metadata={
            "page": dg.MetadataValue.path(str(path)),
            "url": dg.MetadataValue.url(path.as_uri()),
            "bytes": len(html.encode()),
            "layers": n_layers,
        }
    )


def commands_of(study: Study) -> list[str]:
    """Command lines that make a study again where it lives: in this project, or in a user's own Dagster project."""
    checkout, folder = Path(__file__).absolute().parents[2], study.folder.absolute()
    if folder == checkout / "n2g_assets" / "defs" / study.name:
        return ["make demo"] if study.name == "demo" else [f"n2g run {study.name}"]
    if folder.is_relative_to(checkout / "examples"):
        return [f"n2g run {folder.relative_to(checkout)}/defs.yaml"]
    return [f"dg launch --job {study.name}"]


REPORT = WholeStage(
    name="report",
    description="One page of HTML: a verdict and what it rests on, results with intervals, controls, rule tests, "
    "failures, hashes and how to make it again; it asks for nothing outside itself.",
    code_version="3",
    work=_report,
    upstream=("warehouse",),
    follows=True,
    kinds={"html"},
)
