from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import polars as pl
import pytest

from n2g_assets.core.errors import StorageError
from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit
from n2g_assets.storage import slices, warehouse
from n2g_assets.storage.slices import SliceKey, SliceStore
from n2g_assets.storage.warehouse import STORAGE_VERSION, VIEWS, open_database, publish, units_of_ledger
from n2g_assets_tests.storage import helpers
from n2g_assets_tests.storage.helpers import expect, files_below, fill, largest_file, remove, rows, start, tell, write

SELECTED = {7: [Unit(1, 1), Unit(2, -1)], 8: [Unit(1, 1)]}


def query(store: SliceStore, sql: str) -> list[tuple]:
    with open_database(store.home) as connection:
        return connection.execute(sql).fetchall()


def write_rules(store: SliceStore, layer: int = 7, study: str = "demo", pattern: str = "a") -> None:
    records = [{"unit": neuron, "sign": sign} for neuron in range(4) for sign in (1, -1)]
    frame = rows("rules", *records, study=study, layer=layer, pattern=pattern, tokens=[b"\xff", None])
    write(store, "rules", frame, study=study, layer=layer)


def write_documents(store: SliceStore, study: str = "demo") -> None:
    write(store, "documents", rows("documents", {"document_id": "d1"}, {"document_id": "d2"}, study=study), study=study)


def test_every_table_and_column_is_there_with_its_type_and_its_comment(store: SliceStore) -> None:
    publish(store, "demo", {})
    here = "database_name = 'n2g' AND NOT internal"
    columns = query(store, f"SELECT table_name, column_name, is_nullable, comment FROM duckdb_columns() WHERE {here}")
    found = {(table, name): (nullable, comment) for table, name, nullable, comment in columns}
    for table in TABLES.values():
        for column in table.columns:
            assert found.pop((table.name, column.name)) == (column.nullable, column.meaning)
    views = {"layer_summary", "unit_summary", "unit_rules", "unit_status", "problem_units"}
    views |= {"fidelity_card", "worst_units", "counterexample_text"}
    views |= {"controls", "rule_test_summary", "failure_summary"}
    assert {table for table, _ in found} == views
    assert all(comment for _, comment in found.values()), [key for key, about in found.items() if not about[1]]
    commented = query(
        store,
        f"SELECT table_name, comment FROM duckdb_tables() WHERE {here} "
        f"UNION ALL SELECT view_name, comment FROM duckdb_views() WHERE {here} "
        f"UNION ALL SELECT function_name, comment FROM duckdb_functions() WHERE {here}",
    )
    macros = {"units_on", "units_with_context", "token_forms", "token_text", "stage_number", "schema_fingerprint"}
    macros |= {"control_study", "rival_number", "marked_text"}
    assert {name for name, _ in commented} == {*TABLES, *views, *macros}
    assert all(comment for _, comment in commented)


def test_rows_arrive_unchanged_and_only_those_of_the_studys_units(store: SliceStore) -> None:
    write_rules(store)
    write_rules(store, layer=9)
    write_documents(store)
    report = publish(store, "demo", SELECTED)
    assert report.changed
    assert report.rows == {"rules": 2, "documents": 2}
    with open_database(store.home) as connection:
        published = connection.sql("FROM rules").pl()
    expected = store.read("rules", "demo", 7).filter(
        ((pl.col("unit") == 1) & (pl.col("sign") == 1)) | ((pl.col("unit") == 2) & (pl.col("sign") == -1))
    )
    assert published.rows() == expected.rows()
    about = query(store, "SELECT table_name, layer, rows, published_rows, content_hash FROM slices ORDER BY 1")
    manifests = [store.manifest("documents", "demo"), store.manifest("rules", "demo", 7)]
    assert about == [
        ("documents", None, 2, 2, manifests[0].content_hash),
        ("rules", 7, 8, 2, manifests[1].content_hash),
    ]


