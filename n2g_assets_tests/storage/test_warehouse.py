"""What the database holds, and when it is made anew."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import polars as pl
import pytest

from n2g_assets.core import registry, tables
from n2g_assets.core.errors import StorageError
from n2g_assets.core.tables import REFERENCES, STAGES, TABLES
from n2g_assets.storage import files, schema, warehouse
from n2g_assets.storage.slices import SliceKey, SliceStore
from n2g_assets.storage.warehouse import STORAGE_VERSION, described_views, open_database, publish
from n2g_assets_tests.storage.helpers import remove, rows, write

VIEWS = {"unit_status", "problem_units", "unit_rules", "unit_summary", "fidelity_card", "worst_units", "controls"}
VIEWS |= {"counterexample_text", "rule_test_summary", "rule_support", "failure_summary", "layer_summary"}
VIEWS |= {"corpus_summary", "text_summary", "graph_comparison", "near_miss_summary", "top_counterexamples"}
VIEWS |= {
    "reach_summary",
    "size_summary",
    "method_comparison",
    "unit_kinds",
}
VIEWS |= {
    "token_texts",
    "token_uses",
    "unit_vectors",
    "shared_samples",
    "top_context_text",
    "graph_node_text",
    "rule_text",
}
MACROS = {
    "bare_text(of_text)", "class_nodes_of(token)", "correlation_of(x, y)",
    "correlations_with(of_study, of_layer, of_unit, of_sign)", "families(least, controls)",
    "found_on(of_token, how, controls)",
    "found_with_context(of_token, activating, how, nearest, furthest, controls)",
    "graph_rules(of_study, of_layer, of_unit, of_sign, n_rules)", "kinds_beside(of_study)", "left_out(with_controls)",
    "margin(one, other)",
    "marked_text(of_study, ids)", "matched_form(shut, text, normalised)", "no_such_token(of_token, activating, how)",
    "polysemantic(min_components, controls)", "reach_of(of_study, of_layer, of_unit, of_sign)", "repeats(controls)",
    "similar_pairs(least, controls)", "similar_units(of_study, of_layer, of_unit, of_sign, controls)",
    "subset_pairs(threshold, least, controls)", "token_forms(token)", "token_known(pattern, how)",
    "token_text(bytes)", "tokens_like(pattern, how)", "units_on(of_token, how, controls)",
    "units_with_context(of_token, activating, how, nearest, furthest, controls)",
    "use_pairs(context, activating, how, same)",
}  # fmt: skip


def query(store: SliceStore, sql: str) -> list[tuple]:
    with open_database(store.home) as connection:
        return connection.execute(sql).fetchall()


def write_ledger(store: SliceStore, *units: tuple[int, int], layer: int = 7, stage: str = STAGES[0]) -> None:
    records = [{"unit": unit, "sign": sign} for unit, sign in units]
    ledger = rows("ledger", *records, study="demo", layer=layer, stage=stage, status="ok")
    write(store, "ledger", ledger, layer=layer, part=stage)


def write_rules(store: SliceStore, layer: int = 7, pattern: str = "a") -> None:
    """Rules of four neurons with both signs."""
    records = [{"unit": unit, "sign": sign} for unit in range(4) for sign in (1, -1)]
    frame = rows("rules", *records, study="demo", layer=layer, pattern=pattern, tokens=[b"\xff", None])
    write(store, "rules", frame, layer=layer)


def write_study(store: SliceStore, study: str, layers: str = "[7, 8]") -> None:
    write(store, "studies", rows("studies", {"settings": f'{{"layers": {layers}}}'}, study=study), study=study)
    write(store, "documents", rows("documents", {"document_id": "d1"}, {"document_id": "d2"}, study=study), study=study)


@pytest.fixture(scope="module")
def published_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies, published: layers 7 and 8 of demo, with two units and one, and no layer of other."""
    store = warehouse.SliceStore(warehouse.Home(tmp_path_factory.mktemp("published")))
    for layer, units in ((7, ((1, 1), (2, -1))), (8, ((1, 1),)), (9, ((0, 1),))):
        write_ledger(store, *units, layer=layer)
        write_rules(store, layer)
    write_ledger(store, (1, 1), (3, 1), stage=STAGES[1])
    write_study(store, "demo")
    write_study(store, "other", "3")
    publish(store)
    return store.home.root


