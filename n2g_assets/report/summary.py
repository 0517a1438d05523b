"""What a study came to, as text for a terminal: read from the database."""

from typing import TYPE_CHECKING

import polars as pl

from n2g_assets.core.home import Home
from n2g_assets.core.registry import SHOWN_RULES, TEXTS, Text
from n2g_assets.core.units import unit_text
from n2g_assets.report.plots import F1, PEARSON_R, LayerScore, shown_scores
from n2g_assets.report.text import class_graph_text, graph_text, table_text
from n2g_assets.storage.warehouse import open_database

if TYPE_CHECKING:
    import duckdb

_COLUMNS = {
    PEARSON_R: 'pearson_r AS r, pearson_r_low AS "r from", pearson_r_high AS "to", '
    'explained_variance AS "explained variance"',
    F1: 'dead, too_few_contexts AS "too few", failed, without_firing AS "never fire", '
    'precision_all AS precision, recall_all AS recall, f1_all AS f1, f1_all_low AS "f1 from", f1_all_high AS "to", '
    'average_precision AS "AP"',
}
"""What is shown of the graphs, by score."""

_GRAPHS = """
    SELECT layer, unit, sign, f1 FROM evaluation
    WHERE study = ? AND predictor = 'graph' AND text = 'top'
    QUALIFY row_number() OVER (PARTITION BY layer ORDER BY f1 DESC NULLS LAST, unit) = 1
    ORDER BY layer LIMIT 3
"""

_THRESHOLD = "SELECT CAST(settings ->> '$.method.firing_threshold' AS DOUBLE) FROM studies WHERE study = ?"


def study_summary(home: Home, study: str) -> str:
    """Scores by layer and text, those of the graded activation first, and the best graph of each of the first layers.

    Raises:
        StorageError: there is no database.
    """
    lines = []
    with open_database(home) as database:
        query = "SELECT DISTINCT text FROM layer_summary WHERE study = ?"
        there = {text for (text,) in database.execute(query, [study]).fetchall()}
        for score, texts in shown_scores(text for text in TEXTS if text.name in there):
            lines.append(f"{score.label} in study '{study}', means over units with 95 % intervals. {score.undefined}")
            lines.append(f"{'; '.join(f'{text.name}: {text.phrase}' for text in texts)}. The last columns: rivals.\n")
            lines.append(table_text(_layers(database, study, score, texts)) + "\n")
        lines.append("The best graph of each layer, as rules in the order of the text; [this] is the token itself:")
        (threshold,) = database.execute(_THRESHOLD, [study]).fetchone() or (None,)
        for layer, unit, sign, f1 in database.execute(_GRAPHS, [study]).fetchall():
            query = "FROM graph_rules(?, ?, ?, ?, ?)"
            rules = database.sql(query, params=[study, layer, unit, sign, SHOWN_RULES]).pl()
            told = "not defined" if f1 is None else f"{f1:.2f}"
            title = f"{unit_text(layer, unit, sign).capitalize()}: F1 {told}"
            if rules["rank"].count():
                graph = class_graph_text(rules, title=f"{title}; * fires", threshold=threshold)
            else:
                graph = graph_text(rules, title=title, limit=6)
            lines.append("\n" + graph)
    return "\n".join(lines)


def _layers(database: "duckdb.DuckDBPyConnection", study: str, score: LayerScore, texts: list[Text]) -> pl.DataFrame:
    """Scores of the graphs by text and layer, and beside them one score of every rival under its label.

    Rivals are the baselines and the graph of another unit.

    A layer that is not evaluated yet has one row, without a text.
    """
    names, key = [text.name for text in texts], ["layer", "text"]
    of_graphs = f"""
        SELECT layer, text, units, {_COLUMNS[score]} FROM layer_summary LEFT JOIN texts USING (text)
        WHERE study = ? AND (predictor IS NULL OR predictor = 'graph' AND list_contains(?, text))
        ORDER BY place, layer"""
    of_rivals = f"""
        SELECT layer, text, label, {score.name} FROM layer_summary JOIN predictors USING (predictor)
        WHERE study = ? AND (role = 'baseline' OR predictor = 'graph_shuffled') AND list_contains(?, text)
        ORDER BY place"""
    graphs, rivals = (database.sql(query, params=[study, names]).pl() for query in (of_graphs, of_rivals))
    beside = rivals.pivot("label", index=key, values=score.name)
    return graphs.join(beside, on=key, how="left", maintain_order="left")
