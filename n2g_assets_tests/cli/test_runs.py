"""The command line: what it says of a run that fails or is interrupted, and of a control that fails."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from n2g_assets import cli
from n2g_assets.assets import subject_model
from n2g_assets.assets.instance import prepare_instance
from n2g_assets.assets.study import Study
from n2g_assets.cli import runs
from n2g_assets.core.errors import SubjectError
from n2g_assets.core.home import Home
from n2g_assets.definitions import build_defs
from n2g_assets.evaluation.reach import LAST_TOKENS
from n2g_assets.report.text import human_bytes
from n2g_assets_tests.assets.studies import HARVEST, no_progress, session_of, tiny_study


@pytest.fixture(scope="module")
def instance(tmp_path_factory) -> Path:
    """A prepared ``DAGSTER_HOME``, which takes seconds to make."""
    with mock.patch.dict(os.environ):
        return prepare_instance(Home(tmp_path_factory.mktemp("prepared")))


@pytest.fixture
def tiny(tmp_path, monkeypatch, instance):
    """Makes a study that ``n2g run tiny`` runs on a home that holds no data."""
    shutil.copytree(instance, tmp_path / "home" / "dagster")
    monkeypatch.setenv("N2G_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", "")

    def make(**changes: Any) -> Study:
        study = tiny_study(tmp_path, **{"preset": "paper", **changes})
        monkeypatch.setattr(runs, "study_job", lambda name: build_defs([study]).resolve_job_def(name))
        return study

    make()
    return make


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_where_and_that_what_was_finished_is_kept(tiny, monkeypatch, capsys, number):
    monkeypatch.setattr(subject_model, "materialize", lambda _session: os.kill(os.getpid(), number))
    assert cli.main(["run", "tiny"]) == 130
    said = capsys.readouterr().out
    assert "Interrupted in tiny/subject_model. What was finished is kept" in said
    assert "FAILED" not in said


def test_a_run_that_fails_names_the_step_and_the_cause(tiny, monkeypatch, capsys):
    def fail(_session):
        raise SubjectError("The model has no layer 7: choose from 0 to 2.")

    monkeypatch.setattr(subject_model, "materialize", fail)
    assert cli.main(["run", "tiny"]) == 1
    said = capsys.readouterr().out
    assert "FAILED tiny/subject_model: The model has no layer 7: choose from 0 to 2." in said
    assert "the same command goes on from there" in said


def test_a_run_that_fails_by_an_error_of_another_kind_names_it(tiny, monkeypatch, capsys):
    monkeypatch.setattr(subject_model, "materialize", lambda _session: {}["weights"])
    assert cli.main(["run", "tiny"]) == 1
    assert "FAILED tiny/subject_model: 'weights'" in capsys.readouterr().out


@pytest.mark.parametrize("control", [False, True])
def test_what_checks_warn_of_is_said_but_for_controls(tiny, capsys, control):
    """The tiny model's weights are random, which is what is asked of a control."""
    subject = {"source": "local", "path": "model"}
    redrawn = {"control_of": "demo", "subject": subject | {"reinitialise": 0}} if control else {}
    tiny(layers=1, neurons=[1], **redrawn)
    assert cli.main(["run", "tiny"]) == 0
    said = capsys.readouterr().out
    assert ("WARNING tiny/subject_model, model_is_sane: " in said) == (not control)
    assert ("WARNING" in said) == (not control)


def test_a_full_disk_is_said_where_dagsters_own_database_fails_first(tiny, monkeypatch, capsys):
    def fail(_home):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        raise OSError("disk I/O error")

    monkeypatch.setattr(runs, "run_demo", fail)
    assert cli.main(["demo"]) == 1
    assert re.search(r"has 0 MiB of free disk space, a run needs 200 MiB: free some", capsys.readouterr().out)


def test_an_error_of_another_kind_is_not_hidden(tiny, monkeypatch):
    monkeypatch.setattr(runs, "run_demo", lambda _home: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["demo"])


