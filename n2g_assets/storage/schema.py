"""What the database holds besides the rows of slices: tables, reference tables, views and macros, all with comments.

1. Tables and reference tables are made from ``core/tables.py``; table ``predictors`` also has other people's
   explanations that were scored.
2. Views and macros stand in ``views/*.sql``. There ``$texts``, ``$baselines``, ``$shown_rules`` and so on are those of
   the registry. Some views are kept as tables once all rows are there.
3. A column of a view that has no comment there gets one from where the column comes from: a key column from the
   tables; a column with the same name from the first table or view after FROM or JOIN that has it; a column that is
   named after a text, a predictor or both and a column of ``evaluation`` (``random_f1``, ``ngram_f1``,
   ``ngram_random_f1``) from these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from n2g_assets.core import registry
from n2g_assets.core.table import Table
from n2g_assets.core.tables import REFERENCES, TABLES, reference_rows

if TYPE_CHECKING:
    import duckdb

VIEWS = (
    "units", "tokens", "failures", "layers", "methods", "kinds", "summaries", "uses", "questions", "likeness", "texts",
)  # fmt: skip
"""The files of ``views/``, in the order in which they are run."""

_OF_UNIT = "study, layer, unit, sign DESC"
KEPT = {
    "unit_status": _OF_UNIT, "unit_summary": _OF_UNIT, "fidelity_card": _OF_UNIT,
    "token_texts": "study, token_id",
    "token_uses": 'study, token_id, "offset" DESC, activation DESC, layer, unit, sign', "unit_vectors": _OF_UNIT,
    "shared_samples": "sample, other_sample",
}  # fmt: skip
"""The views whose rows are kept as tables, each after those that it reads, and the order of their rows."""

_HERE = "database_name = current_database() AND schema_name = 'main' AND NOT internal"


@dataclass(frozen=True)
class View:
    """A view or a macro of the database, for its documentation."""

    name: str
    """Its name; for a macro with its parameters, such as ``units_on(token)``."""
    comment: str
    columns: tuple[tuple[str, str, str | None], ...] = ()
    """Name, type and comment of each column; none for a macro."""


def published_tables() -> list[Table]:
    """The tables that the database has, in the order of the pipeline."""
    return [table for table in TABLES.values() if table.published]


def create_schema(connection: duckdb.DuckDBPyConnection) -> None:
    """Makes all tables, without rows but for the reference tables, and all views and macros in an empty database."""
    connection.execute("PRAGMA disable_optimizer")  # a quarter of the time, and no statement here reads many rows
    connection.begin()  # one transaction: a file would be written to after each of the hundreds of statements
    connection.execute(schema_sql())
    for table in REFERENCES.values():
        marks = ", ".join("?" for _ in table.columns)
        connection.executemany(f"INSERT INTO {identifier(table.name)} VALUES ({marks})", reference_rows(table).rows())
    connection.execute(views_sql())
    _comment_views(connection)
    connection.commit()
    connection.execute("PRAGMA enable_optimizer")


def name_explanations(connection: duckdb.DuckDBPyConnection) -> None:
    """Adds to ``predictors``, once all rows are there, the explanations of other people that are scored."""
    connection.execute(
        """INSERT INTO predictors
        SELECT predictor, (SELECT max(place) FROM predictors) + row_number() OVER (ORDER BY predictor), predictor,
            'explanation', 'An explanation that the settings name of study ' || studies || '.'
        FROM (
            SELECT predictor, string_agg(DISTINCT study, ', ' ORDER BY study) AS studies
            FROM evaluation ANTI JOIN predictors USING (predictor) GROUP BY predictor)"""
    )


def keep_rows(connection: duckdb.DuckDBPyConnection) -> None:
    """Turns the views of ``KEPT``, which take long and are asked for often, into tables that look the same."""
    columns = _columns(connection)
    about = dict(connection.execute(f"SELECT view_name, comment FROM duckdb_views() WHERE {_HERE}").fetchall())
    connection.begin()
    for name in filter(about.get, KEPT):
        comments = [_column_comment(name, column, comment or "") for column, _, comment in columns[name]]
        connection.execute(f"CREATE TABLE kept AS FROM {name} ORDER BY {KEPT[name]}")
        connection.execute(f"DROP VIEW {name}")
        connection.execute(f"ALTER TABLE kept RENAME TO {name}")
        connection.execute("\n".join([f"COMMENT ON TABLE {name} IS {literal(about[name])};", *comments]))
    connection.commit()


def schema_sql() -> str:
    """The statements that make the tables and their comments."""
    return "\n".join(map(_table_sql, [*published_tables(), *REFERENCES.values()]))


def views_sql() -> str:
    """The statements that make the views and macros and those comments that cannot be derived."""
    folder = files("n2g_assets.storage") / "views"
    text = "\n".join((folder / f"{name}.sql").read_text(encoding="utf-8") for name in VIEWS)
    texts = [literal(text.name) for text in registry.TEXTS]
    baselines = [literal(predictor.name) for predictor in registry.PREDICTORS if predictor.role == "baseline"]
    return Template(text).substitute(
        texts=", ".join(texts), baselines=", ".join(baselines), shown_rules=registry.SHOWN_RULES,
        strong_share=registry.STRONG_SHARE, component_share=registry.COMPONENT_SHARE, used_from=registry.USED_FROM,
        least_shared=registry.LEAST_SHARED,
    )  # fmt: skip


def view_descriptions(connection: duckdb.DuckDBPyConnection) -> list[View]:
    """Every view, by name, and then every macro."""
    columns = _columns(connection)
    views = f"SELECT view_name, comment FROM duckdb_views() WHERE {_HERE} ORDER BY 1"
    macros = f"SELECT function_name, parameters, comment FROM duckdb_functions() WHERE {_HERE} ORDER BY 1"
    return [View(name, comment, tuple(columns[name])) for name, comment in connection.execute(views).fetchall()] + [
        View(f"{name}({', '.join(parameters)})", comment)
        for name, parameters, comment in connection.execute(macros).fetchall()
    ]


def identifier(name: str) -> str:
    """A name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL."""
    return "'" + text.replace("'", "''") + "'"


def _table_sql(table: Table) -> str:
    columns = ", ".join(
        f"{identifier(column.name)} {column.duckdb_type}{'' if column.nullable else ' NOT NULL'}"
        for column in table.columns
    )
    name = identifier(table.name)
    comments = [_column_comment(table.name, column.name, column.meaning) for column in table.columns]
    about = f"COMMENT ON TABLE {name} IS {literal(f'one row a {table.row}')};"
    return "\n".join([f"CREATE TABLE {name} ({columns});", about, *comments])


def _column_comment(table: str, column: str, comment: str) -> str:
    return f"COMMENT ON COLUMN {identifier(table)}.{identifier(column)} IS {literal(comment)};"


def _comment_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Gives each column of a view that has no comment the one of the column that it comes from."""
    described = _columns(connection).items()
    columns = {table: {name: comment for name, _, comment in its_columns} for table, its_columns in described}
    statements = []
    for view, body in re.findall(r"CREATE VIEW (\w+) AS(.*?);", views_sql(), re.DOTALL):
        sources = [name for name in re.findall(r"\b(?:FROM|JOIN) (\w+)", body) if name in columns]
        for column, comment in columns[view].items():
            if comment is None:
                columns[view][column] = _derived_comment(column, [columns[name] for name in sources])
                statements.append(_column_comment(view, column, columns[view][column] or ""))
    connection.execute("\n".join(statements))


def _columns(connection: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[str, str, str | None]]]:
    """By table or view, the name, type and comment of each column, in order."""
    query = "SELECT table_name, list((column_name, data_type, comment) ORDER BY column_index) FROM duckdb_columns()"
    return dict(connection.execute(f"{query} WHERE {_HERE} GROUP BY ALL").fetchall())


def _derived_comment(column: str, sources: list[dict[str, str | None]]) -> str | None:
    keys: dict[str, str | None] = {key.name: key.meaning for key in TABLES["ledger"].columns[:4]}
    known = [comment for source in [keys, *sources] if (comment := source.get(column))]
    if known:
        return known[0]
    scores = {score.name: score.meaning for score in TABLES["evaluation"].columns}
    origins = [(text.name, f"graph on {text.phrase}") for text in registry.TEXTS]
    for predictor in registry.PREDICTORS:
        origins += [(f"{predictor.name}_{text.name}", f"{predictor.label} on {text.phrase}") for text in registry.TEXTS]
        origins.append((predictor.name, predictor.label))
    for name, origin in origins:
        if score := scores.get(column.removeprefix(f"{name}_")):
            return f"{origin}: {score}"
    return None
