"""What a study came to, as text for a terminal: read from the database."""

from typing import TYPE_CHECKING

import polars as pl

from n2g_assets.core.home import Home
from n2g_assets.core.registry import SHOWN_RULES, TEXTS, Text
from n2g_assets.core.unit_settings import unit_word
from n2g_assets.core.units import unit_text
from n2g_assets.report.plots import F1, PEARSON_R, LayerScore, shown_scores
from n2g_assets.report.text import class_graph_text, graph_text, reached, table_text
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
    FROM fidelity_card
    WHERE study = ? AND top_n_firings IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY layer ORDER BY top_f1 DESC NULLS LAST, unit) = 1
    ORDER BY layer LIMIT 3
"""

_SIZES = """
    SELECT layer, text, n_rules || ' rules' AS size, pearson_r FROM size_summary
    WHERE study = ? AND list_contains(?, text)
    ORDER BY n_rules
"""
"""The same score of graphs of token classes by their number of rules, which takes the place of ``_COLUMNS``."""

_SETTINGS = """
    SELECT CAST(settings ->> '$.method.firing_threshold' AS DOUBLE), settings ->> '$.units'
    FROM studies WHERE study = ?
"""


def study_summary(home: Home, study: str) -> str:
    """Scores by layer and text, and the best graph of each of the first layers.

    Those of the graded activation come first; of graphs of token classes they are shown by number of rules.

    Raises:
        StorageError: there is no database.
    """
    lines = []
    with open_database(home) as database:
        query = "SELECT DISTINCT text FROM layer_summary WHERE study = ?"
        there = {text for (text,) in database.execute(query, [study]).fetchall()}
        for score, texts in shown_scores(text for text in TEXTS if text.name in there):
            table = _layers(database, study, score, texts)
            how = (
                "by number of rules"
                if any(name.endswith(" rules") for name in table.columns)
                else "with 95 % intervals"
            )
            lines.append(f"{score.label} in study '{study}', means over units {how}. {score.undefined}")
            named = "; ".join(f"{text.name}: {text.phrase}" for text in texts)
            lines.append(f"{named}. The last columns: other predictors.\n")
            lines.append(table_text(table) + "\n")
        lines.append("The best graph of each layer, as rules in the order of the text; [this] is the token itself:")
        ((threshold, units),) = database.execute(_SETTINGS, [study]).fetchall() or [(None, None)]
        for card in database.sql(_GRAPHS, params=[study]).pl().iter_rows(named=True):
            key = [card[name] for name in ("layer", "unit", "sign")]
            query = "FROM graph_rules(?, ?, ?, ?, ?)"
            rules = database.sql(query, params=[study, *key, SHOWN_RULES]).pl()
            f1, r = card["top_f1"], reached(card)
            told = f"F1 {'not defined' if f1 is None else f'{f1:.2f}'}" + (f"; r: {r}" if r else "")
            title = f"{unit_text(key[0], key[1], key[2], unit_word(units)).capitalize()}: {told}"
            if rules["rank"].count():
                graph = class_graph_text(rules, title=f"{title}; * fires", threshold=threshold)
            else:
                graph = graph_text(rules, title=title, limit=6)
            lines.append("\n" + graph)
    return "\n".join(lines)


def _layers(database: "duckdb.DuckDBPyConnection", study: str, score: LayerScore, texts: list[Text]) -> pl.DataFrame:
    """Scores of the graphs by text and layer, and beside them one score of every other predictor under its label.

    Others are the baselines, the graph with suffix evidence, and the graph of another unit. A layer that is not
    evaluated yet has one row, without a text.
    """
    names, key = [text.name for text in texts], ["layer", "text"]
    of_graphs = f"""
        SELECT layer, text, units, {_COLUMNS[score]} FROM layer_summary LEFT JOIN texts USING (text)
        WHERE study = ? AND (predictor IS NULL OR predictor = 'graph' AND list_contains(?, text))
        ORDER BY place, layer"""
    of_others = f"""
        SELECT layer, text, label, {score.name} FROM layer_summary JOIN predictors USING (predictor)
        WHERE study = ? AND (role <> 'control' OR predictor = 'graph_shuffled') AND predictor <> 'graph'
            AND list_contains(?, text)
        ORDER BY place"""
    graphs, others = (database.sql(query, params=[study, names]).pl() for query in (of_graphs, of_others))
    if score == PEARSON_R:
        sizes = database.sql(_SIZES, params=[study, names]).pl()
        if len(sizes):
            by_size = sizes.pivot("size", index=key, values=score.name)
            graphs = graphs.select(*key, "units").join(by_size, on=key, how="left", maintain_order="left")
    beside = others.pivot("label", index=key, values=score.name)
    return graphs.join(beside, on=key, how="left", maintain_order="left")
