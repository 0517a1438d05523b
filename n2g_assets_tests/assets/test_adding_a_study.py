"""A user adds a study by adding a folder with a ``defs.yaml`` to a Dagster project: every launch line then works.

One is a real process in a project folder of its own, on an empty home; the others run in process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import dagster as dg
import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox

from n2g_assets import cli
from n2g_assets.assets.instance import prepare_instance
from n2g_assets.assets.study import RANGE_END, RANGE_START
from n2g_assets.cli import runs
from n2g_assets.core.errors import SettingsError
from n2g_assets.core.home import Home
from n2g_assets.study import N2GStudy
from n2g_assets_tests.assets.studies import rows_of, write_corpus
from n2g_assets_tests.tiny_models import tiny_llama

STUDY = """\
type: n2g_assets.N2GStudy

attributes:
  subject: {source: local, path: model}
  corpus: [{source: files, path: texts, kind: notes}]
  layers: [0, 2]
  neurons: [3]
  preset: paper
  harvest: {context_length: 32, strongest: 16, device: cpu}
  method: {substitutes: 1, min_contexts_per_side: 2, infill_candidates: 8, infill_rescored: 4}
  evaluation: {bootstrap_draws: 20}
"""
PYPROJECT = """\
[project]
name = "own"
version = "0.1"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "own"
"""
DEFINITIONS = """\
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import dagster as dg


@dg.definitions
def defs():
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A Dagster project of a user: nothing in it but what Dagster asks for, and the folder of one study."""
    root = tmp_path_factory.mktemp("project")
    study = root / "own" / "defs" / "notes"
    study.mkdir(parents=True)
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "own" / "definitions.py").write_text(DEFINITIONS)
    for package in (root / "own", root / "own" / "defs"):
        (package / "__init__.py").touch()
    (study / "defs.yaml").write_text(STUDY)
    tiny_llama(study / "model")
    write_corpus(study / "texts")
    return root


def run(project: Path, home: Path, *command: str) -> subprocess.CompletedProcess:
    """A command in the project folder, with an empty home that ``n2g init`` has made ready."""
    with mock.patch.dict(os.environ):
        prepare_instance(Home(home))
    package = str(Path(cli.__file__).parents[2])
    environment = {**os.environ, "N2G_HOME": str(home), "DAGSTER_HOME": str(Home(home).dagster)}
    environment |= {"PYTHONPATH": package, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(autouse=True)
def no_project_is_loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test loads its own project of this name."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "own"]:
        del sys.modules[name]


def assert_whole(home: Path, layers: set[int] = frozenset({0, 2})) -> None:
    """The study went through to its database and its report."""
    assert set(rows_of(home, "layer_scores", "notes")["layer"]) == layers
    assert (home / "n2g.duckdb").is_file()
    assert (home / "reports" / "notes.html").is_file()


def assert_quiet(done: subprocess.CompletedProcess) -> None:
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    for word in ("BetaWarning", "SupersessionWarning", "telemetry", "no dagster.yaml", "Traceback"):
        assert word not in said, word


# -------------------------------------------------------------------------------------------- a real process
def test_dg_launch_of_the_job_without_a_partition_takes_all_layers_and_n2g_run_says_what_is_there(
    project, tmp_path, monkeypatch, capsys
):
    dg_command, home = str(Path(sys.executable).with_name("dg")), tmp_path / "home"
    assert_quiet(run(project, home, dg_command, "launch", "--job", "notes"))
    assert_whole(home)
    monkeypatch.setenv("N2G_HOME", str(home))
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.chdir(project)
    assert cli.main(["run", "notes", "--layers", "2"]) == 0
    assert_whole(home)
    said = capsys.readouterr().out
    assert "reports/notes.html" in said
    assert "n2g.duckdb" in said
    assert "F1 of firing in study 'notes'" in said
    assert (home / "dagster" / "dagster.yaml").read_text().find("telemetry") > 0


# -------------------------------------------------------------------------------------------- in process
@pytest.fixture
def definitions(project, tmp_path, monkeypatch) -> dg.Definitions:
    """The project's code location, as Dagster loads it, with an empty home."""
    monkeypatch.setenv("N2G_HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(str(project))
    return dg.load_from_defs_folder(path_within_project=project)


def test_one_partition_of_the_job_is_one_layer_and_the_group_is_one_run_of_a_range(definitions, tmp_path, instance):
    """The page and the command line launch a group in the implicit job, with the tags of a range."""
    assert definitions.resolve_job_def("notes").execute_in_process(instance=instance, partition_key="02").success
    assert_whole(tmp_path / "home", {2})
    repository = definitions.get_repository_def()
    group = dg.AssetSelection.groups("notes").resolve(repository.asset_graph)
    job = repository.get_implicit_job_def_for_assets(group)
    result = job.execute_in_process(
        instance=instance, asset_selection=list(group), tags={RANGE_START: "00", RANGE_END: "02"}
    )
    assert result.success
    assert_whole(tmp_path / "home")


def test_the_project_shows_its_study_with_job_schedule_and_component(definitions):
    assert {key.path[0] for key in definitions.resolve_all_asset_keys()} == {"notes"}
    repository = definitions.get_repository_def()
    assert "notes" in repository.job_names
    assert [schedule.name for schedule in repository.schedule_defs] == ["notes_nightly"]
    (component,) = definitions.component_tree.get_all_components(of_type=N2GStudy)
    assert component.neurons == [3]


def test_a_study_of_the_project_that_does_not_exist_is_said_with_those_that_do(project, monkeypatch):
    monkeypatch.chdir(project)
    with pytest.raises(SettingsError, match=r"no study 'demo'.*notes"):
        runs.study_job("demo")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("layers: all", "layers must be a count of at least 1 or a list of different layers from 0 on."),
        ("neurons: every", "neurons must be {sample: n, seed: s}, 'all' or a list of neurons."),
        ("layer: 3", "there is no setting 'layer' here: did you mean 'layers'?"),
        ("neurons: {sample: 0}", "neurons.sample must be greater than 0, not 0."),
        ("\tneurons: [3]", "this is not YAML (found character '\\t' that cannot start any token): indent with spaces."),
        ("corpus: [{source: files, path: nowhere}]", "nowhere does not exist: correct 'path'"),
    ],
)
def test_a_mistake_in_a_study_is_said_in_one_sentence_that_names_its_file(project, tmp_path, monkeypatch, line, says):
    shutil.copytree(project, tmp_path / "project", ignore=shutil.ignore_patterns("texts"))
    study = tmp_path / "project" / "own" / "defs" / "notes" / "defs.yaml"
    kept = [each for each in STUDY.splitlines() if each.split(":")[0].strip() != line.split(":")[0]]
    study.write_text("\n".join([*kept, f"  {line}", ""]))
    monkeypatch.chdir(tmp_path / "project")
    with pytest.raises(SettingsError) as raised:
        runs.study_job("notes")
    said = str(raised.value)
    assert says in said
    assert said.startswith(f"{study}:")
    assert len(said.splitlines()) == 1, said


