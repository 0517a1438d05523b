"""n2g clean on homes that real runs have filled."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from n2g_assets import cli
from n2g_assets.assets.cleaning import DEPTHS, removable
from n2g_assets.core.errors import StorageError
from n2g_assets.core.home import Home
from n2g_assets.reading.database import Database
from n2g_assets.reading.study import study_names
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.slices import SliceKey, SliceStore
from n2g_assets_tests.assets.studies import changed, no_progress, reused, run_stage, session_of


@pytest.fixture
def home(finished_evidence, tmp_path, monkeypatch) -> Home:
    copied = finished_evidence.copy_home(tmp_path)
    monkeypatch.setenv("N2G_HOME", str(copied))
    return Home(copied)


def files_of(home: Home) -> set[Path]:
    return {path for path in home.root.rglob("*") if path.is_file() and path.parent != home.locks}


def found_by(capsys, *arguments: str) -> dict[str, Any]:
    assert cli.main(["clean", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def litter(home: Home) -> set[str]:
    """Leaves behind what no run reads, and gives what is said of each."""
    cache = Cache(home)
    write = lambda folder: (folder / "rows.bin").write_bytes(b"x" * 1000)  # noqa: E731
    cache.write("evidence/0123/0", "abc", write)
    cache.write("evidence", "older", write)
    cache.write("harvest", "abc", write)
    cache.write("suffixes", "abc", write)
    cache.write("targeted", "abc", write)
    cache.write("models", "abc", write)
    cache.write("blocks/neuron_graphs/gone/0", "abc", write)
    cache.write("blocks/neuron_graphs/tiny/0", "kept", write, {"units": []})
    (home.reports / "gone.html").write_text("x")
    (home.slices / ".0123.tmp").mkdir()
    (home.slices / ".0123.tmp" / ".lock").touch()
    (home.slices / ".0123.tmp" / "rows").write_text("x")
    return {
        "what killed runs left", "of kinds that earlier versions kept", "reports of studies that are gone",
        "checkpoints of studies that are gone", "evidence that no study reads", "contexts that no study asks for",
        "numbers of runs of texts that no study has", "models that no study explains",
    }  # fmt: skip


@pytest.mark.parametrize("run", ["finished", "finished_evidence"])
def test_a_home_that_a_run_has_filled_holds_nothing_to_remove_and_only_known_kinds(request, monkeypatch, capsys, run):
    home = Home(request.getfixturevalue(run).home)
    monkeypatch.setenv("N2G_HOME", str(home.root))
    assert {path.name for path in home.cache.iterdir()} <= DEPTHS.keys()
    found = found_by(capsys)
    assert (found["found"], found["bytes"], found["unknown"]) == ([], 0, {})
    assert cli.main(["clean"]) == 0
    assert f"Nothing to remove in {home.root}." in capsys.readouterr().out


def test_what_no_run_reads_is_shown_with_its_size_and_removed_when_told(finished_evidence, home, capsys):
    before = files_of(home)
    said = litter(home)
    littered = files_of(home)
    found = found_by(capsys)
    assert {group["what"] for group in found["found"]} == said
    assert files_of(home) == littered
    assert cli.main(["clean", "--yes"]) == 0
    assert f"from {home.root}." in capsys.readouterr().out
    kept = Cache(home).folder("blocks/neuron_graphs/tiny/0", "kept")
    assert {path.parent for path in files_of(home) - before} == {kept}
    assert before <= files_of(home)
    session = session_of(finished_evidence.study, home.root)
    assert all(reused(run_stage(session, "neuron_graphs")).values())
    scan = session.evidence(session.learning.scan_corpus, [0], no_progress)
    for layer in session.settings.layer_numbers:
        taken_over = [
            session.cached_harvest(layer),
            session.cached_windows(layer),
            *session.cached_texts(layer).values(),
        ]
        assert sum(evidence.tokens_run for evidence in (*taken_over, scan)) == 0


def test_evidence_of_units_that_the_study_no_longer_has_goes_and_the_rest_stays(finished_evidence, home, capsys):
    """Here of those that a larger sample had."""
    session = session_of(changed(finished_evidence.study, neurons={"sample": 6}), home.root)
    added = session.cached_harvest(0)
    assert added.tokens_run > 0
    found = found_by(capsys)
    [group] = found["found"]
    assert group["what"] == "evidence that no study reads"
    assert {Path(each["path"]).parent.name for each in group["paths"]} == {"0"}
    assert group["bytes"] == sum(each["bytes"] for each in group["paths"]) > 0


def test_a_study_goes_by_its_name_with_all_that_is_its_own(home, capsys):
    for folder in sorted(home.slices.glob("*/study=tiny")):
        shutil.copytree(folder, folder.with_name("study=other"))
    store = SliceStore(home)
    for key in store.keys("other"):
        frame = store.read(SliceKey(key.table, "tiny", key.layer, key.part))
        for path in (store.path(key), store.manifest_path(key)):
            path.unlink()
        store.write(
            key, frame.with_columns(study=frame["study"].str.replace("tiny", "other")), input_hash="", code_version=""
        )
    evidence = {path for path in files_of(home) if "cache" in path.parts}
    assert [group["what"] for group in found_by(capsys, "other")["found"]] == ["rows of other"]
    assert cli.main(["clean", "other", "--yes"]) == 0
    assert "a run of it, from its first pass on" in capsys.readouterr().out
    assert store.studies() == ["tiny"]
    assert study_names(Database(home.database).snapshot()) == ["tiny"]
    assert {path for path in files_of(home) if "cache" in path.parts} == evidence
    whats = {group["what"] for group in found_by(capsys, "tiny")["found"]}
    assert {"rows of tiny", "reports of studies that are gone", "evidence that no other study reads"} <= whats
    assert "models that no other study explains" not in whats  # it lies outside of the home
    assert cli.main(["clean", "third"]) == 1
    assert capsys.readouterr().err == f"There is no study 'third' in {home.root}: choose one of tiny.\n"


@pytest.mark.parametrize("lock", ["locks/evaluation__tiny__0.lock", "dagster/alive/0123.lock"])
def test_nothing_is_removed_while_a_run_lives(home, capsys, lock):
    litter(home)
    before = files_of(home)
    (home.root / lock).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.root / lock):
        before |= files_of(home)
        assert cli.main(["clean", "--yes"]) == 1
        said = capsys.readouterr().err
        assert f"{home.root} is in use by " in said
        assert "nothing is removed before it ends, so wait for it or stop it." in said
        assert files_of(home) == before
        assert cli.main(["clean"]) == 0  # which only shows it
    assert cli.main(["clean", "--yes"]) == 0


def test_where_a_study_cannot_say_what_it_needs_its_evidence_and_models_stay(home, capsys):
    litter(home)
    for path in (home.slices / "contexts" / "study=tiny").iterdir():
        path.unlink()
    found = found_by(capsys)
    assert {group["what"] for group in found["found"]} == {
        "what killed runs left", "of kinds that earlier versions kept", "reports of studies that are gone",
        "checkpoints of studies that are gone",
    }  # fmt: skip
    assert "There is no slice contexts of study tiny" in found["unknown"]["tiny"]
    assert removable(home, "tiny")[1] == {}


def test_an_empty_home_has_nothing_to_remove(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("N2G_HOME", str(tmp_path / "none"))
    assert cli.main(["clean"]) == 0
    assert capsys.readouterr().out == f"Nothing to remove in {tmp_path}/none.\n"
    assert not (tmp_path / "none").exists()


def test_a_store_in_object_storage_is_left_to_its_own_rules(tmp_path):
    with pytest.raises(
        StorageError, match=r"^n2g clean works on a folder, and N2G_STORE is s3://bucket/n2g: let a rule"
    ):
        removable(Home(tmp_path, tmp_path / "copies", "s3://bucket/n2g"))
