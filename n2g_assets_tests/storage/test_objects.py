"""A store in object storage: machines with homes of their own see the same slices, entries and database."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from n2g_assets.core import registry
from n2g_assets.core.errors import SettingsError, StorageError
from n2g_assets.core.home import Home
from n2g_assets.reading.database import Database
from n2g_assets.storage import objects, warehouse
from n2g_assets.storage.cache import Cache, sweep
from n2g_assets.storage.slices import SliceKey, SliceStore
from n2g_assets.storage.warehouse import open_database, publish
from n2g_assets_tests import servers
from n2g_assets_tests.storage.helpers import rows, write

pytestmark = pytest.mark.xdist_group("objects")
RULES = SliceKey("rules", "demo", 7)


@pytest.fixture(scope="module")
def server() -> Iterator[servers.S3]:
    with servers.s3() as server:
        yield server


@pytest.fixture
def address(server: servers.S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Of a store that nobody has used."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(objects, "_connected", set())
    return f"{server.address}/{tmp_path.name}"


def machine(address: str, folder: Path) -> Home:
    """A home of a machine's own, whose store lies there."""
    return Home(folder, folder / "copies", address)


@pytest.fixture
def homes(address: str, tmp_path: Path) -> list[Home]:
    return [machine(address, tmp_path / name) for name in ("one", "two")]


def a_rule(support: int, unit: int = 1) -> pl.DataFrame:
    return rows("rules", {"rule": 1, "unit": unit, "count": support}, study="demo", layer=7)


def asked(unit: int = 1) -> pl.DataFrame:
    """The ledger by which a unit's rows are published."""
    stage = registry.STAGES[0].name
    return rows("ledger", {"unit": unit, "stage": stage, "status": "ok"}, study="demo", layer=7)


def object_names(home: Home) -> list[str]:
    place = objects.place_of(home)
    return sorted(found.path.relative_to(home.store).as_posix() for found in place.files(home.store))


def test_a_slice_that_one_machine_writes_is_read_and_replaced_by_another(homes: list[Home]) -> None:
    one, two = map(SliceStore, homes)
    assert (two.manifest(RULES), two.studies()) == (None, [])
    write(one, "rules", a_rule(1))
    assert two.read(RULES)["count"].to_list() == [1]
    write(two, "rules", a_rule(2))
    assert one.read(RULES)["count"].to_list() == [2]
    assert (one.studies(), one.keys("demo")) == (["demo"], [RULES])
    assert len(object_names(homes[0])) == 2  # what was superseded is gone


def test_a_machine_whose_disk_is_emptied_or_damaged_reads_on(homes: list[Home]) -> None:
    store, cache = SliceStore(homes[0]), Cache(homes[0])
    write(store, "rules", a_rule(1))
    write(store, "ledger", asked(), part=registry.STAGES[0].name)
    cache.write("models", "a", lambda folder: (folder / "weights").write_bytes(b"12"), {"known": 1})
    publish(store)
    shutil.rmtree(homes[0].store)
    assert store.read(RULES)["count"].to_list() == [1]
    entry = cache.find("models", "a")
    assert entry is not None
    assert (entry.about, entry.path("weights").read_bytes()) == ({"known": 1}, b"12")
    assert not publish(store).changed
    with open_database(homes[0]) as database:
        assert database.sql('SELECT "count" FROM rules').fetchall() == [(1,)]
    for path in (store.path(RULES), entry.path("weights")):
        path.write_bytes(b"damaged")
    assert store.read(RULES)["count"].to_list() == [1]
    found = cache.find("models", "a")
    assert found is not None and found.path("weights").read_bytes() == b"12"  # noqa: PT018


def test_an_entry_that_another_machine_replaces_is_seen_anew_and_the_old_files_are_gone(homes: list[Home]) -> None:
    one, two = map(Cache, homes)
    one.write("values", "a", lambda folder: (folder / "value").write_text("one"), {"by": 1})
    assert two.find("values", "a")
    one.write("values", "a", lambda folder: (folder / "other").write_text("two"), {"by": 2})
    found = two.find("values", "a")
    assert found is not None
    assert (found.about, found.path("other").read_text(), found.path("value").exists()) == ({"by": 2}, "two", False)
    assert two.listing("values") == one.listing("values") == {"a": {"by": 2}}
    assert len(object_names(homes[0])) == 2


