"""Where the steps of a run execute: in its own process, in processes of their own, or on the workers of Celery.

A study's setting ``executor`` or ``$N2G_EXECUTOR`` chooses; the steps and what they compute are the same. Celery needs
the package ``dagster-celery``, and a broker that hands the task of a killed worker to another one: RabbitMQ.
"""

import os
from importlib.util import find_spec
from typing import get_args

import dagster as dg

from n2g_assets.core.errors import SettingsError
from n2g_assets.core.settings import Executor

EXECUTOR, BROKER, MODEL_QUEUE = "N2G_EXECUTOR", "N2G_BROKER", "N2G_MODEL_QUEUE"
"""Variables: the executor of studies that name none, Celery's broker, and the queue of steps that run the model."""
BROKER_HERE = "pyamqp://guest@localhost//"
"""The broker where none is named."""

EXECUTED_BY = "n2g/executor"
"""Run tag of a study's job: its executor."""

CELERY_SETTINGS = {
    "task_acks_late": True,  # a task is done when it has ended, not when it was taken
    "task_reject_on_worker_lost": True,  # and goes to another worker if its own dies
    "worker_prefetch_multiplier": 1,
    "worker_cancel_long_running_tasks_on_connection_loss": True,
    "broker_connection_retry_on_startup": True,
}
"""What Celery's workers and the run agree on, so that a killed worker's step goes on elsewhere."""


def executor_name(named: Executor | None) -> Executor:
    """The executor that a study names, or else the variable.

    Raises:
        SettingsError: the variable names none, or the one that is named is not installed.
    """
    name = named or os.environ.get(EXECUTOR, "").strip() or "in_process"
    known: tuple[Executor, ...] = get_args(Executor)
    if name not in known:
        raise SettingsError(f"{EXECUTOR} ({name}) is no executor: set it to one of {', '.join(known)}, or unset it.")
    if name == "celery" and find_spec("dagster_celery") is None:
        raise SettingsError(
            "The executor celery needs the package dagster-celery: install n2g_assets[celery], or choose in_process."
        )
    return next(each for each in known if each == name)


def executor_of(named: Executor | None) -> dg.ExecutorDefinition:
    """Dagster's executor of this name; fails as ``executor_name``."""
    name = executor_name(named)
    if name == "in_process":
        return dg.in_process_executor
    if name == "multiprocess":
        return dg.multiprocess_executor
    from dagster_celery import celery_executor

    config = {"broker": os.environ.get(BROKER, "").strip() or BROKER_HERE, "config_source": CELERY_SETTINGS}
    return dg.configured(celery_executor, name="celery")(config)


def model_queue() -> dict[str, str]:
    """The tags of a step that runs the model, so that it goes to the workers that have a GPU."""
    queue = os.environ.get(MODEL_QUEUE, "").strip()
    return {"dagster-celery/queue": queue} if queue else {}


def executor_of_run(run: dg.DagsterRun) -> Executor:
    """What executes the steps of a run: the executor of its study's job, or that of runs that are of no job."""
    return executor_name(next((each for each in get_args(Executor) if each == run.tags.get(EXECUTED_BY)), None))
