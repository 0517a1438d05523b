"""Asset ``report``: one self-contained page of HTML about a study, from the published database."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from n2g_assets.assets.session import Session
from n2g_assets.assets.study import Study
from n2g_assets.assets.whole import whole_asset
from n2g_assets.report.page import render_report
from n2g_assets.storage.files import write_atomically
from n2g_assets.storage.warehouse import open_database


def report_asset(study: Study) -> dg.AssetsDefinition:
    """The asset of the study's report."""
    return whole_asset(
        study, "report", _work,
        description="One page of HTML: protocol, results with intervals, controls, rule tests, failures, hashes and "
        "how to make it again; it asks for nothing outside itself.",
        deps=["warehouse"], follows=True, code_version="2", kinds={"html"},
    )  # fmt: skip


def _work(session: Session) -> dg.MaterializeResult:
    study, home = session.study, session.home
    with open_database(home) as connection:
        html, n_layers = render_report(connection, study.name, made_at=datetime.now(UTC), commands=commands_of(study))
    path = home.reports / f"{study.name}.html"
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
    shipped = Path(__file__).parents[1] / "defs" / study.name
    if study.folder.absolute() != shipped.absolute():
        return [f"dg launch --job {study.name}"]
    return ["make demo"] if study.name == "demo" else [f"n2g run {study.name}"]
