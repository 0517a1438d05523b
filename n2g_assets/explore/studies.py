"""The list of studies, and the page of one: its scores by layer, and what it is made from."""

from collections.abc import Sequence
from typing import Any

from n2g_assets.core.errors import MissingError
from n2g_assets.core.explorer import STUDY
from n2g_assets.explore.page import Answer, Asked, OfStudy, Page
from n2g_assets.reading.database import Snapshot
from n2g_assets.reading.study import Study, study_names

SHOWN_TEXT = "random"
"""Scores are of held-out text as it comes."""


def _studies(database: Snapshot, asked: Asked) -> Answer:
    return {"studies": all_studies(database)}


def all_studies(database: Snapshot, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Every published study, or those named: model, corpus, units, and the scores of its graphs by layer."""
    return [_row(Study(database, name)) for name in (study_names(database) if names is None else names)]


def _row(study: Study) -> dict[str, Any]:
    return study.database.remembered(("row", study.name), lambda: _read_row(study))


def _read_row(study: Study) -> dict[str, Any]:
    counts = study.rows("""
        SELECT count(*) AS units, count(*) FILTER (status = 'ok') AS ok FROM unit_status WHERE study = $study""")[0]
    written = study.rows("SELECT max(written_at) AS written_at FROM slices WHERE study = $study")[0]
    corpus = study.rows("""
        SELECT list(DISTINCT source ORDER BY source) AS sources, sum(tokens)::BIGINT AS tokens
        FROM corpus_summary WHERE study = $study""")[0]
    return {
        "study": study.name, "control_of": study.control_of, "model": _model_name(study),
        "method": study.settings["method"].get("preset"), "layers": study.layers, "scores": _headline(study),
        "written_at": f"{written['written_at']:%Y-%m-%d %H:%M}" if written["written_at"] else None,
    } | counts | corpus  # fmt: skip


def _model_name(study: Study) -> str | None:
    try:
        return str(study.model["model"])
    except MissingError:  # its slice was not published: the other studies are shown all the same
        return None


def _headline(study: Study) -> list[dict[str, Any]]:
    """Scores of the graph on held-out text, by layer."""
    return study.rows("""
        SELECT layer, pearson_r, pearson_r_low, pearson_r_high, average_precision, f1_all
        FROM layer_summary WHERE study = $study AND text = 'random' AND predictor = 'graph' ORDER BY layer""")


def _study(database: Snapshot, asked: OfStudy) -> Answer:
    study = asked.the_study(database)
    return database.remembered(("page", study.name), lambda: _read_study(study))


def _read_study(study: Study) -> Answer:
    return {
        "study": study.name, "control_of": study.control_of, "summary": _row(study), "model": study.model,
        "layers": study.rows("""
            SELECT layer, count(*) AS units, count(*) FILTER (status = 'ok') AS ok,
                count(*) FILTER (status = 'dead') AS dead
            FROM unit_status WHERE study = $study GROUP BY layer ORDER BY layer"""),
        "scores": study.rows("""
            SELECT layer, text, predictor, pearson_r, pearson_r_low, pearson_r_high, average_precision,
                average_precision_low, average_precision_high, f1_all, f1_all_low, f1_all_high
            FROM layer_summary WHERE study = $study AND predictor IS NOT NULL ORDER BY text, layer"""),
        "reach": study.rows("FROM reach_summary WHERE study = $study AND text = 'random' ORDER BY layer, last_tokens"),
        "sizes": study.rows("FROM size_summary WHERE study = $study AND text = 'random' ORDER BY layer, n_rules"),
        "controls": study.rows("FROM controls WHERE study = $study AND text = 'random' ORDER BY layer, control"),
        "corpus": study.rows("FROM corpus_summary WHERE study = $study"),
        "settings": study.settings, "versions": study.versions,
    }  # fmt: skip


PAGES = (
    Page("/", Asked, _studies, "studies.html", "All studies with their headline scores"),
    Page(STUDY, OfStudy, _study, "study.html", "A study: scores by layer, controls, reach, and its settings"),
)