# -------------------------------------------------------------------------------------------- the folder itself
def test_a_folder_name_that_cannot_name_a_job_is_refused_with_one_that_can():
    with create_defs_folder_sandbox() as sandbox:
        sandbox.scaffold_component(
            component_cls=N2GStudy, defs_path="my-gpt2", defs_yaml_contents=yaml.safe_load(STUDY)
        )
        with pytest.raises(Exception) as raised, sandbox.load_component_and_build_defs(defs_path="my-gpt2"):  # noqa: PT011
            pass
    errors = [raised.value]
    while errors[-1].__cause__ is not None:
        errors.append(errors[-1].__cause__)
    assert any("my_gpt2" in str(error) for error in errors if isinstance(error, SettingsError))


def test_the_scaffolded_template_loads_as_it_is_and_with_every_line_that_is_commented_out(tmp_path):
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.scaffold_component(component_cls=N2GStudy, defs_path="fresh")
        with sandbox.load_component_and_build_defs(defs_path="fresh") as (component, definitions):
            assert component.layers == [0, 7, 15]
            assert definitions.resolve_job_def("fresh")
        text = (folder / "defs.yaml").read_text()
    attributes = yaml.safe_load(text)["attributes"]
    lines = [line.strip().removeprefix("# ") for line in text.splitlines() if line.startswith(("  # ", "    # "))]
    settings = [line for line in lines if ": " in line and line.split(":")[0].replace("_", "").isalpha()]
    assert len(settings) > 8
    for line in settings:
        given = attributes | yaml.safe_load(line)
        if "control_of" in given:  # asks for weights that are drawn anew
            given["subject"] = given["subject"] | {"reinitialise": 0}
        N2GStudy.resolve_from_yaml(yaml.safe_dump(given))


# -------------------------------------------------------------------------------------------- layers and first starts
KEYS = ["00", "07", "15"]


@pytest.mark.parametrize(
    ("layers", "ranges"),
    [
        (None, [("00", "15")]),
        ("7", [("07", "07")]),
        ("07", [("07", "07")]),
        ("0,7", [("00", "07")]),
        ("15, 0", [("00", "00"), ("15", "15")]),
        ("0...7", [("00", "07")]),
        ("00...15", [("00", "15")]),
    ],
)
def test_layers_are_taken_as_people_write_them(layers, ranges):
    assert runs.partition_ranges(KEYS, layers) == ranges


def test_a_run_takes_as_many_layers_as_the_study_takes_at_once():
    keys = ["00", "01", "02", "03", "04"]
    assert runs.partition_ranges(keys, None, 2) == [("00", "01"), ("02", "03"), ("04", "04")]
    assert runs.partition_ranges(keys, "0...2,4", 2) == [("00", "01"), ("02", "02"), ("04", "04")]


@pytest.mark.parametrize("layers", ["3", "all", "0...8", "", "0...7...15", "-7", "15...0"])
def test_layers_that_the_study_lacks_are_said_with_those_that_it_has(layers):
    with pytest.raises(SettingsError, match="it has 00, 07, 15, so give some of them, such as 15"):
        runs.partition_ranges(KEYS, layers)


def test_several_first_starts_on_one_new_home_leave_a_database_that_works(tmp_path):
    command = [sys.executable, "-m", "n2g_assets.cli", "init"]
    environment = {**os.environ, "N2G_HOME": str(tmp_path / "home")}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    home = Home(tmp_path / "home")
    assert all(f"DAGSTER_HOME={home.dagster}" in text for text in said)
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        assert instance.get_runs() == []
    shutil.rmtree(tmp_path / "home")
