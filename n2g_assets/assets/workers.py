"""The workers of Celery: what they and a run that hands steps to them agree on, and one of them.

1. A worker takes one step at a time, and says that it is done when it has ended. RabbitMQ hands the step of a worker
   that dies to another one; a broker that does not see a death, such as Redis, lets the run wait for hours.
2. All that they share is the store, Dagster's database in Postgres, and the folders of the studies.
"""

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from n2g_assets.core.errors import SettingsError, short_reason

if TYPE_CHECKING:
    from celery import Celery

BROKER, MODEL_QUEUE = "N2G_BROKER", "N2G_MODEL_QUEUE"
"""Variables: the broker's address, and the queue of the steps that run the model."""
BROKER_HERE = "pyamqp://guest@localhost//"
"""The broker where none is named."""
QUEUE = "dagster"
"""Of the steps that run no model, and of all where no other is named."""

BEGUN = "Celery worker"
"""What the event of a step that a worker has taken says of it."""

logger = logging.getLogger(__name__)

_SETTINGS = {
    "task_acks_late": True,  # a step is done when it has ended, not when it was taken
    "task_reject_on_worker_lost": True,  # and goes to another worker if its own dies
    "worker_prefetch_multiplier": 1,
    "worker_cancel_long_running_tasks_on_connection_loss": True,
    "worker_hijack_root_logger": False,
    "broker_connection_retry_on_startup": True,
}
_SECONDS = 5
"""In which a broker and its workers answer."""


def executor_config() -> dict[str, Any]:
    """Of Dagster's executor for Celery."""
    return {"broker": _broker(), "config_source": _SETTINGS}


def model_queue() -> str:
    """The queue of the steps that run the model."""
    return os.environ.get(MODEL_QUEUE, "").strip() or QUEUE


def queues() -> list[str]:
    """All that steps go to."""
    return list(dict.fromkeys((QUEUE, model_queue())))


def check_installed() -> None:
    """Check that the packages are there.

    Raises:
        SettingsError: they are not.
    """
    lacking = [name for name in ("dagster-celery", "dagster-postgres") if find_spec(name.replace("-", "_")) is None]
    if lacking:
        raise SettingsError(
            f"The executor celery needs the package {' and '.join(lacking)}: install n2g_assets[celery], or choose the "
            "executor in_process."
        )


def workers_by_queue() -> dict[str, list[str]]:
    """The workers that listen, for each queue.

    Raises:
        SettingsError: the broker does not answer.
    """
    queues_of = _answering().control.inspect(timeout=_SECONDS).active_queues() or {}
    found: dict[str, list[str]] = {}
    for worker, queues in sorted(queues_of.items()):
        for queue in queues:
            found.setdefault(queue["name"], []).append(worker)
    return found


def work(of: Sequence[str]) -> int:
    """Be a worker of some queues until a signal ends it, and log the steps that it takes; its exit code.

    Raises:
        SettingsError: the broker does not answer.
    """
    from celery.signals import task_postrun, task_prerun
    from dagster_celery.tasks import create_task

    def taken(kwargs: Mapping[str, Any], **_: Any) -> None:
        logger.info("Takes %s", _steps_of(kwargs))

    def ended(kwargs: Mapping[str, Any], **_: Any) -> None:
        logger.info("Ended %s", _steps_of(kwargs))

    task_prerun.connect(taken)
    task_postrun.connect(ended)
    for name in ("celery.worker.strategy", "celery.app.trace"):  # which say the same, with all that a step gave
        logging.getLogger(name).setLevel(logging.WARNING)
    app = _answering()
    create_task(app)
    worker = app.Worker(
        hostname=f"n2g-{os.getpid()}-{uuid4().hex[:4]}@{socket.gethostname()}", queues=list(of), concurrency=1,
        pool="prefork", loglevel="INFO", optimization="fair", quiet=True,
        without_gossip=True, without_mingle=True,
    )  # fmt: skip
    worker.start()
    return worker.exitcode or 0


def _steps_of(kwargs: Mapping[str, Any]) -> str:
    return ", ".join(kwargs["execute_step_args_packed"]["step_keys_to_execute"])


def _answering() -> "Celery":
    """What talks to the broker, once it has answered."""
    from dagster_celery.executor import CeleryExecutor
    from dagster_celery.make_app import make_app

    for name in ("BROKER_URL", "BROKER_READ_URL", "BROKER_WRITE_URL", "RESULT_BACKEND"):
        os.environ.pop(f"CELERY_{name}", None)  # which Celery would take before what it is told
    app = make_app(CeleryExecutor.for_cli(**executor_config()).app_args())
    try:
        with app.connection_for_write(connect_timeout=_SECONDS) as connection:
            connection.ensure_connection(max_retries=1, timeout=_SECONDS)
    except Exception as error:  # of the transport, each with errors of its own
        raise SettingsError(
            f"The broker at {_without_password(_broker())} does not answer ({short_reason(error)}): start RabbitMQ, or "
            f"set {BROKER} to its address, such as pyamqp://user:password@host:5672//."
        ) from error
    return app


def _broker() -> str:
    return os.environ.get(BROKER, "").strip() or BROKER_HERE


def _without_password(address: str) -> str:
    """What follows the user and the password, however the address is written."""
    return address.rpartition("@")[2].removeprefix("pyamqp://").rstrip("/")
