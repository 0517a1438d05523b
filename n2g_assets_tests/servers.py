"""RabbitMQ, Postgres and Slurm of Debian's packages, and moto's S3: on free ports, with data in temporary folders.

Postgres refuses to run as root; where root starts it, it runs as the user that its package makes.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""The server itself: what stands on the path wants to be root or the user of its package."""
STARTS_WITHIN = 120.0
"""Seconds."""
FOR_CELERY = ("rabbitmq-server", "postgresql", "dagster_celery", "dagster_postgres")
FOR_SLURM = ("slurmctld", "slurmd", "slurm-client", "munge", "postgresql", "dagster_postgres")
"""The packages, Debian's and Python's."""


def missing(packages: Sequence[str]) -> str | None:
    """Which of these packages are not installed; None where all are."""
    there = {
        "rabbitmq-server": RABBITMQ.exists() and shutil.which("epmd"),
        "postgresql": _postgres_programs(),
        "slurmctld": shutil.which("slurmctld"),
        "slurmd": shutil.which("slurmd"),
        "slurm-client": shutil.which("sbatch"),
        "munge": shutil.which("munged"),
        "dagster_celery": find_spec("dagster_celery"),
        "dagster_postgres": find_spec("dagster_postgres"),
    }
    lacking = [name for name in packages if not there[name]]
    return f"{', '.join(lacking)}: not installed" if lacking else None


def need_servers() -> None:
    """Skips but where ``make machines`` asks for it; there it fails if something is not installed."""
    if not os.environ.get("N2G_NEED_SERVERS"):
        pytest.skip("make machines runs it, with RabbitMQ and Postgres")
    if reason := missing(FOR_CELERY):
        pytest.fail(reason)


@contextmanager
def rabbitmq() -> Iterator[str]:
    """The address of a broker."""
    with TemporaryDirectory(prefix="n2g-rabbitmq-") as folder:
        yield from _rabbitmq(Path(folder))


def _rabbitmq(folder: Path) -> Iterator[str]:
    port, inner, names = (_free_port() for _ in range(3))
    (folder / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\n", encoding="utf-8")
    (folder / "plugins").write_text("[].\n", encoding="utf-8")
    environment = os.environ | {
        "HOME": str(folder),  # of the cookie
        "ERL_EPMD_PORT": str(names),
        "RABBITMQ_NODENAME": f"n2g{port}@localhost",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(inner),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",  # a scheduler that does not wait busily
    }
    log = folder / "output"
    try:
        with _process([RABBITMQ], log, env=environment):
            _wait(lambda: "completed with" in log.read_text("utf-8", "replace"), log)
            yield f"pyamqp://guest:guest@127.0.0.1:{port}//"
    finally:
        subprocess.run(["epmd", "-kill"], env=environment, capture_output=True, check=False)


@contextmanager
def postgres() -> Iterator[str]:
    """The address of an empty database."""
    with TemporaryDirectory(prefix="n2g-postgres-") as folder:
        yield from _postgres(Path(folder))


def _postgres(folder: Path) -> Iterator[str]:
    programs, data, log, port = _postgres_programs()[-1], folder / "data", folder / "output", _free_port()
    user: Mapping[str, Any] = {}
    if os.geteuid() == 0:
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        shutil.chown(folder, "postgres")
    initdb = [programs / "initdb", "--pgdata", data, "--username=n2g", "--auth=trust", "--no-sync", "--encoding=UTF8"]
    subprocess.run(initdb, capture_output=True, check=True, cwd=folder, **user)
    options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
    command = [programs / "postgres", "-D", data, *(f"--{name}={value}" for name, value in options.items())]
    with _process(command, log, cwd=folder, **user):
        _wait(lambda: "ready to accept connections" in log.read_text("utf-8", "replace"), log)
        yield f"postgresql+psycopg2://n2g@127.0.0.1:{port}/postgres"


@dataclass
class S3:
    """Object storage that keeps its objects in memory, and can be out of reach for a while."""

    address: str
    """Of a bucket of its own."""
    environment: dict[str, str]
    """What its users need to be told besides."""
    process: subprocess.Popen[bytes]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It does not answer meanwhile."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def s3() -> Iterator[S3]:
    """Object storage with an empty bucket."""
    with TemporaryDirectory(prefix="n2g-s3-") as folder:
        log, port = Path(folder, "output"), _free_port()
        command = [sys.executable, "-m", "moto.server", "--port", str(port)]
        with _process(command, log) as process:
            _wait(lambda: "Running on" in log.read_text("utf-8", "replace"), log)
            bucket = urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")
            urllib.request.urlopen(bucket).close()
            environment = {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "any",
                "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1",
            }  # fmt: skip
            yield S3("s3://bucket/n2g", environment, process)


@contextmanager
def slurm() -> Iterator[dict[str, str]]:
    """The variables by which commands find a cluster: one node that claims eight cores, 128 GB and a GPU."""
    with TemporaryDirectory(prefix="n2g-slurm-") as folder:
        yield from _slurm(Path(folder))


def _slurm(folder: Path) -> Iterator[dict[str, str]]:
    host, user = socket.gethostname().partition(".")[0], getpass.getuser()
    munge = {name: folder / f"munge.{name}" for name in ("key-file", "socket", "pid-file", "seed-file", "log-file")}
    munge["key-file"].write_bytes(secrets.token_bytes(128))
    munge["key-file"].chmod(0o400)
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n", encoding="utf-8")
    settings = {
        "ClusterName": "n2g",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": _free_port(),
        "SlurmdPort": _free_port(),
        "SlurmUser": user,
        "SlurmdUser": user,
        "AuthInfo": f"socket={munge['socket']}",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "GresTypes": "gpu",
        "SlurmdParameters": "config_overrides",  # the node has what is claimed for it
        "NodeName": f"node NodeHostname={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=128000 Gres=gpu:1",
        "PartitionName": "all Nodes=ALL Default=YES",
    }
    configuration = folder / "slurm.conf"
    configuration.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), encoding="utf-8")
    environment = os.environ | {"SLURM_CONF": str(configuration)}
    options = ["--foreground", "--force", *(f"--{name}={path}" for name, path in munge.items())]
    log = folder / "output"
    with ExitStack() as stack:
        stack.enter_context(_process(["munged", *options], log))
        _wait(munge["socket"].exists, log)
        for name, command in {"slurmctld": ["slurmctld", "-D"], "slurmd": ["slurmd", "-D", "-N", "node"]}.items():
            stack.enter_context(_process(command, folder / f"{name}.output", env=environment))
        idle = ["sinfo", "--noheader", "--states=idle", "--format=%N"]
        _wait(
            lambda: subprocess.run(idle, env=environment, capture_output=True, check=False).stdout.strip() == b"node",
            folder / "slurmd.output",
        )
        yield {"SLURM_CONF": str(configuration)}


def _postgres_programs() -> list[Path]:
    return sorted(path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres"))


@contextmanager
def _process(command: list[Any], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, **options
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)  # RabbitMQ's script passes it on slowly, and has nothing to keep
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(ready: Callable[[], bool], log: Path) -> None:
    until = time.monotonic() + STARTS_WITHIN
    while not ready():
        assert time.monotonic() < until, log.read_text("utf-8", "replace")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
