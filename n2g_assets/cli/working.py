"""``n2g worker``, and what ``n2g run`` says of a run whose steps workers take."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import dagster as dg

from n2g_assets.assets import workers
from n2g_assets.assets.executors import EXECUTOR, check_shared
from n2g_assets.cli.output import say
from n2g_assets.core.errors import SettingsError

_FOLLOWED = "n2g/followed"
"""Run tag: by which a command knows its own run."""
_SECONDS_BETWEEN_LOOKS = 2


def work(queues: str | None) -> int:
    """Be a worker of some queues, of all by default, until a signal ends it; its exit code.

    Raises:
        SettingsError: what it needs is not there, or a queue has no name.
    """
    named = workers.queues() if queues is None else [each.strip() for each in queues.split(",")]
    if not all(named):
        raise SettingsError(f"--queues {queues} has an empty name: write names with commas between them.")
    os.environ[EXECUTOR] = "celery"  # so that the studies that name no executor have the steps that it is given
    workers.check_installed()
    with dg.DagsterInstance.get() as instance:
        check_shared(instance)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    say(f"Working for the queue{'s'[: len(named) > 1]} {', '.join(named)} (Ctrl-C ends it after its step).")
    return workers.work(named)


def waiting_for() -> Iterator[str]:
    """Of each queue that a run needs, who listens to it.

    Raises:
        SettingsError: the broker does not answer.
    """
    listening = workers.workers_by_queue()
    for queue in workers.queues():
        here = listening.get(queue, [])
        if here:
            yield f"Queue {queue}: {', '.join(here)}."
        else:
            yield f"Queue {queue}: nobody listens yet, and its steps wait; n2g worker --queues {queue} starts a worker."


def followed(execute: Callable[..., Any], instance: dg.DagsterInstance, *, tags: dict[str, str], **options: Any) -> Any:
    """What executing a run gives; meanwhile what its steps log on other machines is said here."""
    mark = uuid4().hex
    with _following(instance, mark):
        return execute(tags=tags | {_FOLLOWED: mark}, **options)


@contextmanager
def _following(instance: dg.DagsterInstance, mark: str) -> Iterator[None]:
    ended = Event()

    def follow() -> None:
        runs: Sequence[dg.DagsterRun] = []
        cursor, last = None, False
        while not last:
            last = ended.wait(_SECONDS_BETWEEN_LOOKS)
            runs = runs or instance.get_runs(dg.RunsFilter(tags={_FOLLOWED: mark}), limit=1)
            for run in runs:
                found = instance.get_records_for_run(run.run_id, cursor=cursor)
                cursor = found.cursor
                for entry in (record.event_log_entry for record in found.records):
                    if not entry.is_dagster_event and int(entry.level) >= logging.INFO:
                        say(entry.user_message)

    thread = Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(30)
