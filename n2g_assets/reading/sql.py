"""SQL of anyone on the published database: one statement that reads, within limits.

DuckDB counts no memory of long texts (``repeat('x', 4000000000)`` takes 8 GB), and some functions cannot be
interrupted. So a statement runs in a process of its own (``sql_process.py``), which is ended when it takes too long
and whose memory the system limits. It opens the file read-only, and nothing else: no file, no network, no extension.
"""

import io
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from n2g_assets.core.errors import LimitError, QueryError
from n2g_assets.reading.database import not_there
from n2g_assets.storage.warehouse import not_opened

ROWS = 1_000
"""Rows of an answer, unless more are asked for."""
MOST_ROWS = 1_000_000
"""Rows of an answer at the most."""
MOST_BYTES = 2**28
"""Bytes of an answer at the most."""
MEMORY = 2**30
"""Bytes that DuckDB takes for a statement."""
SECONDS = 30.0
"""A statement that takes longer is ended."""
AT_ONCE = 2
"""Statements that run at the same time; more of them wait as long as one may take."""

_PROGRAM = Path(__file__).with_name("sql_process.py")
_GRACE_SECONDS = 5.0
"""A statement that cannot be interrupted is ended with its process so much later, which also has to start."""
_running = threading.BoundedSemaphore(AT_ONCE)


class SqlAnswer(NamedTuple):
    """What a statement gave."""

    frame: pl.DataFrame
    """Its first rows."""
    has_more: bool
    """Whether there are more."""


def run_sql(path: Path, text: str, *, rows: int = ROWS, seconds: float = SECONDS, memory: int = MEMORY) -> SqlAnswer:
    """The first rows of one statement that reads.

    Args:
        path: the published file.
        text: SELECT, FROM, WITH, VALUES, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN.
        rows: at the most.
        seconds: a statement that takes longer is ended.
        memory: bytes that DuckDB may take for it.

    Raises:
        QueryError: it is mistaken, does something else than read, or is more than one.
        LimitError: it takes too long or too much memory, or others take all the places.
        StorageError: nothing is published, or the file cannot be opened.
    """
    if not path.exists():
        raise not_there(path)
    asked = {
        "path": str(path), "text": text, "rows": min(rows, MOST_ROWS), "seconds": seconds, "memory": memory,
        "bytes": MOST_BYTES,
    }  # fmt: skip
    too_long = f"The statement took more than {seconds:g} seconds: ask for less."
    if not _running.acquire(timeout=seconds):
        raise LimitError(f"{AT_ONCE} statements of others took more than {seconds:g} seconds: try again later.")
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(_PROGRAM)], input=json.dumps(asked).encode(), capture_output=True,
            timeout=seconds + _GRACE_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise LimitError(too_long) from error
    finally:
        _running.release()
    head, _, rest = done.stdout.partition(b"\n")
    said: dict[str, Any] = json.loads(head) if head else {"failed": "memory"}  # the system ended the process
    if said["failed"] is None:
        return SqlAnswer(pl.read_ipc_stream(io.BytesIO(rest)), said["has_more"])
    raise {
        "query": QueryError(said.get("message", "")),
        "time": LimitError(too_long),
        "memory": LimitError(f"The statement took more than {memory / 2**30:g} GiB of memory: ask for less."),
        "bytes": LimitError(f"The rows take more than {MOST_BYTES / 2**20:g} MiB: ask for fewer rows or columns."),
        "file": not_opened(path, said.get("message")),
    }[said["failed"]]
