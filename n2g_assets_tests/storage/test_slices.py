from __future__ import annotations

import json
import os
import re
import signal
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from n2g_assets.core.errors import StorageError
from n2g_assets.core.home import Home
from n2g_assets.core.table import Column, Table
from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit
from n2g_assets.storage import files, slices
from n2g_assets.storage.hashing import content_hash
from n2g_assets.storage.slices import SliceKey, SliceStore
from n2g_assets_tests.storage.helpers import (
    expect,
    files_below,
    forge,
    largest_file,
    layers_of,
    remove,
    rows,
    rows_of_all,
    start,
    write,
)
from n2g_assets_tests.storage.test_hashing import VALUES

RULES = SliceKey("rules", "demo", 7)
FIXED = {"study": st.just("demo"), "layer": st.just(7)}


def frames(table: Table) -> st.SearchStrategy[pl.DataFrame]:
    columns = {
        column.name: FIXED.get(
            column.name, VALUES[column.dtype] | st.none() if column.nullable else VALUES[column.dtype]
        )
        for column in table.columns
    }
    unique = st.lists(
        st.fixed_dictionaries(columns), max_size=6, unique_by=lambda row: tuple(row[name] for name in table.key)
    )
    return unique.map(lambda records: pl.DataFrame(records, schema=table.schema))


@pytest.mark.parametrize("name", [name for name in TABLES if name != "slices"])
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_any_rows_come_back_equal_with_an_equal_hash_in_any_order(name: str, data: st.DataObject) -> None:
    table = TABLES[name]
    frame = data.draw(frames(table))
    with tempfile.TemporaryDirectory() as folder:
        store = SliceStore(Home(Path(folder)))
        manifest = write(store, name, frame)
        again = SliceStore(store.home).read(SliceKey(name, "demo", manifest.layer))
        assert_frame_equal(again, table.conform(frame))
        assert content_hash(again) == manifest.content_hash
        assert again.schema == table.schema
        shuffled = frame.sample(fraction=1, shuffle=True, seed=data.draw(st.integers(0, 9)))
        assert write(store, name, shuffled).content_hash == manifest.content_hash
        assert manifest.rows == frame.height


def test_layout_and_lookups(store: SliceStore) -> None:
    for layer in (12, 7):
        write(store, "rules", rows("rules", {"unit": layer}, layer=layer, study="demo"), layer=layer)
        write(
            store,
            "ledger",
            rows("ledger", {"unit": layer}, layer=layer, study="demo"),
            layer=layer,
            part="top_examples",
        )
    write(store, "documents", rows("documents", {"document_id": "d"}, study="demo"))
    names = {re.sub(r"\.[0-9a-f]{16}\.", ".<random>.", name) for name in files_below(store.home.slices)}
    assert names == {
        f"{stem}.{ending}"
        for ending in ("<random>.parquet", "json")
        for stem in (
            "rules/study=demo/layer=7/rows",
            "rules/study=demo/layer=12/rows",
            "ledger/study=demo/layer=7/top_examples",
            "ledger/study=demo/layer=12/top_examples",
            "documents/study=demo/rows",
        )
    }
    assert layers_of(store, "rules", "demo") == [7, 12]
    assert store.studies() == ["demo"]
    assert str(store.keys("demo")[0]) == "documents of study demo"
    assert rows_of_all(store, "rules", "demo")["unit"].to_list() == [7, 12]
    assert store.read(RULES, columns=["unit"]).shape == (1, 1)
    remove(store, "rules", "demo", 7)
    assert store.manifest(RULES) is None
    assert layers_of(store, "rules", "demo") == [12]


