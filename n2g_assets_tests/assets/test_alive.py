"""A run whose process dies is seen to have died, is marked as failed, and says so; one that ends leaves nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from n2g_assets.assets.alive import DIED, RunLauncher, died, fail_dead_runs, lives
from n2g_assets.assets.instance import prepare_instance
from n2g_assets.assets.resource import N2GResource
from n2g_assets.core.home import Home

DIES = """
import os, resource, signal
import dagster as dg
from n2g_assets.assets.resource import N2GResource

@dg.op(required_resource_keys={"n2g"})
def step():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)

with dg.DagsterInstance.get() as instance:
    graph = dg.GraphDefinition("dies", node_defs=[step])
    graph.to_job(resource_defs={"n2g": N2GResource()}).execute_in_process(instance=instance)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A home with an instance of Dagster as it is shipped."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DAGSTER_HOME", "")
        prepare_instance(Home(home))
    return home


@pytest.fixture
def shipped(home):
    with dg.DagsterInstance.from_config(str(Home(home).dagster)) as instance:
        yield instance


@dg.op(required_resource_keys={"n2g"})
def asks(context):
    assert not died(context.instance, context.run_id)
    assert list(Path(context.instance.root_directory, "alive").iterdir())


def test_a_run_that_goes_on_lives_and_leaves_nothing_when_it_has_ended(instance, capfd):
    job = dg.GraphDefinition("asks", node_defs=[asks]).to_job(resource_defs={"n2g": N2GResource()})
    result = job.execute_in_process(instance=instance)
    assert result.success
    assert not died(instance, result.run_id)
    assert not list(Path(instance.root_directory, "alive").iterdir())
    assert DIED not in capfd.readouterr().err


def test_a_run_that_an_error_or_an_interrupt_ends_has_not_died(instance, capfd):
    for kind in (ValueError, KeyboardInterrupt):
        with pytest.raises(kind), lives(instance, "run"):
            raise kind
        assert not died(instance, "run")
    assert DIED not in capfd.readouterr().err


def test_a_run_whose_process_was_killed_has_died(shipped):
    def die() -> None:
        with lives(shipped, "run"):
            os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert died(shipped, "run")


def test_a_process_that_dies_says_so_and_its_run_is_found_and_marked_as_failed(home, shipped):
    """The launcher is what the daemon asks; each start of ``n2g`` marks, and so does not wait for the daemon."""
    environment = {**os.environ, "N2G_HOME": str(home), "DAGSTER_HOME": str(Home(home).dagster)}
    command = [sys.executable, "-c", DIES]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGSEGV
    assert DIED in process.stderr
    (run,) = shipped.get_runs()
    assert run.status == dg.DagsterRunStatus.STARTED
    assert isinstance(shipped.run_launcher, RunLauncher)
    assert shipped.run_launcher.supports_check_run_worker_health
    assert str(shipped.run_launcher.check_run_worker_health(run)) == f"FAILED: '{DIED}'"
    fail_dead_runs(shipped)
    assert shipped.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
    assert DIED in shipped.all_logs(run.run_id)[-1].message
    assert not died(shipped, run.run_id)


def test_a_run_of_something_else_is_taken_to_live(shipped):
    run = dg.DagsterRun(job_name="other", run_id="00000000-0000-0000-0000-000000000000")
    assert str(shipped.run_launcher.check_run_worker_health(run)).startswith("RUNNING")


def test_the_limits_of_the_shipped_instance_let_a_busy_machine_start_a_run_and_find_dead_ones_in_minutes(shipped):
    assert shipped.run_monitoring_enabled
    assert shipped.run_monitoring_start_timeout_seconds >= 1800
    assert shipped.run_monitoring_poll_interval_seconds <= 120
    assert shipped.run_monitoring_settings["free_slots_after_run_end_seconds"] <= 120
