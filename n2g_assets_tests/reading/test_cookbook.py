"""The queries of the cookbook run on what a real run published, and what stands below one is what it gives."""

from __future__ import annotations

import re

import polars as pl

from n2g_assets.reading.sql import run_sql
from n2g_assets.storage.warehouse import open_database
from n2g_assets_tests.cookbook import EXAMPLE, PAGE, SHOWN, answered
from n2g_assets_tests.cookbook import answer as answer_on

AS_TINY = {"'demo'": "'tiny'", "'import'": "'in'", "import|from": "in|of"}
"""The study, and tokens that the tiny model has not, in words of the tiny run."""


def of_tiny(query: str) -> str:
    for word, other in AS_TINY.items():
        query = query.replace(word, other)
    return query


def columns_of(answer: str) -> list[str]:
    return re.split(r" {2,}", answer.splitlines()[0].strip())


def test_every_query_runs_on_a_real_run_and_its_answer_has_its_columns(finished_evidence):
    page = PAGE.read_text(encoding="utf-8")
    queries = [found["query"] for found in EXAMPLE.finditer(page)]
    assert len(queries) > 30
    home = finished_evidence.session().home
    with open_database(home) as connection:
        frames = {query: connection.sql(of_tiny(query)).limit(SHOWN + 1).pl() for query in queries}
    filled = answered(page, lambda query: answer_on(frames[query].head(SHOWN), frames[query].height > SHOWN))
    for found in EXAMPLE.finditer(filled):
        assert columns_of(found["answer"]) == frames[found["query"]].columns, found["query"]
        assert len(found["answer"].splitlines()) <= 2 + SHOWN + 1
    assert answered(filled, lambda query: "another") != filled
    stale = [
        found["query"] for found in EXAMPLE.finditer(page)
        if not found["answer"] or columns_of(found["answer"]) != frames[found["query"]].columns
    ]  # fmt: skip
    assert not stale, "run python -m n2g_assets_tests.cookbook"


def test_an_answer_is_the_table_that_n2g_sql_prints(finished_evidence):
    frame, has_more = run_sql(finished_evidence.session().home.database, "SELECT 1 AS a, 'x' AS b", rows=SHOWN)
    assert answer_on(frame, has_more) == "a  b\n─  ─\n1  x"
    assert answer_on(pl.DataFrame({"a": range(SHOWN)}), True).splitlines()[-1] == "…"
