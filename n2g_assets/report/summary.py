"""What a study came to, as text for a terminal: read from the database."""

from n2g_assets.core.home import Home
from n2g_assets.core.units import unit_text
from n2g_assets.report.text import graph_text, table_text
from n2g_assets.storage.warehouse import open_database

_LAYERS = """
    SELECT layer, text, units, dead, too_few_contexts AS "too few contexts", failed, without_firing AS "never fire",
           precision_all AS precision, recall_all AS recall, f1_all AS f1, f1_all_low AS "f1 from", f1_all_high AS "to",
           max(f1_all) FILTER (predictor = 'token_lookup') OVER texts AS "token lookup",
           max(f1_all) FILTER (predictor = 'ngram_backoff') OVER texts AS "back-off n-gram",
           max(f1_all) FILTER (predictor = 'graph_shuffled') OVER texts AS "other unit's graph"
    FROM layer_summary WHERE study = ?
    WINDOW texts AS (PARTITION BY layer, text)
    QUALIFY predictor = 'graph' OR predictor IS NULL
    ORDER BY list_position(['top', 'quantiles', 'random', 'out_of_domain'], text), layer
"""

_GRAPHS = """
    SELECT layer, unit, sign, f1 FROM evaluation
    WHERE study = ? AND predictor = 'graph' AND text = 'top'
    QUALIFY row_number() OVER (PARTITION BY layer ORDER BY f1 DESC NULLS LAST, unit) = 1
    ORDER BY layer LIMIT 3
"""


def study_summary(home: Home, study: str) -> str:
    """F1 by layer and text, and the best graph of each of the first layers.

    Raises:
        StorageError: there is no database.
    """
    lines = [
        f"F1 of firing in study '{study}', means over all units asked for, with 95 % intervals.",
        "top: the units' own test contexts; quantiles: contexts of every strength; random: held-out text.\n",
    ]
    with open_database(home) as database:
        lines.append(table_text(database.sql(_LAYERS, params=[study]).pl()))
        lines.append("\nThe best graph of each layer, as rules in the order of the text; the unit fires on [this]:")
        for layer, unit, sign, f1 in database.execute(_GRAPHS, [study]).fetchall():
            query = "FROM rules WHERE study = ? AND layer = ? AND unit = ? AND sign = ?"
            rules = database.sql(query, params=[study, layer, unit, sign]).pl()
            score = "not defined" if f1 is None else f"{f1:.2f}"
            title = f"{unit_text(layer, unit, sign).capitalize()}: F1 {score}"
            lines.append("\n" + graph_text(rules, title=title, limit=6))
    return "\n".join(lines)
