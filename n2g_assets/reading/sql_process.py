"""The process of one SQL statement: a program of its own, which imports nothing of this package.

It reads what is asked as JSON, and writes a line of JSON and behind it the rows in Arrow's format:

1. The system limits its memory, and it opens the file read-only with everything outside of it closed.
2. DuckDB parses the text, which has to be one statement that reads.
3. Its first rows are read, while a timer can interrupt it.
"""

import json
import re
import resource
import sys
import threading
from contextlib import suppress
from typing import Any, cast

import duckdb
import pyarrow as pa

READS = ("SELECT", "EXPLAIN")
"""Kinds of statements that read; FROM, WITH, VALUES, DESCRIBE, SHOW and SUMMARIZE are SELECT to DuckDB."""
ODD = re.compile(r"\b(INTERVAL|UNION|BIT|VARIANT|BIGNUM|DATE|TIMESTAMP\w*|TIME WITH TIME ZONE)\b")
"""Types, also inside of others, whose values are given as text."""
BESIDE = 2**30
"""Bytes that the process may take beside what DuckDB counts: libraries, rows on their way, and long texts."""
BATCH = 1_000
"""Rows that are read at a time."""


class FailedError(Exception):
    """Why there are no rows: query, time, memory, bytes or file; and what is said of it."""


def main() -> None:
    """Answer what standard input asks."""
    asked = json.loads(sys.stdin.buffer.read())
    with suppress(ValueError, OSError):  # a lower limit is set already, or the system has none
        resource.setrlimit(resource.RLIMIT_DATA, (asked["memory"] + BESIDE,) * 2)
    try:
        batches, schema, has_more = answer(asked)
        sys.stdout.write(json.dumps({"failed": None, "has_more": has_more}) + "\n")
        sys.stdout.flush()
        with pa.ipc.new_stream(sys.stdout.buffer, schema) as stream:
            for batch in batches:
                stream.write_batch(batch)
    except FailedError as failure:
        kind, message = failure.args
        sys.stdout.write(json.dumps({"failed": kind, "message": message}) + "\n")


def answer(asked: dict[str, Any]) -> tuple[list[pa.RecordBatch], pa.Schema, bool]:
    """The first rows, their columns, and whether there are more."""
    timer = None
    try:
        connection = opened(asked)
        statement = only_statement(connection, asked["text"])
        timer = threading.Timer(asked["seconds"], connection.interrupt)
        timer.daemon = True
        timer.start()
        found = readable(connection.sql(statement.query).limit(asked["rows"] + 1))
        return first_rows(found.to_arrow_reader(BATCH), asked["rows"], asked["bytes"])
    except duckdb.InterruptException as error:
        raise FailedError("time", str(error)) from error
    except (duckdb.OutOfMemoryException, MemoryError, pa.ArrowMemoryError) as error:
        raise FailedError("memory", str(error)) from error
    except (duckdb.Error, pa.ArrowException) as error:
        kind = "memory" if "bad_alloc" in str(error) or "bad allocation" in str(error) else "query"
        raise FailedError(kind, str(error)) from error
    finally:
        if timer is not None:
            timer.cancel()


def opened(asked: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    """A read-only connection that can reach nothing but the file."""
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{asked['memory']}B",
        "threads": 2,
        "temp_directory": "",
        "autoinstall_known_extensions": False,  # a file of another kind asks for one
        "autoload_known_extensions": False,
    }
    try:
        connection = duckdb.connect(asked["path"], read_only=True, config=settings)
    except duckdb.Error as error:
        raise FailedError("file", str(error)) from error
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def only_statement(connection: duckdb.DuckDBPyConnection, text: str) -> duckdb.Statement:
    """The one statement of a text, if it reads."""
    statements = connection.extract_statements(text)
    if not statements:
        raise FailedError("query", "There is no statement: write one that reads, such as FROM layer_summary.")
    if len(statements) > 1:
        raise FailedError("query", f"These are {len(statements)} statements: give one at a time.")
    kind = statements[0].type.name
    if kind == "MULTI":
        raise FailedError("query", "PIVOT has to name its values here, as in PIVOT ... ON text IN ('random').")
    if kind not in READS:
        raise FailedError(
            "query", f"{kind} does not read: SELECT, FROM, WITH, VALUES, DESCRIBE, SHOW, SUMMARIZE and EXPLAIN do."
        )
    return statements[0]


def readable(found: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The same rows with what Polars cannot hold as text: it knows no intervals, and no year 290000."""
    as_text = [ODD.search(str(each)) is not None for each in found.types]
    if not any(as_text):
        return found
    places = [f"c{place}" for place in range(len(as_text))]
    names = ['"' + name.replace('"', '""') + '"' for name in found.columns]
    chosen = ", ".join(
        f"CAST({place} AS VARCHAR) AS {name}" if odd else f"{place} AS {name}"
        for place, name, odd in zip(places, names, as_text, strict=True)
    )
    made = found.query("found", f"SELECT {chosen} FROM found AS found({', '.join(places)})")
    return cast(duckdb.DuckDBPyRelation, made)  # None only of what gives no rows


def first_rows(
    reader: pa.RecordBatchReader, rows: int, most_bytes: int
) -> tuple[list[pa.RecordBatch], pa.Schema, bool]:
    """The first rows of a reader, and whether there are more."""
    batches, count, size = list[pa.RecordBatch](), 0, 0
    for batch in reader:
        batches.append(batch.slice(0, rows - count))
        count += batch.num_rows
        size += batch.nbytes
        if size > most_bytes:
            raise FailedError("bytes", "")
    return batches, reader.schema, count > rows


if __name__ == "__main__":
    main()
