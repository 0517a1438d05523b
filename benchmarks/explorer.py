"""Milliseconds of the explorer's pages, searches and comparisons over a whole model: 30 layers of 1,536 units.

1. A database of 46,080 units is made from the units of a published study, by default the demo's: each copy has the
   graph, rules and scores of one of them. Two thirds of its tokens are others, moved along the vocabulary by a number
   of the copy's own, its strongest positions are moved too, and what it does at the sampled positions, so that copies
   of one unit are alike but not the same; one copy in fifty is left as it is. Layer 0 has copies of the first layer
   alone, whose units have by far the largest classes. Token classes, 64,000 rows a unit, are copied for ``PAGED`` units
   of layers 0 and 1 alone, those whose pages are asked for: for the others searches read what is kept of them.
2. The explorer serves it to one client. Every page is asked for ``TIMES`` times, another unit or token each time, after
   one that is not counted.
3. The medians stand beside that of a file that is served as it is, and beside their goals.

    python benchmarks/explorer.py --file whole-model.duckdb    # 3 GB, a quarter of an hour; a second run measures only
    python benchmarks/explorer.py --file two-layers.duckdb --layers 2    # no fewer
"""

from __future__ import annotations

import argparse
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from urllib.parse import quote

import duckdb
import uvicorn

from n2g_assets.core.home import Home
from n2g_assets.explore.app import build_app, warm_up
from n2g_assets.reading.database import MEMORY_LIMIT, Database
from n2g_assets.storage import schema
from n2g_assets.storage.schema import literal
from n2g_assets.storage.warehouse import STORAGE_VERSION

LAYERS, UNITS, PAGED, TIMES = 30, 1536, 32, 15
CHUNKS = 16
"""Parts of the vocabulary whose uses are sorted at once, which keeps the sorting in memory."""
WHOLE = ("studies", "subject_models", "vocabulary", "contexts", "documents", "token_texts")
COPIED = (
    "unit_status", "unit_summary", "fidelity_card", "neuron_stats", "rules", "graph_nodes", "size_curve", "evaluation",
    "reach", "rule_tests", "failures", "thresholds", "ledger",
)  # fmt: skip
OF_PAGES = ("token_classes", "top_examples", "counterexamples", "strength_examples")
"""Tables of which only the pages of units read rows."""


def copies_sql(layers: int) -> str:
    """Which unit each copy is of, and by how many places its tokens are moved."""
    return f"""
        CREATE TEMP TABLE units AS
        SELECT from_layer, from_unit, sign, is_first, count(*) OVER (PARTITION BY is_first) AS numbers,
            row_number() OVER (PARTITION BY is_first ORDER BY from_layer, from_unit, sign) - 1 AS number
        FROM (
            SELECT layer AS from_layer, unit AS from_unit, sign, layer = min(layer) OVER () AS is_first
            FROM old.unit_status WHERE study = $study AND status = 'ok');
        CREATE TEMP TABLE copies AS
        SELECT CAST(l.layer AS INTEGER) AS layer, CAST(u.unit AS INTEGER) AS unit, from_layer, from_unit, sign,
            CASE WHEN hash(u.unit, l.layer, 1) % 50 = 0 THEN 0
                ELSE CAST(hash(l.layer, u.unit, 7) % 40000 AS INTEGER) END AS moved
        FROM range({layers}) AS l(layer), range({UNITS}) AS u(unit)
        JOIN units ON is_first = (l.layer = 0) AND number = hash(l.layer, u.unit) % numbers"""


FROM_COPIES = """
    FROM copies AS k JOIN old.{table} AS o
        ON o.study = $study AND o.layer = k.from_layer AND o.unit = k.from_unit AND o.sign = k.sign"""


