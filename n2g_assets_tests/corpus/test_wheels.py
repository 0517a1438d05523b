from __future__ import annotations

import sys

import pytest

from n2g_assets.core.errors import SourceError, StorageError
from n2g_assets.storage import wheels
from n2g_assets.storage.wheels import WheelPin, fetch_wheel
from n2g_assets_tests.corpus.helpers import FakePip, sha256, wheel_bytes

WHEEL = wheel_bytes({"some/data.txt": b"text"})


def use_pip(monkeypatch, wheel, stderr=""):
    pip = FakePip(wheel, stderr)
    monkeypatch.setattr(wheels.subprocess, "run", pip)
    return pip


def test_a_wheel_is_fetched_once_as_a_wheel_only_and_then_reused(tmp_path, monkeypatch):
    pip = use_pip(monkeypatch, WHEEL)
    pin = WheelPin("some", "1.0", sha256(WHEEL), ("--platform=any",))
    path = fetch_wheel(pin, tmp_path / "new" / "downloads")
    assert path.read_bytes() == WHEEL
    assert fetch_wheel(pin, path.parent) == path
    (command,) = pip.calls
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "--platform=any"} <= set(command)
    assert command[-1] == "some==1.0"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_damaged_file_is_fetched_anew(tmp_path, monkeypatch):
    pip = use_pip(monkeypatch, WHEEL)
    pin = WheelPin("some", "1.0", sha256(WHEEL))
    fetch_wheel(pin, tmp_path).write_bytes(WHEEL[:-1])
    assert fetch_wheel(pin, tmp_path).read_bytes() == WHEEL
    assert len(pip.calls) == 2


def test_a_wrong_sha256_names_both_hashes_and_leaves_nothing(tmp_path, monkeypatch):
    use_pip(monkeypatch, WHEEL)
    with pytest.raises(SourceError, match=f"some==1.0 .*{sha256(WHEEL)} instead of the pinned {'0' * 64}"):
        fetch_wheel(WheelPin("some", "1.0", "0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_network_the_error_quotes_pip_and_says_where_the_wheel_may_be_put(tmp_path, monkeypatch):
    use_pip(monkeypatch, None, "WARNING: Retrying\nERROR: No matching distribution found for some==1.0\n")
    pin = WheelPin("some", "1.0", "0" * 64)
    with pytest.raises(SourceError, match="No matching distribution found") as error:
        fetch_wheel(pin, tmp_path)
    assert str(tmp_path / pin.file_name) in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_python_without_pip_is_told_how_to_get_it(tmp_path, monkeypatch):
    use_pip(monkeypatch, None, "/bin/python: No module named pip\n")
    with pytest.raises(SourceError, match=r"has no pip: run '.*-m ensurepip'"):
        fetch_wheel(WheelPin("some", "1.0", "0" * 64), tmp_path)


def test_control_characters_of_pip_do_not_reach_the_message(tmp_path, monkeypatch):
    use_pip(monkeypatch, None, "\x1b[31mERROR: gone\x1b[0m")
    with pytest.raises(SourceError) as error:
        fetch_wheel(WheelPin("some", "1.0", "0" * 64), tmp_path)
    assert str(error.value).isprintable()


def test_a_downloads_folder_that_cannot_be_made_is_a_storage_error(tmp_path, monkeypatch):
    use_pip(monkeypatch, WHEEL)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="make the folder writable"):
        fetch_wheel(WheelPin("some", "1.0", sha256(WHEEL)), tmp_path / "file" / "downloads")