@pytest.fixture
def store(published_once: Path, tmp_path: Path) -> Iterator[SliceStore]:
    """A copy of it, in a folder with an odd name."""
    home = tmp_path / "home [1] with 'odd* name"
    shutil.copytree(published_once, home)
    yield SliceStore(warehouse.Home(home))
    assert not list(home.glob(".*")), "a temporary file was left"


# -------------------------------------------------------------------------------------------- what it holds
def test_every_table_column_view_and_macro_is_there_with_its_type_and_its_comment(store: SliceStore) -> None:
    here = "database_name = 'n2g' AND NOT internal"
    columns = query(store, f"SELECT table_name, column_name, is_nullable, comment FROM duckdb_columns() WHERE {here}")
    found = {(table, name): (nullable, comment) for table, name, nullable, comment in columns}
    published = [table for table in TABLES.values() if table.published]
    for table in [*published, *REFERENCES.values()]:
        for column in table.columns:
            assert found.pop((table.name, column.name)) == (column.nullable, column.meaning)
    assert {table for table, _ in found} == VIEWS
    assert all(comment for _, comment in found.values()), [key for key, about in found.items() if not about[1]]
    commented = query(
        store,
        f"SELECT table_name, comment FROM duckdb_tables() WHERE {here} "
        f"UNION ALL SELECT view_name, comment FROM duckdb_views() WHERE {here} "
        f"UNION ALL SELECT function_name, comment FROM duckdb_functions() WHERE {here}",
    )
    macros = {macro.split("(")[0] for macro in MACROS}
    assert {name for name, _ in commented} == {*(table.name for table in published), *REFERENCES, *VIEWS, *macros}
    assert all(comment for _, comment in commented)


def test_comments_of_views_come_from_where_their_columns_come_from(store: SliceStore) -> None:
    described = {view.name: {name: comment for name, _, comment in view.columns} for view in described_views()}
    assert set(described) == VIEWS | MACROS
    meanings = {column.name: column.meaning for column in TABLES["counterexamples"].columns}
    assert "value too low" in meanings["cause"]
    assert described["counterexample_text"]["cause"] == meanings["cause"]
    scores = {column.name: column.meaning for column in TABLES["evaluation"].columns}
    assert described["fidelity_card"]["random_f1"] == f"graph on held-out text: {scores['f1']}"
    assert described["worst_units"]["skip_bigram_f1"] == f"skip-bigrams: {scores['f1']}"
    assert described["unit_rules"]["unit"] == scores["unit"]


def test_rows_arrive_unchanged_and_only_those_of_the_units_and_layers_asked_for(store: SliceStore) -> None:
    with open_database(store.home) as connection:
        published = connection.sql("FROM rules WHERE layer = 7 ORDER BY ALL").pl()
    asked = ((pl.col("unit") == 1) & (pl.col("sign") == 1)) | ((pl.col("unit") == 2) & (pl.col("sign") == -1))
    assert published.rows() == store.read(SliceKey("rules", "demo", 7)).filter(asked).rows()
    about = query(store, "SELECT layer, rows, published_rows, content_hash FROM slices WHERE table_name = 'rules'")
    manifests = [store.manifest(SliceKey("rules", "demo", layer)) for layer in (7, 8)]
    assert about == [(7, 8, 2, manifests[0].content_hash), (8, 8, 1, manifests[1].content_hash)]
    # unit 3 stands in the ledger of a later stage alone: it is not asked for any more
    assert query(store, "SELECT stage, unit FROM ledger WHERE layer = 7 ORDER BY ALL") == [
        (STAGES[0], 1), (STAGES[0], 2), (STAGES[1], 1)
    ]  # fmt: skip


