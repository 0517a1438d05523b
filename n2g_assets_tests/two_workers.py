"""A tiny study on two workers of Celery, of which two are killed, and in one process: the same rows.

``python -m n2g_assets_tests.two_workers`` says what came of it; ``deploy/try_two_workers.sh`` runs it. The workers have
homes, temporary and working folders of their own, and share a store (a folder, then object storage), a Postgres and a
RabbitMQ that are started for them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import dagster as dg
import yaml

from n2g_assets.assets.instance import prepare_instance
from n2g_assets.assets.workers import BEGUN
from n2g_assets.core.home import Home
from n2g_assets.core.tables import TABLES
from n2g_assets.storage.files import hold_lock
from n2g_assets.storage.slices import SliceStore
from n2g_assets_tests import servers
from n2g_assets_tests.assets.studies import tiny_study
from n2g_assets_tests.storage.helpers import rows_of_all

NAME = "tiny"
N2G = [sys.executable, "-m", "n2g_assets.cli"]
AT_MOST = 600.0
"""Seconds that anything takes."""


@dataclass(frozen=True)
class Kill:
    """A step whose worker is killed while it waits for a lock that is held here."""

    step: str
    """How its key begins."""
    lock: str
    """Of the worker's home, or ``forward_pass``."""
    after: str
    """The step whose beginning the lock is taken at: earlier ones may need it."""


KILLS = (
    Kill("tiny__activation_cache.ahead[", "forward_pass", after="tiny__activation_cache.pieces"),
    Kill("tiny__evaluation.layer[01]", f"evaluation/{NAME}/1", after="tiny__neuron_graphs.plan"),
)


@dataclass(frozen=True)
class Spread:
    """What came of the run on workers."""

    seconds: float
    """The deaths included."""
    steps: int
    killed: dict[str, int]
    """By key of a step whose worker was killed, how often it was begun."""
    workers: int
    """That took steps."""
    said: str
    """By ``n2g run``."""


