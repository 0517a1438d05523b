"""Runs the queries of ``docs/sql.md`` on the published demo of a home, and writes below each what it gives.

python -m n2g_assets_tests.cookbook    # of the home of the environment; the demo must be there
"""

from __future__ import annotations

import re
from collections.abc import Callable

import polars as pl

from n2g_assets.cli.output import table_text
from n2g_assets.core.home import Home
from n2g_assets.docs import FOLDER
from n2g_assets.reading.sql import run_sql

PAGE = FOLDER / "sql.md"
SHOWN = 6
"""Rows of an answer that the page shows."""
EXAMPLE = re.compile(r"```sql\n(?P<query>.*?)```\n(?:\n```text\n(?P<answer>.*?)```\n)?", re.DOTALL)
"""A query of the page, and what stands below it."""


def answered(page: str, ask: Callable[[str], str]) -> str:
    """The page with the answer of every query below it, in the place of what stood there."""
    return EXAMPLE.sub(lambda found: f"```sql\n{found['query']}```\n\n```text\n{ask(found['query'])}\n```\n", page)


def answer(frame: pl.DataFrame, has_more: bool) -> str:
    """The first rows of an answer as the page shows them."""
    return table_text(frame.columns, frame.to_dicts()) + ("\n…" if has_more else "")


def main() -> None:
    """Writes the page."""
    database = Home.from_environment().database
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(answered(page, lambda query: answer(*run_sql(database, query, rows=SHOWN))), encoding="utf-8")


if __name__ == "__main__":
    main()
