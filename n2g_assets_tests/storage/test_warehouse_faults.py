"""The database after damage, kills, full disks and other programs: old or new, readable, and never silently wrong."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from n2g_assets.core.errors import StorageError
from n2g_assets.core.home import Home
from n2g_assets.storage import files, warehouse
from n2g_assets.storage.cache import sweep
from n2g_assets.storage.slices import SliceStore
from n2g_assets.storage.warehouse import open_database, publish
from n2g_assets_tests.storage.helpers import expect, files_below, largest_file, rows, start, tell, write


def query(store: SliceStore, sql: str) -> list[tuple]:
    with open_database(store.home) as connection:
        return connection.execute(sql).fetchall()


def count(store: SliceStore) -> int:
    return query(store, "SELECT count(*) FROM documents")[0][0]


def write_documents(store: SliceStore, number: int) -> None:
    documents = [{"document_id": f"{i}", "sha256": f"{i * 7919 % 104729}"} for i in range(number)]
    write(store, "documents", rows("documents", *documents, study="demo"))


def own_files(store: SliceStore) -> set[str]:
    return {name for name in files_below(store.home.root) if not name.startswith(("slices", "locks"))}


@pytest.fixture(scope="module")
def published_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = SliceStore(Home(tmp_path_factory.mktemp("published")))
    write_documents(store, 2)
    publish(store)
    return store.home.root


@pytest.fixture
def store(published_once: Path, tmp_path: Path) -> SliceStore:
    """A home with two documents, published."""
    shutil.copytree(published_once, tmp_path / "home")
    return SliceStore(Home(tmp_path / "home"))


# -------------------------------------------------------------------------------------------- damage
def cut_last_byte(database: Path, note: Path) -> None:
    database.write_bytes(database.read_bytes()[:-1])


def become_text(database: Path, note: Path) -> None:
    database.write_text("no database")


def cut_note(database: Path, note: Path) -> None:
    note.write_bytes(note.read_bytes()[:-9])


def other_note(database: Path, note: Path) -> None:
    note.write_text("[]")


def change_note(database: Path, note: Path) -> None:
    note.write_text(note.read_text().replace('"documents": 2', '"documents": 3'))


def lose_note(database: Path, note: Path) -> None:
    note.unlink()


def add_log(database: Path, note: Path) -> None:
    database.with_name("n2g.duckdb.wal").write_bytes(b"what a killed program had committed")


HARMS = [cut_last_byte, become_text, cut_note, other_note, change_note, lose_note, add_log]


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_file_or_note_is_noticed_and_made_anew_with_a_warning(
    store: SliceStore, harm: Callable[[Path, Path], None]
) -> None:
    database = store.home.database
    harm(database, database.with_name("n2g.duckdb.json"))
    report = publish(store)
    assert report.changed
    assert len(report.warnings) == 1
    assert "damaged or changed by another program, and was made anew" in report.warnings[0]
    assert count(store) == 2
    assert own_files(store) == {"n2g.duckdb", "n2g.duckdb.json"}
    assert not publish(store).warnings


def test_every_flipped_word_is_noticed(store: SliceStore) -> None:
    whole = store.home.database.read_bytes()
    note = warehouse._read_note(store.home)
    places = random.Random(0).sample(range(0, len(whole), 8), 40)
    for place in places:
        flipped = bytes(byte ^ 255 for byte in whole[place : place + 8])
        store.home.database.write_bytes(whole[:place] + flipped + whole[place + 8 :])
        assert not warehouse._is_whole(store.home.database, note)
    assert publish(store).changed
    assert count(store) == 2


@pytest.mark.parametrize("name", ["n2g.duckdb", "n2g.duckdb.json"])
def test_a_folder_in_place_of_a_file_is_left_and_named(store: SliceStore, name: str) -> None:
    path = store.home.root / name
    path.unlink()
    (path / "somebody's").mkdir(parents=True)
    with pytest.raises(StorageError, match=rf"{name} is a folder .* move it away"):
        publish(store)
    assert (path / "somebody's").is_dir()


# -------------------------------------------------------------------------------------------- other programs
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
    with start(READER, store.home.database, mode) as reader:
        expect(reader, "2")
        write_documents(store, 3)
        report = publish(store)
        assert (report.changed, len(report.warnings)) == (True, 1 if mode == "write" else 0)
        assert count(store) == 3
        tell(reader)
        expect(reader, "2")
        reader.wait()
    assert reader.returncode == 0
    assert count(store) == 3
    assert own_files(store) == {"n2g.duckdb", "n2g.duckdb.json"}


# -------------------------------------------------------------------------------------------- interrupted
class Killed(BaseException):
    """What stands for the end of the process."""


@pytest.mark.parametrize(
    ("step", "found"), [("_build", 2), ("files.size_and_sha256", 2), ("os.replace:0", 2), ("os.replace:1", 3)]
)
def test_a_kill_at_any_step_leaves_the_old_or_the_new_database_and_the_next_run_mends_the_rest(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch, step: str, found: int
) -> None:
    write_documents(store, 3)
    name, _, turn = step.partition(":")
    calls = []
    with monkeypatch.context() as kill:
        module, _, attribute = name.rpartition(".")
        owner = getattr(warehouse, module) if module else warehouse
        real = getattr(owner, attribute)

        def killed(*arguments: object) -> object:
            calls.append(arguments)
            if len(calls) > int(turn or 0):
                raise Killed
            return real(*arguments)

        kill.setattr(owner, attribute, killed)
        kill.setattr(files, "temporary_folder", left_behind)
        with pytest.raises(Killed):
            publish(store)
    assert count(store) == found
    sweep(store.home)
    report = publish(store)
    assert report.changed
    assert count(store) == 3
    assert own_files(store) == {"n2g.duckdb", "n2g.duckdb.json"}
    assert not publish(store).changed


@contextlib.contextmanager
def left_behind(target: Path) -> Iterator[Path]:
    """The temporary folder of a process that ends before it can remove it."""
    folder = target.parent / f".{'0' * 16}.tmp"
    folder.mkdir()
    (folder / ".lock").touch()
    yield folder


KILLED = """
import os, signal, sys
from pathlib import Path
from n2g_assets.core.home import Home
from n2g_assets.storage import warehouse
from n2g_assets.storage.slices import SliceStore
real = os.replace
def replace(source, target):
    real(source, target)
    if str(target).endswith("n2g.duckdb"):
        os.kill(os.getpid(), signal.SIGKILL)
warehouse.os.replace = replace
warehouse.publish(SliceStore(Home(Path(sys.argv[1]))))
"""


def test_after_kill_9_between_the_two_moves_nothing_is_lost_or_locked(store: SliceStore) -> None:
    write_documents(store, 3)
    process = start(KILLED, store.home.root)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert count(store) == 3
    assert publish(store).changed
    assert len(sweep(store.home)) == 1
    assert own_files(store) == {"n2g.duckdb", "n2g.duckdb.json"}


def test_a_full_disk_leaves_the_published_file_as_it_was(store: SliceStore) -> None:
    before = store.home.database.read_bytes()
    write_documents(store, 50_000)
    for size in (len(before) // 2, len(before) + 20_000):
        with largest_file(size), pytest.raises(StorageError, match=r"disk is full.*unharmed"):
            publish(store)
        assert store.home.database.read_bytes() == before
        assert own_files(store) == {"n2g.duckdb", "n2g.duckdb.json"}
    assert publish(store).rows == {"demo": {"documents": 50_000}}