@pytest.mark.parametrize("harm", ["cut", "flip", "stale manifest", "broken manifest", "no rows"])
def test_a_damaged_slice_is_absent_for_reuse_and_an_error_for_readers(store: SliceStore, harm: str) -> None:
    write(store, "rules", rows("rules", {"rule_id": 0}, study="demo", layer=7))
    path, manifest = store.path(RULES), store.manifest_path(RULES)
    whole, about = path.read_bytes(), manifest.read_text()
    if harm == "cut":
        path.write_bytes(whole[:-7])
    elif harm == "flip":
        path.write_bytes(whole[:40] + bytes([whole[40] ^ 255]) + whole[41:])
    elif harm == "stale manifest":  # somebody put an old one back
        write(store, "rules", rows("rules", {"rule_id": 0}, {"rule_id": 1}, study="demo", layer=7))
        manifest.write_text(about)
    elif harm == "broken manifest":
        manifest.write_text(about[:20])
    else:
        path.unlink()
    assert store.manifest(RULES) is None
    with pytest.raises(StorageError, match=r"rows\.json or its rows cannot be read, delete it and materialize rules"):
        store.read(RULES)
    write(store, "rules", rows("rules", {"rule_id": 0}, study="demo", layer=7))
    assert store.read(RULES).height == 1