def make(published: Path, study: str, target: Path, layers: int) -> None:
    """Writes the database of all copies."""
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with duckdb.connect(":memory:", config={"memory_limit": "3GB", "threads": 2}) as connection:
        connection.execute(f"SET temp_directory = {literal(str(target.with_suffix('.spilled')))}")
        connection.execute(f"ATTACH {literal(str(published))} AS old (READ_ONLY)")
        connection.execute(f"ATTACH {literal(str(partial))} AS warehouse (STORAGE_VERSION {literal(STORAGE_VERSION)})")
        connection.execute("USE warehouse")
        schema.create_schema(connection)
        for name in schema.KEPT:
            connection.execute(f"DROP VIEW {name}; CREATE TABLE {name} AS FROM old.{name} LIMIT 0")
        for statement in copies_sql(layers).split(";"):
            connection.execute(statement, {"study": study} if "$study" in statement else {})
        for table in WHOLE:
            connection.execute(f"INSERT INTO {table} FROM old.{table} WHERE study = $study", {"study": study})
        for table in (*COPIED, *OF_PAGES):
            only = f" AND k.layer < 2 AND k.unit < {PAGED}" if table in OF_PAGES else ""
            connection.execute(
                f"INSERT INTO {table} SELECT o.* REPLACE (k.layer AS layer, k.unit AS unit)"
                f"{FROM_COPIES.format(table=table)}{only} ORDER BY k.layer, k.unit, o.rowid",
                {"study": study},
            )
            print(f"  {table}", flush=True)
        connection.execute("INSERT INTO shared_samples FROM old.shared_samples WHERE sample = other_sample")
        _activations(connection, study)
        _samples(connection, study)
        _vectors(connection, study)
        _uses(connection, study)
        connection.execute("CHECKPOINT warehouse")
    partial.rename(target)


def _activations(connection: duckdb.DuckDBPyConnection, study: str) -> None:
    connection.execute(
        f"""INSERT INTO activations SELECT o.* REPLACE (
            k.layer AS layer, k.unit AS unit,
            CAST(CASE WHEN k.moved = 0 THEN o.position ELSE 1 + (o.position + k.moved) % 31 END AS INTEGER) AS position,
            CASE WHEN k.moved = 0 THEN o.context_id ELSE there[1 + (o.rank * 7919 + k.moved) % len(there)] END
                AS context_id)
        {FROM_COPIES.format(table="activations")}, (
            SELECT list(DISTINCT context_id ORDER BY context_id) AS there FROM old.activations WHERE study = $study)
        ORDER BY k.layer, k.unit, o.rank""",
        {"study": study},
    )


def _samples(connection: duckdb.DuckDBPyConnection, study: str) -> None:
    connection.execute(
        f"""INSERT INTO sampled_activations SELECT o.* REPLACE (
            k.layer AS layer, k.unit AS unit,
            o.deviations[1 + k.moved % len(o.deviations):] || o.deviations[:k.moved % len(o.deviations)] AS deviations)
        {FROM_COPIES.format(table="sampled_activations")} ORDER BY k.layer, k.unit""",
        {"study": study},
    )


def _vectors(connection: duckdb.DuckDBPyConnection, study: str) -> None:
    """A token that is moved gets a name of its own: vectors are only compared with one another."""
    connection.execute(
        f"""INSERT INTO unit_vectors SELECT o.* REPLACE (
            k.layer AS layer, k.unit AS unit,
            CASE WHEN k.moved = 0 OR hash(o.token) % 3 = 0 THEN o.token
                ELSE o.token || encode('+' || CAST(k.moved AS VARCHAR)) END AS token)
        {FROM_COPIES.format(table="unit_vectors")} ORDER BY k.layer, k.unit, o.rowid""",
        {"study": study},
    )