def test_only_what_changed_is_replaced(store: SliceStore) -> None:
    for layer in (7, 8):
        write_rules(store, layer)
    write_documents(store)
    first = publish(store, "demo", SELECTED)
    assert (first.kept, len(first.replaced)) == (0, 3)
    before = store.home.database.stat()
    second = publish(store, "demo", SELECTED)
    assert (second.changed, second.kept, second.replaced, second.dropped) == (False, 3, [], [])
    assert store.home.database.stat().st_ino == before.st_ino
    assert second.rows == first.rows

    write_rules(store, 8)  # other file and time, same rows
    write_rules(store, 7, pattern="b")
    assert publish(store, "demo", SELECTED).replaced == ["rules of study demo, layer 7"]
    assert query(store, "SELECT DISTINCT layer, pattern FROM rules ORDER BY 1") == [(7, "b"), (8, "a")]

    grown = {**SELECTED, 8: [Unit(1, 1), Unit(3, 1)]}
    assert publish(store, "demo", grown).replaced == ["rules of study demo, layer 8"]
    assert query(store, "SELECT unit FROM rules WHERE layer = 8 ORDER BY 1") == [(1,), (3,)]

    remove(store, "documents", "demo")
    gone = publish(store, "demo", {7: SELECTED[7]})
    assert gone.dropped == ["documents of study demo", "rules of study demo, layer 8"]
    assert query(store, "SELECT count(*) FROM documents") == [(0,)]
    assert query(store, "SELECT table_name, layer FROM slices") == [("rules", 7)]


def test_parts_of_the_ledger_are_published_together_and_one_can_go(store: SliceStore) -> None:
    for stage in ("top_examples", "evaluation"):
        write(store, "ledger", rows("ledger", {"unit": 1}, layer=7, study="demo", stage=stage), part=stage)
    publish(store, "demo", SELECTED)
    assert query(store, "SELECT stage FROM ledger ORDER BY 1") == [("evaluation",), ("top_examples",)]
    remove(store, "ledger", "demo", 7, "evaluation")
    assert publish(store, "demo", SELECTED).dropped == ["ledger/evaluation of study demo, layer 7"]
    assert query(store, "SELECT stage FROM ledger") == [("top_examples",)]


def test_studies_do_not_touch_each_other(store: SliceStore) -> None:
    for study in ("demo", "other"):
        write_documents(store, study)
        publish(store, study, {})
    remove(store, "documents", "other")
    publish(store, "demo", {})
    assert query(store, "SELECT DISTINCT study FROM documents ORDER BY 1") == [("demo",), ("other",)]
    publish(store, "other", {})
    assert query(store, "SELECT DISTINCT study FROM documents") == [("demo",)]


def test_without_a_selection_the_units_of_the_ledger_are_published(store: SliceStore) -> None:
    report = fill(store, stage="top_examples")
    publish(store, "demo")
    assert [len(units) for units in units_of_ledger(store, "demo").values()] == [7]
    assert query(store, "SELECT count(*) FROM rules") == [(report.rows["rules"],)]


READER = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
count = lambda: print(connection.execute("SELECT count(*) FROM documents").fetchall()[0][0], flush=True)
if sys.argv[2] == "write":
    connection.execute("CREATE TABLE own_notes (a INTEGER)")
