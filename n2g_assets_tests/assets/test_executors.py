"""Where steps execute: what is refused in one sentence, a run on workers that die, and two runs at once."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import dagster as dg
import pytest
from dagster._core.events import EngineEventData

from n2g_assets import cli
from n2g_assets.assets import workers
from n2g_assets.assets.alive import died
from n2g_assets.assets.executors import (
    EXECUTED_BY,
    EXECUTOR,
    MOST_BEGUN,
    check_begun,
    check_shared,
    executor_name,
    executor_of,
    executor_of_run,
    model_queue,
)
from n2g_assets.assets.instance import POSTGRES, check_postgres, prepare_instance
from n2g_assets.core.errors import LimitError, SettingsError
from n2g_assets.core.home import Home
from n2g_assets_tests import servers
from n2g_assets_tests.two_workers import KILLS, compare, remote_home, run_at_once, run_spread, write_study

NOBODY = "127.0.0.1:9"
"""An address at which nobody listens."""


def test_the_variable_chooses_where_a_study_does_not(monkeypatch):
    monkeypatch.delenv(EXECUTOR, raising=False)
    assert executor_name(None) == "in_process"
    monkeypatch.setenv(EXECUTOR, " multiprocess ")
    assert executor_name(None) == "multiprocess"
    assert executor_name("in_process") == "in_process"


def test_a_run_of_a_studys_job_knows_its_executor(monkeypatch):
    monkeypatch.delenv(EXECUTOR, raising=False)
    assert executor_of_run(dg.DagsterRun("j", tags={EXECUTED_BY: "multiprocess"})) == "multiprocess"
    assert executor_of_run(dg.DagsterRun("j")) == "in_process"


def test_an_executor_that_does_not_exist_is_refused_with_those_that_do(monkeypatch):
    monkeypatch.setenv(EXECUTOR, "slurm")
    with pytest.raises(
        SettingsError, match=r"\(slurm\) is no executor: set it to one of in_process, multiprocess, cel"
    ):
        executor_of(None)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dagster_celery", None)
    with pytest.raises(SettingsError, match=r"needs the package dagster-celery: install n2g_assets\[celery\]"):
        executor_of("celery")


def test_only_steps_that_run_the_model_go_to_the_queue_that_is_named(monkeypatch):
    monkeypatch.delenv(workers.MODEL_QUEUE, raising=False)
    assert (model_queue(), workers.queues()) == ({}, ["dagster"])
    monkeypatch.setenv(workers.MODEL_QUEUE, "gpu")
    assert (model_queue(), workers.queues()) == ({"dagster-celery/queue": "gpu"}, ["dagster", "gpu"])


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgres://host/dagster", r"does not begin with postgresql\+psycopg2://: write"),
        (f"postgresql+psycopg2://n2g:secret@{NOBODY}/dagster", r"does not answer \(.*\): start it"),
        ("postgresql+psycopg2://n2g:secret@[::1]x/dagster", "cannot be read: write postgresql"),
        ("postgresql+psycopg2://n2g:secret%zz@host/dagster", "cannot be read: write postgresql"),
    ],
)
def test_a_postgres_that_does_not_answer_is_said_without_its_password(monkeypatch, address, said):
    pytest.importorskip("dagster_postgres")
    monkeypatch.setenv(POSTGRES, address)
    with pytest.raises(SettingsError, match=said) as caught:
        check_postgres()
    assert "secret" not in str(caught.value)


def test_a_broker_that_does_not_answer_is_said_without_its_password(monkeypatch):
    pytest.importorskip("dagster_celery")
    for address in (f"pyamqp://n2g:secret@{NOBODY}//", f"n2g:secret@{NOBODY}"):
        monkeypatch.setenv(workers.BROKER, address)
        with pytest.raises(
            SettingsError, match=rf"The broker at {NOBODY} does not answer \(.*\): start RabbitMQ"
        ) as caught:
            workers.workers_by_queue()
        assert "secret" not in str(caught.value)


def test_workers_refuse_a_database_that_they_cannot_share(tmp_path, monkeypatch, capsys):
    pytest.importorskip("dagster_celery")
    monkeypatch.setenv("N2G_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.delenv(POSTGRES, raising=False)
    monkeypatch.setenv(EXECUTOR, "")
    assert cli.main(["worker"]) == 1
    assert f"in SQLite cannot be shared by workers of Celery, which would damage it: set {POSTGRES}" in (
        capsys.readouterr().out
    )
    with dg.DagsterInstance.get() as instance, pytest.raises(SettingsError, match="cannot be shared"):
        check_shared(instance)


def test_a_step_that_kills_one_worker_after_another_is_given_up(tmp_path, monkeypatch):
    monkeypatch.delenv(POSTGRES, raising=False)
    monkeypatch.setenv("DAGSTER_HOME", "")
    prepare_instance(Home(tmp_path))
    with dg.DagsterInstance.get() as instance:
        run = instance.create_run_for_job(dg.GraphDefinition("empty").to_job())
        for step in ["small", *["large"] * MOST_BEGUN]:
            about = EngineEventData(metadata={workers.BEGUN: "n2g-1-0@host"})
            instance.report_engine_event("Executing", run, about, step_key=step)
            check_begun(instance, run.run_id, step)
        instance.report_engine_event("Executing", run, about, step_key="large")
        check_begun(instance, run.run_id, "small")
        with pytest.raises(LimitError, match=rf"^{MOST_BEGUN} workers have died of this step: give them more memory"):
            check_begun(instance, run.run_id, "large")


@dg.op
def asks(context):
    assert os.getpid() != int(os.environ["STARTED_BY"])
    assert [path.name.partition("@")[0] for path in Path(context.instance.root_directory, "alive").iterdir()] == [
        context.run_id
    ]
    assert not died(context.instance, context.run_id)


def asking():
    return dg.GraphDefinition("asking", node_defs=[asks]).to_job(executor_def=executor_of("multiprocess"))


def test_a_run_whose_steps_are_spread_is_seen_to_live_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv("STARTED_BY", str(os.getpid()))
    monkeypatch.delenv(POSTGRES, raising=False)
    prepare_instance(Home(tmp_path))
    with dg.DagsterInstance.get() as instance:
        result = dg.execute_job(dg.reconstructable(asking), instance)
        assert result.success
        assert not list(Path(instance.root_directory, "alive").iterdir())


def run_here(study: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"N2G_HOME": str(home.root), "DAGSTER_HOME": "", EXECUTOR: "", POSTGRES: ""}.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["run", str(study)]) == 0


def test_two_hosts_at_once_that_share_no_lock_both_end_well_with_the_rows_of_one(tmp_path, monkeypatch):
    servers.need_servers()
    alone = Home(tmp_path / "alone")
    hosts = [Home(tmp_path / name, store=tmp_path / "store") for name in ("first", "second")]
    study = write_study(tmp_path, preset="paper", layers=1, neurons=[1, 3])
    run_at_once(study, hosts)
    run_here(study, alone, monkeypatch)
    assert compare(alone, hosts[0]) > 20


@pytest.mark.parametrize("store", ["a folder", "object storage"])
def test_a_study_on_two_workers_of_which_one_is_killed_has_the_rows_of_one_process(store, tmp_path, monkeypatch):
    """``deploy/try_two_workers.sh`` kills another one in a later stage, does more stages, and makes more trouble."""
    servers.need_servers()
    alone, spread = Home(tmp_path / "alone"), Home(tmp_path / "run", tmp_path / "store")
    study = write_study(tmp_path, preset="paper", layers=1, neurons=[1, 3])
    with ExitStack() as stack:
        if store == "object storage":
            s3 = stack.enter_context(servers.s3())
            stack.enter_context(mock.patch.dict(os.environ, s3.environment))
            spread = remote_home(tmp_path / "run", s3)
        found = run_spread(study, spread, KILLS[:1])
        run_here(study, alone, monkeypatch)
        assert compare(alone, spread) > 20
    assert max(found.killed.values()) == 2
    assert found.workers >= 2
    assert "neuron_graphs, layer 00: " in found.said
