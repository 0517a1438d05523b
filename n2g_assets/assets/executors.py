"""Where the steps of a run execute: in its own process, in processes of their own, or on the workers of Celery.

A study's setting ``executor`` or ``$N2G_EXECUTOR`` chooses; the steps and what they compute are the same.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any, get_args

import dagster as dg
from dagster._core.execution.retries import RetryMode  # what an executor of one's own answers with
from dagster._core.storage.runs import SqliteRunStorage  # by which an instance is known that no machines can share

from n2g_assets.assets import workers
from n2g_assets.assets.alive import lives
from n2g_assets.assets.instance import POSTGRES
from n2g_assets.core.errors import LimitError, SettingsError
from n2g_assets.core.settings import Executor

EXECUTOR = "N2G_EXECUTOR"
"""Variable: the executor of studies that name none."""

MOST_BEGUN = 5
"""Workers that a step may be given to, one after another's death."""

EXECUTED_BY = "n2g/executor"
"""Run tag of a study's job: its executor."""


def executor_name(named: Executor | None) -> Executor:
    """The executor that a study names, or else the variable.

    Raises:
        SettingsError: the variable names none, or the one that is named is not installed.
    """
    name = named or os.environ.get(EXECUTOR, "").strip() or "in_process"
    known: tuple[Executor, ...] = get_args(Executor)
    if name not in known:
        raise SettingsError(f"{EXECUTOR} ({name}) is no executor: set it to one of {', '.join(known)}, or unset it.")
    if name == "celery":
        workers.check_installed()
    return next(each for each in known if each == name)


def executor_of(named: Executor | None) -> dg.ExecutorDefinition:
    """Dagster's executor of this name; fails as ``executor_name``."""
    name = executor_name(named)
    if name == "in_process":
        return dg.in_process_executor
    if name == "multiprocess":
        return _watched(dg.multiprocess_executor)
    from dagster_celery import celery_executor

    warnings.filterwarnings("ignore", "Task name .* is already registered")  # once for each step that it hands out
    return dg.configured(_watched(celery_executor, check_shared), name=name)(workers.executor_config())


def _watched(
    executor: dg.ExecutorDefinition, check: Callable[[dg.DagsterInstance], None] = lambda _: None
) -> dg.ExecutorDefinition:
    """An executor that first checks the instance, and shows as long as it goes on that the run's process lives."""

    def create(context: dg.InitExecutorContext) -> dg.Executor:
        check(context.instance)
        assert executor.executor_creation_fn is not None
        return _Watched(executor.executor_creation_fn(context))

    requirements = dg.multiple_process_executor_requirements()
    return dg.ExecutorDefinition(executor.name, executor.config_schema.as_field(), requirements, create)


class _Watched(dg.Executor):
    def __init__(self, executor: dg.Executor) -> None:
        self._executor = executor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    @property
    def retries(self) -> RetryMode:
        return self._executor.retries

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        with lives(plan_context.instance, plan_context.run_id):
            yield from self._executor.execute(plan_context, execution_plan)


def check_shared(instance: dg.DagsterInstance) -> None:
    """Check that workers can record their steps in an instance.

    Raises:
        SettingsError: it lies in files of SQLite.
    """
    if isinstance(instance.run_storage, SqliteRunStorage):
        raise SettingsError(
            "Dagster's database in SQLite cannot be shared by workers of Celery, which would damage it: set "
            f"{POSTGRES} to that of a Postgres, such as postgresql+psycopg2://user:password@host/dagster."
        )


def check_begun(instance: dg.DagsterInstance, run_id: str, step: str) -> None:
    """Check that a step does not kill one worker after another.

    Raises:
        LimitError: that many have begun it, and it goes on with none.
    """
    logged = instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    events = [entry.dagster_event for entry in logged if entry.dagster_event and entry.dagster_event.step_key == step]
    begun = sum(workers.BEGUN in (getattr(event.event_specific_data, "metadata", None) or {}) for event in events)
    if begun > MOST_BEGUN:
        raise LimitError(
            f"{begun - 1} workers have died of this step: give them more memory, or lower harvest.batch_tokens and "
            "method.units_per_block, and run the same command again."
        )


def model_queue() -> dict[str, str]:
    """The tags of a step that runs the model, so that it goes to the workers that have a GPU."""
    queue = workers.model_queue()
    return {} if queue == workers.QUEUE else {"dagster-celery/queue": queue}


def executor_of_run(run: dg.DagsterRun) -> Executor:
    """What executes the steps of a run: the executor of its study's job, or that of runs that are of no job."""
    return executor_name(next((each for each in get_args(Executor) if each == run.tags.get(EXECUTED_BY)), None))