def test_rows_and_manifest_are_complete_before_the_first_of_them_is_moved(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = []

    def replace(source: Path, target: Path) -> None:
        if not moved:
            about = json.loads(source.with_name("manifest").read_text())
            assert about["file_bytes"] == source.stat().st_size
        moved.append(target.suffix)
        real(source, target)

    real = os.replace
    monkeypatch.setattr(os, "replace", replace)
    write(store, "rules", rows("rules", {"rule_id": 0}, study="demo", layer=7))
    assert moved == [".parquet", ".json"]


def test_a_reader_whose_slice_is_replaced_while_it_looks_gets_the_new_rows(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = rows("rules", {"rule_id": 0}, {"rule_id": 1}, study="demo", layer=7)
    write(store, "rules", frame)

    def replaced_meanwhile(path: Path) -> str:
        monkeypatch.setattr(files, "file_sha256", real)
        write(store, "rules", frame.with_columns(rule_id=pl.col("rule_id") + 2))
        return real(path)

    real = files.file_sha256
    monkeypatch.setattr(files, "file_sha256", replaced_meanwhile)
    assert SliceStore(store.home).read(RULES)["rule_id"].to_list() == [2, 3]


def test_of_two_writers_without_a_common_lock_the_last_ones_rows_are_the_slice(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines: the second writes all of its slice between the two renames of the first."""
    mine, others = (rows("rules", {"rule_id": 0, "pattern": which}, study="demo", layer=7) for which in "ab")
    old = write(store, "rules", rows("rules", {"rule_id": 5}, study="demo", layer=7))

    def replace(source: Path, target: Path) -> None:
        if target.suffix == ".json":
            monkeypatch.setattr(os, "replace", real)
            write(store, "rules", others)
            assert store.read(RULES)["pattern"].to_list() == ["b"]
        real(source, target)

    real = os.replace
    monkeypatch.setattr(os, "replace", replace)
    manifest = write(store, "rules", mine)
    assert store.manifest(RULES) == manifest
    assert store.read(RULES)["pattern"].to_list() == ["a"]
    folder = store.manifest_path(RULES).parent
    left = {path.name for path in folder.glob("*.parquet")}
    assert len(left) == 2
    assert {manifest.file} < left
    assert old.file not in left
    for name in left - {manifest.file}:
        os.utime(folder / name, (0, 0))  # an hour later and more
    again = write(store, "rules", mine.with_columns(rule_id=pl.lit(3, pl.Int32)))
    assert {path.name for path in folder.glob("*.parquet")} == {again.file}


def test_writers_and_readers_without_a_common_lock_never_see_a_damaged_slice(store: SliceStore) -> None:
    write(store, "rules", rows("rules", {"rule_id": 0}, study="demo", layer=7))
    with ExitStack() as stack:
        writers = [stack.enter_context(start(WRITE, store.home.root, str(number))) for number in range(4)]
        seen = set()
        while any(writer.poll() is None for writer in writers):
            found = SliceStore(store.home).read(RULES)
            seen.add((found.height, *found["pattern"].unique()))
        assert [writer.wait() for writer in writers] == [0] * 4
    assert len(seen) > 1
    assert all(height == int(pattern or 0) + 1 for height, pattern in seen)


def test_a_slice_with_the_columns_of_another_version_is_made_again(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for table in ("rules", "ledger"):
        write(store, table, rows(table, {"unit": 1}, study="demo", layer=7))
        wider = replace(TABLES[table], columns=(*TABLES[table].columns, Column("new", pl.Int32, "new")))
        monkeypatch.setattr(slices, "TABLES", {**TABLES, table: wider})
        assert store.manifest(SliceKey(table, "demo", 7)) is None
        assert f"The slice {table} of study demo, layer 7 is damaged (its columns are not those of" in caplog.text
        with pytest.raises(StorageError, match="its columns are not those of the table"):
            store.read(SliceKey(table, "demo", 7))


@pytest.mark.parametrize(
    "change",
    [
        {"unit_hashes": None},
        {"unit_hashes": ["a"]},
        {"unit_hashes": {"3:1": 7}},
        {"layer": "7"},
        {"rows": "many"},
        {"rows": None},
        {"input_hash": 5},
        {"file_bytes": 1.5},
        {"extra": None},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_manifest_with_other_content_than_todays_code_writes_is_damage(store: SliceStore, change: dict) -> None:
    write(store, "rules", rows("rules", {"rule_id": 0}, study="demo", layer=7))
    about = store.manifest_path(RULES)
    content = files.read_sealed(about) | change
    files.write_sealed(about, content)
    assert store.manifest(RULES) is None
    about.write_text(json.dumps(content))  # without a checksum, as an older version wrote it
    assert store.manifest(RULES) is None
    about.write_text("[]")
    assert store.manifest(RULES) is None


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_any_flipped_bit_of_a_slice_is_noticed(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = SliceStore(Home(tmp_path_factory.getbasetemp() / "flipped"))
    manifest = write(store, "rules", rows("rules", {"rule_id": 0, "pattern": "a *"}, study="demo", layer=7))
    path = data.draw(st.sampled_from([store.path(RULES), store.manifest_path(RULES)]))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert store.manifest(RULES) == manifest
    path.write_bytes(content)
    assert store.manifest(RULES) is None


@pytest.mark.parametrize("harm", ["nonsense", "broken pages"])
def test_rows_that_cannot_be_read_although_their_checksum_is_right_are_made_again(store: SliceStore, harm: str) -> None:
    write(store, "rules", rows("rules", *({"rule_id": i} for i in range(99)), study="demo", layer=7))
    path = store.path(RULES)
    content = path.read_bytes()
    content = (
        b"PAR1 nonsense"
        if harm == "nonsense"
        else content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :]
    )
    forge(store, RULES, content)
    with pytest.raises(StorageError, match="materialize rules of study demo, layer 7 again"):
        store.read(RULES)
    assert store.manifest(RULES) is None


def test_asking_for_a_column_that_does_not_exist_harms_no_slice(store: SliceStore) -> None:
    manifest = write(store, "rules", rows("rules", {"rule_id": 0}, study="demo", layer=7))
    with pytest.raises(StorageError):
        store.read(RULES, columns=["no such column"])
    assert store.manifest(RULES) == manifest


def test_a_slice_that_is_not_there_is_named(store: SliceStore) -> None:
    with pytest.raises(StorageError, match="no slice rules of study demo, layer 7: materialize"):
        store.read(RULES)


def test_a_full_disk_leaves_the_slice_as_it_was_and_no_temporary_file(store: SliceStore) -> None:
    old = write(store, "rules", rows("rules", {"rule_id": 0}, study="demo", layer=7))
    many = rows("rules", *({"rule_id": i, "pattern": f"{i * 7919}"} for i in range(5000)), study="demo", layer=7)
    before = files_below(store.home.slices)
    with largest_file(8192), pytest.raises(StorageError, match=r"disk is full.*free some space"):
        write(store, "rules", many)
    assert files_below(store.home.slices) == before
    assert SliceStore(store.home).manifest(RULES) == old


@pytest.mark.parametrize(
    ("table", "layer", "study", "message"),
    [
        ("rulez", 7, "demo", "no table 'rulez'"),
        ("rules", None, "demo", "name the layer"),
        ("documents", 7, "demo", "leave the layer out"),
        ("rules", 7, "../demo", "cannot name a folder"),
    ],
)
def test_a_slice_that_cannot_be_named_is_refused(
    store: SliceStore, table: str, layer: int | None, study: str, message: str
) -> None:
    with pytest.raises(StorageError, match=message):
        store.manifest(SliceKey(table, study, layer))


def test_rows_that_do_not_fit_their_table_are_refused(store: SliceStore) -> None:
    good = rows("rules", {"rule_id": 0}, study="demo", layer=7)
    with pytest.raises(StorageError, match="repeat the key"):
        write(store, "rules", pl.concat([good, good]))
    with pytest.raises(StorageError, match="name another layer"):
        write(store, "rules", good, layer=8)
    with pytest.raises(StorageError, match="lack columns"):
        write(store, "rules", good.drop("pattern"))
    assert store.manifest(RULES) is None


WRITE = """
import sys
from pathlib import Path
from n2g_assets.core.home import Home
from n2g_assets.storage.slices import SliceKey, SliceStore
from n2g_assets_tests.storage.helpers import rows, write
store, number = SliceStore(Home(Path(sys.argv[1]))), int(sys.argv[2])
for again in range(25):
    of_this = [{"rule_id": rule, "pattern": str(number)} for rule in range(number + 1)]
    write(store, "rules", rows("rules", *of_this, study="demo", layer=7))
"""
HOLD = """
import sys
from pathlib import Path
from n2g_assets.core.home import Home
from n2g_assets.storage.slices import SliceStore
with SliceStore(Home(Path(sys.argv[1]))).lock("database"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_lock_names_its_holder_and_ends_with_a_killed_process(
    store: SliceStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOCK_TIMEOUT", 1)
    with start(HOLD, store.home.root) as process:
        expect(process, "held")
        with (
            pytest.raises(StorageError, match=rf"database is still held by process {process.pid} "),
            store.lock("database"),
        ):
            pass
        (said,) = caplog.records
        assert said.levelname == "WARNING"
        assert said.getMessage().startswith(f"Waiting for database, up to 1 s: it is held by process {process.pid} ")
        with store.lock("another"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with store.lock("database"):
            pass


@pytest.mark.parametrize("group_bytes", [1, 200, 2**20])
@pytest.mark.parametrize(
    "units", [[], [(3, 1)], [(9, -1), (0, 1)], [(5, 1), (5, -1), (6, 1)], [(n, s) for n in range(10) for s in (1, -1)]]
)
def test_the_rows_of_some_units_are_those_among_all_rows(tmp_path, monkeypatch, group_bytes, units):
    monkeypatch.setattr(slices, "_ROW_GROUP_BYTES", group_bytes)
    store = SliceStore(Home(tmp_path))
    records = [
        {"study": "demo", "layer": 7, "unit": n, "sign": s, "rule_id": rule}
        for n in (0, 2, 3, 5, 9) for s in (1, -1) for rule in range(n + 1)
    ]  # fmt: skip
    manifest = write(store, "rules", rows("rules", *records))
    everything = store.read(RULES)
    assert manifest.content_hash == content_hash(everything)
    asked = [(row["unit"], row["sign"]) in units for row in everything.iter_rows(named=True)]
    expected = everything.filter(pl.Series(asked, dtype=pl.Boolean))
    found = store.read(RULES, units=[Unit(*unit) for unit in units])
    assert_frame_equal(found, expected)
    chosen = store.read(RULES, columns=["rule_id", "unit"], units=[Unit(*unit) for unit in units])
    assert_frame_equal(chosen, expected.select("rule_id", "unit"))
