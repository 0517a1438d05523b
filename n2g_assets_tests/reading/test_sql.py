"""SQL of anyone: only statements that read, within limits, and nothing but the published file."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import duckdb
import pytest

from n2g_assets.core.errors import LimitError, QueryError, StorageError
from n2g_assets.reading import sql_process
from n2g_assets.reading.database import Snapshot
from n2g_assets.reading.sql import AT_ONCE, _running, run_sql


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sql") / "odd 'name.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE numbers AS SELECT range AS i FROM range(5)")
        connection.execute("CREATE MACRO above(n) AS TABLE SELECT * FROM numbers WHERE i > n")
    return path


@pytest.fixture(scope="module")
def connection(database):
    """As the process of a statement has it."""
    return sql_process.opened({"path": str(database), "memory": 2**28})


def refused(connection, text: str) -> str:
    with pytest.raises(sql_process.FailedError) as failed:
        sql_process.only_statement(connection, text)
    return failed.value.args[1]


@pytest.mark.parametrize(
    "text",
    [
        "ATTACH 'x'", "COPY numbers TO 'x'", "COPY numbers FROM 'x'", "SET threads = 9", "RESET threads",
        "PRAGMA version", "INSTALL httpfs", "LOAD httpfs", "CREATE TABLE memory.x (i INT)", "USE temp",
        "CREATE TEMP TABLE x (i INT)",
        "INSERT INTO numbers VALUES (1)", "UPDATE numbers SET i = 1", "DELETE FROM numbers", "DROP TABLE numbers",
        "EXPORT DATABASE 'x'", "CALL duckdb_tables()", "PREPARE a AS SELECT 1", "BEGIN", "VACUUM", "DETACH x",
        "CHECKPOINT",
    ],
)  # fmt: skip
def test_a_statement_that_does_more_than_read_is_refused(connection, text):
    assert re.fullmatch(r"[A-Z_]+ does not read: SELECT, .* and EXPLAIN do\.", refused(connection, text))


def test_only_one_statement_is_taken(connection):
    assert refused(connection, "SELECT 1; SELECT 2") == "These are 2 statements: give one at a time."
    assert refused(connection, " ; -- nothing") == (
        "There is no statement: write one that reads, such as FROM layer_summary."
    )
    assert "PIVOT has to name its values" in refused(connection, "PIVOT numbers ON i USING count(*)")


@pytest.mark.parametrize(
    "text",
    [
        "FROM numbers;", "DESCRIBE numbers", "SHOW TABLES", "SUMMARIZE numbers", "VALUES (1)", "EXPLAIN SELECT 1",
        "WITH a AS (SELECT 1) FROM a", "-- why\nSELECT 1", "PIVOT numbers ON i IN (1) USING count(*)", "FROM above(2)",
    ],
)  # fmt: skip
def test_a_statement_that_reads_is_run(connection, text):
    assert connection.sql(sql_process.only_statement(connection, text).query).limit(9).fetchall()


@pytest.mark.parametrize(
    "text",
    [
        "FROM read_csv('{file}')", "FROM '{file}'", "FROM read_text('{file}')", "FROM glob('{folder}/*')",
        "FROM sniff_csv('{file}')", "FROM read_blob('{file}')", "FROM duckdb_secrets()", "SELECT getenv('HOME')",
        "FROM query('ATTACH ''x''')", "FROM read_parquet('https://example.org/x.parquet')",
        "WITH a AS (INSERT INTO numbers VALUES (9) RETURNING *) FROM a", "EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1",
        "EXPLAIN ANALYZE INSERT INTO numbers VALUES (9)", "EXPLAIN ANALYZE ATTACH '{folder}/new.duckdb'",
    ],
)  # fmt: skip
def test_nothing_but_the_file_can_be_read_and_nothing_written(connection, tmp_path, text):
    (tmp_path / "secret.csv").write_text("secret\n1\n")
    asked = text.replace("{file}", str(tmp_path / "secret.csv")).replace("{folder}", str(tmp_path))
    with pytest.raises((duckdb.Error, sql_process.FailedError)):
        connection.sql(sql_process.only_statement(connection, asked).query).fetchall()
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
    assert connection.sql("SELECT count(*) FROM numbers").fetchall() == [(5,)]


def test_the_settings_of_the_process_cannot_be_changed(connection):
    with pytest.raises(duckdb.Error, match="locked"):
        connection.execute("SET enable_external_access = true")


def test_the_first_rows_come_in_order_with_whether_there_are_more(database):
    frame, has_more = run_sql(database, "FROM above(0) ORDER BY i DESC", rows=3)
    assert frame["i"].to_list() == [4, 3, 2]
    assert has_more
    frame, has_more = run_sql(database, "SELECT i AS a, i + 1 AS a FROM above(0)", rows=4)
    assert frame.height == 4
    assert not has_more
    assert frame.columns == ["a", "a_1"]


def test_what_polars_cannot_hold_comes_as_text(connection):
    found = connection.sql("""
        SELECT INTERVAL 1 DAY AS a, union_value(x := 1) AS "b ""c", {'d': DATE '290000-01-01'} AS e, 1 AS f,
            TIMESTAMP '2020-01-01' AS g, '101'::BIT AS h""")
    assert sql_process.readable(found).fetchall() == [
        ("1 day", "1", "{'d': 290000-01-01}", 1, "2020-01-01 00:00:00", "101")
    ]
    assert sql_process.readable(found).columns == ["a", 'b "c', "e", "f", "g", "h"]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT count(*) FROM range(1000000000000)",
        "SELECT count(*) FROM range(1000000) a, range(1000000) b, range(9) c WHERE hash(a.range + b.range) = 1",
        "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r) SELECT count(*) FROM r",
    ],
)
def test_what_would_run_forever_is_ended(database, text):
    with pytest.raises(LimitError, match=r"The statement took more than 0\.5 seconds: ask for less\."):
        run_sql(database, text, seconds=0.5)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT repeat('x', 4000000000)",  # which DuckDB does not count as memory
        "SELECT string_agg(repeat('x', 1000000)) FROM range(100000)",
        "WITH RECURSIVE r AS (SELECT 'x' AS s UNION ALL SELECT s || s FROM r) SELECT count(*) FROM r",
    ],
)
def test_what_takes_too_much_memory_is_ended(database, text):
    with pytest.raises(LimitError, match=r"more than 0\.125 GiB of memory: ask for less\."):
        run_sql(database, text, seconds=20, memory=2**27)


def test_who_finds_all_places_taken_is_told(database):
    with ExitStack() as others:
        for _ in range(AT_ONCE):
            others.enter_context(_running)
        with pytest.raises(LimitError, match=r"2 statements of others took more than 0\.1 seconds: try again later"):
            run_sql(database, "SELECT 1", seconds=0.1)


def test_mistakes_are_duckdbs_sentence(database):
    with pytest.raises(QueryError, match="Table with name number does not exist"):
        run_sql(database, "FROM number")
    with pytest.raises(QueryError, match="Max expression depth"):
        run_sql(database, "SELECT " + "(" * 5000 + "1" + ")" * 5000)
    with pytest.raises(QueryError, match="Lists larger than"):
        run_sql(database, "SELECT range(1000000000000)")


def test_a_file_that_is_damaged_or_no_database_is_said_and_one_that_is_written(tmp_path):
    file = tmp_path / "n2g.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE numbers AS FROM range(100_000)")
    whole = file.read_bytes()
    with closing(sqlite3.connect(tmp_path / "foreign")) as foreign:
        foreign.execute("CREATE TABLE numbers (number)")
    foreign_bytes = (tmp_path / "foreign").read_bytes()
    for content in (whole[:5000], whole[: len(whole) // 2], b"no database " * 900, foreign_bytes, b""):
        file.write_bytes(content)
        for opened in (lambda: run_sql(file, "SELECT 1"), lambda: Snapshot(file)):
            with pytest.raises(StorageError, match=r"is damaged or no database \(.*\): n2g run STUDY makes it anew\.$"):
                opened()
    file.write_bytes(whole)
    write = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", write, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as it:
        assert it.stdout is not None
        it.stdout.readline()
        with pytest.raises(StorageError, match=r"cannot be opened .*: close the program that writes to it, or publish"):
            run_sql(file, "SELECT 1")
        it.communicate()
    with pytest.raises(StorageError, match="is not there yet: run a study first"):
        run_sql(tmp_path / "none.duckdb", "SELECT 1")
