"""A tiny study by the scripts of ``deploy/slurm`` on a cluster of one node, and in one process: the same rows.

``python -m n2g_assets_tests.on_slurm`` says what is typed and what comes of it; ``deploy/try_slurm.sh`` runs it.

1. The three jobs are submitted. The task of one layer is killed by ``kill -9`` while it waits for a lock that is held
   here; Slurm gives up the job that hangs on it.
2. The same is submitted again, and ends well.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from n2g_assets.core.home import Home
from n2g_assets.storage.files import hold_lock
from n2g_assets_tests import servers
from n2g_assets_tests.two_workers import AT_MOST, NAME, compare, environment_of, run_alone, write_study

PROJECT = Path(__file__).parents[1]
SMALL = "--cpus-per-task=1 --mem=4G"
"""In place of what the scripts ask for."""
SUBMIT = f"""\
harvest=$(sbatch --parsable {SMALL} deploy/slurm/harvest.sbatch)
layers=$(sbatch --parsable {SMALL} --array=0-1 --dependency=afterok:$harvest deploy/slurm/layers.sbatch)
publish=$(sbatch --parsable {SMALL} --dependency=afterok:$layers deploy/slurm/publish.sbatch)"""
KILLED = f"evaluation/{NAME}/1"
"""The lock of a stage of layer 1."""
DONE = "grep -ohE '[a-z_]+, layer 01: [^;]*' $OUTPUT/n2g-layers-"
DEFINITIONS = f"""\
from pathlib import Path

from n2g_assets.definitions import build_defs
from n2g_assets.study import read_study

defs = build_defs([read_study(Path(__file__).with_name("{NAME}") / "defs.yaml")])
"""


def run_on_slurm(study: Path, home: Home) -> None:
    """Run a study of two layers by the three scripts, kill a task, and submit them again."""
    folder = home.root.parent
    (folder / "tiny_definitions.py").write_text(DEFINITIONS, encoding="utf-8")
    with servers.postgres() as postgres, servers.slurm() as cluster:
        environment = environment_of(home) | cluster
        environment |= {"N2G_POSTGRES": postgres, "STUDY": NAME, "LAYERS": "00...01", "DEFINITIONS": "tiny_definitions"}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
        environment["PYTHONPATH"] = os.pathsep.join([str(study.parents[1]), environment["PYTHONPATH"]])
        environment |= {"SBATCH_OUTPUT": str(folder / "%x-%A_%a.out"), "OUTPUT": str(folder)}
        layers, publish = _submit(environment)
        task = f"{layers}_1"
        with hold_lock(home.locks, KILLED):
            _wait_until(lambda: f"Waiting for {KILLED}" in _said(folder, task), folder)
            _type("squeue --format='%.6i %.12j %.2t %R' --sort=i", environment)
            _type(f"scancel --signal=KILL --full {task}  # kill -9", environment)
            _wait_until(lambda: not _is_queued(publish, environment), folder)
        _type(f"scontrol show job {publish} | grep -Eo '(JobState|Reason)=[^ ]*'", environment)
        _type(f"{DONE}{task}.out", environment)
        layers, publish = _submit(environment)
        _wait_until(lambda: not _is_queued(publish, environment), folder)
        _type(f"scontrol show job {publish} | grep -Eo '(JobState|ExitCode)=[^ ]*'", environment)
        _type(f"{DONE}{layers}_1.out", environment)


def _submit(environment: Mapping[str, str]) -> tuple[str, str]:
    """The numbers of the jobs of the layers and of the publication."""
    _harvest, layers, publish = _type(f"{SUBMIT}\necho $harvest $layers $publish", environment).split()
    return layers, publish


def _type(command: str, environment: Mapping[str, str]) -> str:
    """What a command says in the project's folder; it is shown as on a terminal."""
    said = subprocess.run(
        ["bash", "-ec", command], env=environment, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    print(*(f"$ {line}" for line in command.splitlines()), sep="\n")
    print(said, end="")
    return said


def _is_queued(job: str, environment: Mapping[str, str]) -> bool:
    asked = ["squeue", "--noheader", "--format=%i"]
    return job in subprocess.run(asked, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.split()


def _said(folder: Path, task: str) -> str:
    """The output of a task of the layers; none before it starts."""
    return "".join(path.read_text("utf-8", "replace") for path in folder.glob(f"n2g-layers-{task}.out"))


def _wait_until(ready: Callable[[], bool], folder: Path) -> None:
    until = time.monotonic() + AT_MOST
    while not ready():
        if time.monotonic() > until:
            raise TimeoutError("\n".join(path.read_text("utf-8", "replace") for path in sorted(folder.glob("*.out"))))
        time.sleep(1)


def main() -> int:
    """Run both, and say what came of it."""
    if reason := servers.missing(servers.FOR_SLURM):
        print(f"This needs Slurm, Postgres and n2g_assets[celery]. {reason}.", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that all that is started ends
    with TemporaryDirectory(prefix="n2g-on-slurm-") as folder:
        study, alone, spread = write_study(Path(folder)), Home(Path(folder, "alone")), Home(Path(folder, "spread"))
        run_on_slurm(study, spread)
        run_alone(study, alone)
        print(f"Equal rows in all {compare(alone, spread)} slices.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