def test_what_is_removed_is_gone_for_all_and_copies_go_with_the_next_sweep(homes: list[Home]) -> None:
    one, two = map(Cache, homes)
    for key in ("a", "b"):
        one.write("values/x", key, lambda folder: (folder / "value").write_text("1"))
        assert two.find("values/x", key)
    one.remove("values/x", "a")
    assert one.find("values/x", "a") is None
    assert two.find("values/x", "a") is None
    for support in (1, 2):
        write(SliceStore(homes[0]), "rules", a_rule(support))
        SliceStore(homes[1]).read(RULES)
    sweep(homes[1])
    assert [path.parent.name for path in homes[1].cache.rglob("entry.json")] == ["b"]
    assert len(list(homes[1].slices.rglob("*.parquet"))) == 1
    assert two.find("values/x", "b")
    assert list(two.listing("values/x")) == ["b"]
    one.remove("values/x")
    assert not two.listing("values/x")
    assert not [name for name in object_names(homes[0]) if name.startswith("cache")]


def test_a_reader_elsewhere_sees_the_newest_database(homes: list[Home], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("n2g_assets.reading.database.LOOK_SECONDS", 0.0)
    one, two = map(SliceStore, homes)
    write(two, "ledger", asked(), part=registry.STAGES[0].name)
    reader = Database.of(homes[1])
    with pytest.raises(StorageError, match="is not there yet"):
        reader.snapshot()
    for support in (1, 2):
        write(one, "rules", a_rule(support))
        assert publish(one).changed
        assert reader.snapshot().rows('SELECT "count" FROM rules') == [{"count": support}]
        assert not publish(two).changed
    write(two, "rules", a_rule(3))
    publish(two)
    with open_database(homes[0]) as database:
        assert database.sql('SELECT "count" FROM rules').fetchall() == [(3,)]
    assert sum(name.endswith(".duckdb") for name in object_names(homes[0])) == 1


def test_a_machine_that_publishes_what_another_has_overtaken_publishes_again(
    homes: list[Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = map(SliceStore, homes)
    write(one, "ledger", asked(), part=registry.STAGES[0].name)
    write(one, "rules", a_rule(1))
    build = warehouse._build

    def slowly(*arguments: Any) -> Any:
        monkeypatch.setattr(warehouse, "_build", build)
        write(two, "rules", a_rule(2))
        publish(two)
        return build(*arguments)

    monkeypatch.setattr(warehouse, "_build", slowly)
    publish(one)
    for home in homes:
        with open_database(home) as database:
            assert database.sql('SELECT "count" FROM rules').fetchall() == [(2,)]


RACE = """
import sys
from pathlib import Path
from n2g_assets.core.home import Home
from n2g_assets.storage.objects import place_of
from n2g_assets.storage.slices import SliceStore
from n2g_assets_tests.storage.helpers import rows, write

address, folder, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
home = Home(folder / str(number), folder / str(number) / "copies", address)
for turn in range(5):
    frame = rows("rules", {"rule": 1, "unit": 1, "count": 100 * turn + number}, study="demo", layer=7)
    write(SliceStore(home), "rules", frame)
    print(place_of(home).supersede(f"{number}.{turn}", home.store / "raced.json"))
"""


def test_of_eight_that_write_at_once_each_supersedes_another(address: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, address, str(tmp_path), str(number)], env=environment, stdout=subprocess.PIPE
        )
        for number in range(8)
    ]
    said = b"".join(racer.communicate(timeout=120)[0] for racer in racers).decode().split("\n")
    assert [racer.returncode for racer in racers] == [0] * 8
    home = machine(address, tmp_path / "reader")
    last = objects.place_of(home).text(home.store / "raced.json")
    assert sorted([*said[:-1], last]) == sorted(["", *(f"{number}.{turn}" for number in range(8) for turn in range(5))])
    assert SliceStore(home).read(RULES)["count"].item() // 100 == 4
    slices = [name for name in object_names(home) if name.startswith("slices/")]
    assert len(slices) == 2, slices  # each writer removed what it superseded


def test_storage_that_is_away_for_a_while_delays_and_loses_nothing(server: servers.S3, homes: list[Home]) -> None:
    store = SliceStore(homes[0])
    write(store, "rules", a_rule(1))
    done: list[float] = []

    def work() -> None:
        write(store, "rules", a_rule(2))
        done.append(time.monotonic())

    with server.stopped():
        worker = threading.Thread(target=work)
        worker.start()
        worker.join(2)
        back = time.monotonic()
        assert not done
    worker.join(60)
    assert done[0] > back
    assert SliceStore(homes[1]).read(RULES)["count"].to_list() == [2]


def test_what_cannot_be_used_is_said_in_a_sentence(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = machine("s3://no-such-bucket/n2g", tmp_path / "missing")
    with pytest.raises(StorageError, match=r"^N2G_STORE \(s3://no-such-bucket/n2g\) does not answer as it should"):
        Cache(missing).write("values", "a", lambda folder: (folder / "value").write_text("1"))
    monkeypatch.setattr(objects, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"needs the package obstore: install n2g_assets\[objects\]"):
        objects.Objects(address, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(objects, "_connected", {0})
    with pytest.raises(StorageError, match="cannot be used in a process that was forked"):
        objects.Objects(address, tmp_path)
