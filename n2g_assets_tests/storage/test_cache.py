"""The content-addressed cache: any damage is noticed, writers do not disturb each other, leftovers are swept."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.errors import StorageError
from n2g_assets.core.home import Home
from n2g_assets.storage.cache import Cache, Entry, sweep
from n2g_assets.storage.files import hold_lock, is_abandoned, is_whole, temporary_folder, write_atomically
from n2g_assets_tests.storage.helpers import files_below, largest_file

CONTENT = {"text.jsonl": b'{"title": "Cat"}\n' * 3, "deep/weights.bin": bytes(range(64)), "empty": b""}
ABOUT = {"source": "a wheel", "tokens": 12, "share": 0.25, "none": None}


def fill(folder: Path) -> None:
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def is_right(entry: Entry | None) -> bool:
    return (
        entry is not None
        and entry.about == ABOUT
        and all(entry.path(name).read_bytes() == content for name, content in CONTENT.items())
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("whole"))
    assert is_right(Cache(home).write("models", "abc", fill, ABOUT))
    return home


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(Home(tmp_path / "home [1] with 'odd* name"))


def test_an_entry_is_made_once_and_found_again(cache: Cache) -> None:
    calls: list[Path] = []

    def counted(folder: Path) -> None:
        calls.append(folder)
        fill(folder)

    assert cache.find("models/tiny", "abc") is None
    assert is_right(cache.obtain("models/tiny", "abc", counted, ABOUT))
    assert is_right(cache.obtain("models/tiny", "abc", counted, ABOUT))
    assert is_right(Cache(cache.home).find("models/tiny", "abc"))
    assert len(calls) == 1
    assert cache.find("models/tiny", "abd") is None
    assert files_below(cache.home.cache) == {f"models/tiny/abc/{name}" for name in (*CONTENT, "entry.json")}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_of_any_file_is_noticed_and_the_entry_is_made_again(whole: Home, data: st.DataObject) -> None:
    cache = Cache(whole)
    folder = whole.cache / "models" / "abc"
    name = data.draw(st.sampled_from(["text.jsonl", "deep/weights.bin", "entry.json"]))
    content = bytearray((folder / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / name).write_bytes(content)
    assert cache.find("models", "abc") is None
    assert not folder.exists()
    assert is_right(cache.obtain("models", "abc", fill, ABOUT))


@pytest.mark.parametrize(
    "harm", ["cut", "grown", "gone", "a folder", "no entry.json", "moved", "a file", "not JSON", "a list"]
)
def test_other_damage_is_noticed_too_and_said(cache: Cache, caplog: pytest.LogCaptureFixture, harm: str) -> None:
    folder = cache.write("models", "abc", fill, ABOUT).folder
    file, about = folder / "text.jsonl", folder / "entry.json"
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif harm == "grown":
        file.write_bytes(file.read_bytes() + b"\n")
    elif harm == "gone":
        file.unlink()
    elif harm == "a folder":
        file.unlink()
        file.mkdir()
    elif harm == "no entry.json":
        about.unlink()
    elif harm == "moved":
        shutil.rmtree(folder)
        cache.write("models", "other", fill, ABOUT).folder.rename(folder)
    elif harm == "a file":
        shutil.rmtree(folder)
        folder.write_text("nonsense")
    else:
        about.write_text("{" if harm == "not JSON" else "[]")
    assert cache.find("models", "abc") is None
    assert "The cache entry models/abc is damaged (" in caplog.text
    assert "and is made again" in caplog.text
    assert is_right(cache.obtain("models", "abc", fill, ABOUT))


def test_what_is_known_of_the_entries_of_a_kind(cache: Cache) -> None:
    for key in ("b", "a", "c"):
        cache.write("blocks/stage", key, fill, {"key": key})
    cache.write("blocks/other", "d", fill)
    (cache.home.cache / "blocks/stage/a/empty").write_bytes(b"x")
    assert cache.listing("blocks/stage") == {key: {"key": key} for key in "abc"}
    assert cache.find("blocks/stage", "a") is None
    assert list(cache.listing("blocks/stage")) == ["b", "c"]
    cache.remove("blocks/stage", "b")
    cache.remove("blocks/stage", "none")
    assert list(cache.listing("blocks/stage")) == ["c"]
    cache.remove("blocks/stage")
    assert cache.listing("blocks/stage") == {} == cache.listing("none")
    assert list(cache.listing("blocks/other")) == ["d"]


def test_an_entry_that_is_there_is_replaced(cache: Cache) -> None:
    cache.write("models", "abc", lambda folder: (folder / "old").write_text("old"))
    assert is_right(cache.write("models", "abc", fill, ABOUT))
    assert is_right(cache.find("models", "abc"))
    assert not (cache.home.cache / "models/abc/old").exists()


def test_an_equal_entry_that_another_writer_made_stays_for_those_who_read_it(cache: Cache) -> None:
    first = cache.write("models", "abc", fill, ABOUT).path("deep/weights.bin").stat()
    assert is_right(cache.write("models", "abc", fill, ABOUT))
    assert cache.folder("models", "abc").joinpath("deep/weights.bin").stat() == first


def test_a_failure_leaves_what_was_there_and_nothing_else(cache: Cache) -> None:
    cache.write("models", "abc", fill, ABOUT)
    before = files_below(cache.home.root)

    def fails(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.write("models", "abc", fails)
    with largest_file(2**12), pytest.raises(StorageError, match=r"disk is full: abc could not be written.*free some"):
        cache.write("models", "abc", lambda folder: (folder / "big").write_bytes(bytes(2**14)))
    assert files_below(cache.home.root) == before
    assert is_right(cache.find("models", "abc"))


def test_a_cache_that_cannot_be_written_is_named(cache: Cache) -> None:
    cache.home.root.mkdir(parents=True)
    cache.home.cache.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match=r"abc cannot be written in .*set N2G_HOME"):
        cache.write("models", "abc", fill)


def test_an_error_of_what_is_made_stays_what_it_is(cache: Cache) -> None:
    def fails(_: Path) -> None:
        raise ConnectionError("no route to the host")

    with pytest.raises(ConnectionError):
        cache.obtain("models", "abc", fails)


def test_of_several_at_once_one_makes_the_entry(cache: Cache) -> None:
    calls: list[int] = []
    found: list[Entry] = []

    def counted(folder: Path) -> None:
        calls.append(1)
        fill(folder)

    threads = [
        threading.Thread(target=lambda: found.append(Cache(cache.home).obtain("models", "abc", counted, ABOUT)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(found) == 4
    assert all(is_right(entry) for entry in found)


def test_writers_of_one_entry_do_not_disturb_each_other(cache: Cache) -> None:
    errors: list[BaseException] = []

    def write() -> None:
        try:
            for _ in range(5):
                Cache(cache.home).write("models", "abc", fill, ABOUT)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert is_right(cache.find("models", "abc"))
    assert files_below(cache.home.cache) == {f"models/abc/{name}" for name in (*CONTENT, "entry.json")}


def test_a_sweep_removes_what_killed_writers_left_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = Home(tmp_path)
    caplog.set_level(logging.INFO)
    cache = Cache(home)
    cache.write("models", "abc", lambda folder: (folder / "upstream.tmp").write_text("a file of the entry's own"))
    kept = files_below(home.root) | {"slices/rules/study=s/rows.parquet", "my.tmp.txt", "user/x.tmp"}
    left = {  # of today's writers, with the lock file that its dead process held
        "slices/rules/study=s/layer=7/.0a.tmp",
        "cache/models/.1b.tmp",
        "reports/.2c.tmp",
        "downloads/.3d.tmp",
        ".5f.tmp",
    }
    for name in left:
        (home.root / name).mkdir(parents=True)
        (home.root / name / ".lock").touch()
        (home.root / name / "rows").write_text("half")
    older = {"slices/rules/.rows.parquet.00.tmp", "cache/harvest/k/layer=1/a.7.part", "n2g.duckdb.tmp"}
    young = {"downloads/.fetching-y/x.whl", "cache/readings/.b.1.tmp"}
    for name in (kept - files_below(home.root)) | older | young | {"downloads/.fetching-x/x.whl"}:
        (home.root / name).parent.mkdir(parents=True, exist_ok=True)
        (home.root / name).write_text("x")
    older.add("downloads/.fetching-x")
    for name in older:
        os.utime(home.root / name, (1e9, 1e9))
    with temporary_folder(home.reports / "page.html") as alive:
        (alive / "page.html").write_text("half")
        assert {path.relative_to(home.root).as_posix() for path in sweep(home)} == left | older
        os.replace(alive / "page.html", home.reports / "page.html")
    assert files_below(home.root) == kept | young | {"reports/page.html"}
    assert "Removed 9 temporary files" in caplog.text
    assert sweep(home) == [] == sweep(Home(tmp_path / "no home yet"))


def test_a_file_that_is_written_again_at_once_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content, sha256 in (
        (b"a", "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"),
        (b"b", "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"),
    ):
        write_atomically(path, lambda temporary, content=content: temporary.write_bytes(content))
        assert is_whole(path, 1, sha256)
        path.write_bytes(b"c")
        assert not is_whole(path, 1, sha256)


@pytest.mark.parametrize("name", ["database.lock", "database.holder"])
def test_a_lock_whose_file_cannot_be_written_is_named_with_its_cure(tmp_path, name):
    (tmp_path / name).mkdir()
    with (
        pytest.raises(
            StorageError, match=rf"^{name} cannot be written in {tmp_path} .Is a directory.: make the folder"
        ),
        hold_lock(tmp_path, "database"),
    ):
        pass
    (tmp_path / name).rmdir()
    with hold_lock(tmp_path, "database"):
        pass


def test_what_a_writer_on_another_machine_has_in_work_is_left_for_a_day(tmp_path: Path) -> None:
    home = Home(tmp_path / "own", tmp_path / "shared")
    with temporary_folder(home.slices / "rules" / "x") as folder:
        assert is_abandoned(folder) is False, "its lock is held"
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / ".host").write_text("another-machine")
    assert sweep(home) == []
    os.utime(folder, (0, 0))
    assert sweep(home) == [folder]