count()
sys.stdin.readline()
count()
"""


@pytest.mark.parametrize("mode", ["read", "write"])
def test_another_program_with_the_database_open_keeps_its_snapshot_while_a_new_one_is_published(
    store: SliceStore, mode: str
) -> None:
    publish(store, "demo", {})
    with start(READER, store.home.database, mode) as reader:
        expect(reader, "0")
        write_documents(store)
        assert publish(store, "demo", {}).changed
        assert query(store, "SELECT count(*) FROM documents") == [(2,)]
        tell(reader)
        expect(reader, "0")
        reader.wait()
    assert reader.returncode == 0
    assert query(store, "SELECT count(*) FROM documents") == [(2,)]
    assert not store.home.database.with_name("n2g.duckdb.wal").exists()


OWN_TABLE = """
import os, signal, sys, duckdb
connection = duckdb.connect(sys.argv[1])
connection.execute("CREATE TABLE own_notes AS SELECT 1 AS a")
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
print("written", flush=True)
sys.stdin.readline()
connection.execute("INSERT INTO own_notes VALUES (2)")
"""


@pytest.mark.parametrize("end", ["killed", "open"])
def test_what_another_program_committed_and_left_in_the_log_is_published(store: SliceStore, end: str) -> None:
    publish(store, "demo", {})
    log = store.home.database.with_name("n2g.duckdb.wal")
    with start(OWN_TABLE, store.home.database, end) as process:
        if end == "killed":
            process.wait()
            assert not publish(store, "demo", {}).changed
        else:
            expect(process, "written")
        assert log.exists()
        write_documents(store)
        assert publish(store, "demo", {}).warnings == []
        assert not log.exists()
        assert query(store, "FROM own_notes") == [(1,)]
        process.kill()
    assert query(store, "SELECT count(*) FROM documents") == [(2,)]


def test_what_is_published_already_is_not_copied_and_a_file_in_use_by_a_writer_goes_the_full_way(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rules(store)
    first = publish(store, "demo", SELECTED)
    copies = []
    real = warehouse.copy_database
    monkeypatch.setattr(warehouse, "copy_database", lambda *paths: (copies.append(paths), real(*paths)))
    again = publish(store, "demo", SELECTED)
    assert (again.changed, again.kept, again.rows, copies) == (False, 1, first.rows, [])
    with start(READER, store.home.database, "write") as process:
        expect(process, "0")
        assert not publish(store, "demo", SELECTED).warnings
        assert len(copies) == 1
        process.kill()


def test_a_wrong_query_is_told_and_does_not_set_the_database_aside(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, "demo", {})
    before = store.home.database.read_bytes()
    monkeypatch.setattr(warehouse, "_views_text", lambda: "CREATE OR REPLACE VIEW one AS SELECT wrong FROM nowhere;")
    with pytest.raises(duckdb.CatalogException, match="nowhere"):
        publish(store, "demo", {})
    assert store.home.database.read_bytes() == before
    assert {name for name in files_below(store.home.root) if not name.startswith(("slices", "locks"))} == {"n2g.duckdb"}


@pytest.mark.parametrize("harm", ["nonsense", "cut", "flip", "empty"])
def test_a_damaged_database_is_set_aside_and_made_anew_from_all_slices(store: SliceStore, harm: str) -> None:
    write_documents(store, "other")
    for layer in (7, 8):
        write_rules(store, layer, pattern="some longer text " * 20)
    publish(store, "other", {})
    publish(store, "demo", SELECTED)
    expected = query(store, "FROM rules ORDER BY ALL")
    whole = store.home.database.read_bytes()
    harmed = {
        "nonsense": b"nonsense" * 4096,
        "cut": whole[: len(whole) // 2],
        "flip": bytes(byte ^ 255 if 12288 <= i < len(whole) else byte for i, byte in enumerate(whole)),
        "empty": b"x",
    }[harm]
    store.home.database.write_bytes(harmed)
    report = publish(store, "demo", SELECTED)
    assert len(report.warnings) == 1
    assert "set aside as n2g.duckdb.damaged-1" in report.warnings[0]
    assert store.home.database.with_name("n2g.duckdb.damaged-1").read_bytes() == harmed
    assert query(store, "FROM rules ORDER BY ALL") == expected
    assert query(store, "SELECT count(*) FROM documents WHERE study = 'other'") == [(2,)]
    assert publish(store, "demo", SELECTED).warnings == []


def test_one_flipped_byte_in_the_rows_is_found(store: SliceStore) -> None:
    write_rules(store, pattern="needle")
    publish(store, "demo", SELECTED)
    whole = store.home.database.read_bytes()
    store.home.database.write_bytes(whole.replace(b"needle", b"noodle"))
    write_documents(store)
    assert len(publish(store, "demo", SELECTED).warnings) == 1
    assert query(store, "SELECT DISTINCT pattern FROM rules") == [("needle",)]


def test_a_damaged_slice_is_passed_over_and_keeps_its_published_rows(store: SliceStore) -> None:
    write_rules(store)
    publish(store, "demo", SELECTED)
    path = store.path(SliceKey("rules", "demo", 7))
    path.write_bytes(path.read_bytes()[:-5])
    write_documents(store)
    report = publish(store, "demo", SELECTED)
    assert len(report.warnings) == 1
    assert "rules of study demo, layer 7 is damaged" in report.warnings[0]
    assert report.rows == {"rules": 2, "documents": 2}


def test_a_full_disk_leaves_the_published_file_as_it_was(store: SliceStore) -> None:
    publish(store, "demo", {})
    before = store.home.database.read_bytes()
    names = [{"document_id": f"{i}", "sha256": f"{i * 7919 % 104729}"} for i in range(50_000)]
    write(store, "documents", rows("documents", *names, study="demo"))
    for size in (len(before) // 2, len(before) + 20_000):
        with largest_file(size), pytest.raises(StorageError, match=r"disk is full.*unharmed"):
            publish(store, "demo", {})
        assert store.home.database.read_bytes() == before
        assert {name for name in files_below(store.home.root) if not name.startswith(("slices", "locks"))} == {
            "n2g.duckdb"
        }
    assert publish(store, "demo", {}).rows == {"documents": 50_000}


KILLED = """
import os, signal, sys
from pathlib import Path
from n2g_assets.storage import warehouse
from n2g_assets.core.home import Home
from n2g_assets.storage.slices import SliceStore
real = warehouse._fill
def fill(*arguments):
    real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