@dataclass(frozen=True)
class Worker:
    """A machine: home, temporary and working folders of its own."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def home(self) -> Home:
        return _own_home(self.folder)

    def hold(self, lock: str) -> AbstractContextManager[None]:
        """Hold a lock of the machine."""
        if lock != "forward_pass":
            return hold_lock(self.home.locks, lock)
        path = Path(self.folder, "tmp", *self.home.forward_pass_lock.parts[-2:])
        return hold_lock(path.parent, path.stem)


@dataclass
class Cluster:
    """The environment of all who work on a store, and where each has what is its own."""

    folder: Path
    environment: dict[str, str]
    hidden: Path
    """The home of the run, of which workers see nothing."""
    workers: dict[int, Worker] = field(default_factory=dict)
    """By number of the process."""

    def start_worker(self) -> None:
        """One more."""
        own = self.folder / f"worker{len(list(self.folder.glob('worker*')))}"
        (own / "tmp").mkdir(parents=True)
        environment = self.environment | {"TMPDIR": str(own / "tmp"), "N2G_HOME": str(_own_home(own).root)}
        with (own / "output").open("wb") as output:
            process = subprocess.Popen(
                [*_without(self.hidden), *N2G, "worker"], cwd=own, env=environment,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self.workers[process.pid] = Worker(own, process)

    @contextmanager
    def holding(self, lock: str) -> Iterator[None]:
        """Hold a lock of every machine."""
        with ExitStack() as stack:
            for worker in self.workers.values():
                stack.enter_context(worker.hold(lock))
            yield

    def kill_worker(self, pid: int) -> None:
        """With all of its processes, as a machine dies."""
        os.killpg(pid, signal.SIGKILL)
        self.workers.pop(pid).process.wait()

    def stop(self) -> None:
        for pid in list(self.workers):
            self.kill_worker(pid)


def _own_home(folder: Path) -> Home:
    return Home(folder / "home")


def _without(folder: Path) -> list[str]:
    """How a command begins that is to find a folder empty, where the system lets this process do that."""
    begins = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder)]
    able = shutil.which("unshare") and subprocess.run([*begins, "true"], capture_output=True, check=False)
    return begins if able and able.returncode == 0 else []


def run_alone(study: Path, home: Home) -> float:
    """Run a study in one process; the seconds that it took."""
    began, output = time.monotonic(), home.root.with_suffix(".txt")
    _finish(_start_run(study, output, environment_of(home)), output)
    return time.monotonic() - began


def run_at_once(study: Path, homes: Sequence[Home]) -> None:
    """Run a study on several hosts at once, which share no lock and no temporary folder."""
    with ExitStack() as stack:
        runs = []
        for home in homes:
            own = {"TMPDIR": stack.enter_context(TemporaryDirectory(prefix="n2g-host-"))}
            output = home.root.with_suffix(".txt")
            runs.append((_start_run(study, output, environment_of(home) | own), output))
            stack.callback(runs[-1][0].kill)
        for run, output in runs:
            _finish(run, output)


def run_spread(
    study: Path, home: Home, kills: Sequence[Kill], between: Callable[[int, Sequence[Worker]], object] = lambda *_: None
) -> Spread:
    """Run a study on two workers, and kill some; one starts in the place of each but the last.

    ``between`` is called after each kill, with its number and the workers that are left.
    """
    output = home.root.with_suffix(".txt")
    with ExitStack() as stack:
        environment = environment_of(home) | {
            "N2G_POSTGRES": stack.enter_context(servers.postgres()),
            "N2G_BROKER": stack.enter_context(servers.rabbitmq()),
        }
        instance = stack.enter_context(_instance(home, environment))
        cluster = Cluster(home.root.parent, environment, hidden=home.root)
        stack.callback(cluster.stop)
        for _ in range(2):
            cluster.start_worker()
        began = time.monotonic()
        run = _start_run(study, output, environment | {"N2G_EXECUTOR": "celery"})
        for number, kill in enumerate(kills):
            if number:
                cluster.start_worker()
            _worker_of(instance, kill.after, run, output)
            with cluster.holding(kill.lock):
                cluster.kill_worker(_worker_of(instance, kill.step, run, output))
            between(number, list(cluster.workers.values()))
        _finish(run, output)
        seconds = time.monotonic() - began
        begun = _begun(instance)
    killed = {step for step, _ in begun if step.startswith(tuple(kill.step for kill in kills))}
    return Spread(
        seconds,
        steps=len({step for step, _ in begun}),
        killed={step: sum(key == step for key, _ in begun) for step in sorted(killed)},
        workers=len({pid for _, pid in begun}),
        said=output.read_text("utf-8"),
    )


def environment_of(home: Home) -> dict[str, str]:
    """Of processes that work on a home: one thread each, and this code."""
    others = ("N2G_EXECUTOR", "N2G_POSTGRES", "N2G_BROKER", "N2G_MODEL_QUEUE", "N2G_STORE", "DAGSTER_HOME")
    return {name: value for name, value in os.environ.items() if name not in others} | {
        "N2G_HOME": str(home.root),
        "N2G_STORE": home.address or str(home.store),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }


def write_study(folder: Path, **changes: Any) -> Path:
    """The file of a tiny study of two layers."""
    study = tiny_study(folder, name=NAME, **{"layers": 2, **changes})
    path = folder / NAME / "defs.yaml"
    path.parent.mkdir()
    settings = study.settings.model_dump(mode="json", exclude_unset=True)
    path.write_text(yaml.safe_dump({"type": "n2g_assets.N2GStudy", "attributes": settings}), encoding="utf-8")
    return path


def compare(alone: Home, spread: Home) -> int:
    """Fails where a row of the two homes differs; how many slices they have."""
    stores = [SliceStore(home) for home in (alone, spread)]
    keys = stores[0].keys(NAME)
    assert keys == stores[1].keys(NAME)
    for table in TABLES:
        before, after = (rows_of_all(store, table, NAME) for store in stores)
        assert before.equals(after), f"the rows of {table} differ"
    return len(keys)


def _start_run(study: Path, output: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with output.open("wb") as file:
        return subprocess.Popen(
            [*N2G, "run", str(study)], env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )


def _finish(run: subprocess.Popen[bytes], output: Path) -> None:
    assert run.wait(AT_MOST) == 0, output.read_text("utf-8")


@contextmanager
def _instance(home: Home, environment: Mapping[str, str]) -> Iterator[dg.DagsterInstance]:
    with mock.patch.dict(os.environ, environment):
        prepare_instance(home)
        with dg.DagsterInstance.get() as instance:
            yield instance


def _worker_of(instance: dg.DagsterInstance, step: str, run: subprocess.Popen[bytes], output: Path) -> int:
    """The process that has begun a step, once one has."""
    until = time.monotonic() + AT_MOST
    while True:
        for key, pid in _begun(instance):
            if key.startswith(step):
                return pid
        assert run.poll() is None and time.monotonic() < until, output.read_text("utf-8")  # noqa: PT018
        time.sleep(0.2)


def _begun(instance: dg.DagsterInstance) -> Sequence[tuple[str, int]]:
    """The steps of all runs as workers took them: their keys, and the workers' processes."""
    found = []
    for run in instance.get_runs():
        for entry in instance.all_logs(run.run_id):
            event = entry.dagster_event
            about = getattr(event and event.event_specific_data, "metadata", {})
            if BEGUN in about:
                name = str(about[BEGUN].value)  # n2g-<process>-<any>@<host>
                found.append((event.step_key, int(name.split("-")[1])))
    return found


def main() -> int:
    """Run it in one process, and on workers that share a folder and object storage; say what came of it."""
    if reason := servers.missing(servers.FOR_CELERY):
        print(f"This needs RabbitMQ, Postgres and n2g_assets[dev]. {reason}.", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that all that is started ends
    with TemporaryDirectory(prefix="n2g-two-workers-") as folder, servers.s3() as s3:
        study, alone = write_study(Path(folder)), Home(Path(folder, "alone"))
        print(f"In one process:  {run_alone(study, alone):.0f} s", flush=True)
        shared = Home(Path(folder, "shared", "run"), Path(folder, "shared", "store"))
        _say("a folder", run_spread(study, shared, KILLS), compare(alone, shared))
        with mock.patch.dict(os.environ, s3.environment):
            remote = remote_home(Path(folder, "remote", "run"), s3)
            _say("object storage", run_spread(study, remote, KILLS, partial(trouble, s3)), compare(alone, remote))
    return 0


def remote_home(root: Path, s3: servers.S3) -> Home:
    """A home whose store is there."""
    with mock.patch.dict(os.environ, {"N2G_HOME": str(root), "N2G_STORE": s3.address}):
        return Home.from_environment()


def trouble(s3: servers.S3, number: int, workers: Sequence[Worker]) -> None:
    """Object storage is away for 20 seconds after the first kill, and the copies of a machine are lost."""
    if number == 0:
        with s3.stopped():
            time.sleep(20)
        for worker in workers:
            shutil.rmtree(worker.home.root / "copies", ignore_errors=True)


def _say(shared: str, found: Spread, slices: int) -> None:
    print(f"On workers that share {shared}: {found.seconds:.0f} s, {found.steps} steps on {found.workers} workers")
    for step in (step for step, times in found.killed.items() if times > 1):
        print(f"  Killed in {step}, which another worker did.")
    print(f"  Equal rows in all {slices} slices.", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
