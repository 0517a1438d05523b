"""Whether the process of a run lives: what Dagster learns of one that was killed or crashed, and what is said of it.

1. The process of a run holds the lock of a file that is named after the run and its machine, in ``DAGSTER_HOME``, and
   removes the file when the run ends. A file whose lock is free is that of a run that died: by ``kill -9``, for want of
   memory, with its machine. The files of other machines, whose locks may not be seen, are left to those.
2. Dagster asks the launcher below whether started runs live, and marks those that died as failed; without that they
   would hold their places in the queue for good. Every start of ``n2g`` does the same, where no daemon runs.
3. A shell that waits for the process says on its stderr that it died, and mostly of what: a process whose memory is
   limited often ends by a signal, without a word of its own.
"""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus  # what a launcher of one's own answers with
from filelock import FileLock, Timeout

DIED = (
    "The process of this run was killed or crashed, mostly because it ran out of memory: give it more, or lower "
    "harvest.batch_tokens and method.units_per_block; what was finished is kept, and the next run goes on from there."
)
_SAY_UNLESS_ENDED = 'trap "" INT TERM; read -r ended || echo "$0" >&2'
"""The other end of the pipe closes with the process; before that it gets a line where the run ended by itself."""


@contextmanager
def lives(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Shows as long as the block goes on that the run's process lives, and says so if the process dies in it."""
    lock = FileLock(_file(instance, run_id), thread_local=False)
    watcher = subprocess.Popen(["sh", "-c", _SAY_UNLESS_ENDED, DIED], stdin=subprocess.PIPE)
    lock.acquire(timeout=10)
    try:
        yield
    finally:
        _file(instance, run_id).unlink(missing_ok=True)
        lock.release()
        watcher.communicate(b"ended\n")


def died(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether the run's process died; not where it ended, or where the run is none of this package's."""
    if not _file(instance, run_id).is_file():
        return False
    try:
        with FileLock(_file(instance, run_id), timeout=0):
            return True
    except Timeout:
        return False


def fail_dead_runs(instance: dg.DagsterInstance) -> None:
    """Mark the runs whose process died as failed."""
    for file in _folder(instance).glob(_file(instance, "*").name):
        run_id = file.name.partition("@")[0]
        if died(instance, run_id):
            run = instance.get_run_by_id(run_id)
            if run is not None and not run.is_finished:
                instance.report_run_failed(run, DIED)
            file.unlink(missing_ok=True)


class RunLauncher(dg.DefaultRunLauncher):
    """Dagster's own, which also tells the daemon whether a run's process lives, whoever started it."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Yes."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether its process died."""
        if died(self._instance, run.run_id):
            return CheckRunHealthResult(WorkerStatus.FAILED, DIED)
        return CheckRunHealthResult(WorkerStatus.RUNNING)


def _folder(instance: dg.DagsterInstance) -> Path:
    return Path(instance.root_directory) / "alive"


def _file(instance: dg.DagsterInstance, run_id: str) -> Path:
    return _folder(instance) / f"{run_id}@{socket.gethostname()}.lock"