def _uses(connection: duckdb.DuckDBPyConnection, study: str) -> None:
    first = "SELECT layer, unit, sign, min(rowid) AS row FROM"
    connection.execute(f"CREATE TEMP TABLE firsts AS {first} rules GROUP BY ALL")
    connection.execute(
        f"CREATE TEMP TABLE old_firsts AS {first} old.rules WHERE study = $study GROUP BY ALL", {"study": study}
    )
    [(vocabulary,)] = connection.execute("SELECT count(*) FROM vocabulary").fetchall()
    moved = f"(o.token_id + k.moved) % {vocabulary}"
    token = f"CAST(CASE WHEN o.token_id % 3 = 0 THEN o.token_id ELSE {moved} END AS INTEGER)"
    for chunk in range(CHUNKS):
        low, high = (vocabulary * place // CHUNKS for place in (chunk, chunk + 1))
        connection.execute(
            f"""INSERT INTO token_uses SELECT o.* REPLACE (
                k.layer AS layer, k.unit AS unit, {token} AS token_id, f.row + o.rule_row - b.row AS rule_row)
            {FROM_COPIES.format(table="token_uses")}
            JOIN firsts AS f ON f.layer = k.layer AND f.unit = k.unit AND f.sign = k.sign
            JOIN old_firsts AS b ON b.layer = k.from_layer AND b.unit = k.from_unit AND b.sign = k.sign
            WHERE {token} >= {low} AND {token} < {high}
            ORDER BY {schema.KEPT["token_uses"].removeprefix("study, ").replace("token_id", token, 1)
                .replace('"offset"', 'o."offset"').replace("activation", "o.activation")
                .replace("layer, unit, sign", "k.layer, k.unit, k.sign")}""",
            {"study": study},
        )  # fmt: skip
        print(f"  token_uses {chunk + 1} of {CHUNKS}", flush=True)


@contextmanager
def served(database: Database) -> Iterator[Callable[[str], float]]:
    """Asks for an address, and gives the seconds that the answer took."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(build_app(database), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        client = http.client.HTTPConnection(*listener.getsockname())

        def ask(path: str) -> float:
            started = time.perf_counter()
            client.request("GET", path, headers={"Accept-Encoding": "gzip"})
            answer = client.getresponse()
            answer.read()
            if answer.status != 200:
                raise SystemExit(f"{path} was answered with {answer.status}.")
            return time.perf_counter() - started

        yield ask
        server.should_exit = True
        thread.join(10)


def measure(database: Database, study: str) -> None:
    """Prints the medians."""
    snapshot = database.snapshot()
    warm_up(database)
    layers = [row["layer"] for row in snapshot.rows("SELECT DISTINCT layer FROM unit_status ORDER BY layer")]
    tokens = [
        row["token"].decode("utf-8", "replace")
        for row in snapshot.rows(
            """SELECT token FROM vocabulary WHERE token_id % 3 = 0 AND regexp_full_match(text, '␣[a-z]{4,}')
            ORDER BY hash(token_id) LIMIT $n""",
            n=2 * TIMES + 2,
        )
    ]
    of, search = f"/study/{quote(study)}", "/search?how="
    pages: list[tuple[str, float, Callable[[int], str]]] = [
        ("studies", 0.15, lambda n: "/"),
        ("study", 0.15, lambda n: of),
        ("layer", 0.15, lambda n: f"{of}/{layers[n % len(layers)]}?sort=random_r_30"),
        ("unit", 0.15, lambda n: f"{of}/1/{n}"),
        ("unit of layer 0", 0.15, lambda n: f"{of}/0/{n}"),
        ("search, exact", 0.5, lambda n: f"{search}exact&activating={quote(tokens[n])}"),
        ("search, caseless", 0.5, lambda n: f"{search}caseless&activating={quote(tokens[n].strip())}"),
        ("search, context", 0.5, lambda n: f"{search}exact&context={quote(tokens[n])}"),
        ("search, both", 0.5, lambda n: f"{search}exact&activating={quote(tokens[n])}&context={quote(tokens[n + 1])}"),
    ]
    with served(database) as ask:
        ask("/static/icon.svg")
        bare = median(ask("/static/icon.svg") for _ in range(100))
        print(f"{'':22}{'median ms':>10}{'slowest':>10}{'x a file':>10}{'goal ms':>10}")
        print(f"{'a file':22}{bare * 1e3:10.1f}")
        for name, goal, path in pages:
            ask(path(0))
            _show(name, [ask(path(n)) for n in range(1, TIMES + 1)], bare, goal)
    numbers = count(PAGED)
    similar = f"SELECT * FROM similar_units({literal(study)}, 1, $n) LIMIT 20"
    _show("similar_units", [_seconds(lambda: snapshot.rows(similar, n=next(numbers))) for _ in range(5)], bare, 1)
    with duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "threads": 2, "temp_directory": ""}) as connection:
        connection.execute(f"ATTACH {literal(str(database.path))} AS n2g (READ_ONLY)")
        connection.execute("USE n2g")
        pairs = connection.sql("SELECT count(*) FROM subset_pairs(0.9)")
        _show("subset_pairs(.9)", [_seconds(pairs.fetchall)], bare, 300)


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _show(name: str, seconds: list[float], bare: float, goal: float) -> None:
    middle = median(seconds)
    missed = "" if middle < goal else "  missed"
    times = f"{middle * 1e3:10.0f}{max(seconds) * 1e3:10.0f}{middle / bare:10.0f}{goal * 1e3:10.0f}"
    print(f"{name:22}{times}{missed}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True, help="the database, which is made where it is not there")
    parser.add_argument("--study", default="demo", help="the published study whose units are copied")
    parser.add_argument("--layers", type=int, default=LAYERS)
    given = parser.parse_args()
    if not given.file.exists():
        print(f"Making {given.file} of {given.layers * UNITS:,} units ...", flush=True)
        took = _seconds(lambda: make(Home.from_environment().database, given.study, given.file, given.layers))
        print(f"{given.file.stat().st_size / 1e6:,.0f} MB in {took:,.0f} s")
    measure(Database(given.file), given.study)


if __name__ == "__main__":
    main()