def test_lists_of_texts_counts_and_words_are_published_as_they_are(store: SliceStore) -> None:
    where = {"study": "demo", "layer": 7}
    texts = {"match_ids": [[0, 1], [], [2]], "near_miss_ids": [], "near_miss_changes": ["moved", "é'\n", ""]}
    texts |= {"near_miss_tokens": ["context", "activating", ""], "n_context_near_misses": 1}
    write(store, "rule_tests", rows("rule_tests", {"unit": 1} | texts, {"unit": 1, "rule_id": 1}, **where))
    write(store, "layer_scores", rows("layer_scores", {"predictor": "graph", "levels_firing": [2**40, 0]}, **where))
    publish(store)
    with open_database(store.home) as connection:
        for table in ("rule_tests", "layer_scores"):
            assert connection.sql(f"FROM {table}").pl().rows() == store.read(SliceKey(table, "demo", 7)).rows()
    described = query(store, "DESCRIBE rule_tests") + query(store, "DESCRIBE layer_scores")
    types = {name: kind for name, kind, *_ in described}
    names = ("match_ids", "near_miss_changes", "near_miss_tokens", "n_context_near_misses", "levels_firing")
    assert [types[name] for name in names] == ["INTEGER[][]", "VARCHAR[]", "VARCHAR[]", "INTEGER", "BIGINT[]"]


def test_a_table_that_is_not_to_be_published_stays_in_its_slices(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tables.TABLES, "rules", replace(TABLES["rules"], published=False))
    monkeypatch.setattr(schema, "VIEWS", ("tokens",))  # the others read rules
    monkeypatch.setattr(schema, "_comment_views", lambda connection: None)
    monkeypatch.setattr(schema, "views_sql", lambda: "")
    report = publish(store)
    assert "rules" not in report.rows["demo"]
    assert query(store, "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'rules'") == [(0,)]


def test_clients_from_the_named_storage_version_on_can_open_the_file(store: SliceStore) -> None:
    tags = query(store, "SELECT tags FROM duckdb_databases() WHERE database_name = 'n2g'")
    assert tags[0][0]["storage_version"].startswith(STORAGE_VERSION)


# -------------------------------------------------------------------------------------------- when it is made anew
def test_nothing_happens_while_nothing_has_changed(store: SliceStore) -> None:
    before = store.home.database.stat()
    write_rules(store, 8)  # another file and time, the same rows
    report = publish(store)
    assert (report.changed, report.added, report.dropped, report.warnings) == (False, [], [], [])
    assert report.rows == {
        "demo": {"documents": 2, "ledger": 4, "rules": 3, "studies": 1},
        "other": {"documents": 2, "studies": 1},
    }
    after = store.home.database.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_other_rows_units_and_layers_are_published(store: SliceStore) -> None:
    write_rules(store, pattern="b")
    write_ledger(store, (1, 1), (3, 1), layer=8)
    write_study(store, "demo", "10")  # the first ten layers
    remove(store, "ledger", "demo", 7, STAGES[1])
    report = publish(store)
    assert report.changed
    assert report.rows["demo"] == {"documents": 2, "ledger": 5, "rules": 5, "studies": 1}
    found = query(store, "SELECT layer, unit, pattern FROM rules ORDER BY ALL")
    assert found == [(7, 1, "b"), (7, 2, "b"), (8, 1, "a"), (8, 3, "a"), (9, 0, "a")]


def test_all_studies_come_back_after_the_database_was_lost(store: SliceStore) -> None:
    store.home.database.unlink()
    report = publish(store)
    assert report.warnings == []
    assert query(store, "SELECT study, count(*) FROM documents GROUP BY ALL ORDER BY ALL") == [
        ("demo", 2),
        ("other", 2),
    ]
    assert query(store, "SELECT count(*) FROM rules") == [(3,)]


