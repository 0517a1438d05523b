"""Where steps execute: what a study or a variable names, and what is said where that cannot be."""

from __future__ import annotations

import dagster as dg
import pytest

from n2g_assets.assets import executors
from n2g_assets.assets.executors import EXECUTED_BY, EXECUTOR, executor_name, executor_of, executor_of_run, model_queue
from n2g_assets.core.errors import SettingsError


def test_the_study_goes_before_the_variable_and_that_before_one_process(monkeypatch):
    monkeypatch.delenv(EXECUTOR, raising=False)
    assert executor_of(None) is dg.in_process_executor
    monkeypatch.setenv(EXECUTOR, "multiprocess")
    assert executor_of(None) is dg.multiprocess_executor
    assert executor_of("in_process") is dg.in_process_executor


def test_a_run_of_a_studys_job_knows_its_executor(monkeypatch):
    monkeypatch.delenv(EXECUTOR, raising=False)
    assert executor_of_run(dg.DagsterRun("j", tags={EXECUTED_BY: "multiprocess"})) == "multiprocess"
    assert executor_of_run(dg.DagsterRun("j")) == "in_process"


def test_an_executor_that_cannot_be_is_said_with_its_cure(monkeypatch):
    monkeypatch.setenv(EXECUTOR, "celary")
    with pytest.raises(SettingsError, match=r"N2G_EXECUTOR \(celary\) is no executor: set it to one of in_process, "):
        executor_name(None)
    monkeypatch.setattr(executors, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="needs the package dagster-celery: install"):
        executor_name("celery")


def test_steps_that_run_the_model_go_to_the_queue_that_is_named(monkeypatch):
    monkeypatch.delenv(executors.MODEL_QUEUE, raising=False)
    assert model_queue() == {}
    monkeypatch.setenv(executors.MODEL_QUEUE, "gpu")
    assert model_queue() == {"dagster-celery/queue": "gpu"}
