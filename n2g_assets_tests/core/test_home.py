from __future__ import annotations

from pathlib import Path

import pytest

from n2g_assets.core.errors import StorageError
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