def test_a_study_whose_slices_are_gone_leaves_the_database_and_a_new_one_enters_and_both_are_said(
    store: SliceStore,
) -> None:
    for folder in list(store.home.slices.glob("*/study=demo")):
        shutil.rmtree(folder)
    write_study(store, "new")
    report = publish(store)
    assert (report.changed, report.added, report.dropped) == (True, ["new"], ["demo"])
    assert query(store, "SELECT DISTINCT study FROM slices ORDER BY 1") == [("new",), ("other",)]
    assert query(store, "SELECT count(*) FROM rules") == [(0,)]


def test_a_damaged_slice_and_one_of_an_older_version_are_passed_over_until_they_are_written_again(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = store.path(SliceKey("rules", "demo", 8))
    damaged.write_bytes(damaged.read_bytes()[:-5])
    with monkeypatch.context() as older:
        fewer = replace(TABLES["documents"], columns=TABLES["documents"].columns[:-1])
        older.setitem(tables.TABLES, "documents", fewer)
        write(store, "documents", rows("documents", {"document_id": "d1"}, study="demo"))
    report = publish(store)
    assert len(report.warnings) == 2
    for warning, slice_name in zip(
        report.warnings, ("documents of study demo", "rules of study demo, layer 8"), strict=True
    ):
        assert f"The slice {slice_name} is damaged or was written by another version" in warning
    assert report.rows["demo"] == {"ledger": 4, "rules": 2, "studies": 1}
    again = publish(store)
    assert (again.changed, again.warnings, again.rows) == (False, report.warnings, report.rows)
    write_rules(store, 8)
    write_study(store, "demo")
    last = publish(store)
    assert (last.warnings, last.rows["demo"]) == ([], {"documents": 2, "ledger": 4, "rules": 3, "studies": 1})


def test_a_change_of_tables_views_or_registry_is_published_though_no_slice_has_changed(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprints = {warehouse._fingerprint({})}
    columns = (replace(TABLES["rules"].columns[0], meaning="another"), *TABLES["rules"].columns[1:])
    with monkeypatch.context() as changed:
        changed.setitem(tables.TABLES, "rules", replace(TABLES["rules"], columns=columns))
        fingerprints.add(warehouse._fingerprint({}))
    with monkeypatch.context() as changed:
        changed.setattr(registry, "TEXTS", (replace(registry.TEXTS[0], label="another"), *registry.TEXTS[1:]))
        fingerprints.add(warehouse._fingerprint({}))
    assert len(fingerprints) == 3
    monkeypatch.setattr(schema, "views_sql", lambda: "CREATE VIEW answer AS SELECT 1 AS a;")
    assert publish(store).changed
    assert query(store, "FROM answer") == [(1,)]


# -------------------------------------------------------------------------------------------- what is refused
def test_opening_what_is_not_published_says_what_to_do(store: SliceStore) -> None:
    store.home.database.write_bytes(b"nonsense")
    with pytest.raises(StorageError, match=r"is damaged or no database .*: n2g run STUDY makes it anew"):
        open_database(store.home)
    store.home.database.unlink()
    with pytest.raises(StorageError, match="materialize the warehouse of a study first"):
        open_database(store.home)


def test_a_second_publisher_waits_and_then_says_who_holds_the_lock(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOCK_TIMEOUT", 0)
    with store.lock("database"), pytest.raises(StorageError, match="database is still held by process"):
        publish(SliceStore(store.home))


def test_a_wrong_view_is_an_error_of_the_code_and_leaves_the_database_as_it_was(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store.home.database.read_bytes()
    monkeypatch.setattr(schema, "views_sql", lambda: "CREATE VIEW answer AS SELECT wrong FROM nowhere;")
    with pytest.raises(duckdb.CatalogException, match="nowhere"):
        publish(store)
    assert store.home.database.read_bytes() == before


def test_the_package_carries_its_views() -> None:
    folder = Path(schema.__file__).parent / "views"
    assert {path.stem for path in folder.iterdir()} == set(schema.VIEWS)
