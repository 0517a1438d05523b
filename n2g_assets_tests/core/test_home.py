from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path

import pytest

from n2g_assets.core.errors import SettingsError, StorageError
from n2g_assets.core.home import Home


def test_the_environment_names_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("N2G_HOME", str(tmp_path / "x"))
    assert Home.from_environment().root == tmp_path / "x"


def test_without_it_the_home_lies_beside_the_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("N2G_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    project = Path(__file__).parents[2]
    expected = project if (project / "pyproject.toml").exists() else tmp_path
    assert Home.from_environment().root == expected / ".n2g"


def test_a_home_that_cannot_be_written_is_named_with_its_cure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot be written .* set N2G_HOME"):
        Home(tmp_path / "file" / "home").check_writable()


def test_too_little_free_disk_space_is_told_early(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"free disk space.*free some"):
        Home(tmp_path).check_writable(minimum_free_bytes=2**62)


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%20b", "a%b", os.fsdecode(b"a\xffb")])
def test_a_home_whose_databases_could_not_be_opened_is_refused_before_anything_is_made(
    tmp_path: Path, name: str
) -> None:
    what = f"the character {name[1]}" if name.isascii() else "bytes that are not UTF-8"
    with pytest.raises(StorageError, match=rf"N2G_HOME .*has {re.escape(what)} in its path.*set N2G_HOME") as error:
        Home(tmp_path / name / "home").check_writable()
    assert str(error.value).isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "a[1]", "a'b", "ä", "a&b=c", "a:b"])
def test_a_home_of_any_other_name_is_fine(tmp_path: Path, name: str) -> None:
    Home(tmp_path / name).check_writable()


@pytest.mark.parametrize("name", ["slices", "cache", "downloads", "reports", "locks", "dagster", "dagster/storage"])
def test_a_folder_in_it_that_cannot_be_written_is_named_with_its_cure(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("in the way")  # rights do not keep the root user out, this does
    with pytest.raises(StorageError, match=rf"^{name} in N2G_HOME .{tmp_path}. cannot be written .*: make it writable"):
        Home(tmp_path).check_writable()


def test_a_folder_of_databases_that_cannot_be_written_is_named_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = tmp_path / "dagster" / "history"
    history.mkdir(parents=True)
    (history / "runs.db").write_text("")
    real = tempfile.TemporaryFile

    def refuse(dir: Path) -> object:
        if dir == history:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir))
        return real(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(
        StorageError, match=r"^dagster/history in N2G_HOME .* cannot be written .Permission denied.: make"
    ):
        Home(tmp_path).check_writable()


def test_machines_may_share_a_store_and_keep_the_rest_to_themselves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("N2G_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("N2G_STORE", str(tmp_path / "shared"))
    home = Home.from_environment()
    home.check_writable()
    assert {path.parent.name for path in (home.slices, home.cache, home.database, home.reports)} == {"shared"}
    assert {path.parent.name for path in (home.downloads, home.locks, home.dagster)} == {"own"}
    (tmp_path / "shared" / "slices").write_text("in the way")
    with pytest.raises(StorageError, match=rf"^slices in N2G_STORE .{tmp_path}/shared. cannot be .* set N2G_STORE to"):
        home.check_writable()
    monkeypatch.setenv("N2G_STORE", "s3://bucket/n2g/")
    remote = Home.from_environment()
    assert (remote.address, remote.store.parent) == ("s3://bucket/n2g", tmp_path / "own" / "copies")
    for wrong in ("https://host/n2g", "s3://", "memory:///"):
        monkeypatch.setenv("N2G_STORE", wrong)
        with pytest.raises(SettingsError, match=rf"^N2G_STORE \({wrong}\) is no object storage: set it to such as s3:"):
            Home.from_environment()