warehouse._fill = fill
warehouse.publish(SliceStore(Home(Path(sys.argv[1]))), "demo", {})
"""


def test_after_kill_9_while_publishing_nothing_is_lost_or_locked(store: SliceStore) -> None:
    publish(store, "demo", {})
    write_documents(store)
    process = start(KILLED, store.home.root)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert query(store, "SELECT count(*) FROM documents") == [(0,)]
    assert publish(store, "demo", {}, lock_timeout=0).rows == {"documents": 2}
    assert not [name for name in os.listdir(store.home.root) if "publishing" in name]


def test_clients_from_the_named_storage_version_on_can_open_the_file(store: SliceStore) -> None:
    for study in ("demo", "other"):
        write_documents(store, study)
        publish(store, study, {})
    tags = query(store, "SELECT tags FROM duckdb_databases() WHERE database_name = 'n2g'")
    assert tags[0][0]["storage_version"].startswith(STORAGE_VERSION)


def test_the_file_does_not_grow_with_every_publication(store: SliceStore) -> None:
    sizes = []
    for turn in range(6):
        records = [{"document_id": f"{i}", "sha256": f"{(i + turn) * 7919}"} for i in range(6_000)]
        write(store, "documents", rows("documents", *records, study="demo"))
        sizes.append(publish(store, "demo", {}).file_bytes)
    assert max(sizes) <= 3 * sizes[0]


def test_a_table_whose_columns_changed_is_made_anew_for_all_studies_and_a_users_own_table_stays(
    store: SliceStore,
) -> None:
    for study in ("demo", "other"):
        write_documents(store, study)
        publish(store, study, {})
    with duckdb.connect(str(store.home.database)) as connection:
        connection.execute("ALTER TABLE documents DROP COLUMN kind")
        connection.execute("CREATE TABLE own_notes AS SELECT 1 AS a")
    assert publish(store, "demo", {}).changed
    assert query(store, "SELECT study, count(kind) FROM documents GROUP BY 1 ORDER BY 1") == [("demo", 2), ("other", 2)]
    assert query(store, "FROM own_notes") == [(1,)]


NEW_TABLES = {"rule_tests", "counterexamples", "failures", "layer_scores"}
NEW_COLUMNS = {"n_tokens", "n_documents", "n_firing_documents", "f1_low", "f1_high", "auroc", "calibration_tokens"}


@contextlib.contextmanager
def previous_version() -> Iterator[None]:
    """The tables and views of an older version: fewer of them, with fewer columns."""
    old = {name: table for name, table in TABLES.items() if name not in NEW_TABLES}
    columns = tuple(column for column in TABLES["evaluation"].columns if column.name not in NEW_COLUMNS)
    old["evaluation"] = replace(TABLES["evaluation"], columns=columns)
    views = "CREATE OR REPLACE VIEW layer_summary AS SELECT study, predictor, f1 FROM evaluation;"
    with pytest.MonkeyPatch.context() as patch:
        for module in (slices, warehouse, helpers):
            patch.setattr(module, "TABLES", old)
        patch.setattr(warehouse, "_views_text", lambda: views)
        yield


def write_scores(store: SliceStore, layer: int, study: str = "demo") -> None:
    where = {"study": study, "layer": layer}
    frame = rows("evaluation", {"unit": 1, "predictor": "graph", "text": "top", "f1": 0.5}, **where)
    write(store, "evaluation", frame, study=study, layer=layer)
    ledger = rows("ledger", {"unit": 1, "stage": "top_examples", "status": "ok"}, **where)
    store.write(
        "ledger", ledger, study=study, layer=layer, part="top_examples", input_hash="in", code_version="1",
        unit_hashes={"1:1": "in"},
    )  # fmt: skip


def test_a_database_and_slices_of_the_previous_version_are_brought_up_to_date_as_stages_write_them_again(
    store: SliceStore,
) -> None:
    with previous_version():
        for study in ("demo", "other"):
            write_documents(store, study)
            write_scores(store, 7, study)
            write_scores(store, 8, study)
            publish(store, study)
        assert query(store, "SELECT f1 FROM layer_summary") == [(0.5,)] * 4
        assert not query(store, "FROM duckdb_tables() WHERE table_name IN ('failures', 'layer_scores')")

    report = publish(store, "demo")
    assert report.changed
    assert report.rows == {"documents": 2, "ledger": 2}
    for study in ("demo", "other"):
        for layer in (7, 8):
            (told,) = [w for w in report.warnings if f"evaluation of study {study}, layer {layer} " in w]
            assert "written by an older version" in told
            assert "materialize its stage again" in told
    assert query(store, "SELECT study, count(*) FROM documents GROUP BY 1 ORDER BY 1") == [("demo", 2), ("other", 2)]
    found = query(store, "SELECT study, layer, units, predictor FROM layer_summary")
    assert found == [(study, layer, 1, None) for study in ("demo", "other") for layer in (7, 8)]
    assert query(store, "FROM layer_scores") == []
    again = publish(store, "demo")
    assert (again.changed, len(again.warnings)) == (False, 2)

    write_scores(store, 7)
    write(store, "layer_scores", rows("layer_scores", {"predictor": "graph", "text": "top"}, study="demo", layer=7))
    report = publish(store, "demo")
    assert report.replaced == ["evaluation of study demo, layer 7", "layer_scores of study demo, layer 7"]
    assert len(report.warnings) == 1
    found = query(store, "SELECT layer, predictor, f1_all FROM layer_summary WHERE study = 'demo'")
    assert found == [(7, "graph", 0.5), (8, None, None)]


def test_a_database_of_the_previous_version_gets_new_tables_and_columns_from_whole_slices(store: SliceStore) -> None:
    write_scores(store, 7)
    publish(store, "demo")
    with duckdb.connect(str(store.home.database)) as connection:
        for name in sorted(NEW_TABLES):
            connection.execute(f"DROP TABLE {name}")
        for name in sorted(NEW_COLUMNS):
            connection.execute(f"ALTER TABLE evaluation DROP COLUMN {name}")
    assert publish(store, "demo").warnings == []
    assert query(store, "SELECT n_tokens, n_firing_documents, calibration_tokens, f1 FROM evaluation") == [
        (0, 0, [], 0.5)
    ]
    assert query(store, "FROM failures") == []


def test_lists_of_texts_counts_and_words_are_published_as_they_are(store: SliceStore) -> None:
    where = {"study": "demo", "layer": 7}
    texts = {"match_ids": [[0, 1], [], [2]], "near_miss_ids": [], "near_miss_changes": ["moved", "é'\n", ""]}
    texts |= {"near_miss_tokens": ["context", "activating", ""], "n_context_near_misses": 1}
    write(store, "rule_tests", rows("rule_tests", {"unit": 1} | texts, {"unit": 1, "rule_id": 1}, **where))
    write(store, "layer_scores", rows("layer_scores", {"predictor": "graph", "levels_firing": [2**40, 0]}, **where))
    publish(store, "demo", SELECTED)
    for table in ("rule_tests", "layer_scores"):
        with open_database(store.home) as connection:
            assert connection.sql(f"FROM {table}").pl().rows() == store.read(table, "demo", 7).rows()
    described = query(store, "DESCRIBE rule_tests") + query(store, "DESCRIBE layer_scores")
    types = {name: kind for name, kind, *_ in described}
    names = ("match_ids", "near_miss_changes", "near_miss_tokens", "n_context_near_misses", "levels_firing")
    assert [types[name] for name in names] == ["INTEGER[][]", "VARCHAR[]", "VARCHAR[]", "INTEGER", "BIGINT[]"]


def test_a_table_of_layers_without_units_is_published_for_the_studys_layers_alone_and_replaced_alone(
    store: SliceStore,
) -> None:
    def write_means(layer: int, f1: float) -> None:
        records = [{"predictor": name, "f1_all": f1} for name in ("graph", "ngram")]
        write(store, "layer_scores", rows("layer_scores", *records, study="demo", layer=layer), layer=layer)

    for layer in (7, 8, 9):
        write_means(layer, 0.25)
    assert publish(store, "demo", SELECTED).rows == {"layer_scores": 4}
    assert query(store, "SELECT DISTINCT layer, units_hash FROM slices ORDER BY 1") == [(7, None), (8, None)]
    write_means(8, 0.5)
    assert publish(store, "demo", SELECTED).replaced == ["layer_scores of study demo, layer 8"]
    assert query(store, "SELECT DISTINCT layer, f1_all FROM layer_scores ORDER BY 1") == [(7, 0.25), (8, 0.5)]
    assert publish(store, "demo", {7: SELECTED[7]}).dropped == ["layer_scores of study demo, layer 8"]
    assert query(store, "SELECT DISTINCT layer FROM layer_scores") == [(7,)]


def test_views_that_changed_in_the_code_are_published_even_if_no_rows_did(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, "demo", {})
    text = warehouse._views_text()
    monkeypatch.setattr(warehouse, "_views_text", lambda: f"{text}\nCREATE OR REPLACE VIEW one AS SELECT 1 AS a;")
    assert publish(store, "demo", {}).changed
    assert query(store, "FROM one") == [(1,)]
    assert not publish(store, "demo", {}).changed


def test_opening_what_is_not_published_says_what_to_do(store: SliceStore) -> None:
    with pytest.raises(StorageError, match="materialize the warehouse"):
        open_database(store.home)
    store.home.database.write_bytes(b"nonsense")
    with pytest.raises(StorageError, match="materialize the warehouse again"):
        open_database(store.home)


def test_the_package_carries_its_views_and_runs_them_in_order() -> None:
    folder = Path(warehouse.__file__).parent
    texts = [(folder / name).read_text(encoding="utf-8") for name in VIEWS]
    assert {folder / name for name in VIEWS} == set(folder.glob("*.sql"))
    assert warehouse._views_text() == "\n".join(texts)