@pytest.mark.parametrize(("preset", "scanned"), [("paper", 0), ("evidence", 1)])
def test_a_plan_says_what_the_runs_then_read_and_keep(tiny, tmp_path, capsys, preset, scanned):
    """In the second case the first layer is shown every token of the vocabulary as well."""
    study = tiny(
        preset="full", layers=2, layers_at_once=1, keep_evidence=True, neurons=[3],
        harvest=HARVEST | {"scanned_layers": scanned}, method={"preset": preset},
    )  # fmt: skip
    assert cli.main(["plan", "tiny"]) == 0
    said = capsys.readouterr().out
    planned = [re.split(r"  +", line) for line in said.splitlines() if line.startswith("layer")]
    assert [row[:3] for row in planned] == [["layer 0", "1", str(4 + scanned)], ["layer 1", "1", "4"]]
    for row, layer in zip(planned, (0, 1), strict=True):
        session = session_of(study, tmp_path / "home")
        found = [session.harvest([layer], no_progress), *session.read_texts([layer], no_progress).values()]
        found.append(session.cached_windows(layer))
        if layer < scanned:
            found.append(session.evidence(session.learning.scan_corpus, [layer], no_progress))
        assert int(row[3].replace(",", "")) == sum(evidence.tokens_run for evidence in found)
        assert int(row[4]) == sum(evidence.shards_run for evidence in found)
    files = list((tmp_path / "home" / "cache" / "evidence").rglob("activations.npy"))
    assert f"{human_bytes(sum(file.stat().st_size - 128 for file in files))} for new evidence at once, kept" in said


def test_a_plan_says_the_most_that_graphs_can_ask_for(tiny, tmp_path, capsys):
    harvest = HARVEST | {"max_tokens": 2_000, "targeted_contexts": 3}
    study = tiny(preset="full", layers=1, neurons=[1, 3], harvest=harvest, method={"preset": "evidence"})
    assert cli.main(["plan", "tiny"]) == 0
    [row] = [re.split(r"  +", line) for line in capsys.readouterr().out.splitlines() if line.startswith("layer 0")]
    session = session_of(study, tmp_path / "home")
    corpora = [session.corpus, *session.scored_corpora.values()]
    most = 3 * 2 * HARVEST["context_length"]
    assert session.learning.most_tokens(0) == most
    assert int(row[3].replace(",", "")) == sum(len(corpus.token_ids) for corpus in corpora) + most
    assert int(row[2]) == len(corpora) + 1


def test_a_plan_by_a_stated_rate_needs_neither_weights_nor_text(tiny, tmp_path, capsys):
    study = tiny(preset="full", layers=2, neurons=[3], method={"preset": "paper"}, harvest=HARVEST)
    (tmp_path / "model" / "model.safetensors").unlink()
    shutil.rmtree(tmp_path / "corpus")
    assert cli.main(["plan", "tiny", "--device", "H100", "--machines", "2"]) == 1
    assert "harvest.max_tokens does not say how much of it is harvested: give --tokens" in capsys.readouterr().out
    assert cli.main(["plan", "tiny", "--device", "H100", "--machines", "2", "--tokens", "5000"]) == 0
    said = capsys.readouterr().out
    evaluation = study.settings.evaluation
    scored = evaluation.random_tokens + evaluation.out_of_domain_tokens
    windows = evaluation.reach_positions * 2 * sum(k + 1 for k in LAST_TOKENS)
    assert re.search(rf"layers 0 and 1 +2 +4 +{5000 + scored + windows:,} ", said)
    assert "on 2 machines if nothing else runs" in said
    assert "Share:" in said
    assert not (tmp_path / "home" / "slices").exists()


def test_a_plan_by_a_stated_rate_counts_what_was_read_here(tiny, capsys):
    tiny(preset="full", layers=2, neurons=[3], method={"preset": "paper"})
    assert cli.main(["plan", "tiny"]) == 0
    assert cli.main(["plan", "tiny", "--tokens-a-second", "1000"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("layers 0 and 1")]
    assert rows[0][:9] == rows[1][:9]
    assert len(rows[0]) > 9


def test_no_machines_are_refused(tiny, capsys):
    assert cli.main(["plan", "tiny", "--machines", "0"]) == 2
    assert "'--machines': 0 is not in the range x>=1" in capsys.readouterr().err


def test_a_study_that_does_not_exist_is_said_with_those_that_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("N2G_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", "")
    assert cli.main(["run", "demmo"]) == 1
    assert (
        "There is no study 'demmo': choose one of demo, demo_paper, demo_reinitialised, smollm2."
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("control_fails", [False, True])
def test_the_demo_runs_its_control_first_and_goes_on_without_it(tmp_path, monkeypatch, capsys, control_fails):
    ran = []

    def run_study(_home, study, *, show=True):
        ran.append((study, show))
        return int(control_fails and study == "demo_reinitialised")

    monkeypatch.setattr(runs, "run_study", run_study)
    assert runs.run_demo(Home(tmp_path)) == 0
    assert ran == [("demo_reinitialised", False), ("demo", True)]
    assert ("The control 'demo_reinitialised' failed" in capsys.readouterr().out) == control_fails
