"""What ``deploy`` starts is there: scripts that a shell reads, commands of ``n2g``, variables that are read."""

import subprocess
from pathlib import Path

import pytest
import yaml

from n2g_assets.assets.executors import EXECUTOR
from n2g_assets.assets.instance import POSTGRES
from n2g_assets.assets.workers import BROKER, MODEL_QUEUE
from n2g_assets.cli.commands import n2g

DEPLOY = Path(__file__).parents[1] / "deploy"
SCRIPTS = sorted(path for path in DEPLOY.rglob("*") if path.suffix in {".sh", ".sbatch"})


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_shell_reads_every_script(script):
    subprocess.run(["bash", "-n", script], check=True)


def test_compose_starts_what_there_is():
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    ours = {name: service for name, service in services.items() if service["image"] == "n2g_assets"}
    assert set(ours) == {"init", "web", "daemon", "cpu", "gpu"}
    for service in ours.values():
        program, command, *_ = service["command"].split()
        assert program in {"dagster-webserver", "dagster-daemon"} or command in n2g.commands
        assert set(service["environment"]) == {EXECUTOR, MODEL_QUEUE, BROKER, POSTGRES}
        assert all(name in services for name in service["depends_on"])
