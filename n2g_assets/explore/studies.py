"""The list of studies, and the page of one: its scores by layer, and what it is made from."""

from collections.abc import Sequence
from typing import Any

from n2g_assets.core import registry
from n2g_assets.core.errors import MissingError
from n2g_assets.core.explorer import STUDY
from n2g_assets.explore.page import Answer, Asked, OfStudy, Page, Table
from n2g_assets.reading.database import Snapshot
from n2g_assets.reading.study import Study, study_names
from n2g_assets.report.kinds import kinds_beside
from n2g_assets.report.plots import styles
from n2g_assets.storage.objects import place_of

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
    found: Answer = database.remembered(("page", study.name), lambda: _read_study(study))
    return found | {"report": report_of(study) is not None}


def _read_study(study: Study) -> Answer:
    method = study.settings["method"].get("preset")
    stages = registry.of_study(registry.STAGES, study.settings["preset"], method)
    return {
        "study": study.name, "control_of": study.control_of, "summary": _row(study), "model": study.model,
        "encoders": study.encoders, "word": study.word,
        "assets": ["subject_model", "corpus_tokens", *(stage.name for stage in stages), "warehouse", "report"],
        "layers": study.rows("""
            SELECT layer, count(*) AS units, count(*) FILTER (status = 'ok') AS ok,
                count(*) FILTER (status = 'dead') AS dead
            FROM unit_status WHERE study = $study GROUP BY layer ORDER BY layer"""),
        "scores": _scores(study), "shown_text": SHOWN_TEXT,
        "reach": study.rows("FROM reach_summary WHERE study = $study AND text = 'random' ORDER BY layer, last_tokens"),
        "sizes": study.rows("FROM size_summary WHERE study = $study AND text = 'random' ORDER BY layer, n_rules"),
        "controls": study.rows("FROM controls WHERE study = $study AND text = 'random' ORDER BY layer, control"),
        "kinds": [row for rows in kinds_beside(study.frame).values() for row in rows],
        "corpus": study.rows("FROM corpus_summary WHERE study = $study"),
        "settings": study.settings, "versions": study.versions,
    }  # fmt: skip


def _scores(study: Study) -> list[dict[str, Any]]:
    """For each text the scores of its predictors by layer, both in their order."""
    rows = study.rows("""
        SELECT layer, text, predictor, pearson_r, pearson_r_low, pearson_r_high, average_precision,
            average_precision_low, average_precision_high, f1_all, f1_all_low, f1_all_high
        FROM layer_summary WHERE study = $study AND predictor IS NOT NULL ORDER BY layer""")
    order = {entry.name: (place, entry) for place, entry in enumerate(styles(row["predictor"] for row in rows))}
    for row in rows:
        place, entry = order[row["predictor"]]
        row |= {"place": place, "label": entry.label, "role": entry.role}
    texts = sorted(registry.TEXTS, key=lambda text: text.name != SHOWN_TEXT)
    found = [
        {"name": text.name, "label": text.label, "rows": [row for row in rows if row["text"] == text.name]}
        for text in texts
    ]
    return [text for text in found if text["rows"]]


def report_of(study: Study) -> str | None:
    """The page of HTML that a run has made of a study, if it has."""
    try:
        return place_of(study.home).text(study.home.reports / f"{study.name}.html")
    except (OSError, ValueError):
        return None


def _table(name: str, order: str) -> Table:
    """A view of the database of which the page shows a study's rows."""
    query = f"FROM {name} WHERE study = $study ORDER BY {order}"
    return Table(f"{STUDY}/{name}", OfStudy, lambda database, asked: asked.the_study(database).frame(query))


_BESIDE = "FROM kinds_beside($study)"
TABLES = (
    _table("layer_summary", "layer, text, predictor"),
    _table("size_summary", "layer, text, n_rules"),
    _table("reach_summary", "layer, text, last_tokens"),
    _table("controls", "layer, text, control"),
    Table(f"{STUDY}/kinds_beside", OfStudy, lambda database, asked: asked.the_study(database).frame(_BESIDE)),
)
PAGES = (
    Page("/", Asked, _studies, "studies.html", "All studies with their headline scores"),
    Page(STUDY, OfStudy, _study, "study.html", "A study: scores by layer, controls, reach, and its settings"),
)
