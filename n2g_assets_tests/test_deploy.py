"""What ``deploy`` starts is there: scripts that a shell reads, commands with their options, variables that are read."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from dagster._cli import create_dagster_cli
from dagster._config import process_config
from dagster._core.instance.config import dagster_instance_config_schema
from dagster._daemon.cli import create_dagster_daemon_cli
from dagster_webserver.cli import create_dagster_webserver_cli

from n2g_assets.assets.executors import EXECUTOR, executor_of, model_queue
from n2g_assets.assets.instance import POSTGRES
from n2g_assets.assets.workers import BROKER, MODEL_QUEUE
from n2g_assets.cli.commands import n2g

PROJECT = Path(__file__).parents[1]
DEPLOY = PROJECT / "deploy"
SCRIPTS = sorted(path for path in DEPLOY.rglob("*") if path.suffix in {".sh", ".sbatch"})
PROGRAMS: dict[str, click.Command] = {
    "n2g": n2g,
    "dagster": create_dagster_cli(),
    "dagster-daemon": create_dagster_daemon_cli(),
    "dagster-webserver": create_dagster_webserver_cli(),
}
SECRETS = {BROKER: "pyamqp://n2g:word@n2g-rabbitmq:5672//", POSTGRES: "postgresql+psycopg2://n2g:word@host/dagster"}


def check_command(line: str) -> None:
    """Fails where a program has no such command, or that no such option; nothing is done."""
    program, *arguments = shlex.split(line)
    command = PROGRAMS[program]
    while True:
        context = command.make_context(command.name, arguments)
        if not isinstance(command, click.Group):
            return
        _, found, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None, line
        command = found


def read(name: str) -> list[dict[str, Any]]:
    """The documents of a file of YAML."""
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_shell_reads_every_script(script):
    subprocess.run(["bash", "-n", script], check=True)


def test_every_variable_that_is_set_is_one_that_something_reads():
    code = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "n2g_assets").rglob("*.py"))
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            named = set(re.findall(r"\bN2G_[A-Z_]+", text))
            assert {name for name in named if f'"{name}"' not in code} <= {"N2G_PASSWORD"}, path.name
    assert len(re.findall(r"\$\{?N2G_PASSWORD", (DEPLOY / "compose" / "compose.yaml").read_text(encoding="utf-8"))) > 3


@pytest.mark.parametrize("line", ["n2g worker --queue gpu", "n2g work", "dagster asset materialise"])
def test_a_command_that_is_none_is_found(line):
    with pytest.raises(click.UsageError):
        check_command(line)


# -------------------------------------------------------------------------------------------- Compose
def test_compose_starts_what_there_is():
    (file,) = read("compose/compose.yaml")
    services = file["services"]
    assert {"postgres", "rabbitmq"} < set(services)
    ours = {name: service for name, service in services.items() if service["image"] == "n2g_assets"}
    assert set(ours) == {"init", "web", "daemon", "cpu", "gpu"}
    for service in ours.values():
        check_command(service["command"].replace("${N2G_MODEL_QUEUE:-gpu}", "gpu"))
        assert set(service["environment"]) == {EXECUTOR, MODEL_QUEUE, BROKER, POSTGRES}
        assert all(name in services for name in service["depends_on"])
        assert (DEPLOY / "compose" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert ours["gpu"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    used = {volume.partition(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert used == set(file["volumes"])


def test_the_image_is_made_of_what_there_is():
    steps = (DEPLOY / "compose" / "Dockerfile").read_text(encoding="utf-8")
    extras = re.findall(r"^(\w+) = \[", (PROJECT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.search(r"^ARG EXTRA=(\w+)$", steps, re.MULTILINE)[1] in extras
    assert (PROJECT / re.search(r"--constraint (\S+)", steps)[1]).is_file()
    assert {".git/", ".n2g/", ".venv/"} <= set((DEPLOY / "compose" / "Dockerfile.dockerignore").read_text().split())


# -------------------------------------------------------------------------------------------- Kubernetes
def test_the_workers_of_kubernetes_are_those_that_a_run_hands_steps_to(monkeypatch):
    documents = {(each["kind"], each["metadata"]["name"]): each for each in read("k8s/n2g.yaml")}
    variables = documents["ConfigMap", "n2g"]["data"]
    pods = {
        name: each["spec"]["template"]["spec"]
        for (kind, name), each in documents.items()
        if kind in {"Deployment", "Job"}
    }
    assert set(pods) == {"n2g-model", "n2g-cpu", "n2g-gpu"}
    for pod in pods.values():
        (container,) = pod["containers"]
        assert container["volumeMounts"] == [{"name": "home", "mountPath": variables["N2G_HOME"]}]
        assert pod["volumes"] == [{"name": "home", "persistentVolumeClaim": {"claimName": "n2g"}}]
        assert container["image"] == "n2g_assets:latest"
    assert ("PersistentVolumeClaim", "n2g") in documents
    listens = {name: pods[name]["containers"][0]["command"] for name in ("n2g-cpu", "n2g-gpu")}
    for name, command in listens.items():
        check_command(shlex.join(command))
        (container,) = pods[name]["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": "n2g"}}, {"secretRef": {"name": "n2g"}}]
        assert documents["Deployment", name]["spec"]["template"]["metadata"]["labels"] == {"app": name}
        assert documents["Deployment", name]["spec"]["selector"]["matchLabels"] == {"app": name}
    for name, value in (variables | SECRETS).items():
        monkeypatch.setenv(name, value)
    assert model_queue() == {"dagster-celery/queue": listens["n2g-gpu"][-1]}
    assert listens["n2g-cpu"][-1] == "dagster"
    assert pods["n2g-gpu"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_the_job_for_the_model_materializes_it_alone_into_the_store_of_the_workers():
    documents = {each["kind"]: each for each in read("k8s/n2g.yaml")}
    (container,) = documents["Job"]["spec"]["template"]["spec"]["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables["N2G_STORE"] == documents["ConfigMap"]["data"]["N2G_HOME"]
    assert not {EXECUTOR, POSTGRES} & variables.keys()
    assert "envFrom" not in container
    prepare, materialize = container["args"][0].splitlines()
    assert prepare == 'eval "$(n2g init)"'
    said = subprocess.run(
        ["bash", "-ec", f"printf '%q ' {materialize}"], env=variables | {"PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE, text=True, check=True,
    ).stdout  # fmt: skip
    check_command(said)
    assert shlex.split(said)[-2:] == ["--select", 'key:"demo/subject_model"']


def test_the_executor_of_a_run_on_kubernetes_has_a_configuration_that_dagster_takes(monkeypatch):
    celery = pytest.importorskip("dagster_celery")
    (variables,) = (each["data"] for each in read("k8s/n2g.yaml") if each["kind"] == "ConfigMap")
    for name, value in (variables | SECRETS).items():
        monkeypatch.setenv(name, value)
    executor = executor_of(None)
    assert executor.name == "celery"
    made = executor.config_schema.resolve_config({}).value  # type: ignore[attr-defined]
    assert made["config"]["broker"] == SECRETS[BROKER]
    assert made["config"]["config_source"]["task_acks_late"] is True
    checked = process_config(celery.celery_executor.config_schema.config_type, made["config"])
    assert checked.success, checked.errors


def test_the_values_of_the_chart_name_what_stands_beside_it():
    (values,) = read("k8s/values.yaml")
    documents = {(each["kind"], each["metadata"]["name"]): each for each in read("k8s/n2g.yaml")}
    home = documents["ConfigMap", "n2g"]["data"]["N2G_HOME"]
    (code,) = values["dagster-user-deployments"]["deployments"]
    check_command(shlex.join(["dagster", "api", "grpc", "--port", str(code["port"]), *code["dagsterApiGrpcArgs"]]))
    assert code["envConfigMaps"] == code["envSecrets"] == [{"name": "n2g"}]
    assert code["volumes"] == [{"name": "home", "persistentVolumeClaim": {"claimName": "n2g"}}]
    assert code["volumeMounts"] == [{"name": "home", "mountPath": home}]
    assert code["image"]["repository"] == "n2g_assets"
    launcher = values["runLauncher"]
    assert launcher["type"] == "K8sRunLauncher"
    own = launcher["config"]["k8sRunLauncher"]
    assert [each["name"] for each in own["volumes"]] == [each["name"] for each in own["volumeMounts"]]


def test_dagster_takes_the_settings_of_its_instance_on_kubernetes():
    """As the chart writes them into ``dagster.yaml``."""
    (values,) = read("k8s/values.yaml")
    monitoring, logs = values["dagsterDaemon"]["runMonitoring"], values["pythonLogs"]
    instance = {
        "run_monitoring": {
            re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", key): value for key, value in monitoring.items()
        },
        "concurrency": {"runs": {"tag_concurrency_limits": values["concurrency"]["runs"]["tagConcurrencyLimits"]}},
        "python_logs": {
            "python_log_level": logs["pythonLogLevel"],
            "managed_python_loggers": logs["managedPythonLoggers"],
        },
        "telemetry": values["telemetry"],
    }
    checked = process_config(dagster_instance_config_schema(), instance)
    assert checked.success, checked.errors
