"""A study of attention heads, from its settings to the page of a unit, beside a plain implementation."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from n2g_assets import cli
from n2g_assets.assets import subject_model
from n2g_assets.assets.plan import plan_elsewhere, plan_here
from n2g_assets.assets.rates import Elsewhere
from n2g_assets.assets.study import Study
from n2g_assets.core.errors import SettingsError, SubjectError
from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings, StudySettings
from n2g_assets.core.unit_settings import LocalEncoder
from n2g_assets.evidence.plan import entry_kind
from n2g_assets.explore.app import build_app
from n2g_assets.model.encoders.resolve import Encoders
from n2g_assets.model.folder import model_identity
from n2g_assets.reading.database import Database
from n2g_assets.reading.measuring import Measuring
from n2g_assets.reading.neuronpedia import export_neuronpedia
from n2g_assets.reading.study import open_study
from n2g_assets.report.summary import study_summary
from n2g_assets_tests.assets.studies import (
    changed,
    no_progress,
    of_evidence,
    reused,
    rows_of,
    run_job,
    run_stage,
    session_of,
    tiny_study,
)

LAYER, N_HEADS, D_HEAD = 1, 4, 8


def heads_of(folder: Path, **changes: object) -> Study:
    return of_evidence(tiny_study(folder, **{"layers": [LAYER], "neurons": "all", "units": "heads", **changes}))


def plainly(folder: Path, contexts: list[list[int]]) -> list[np.ndarray]:
    """Each context's activations [token, head] in double precision, 0 at position 0."""
    from transformers import AutoModelForCausalLM

    plain, found = AutoModelForCausalLM.from_pretrained(folder / "model"), list[np.ndarray]()
    matrix = plain.model.layers[LAYER].self_attn.o_proj
    matrix.register_forward_pre_hook(lambda _module, args: found.append(args[0][0].double().numpy()))
    with torch.inference_mode():
        for ids in contexts:
            plain(torch.tensor([ids]))
    weight = matrix.weight.detach().double().numpy().reshape(-1, N_HEADS, D_HEAD)
    lengths = [np.linalg.norm(np.einsum("thd,mhd->thm", z.reshape(-1, N_HEADS, D_HEAD), weight), axis=2) for z in found]
    for each in lengths:
        each[0] = 0
    return lengths


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("heads")


@pytest.fixture(scope="module")
def study(folder) -> Study:
    """After a whole run, through Dagster."""
    study = heads_of(folder)
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_job(study, folder / "home", instance)
    assert result.success
    assert all(
        each.passed for each in result.get_asset_check_evaluations() if each.severity == dg.AssetCheckSeverity.ERROR
    )
    return study


@pytest.fixture(scope="module")
def home(study) -> Home:
    return Home(study.folder / "home")


def test_what_is_kept_is_what_a_plain_implementation_says(study, home, folder):
    contexts = rows_of(home.root, "contexts", split="harvest")
    found = plainly(folder, contexts["token_ids"].to_list())
    whole = np.concatenate([values[1:] for values in found])
    stats = {row["unit"]: row for row in rows_of(home.root, "neuron_stats").to_dicts()}
    assert list(stats) == list(range(N_HEADS))
    for head, row in stats.items():
        assert row["share_positive"] == 1
        wanted = [whole[:, head].max(), whole[:, head].mean()]
        np.testing.assert_allclose([row["max"], row["mean"]], wanted, rtol=1e-5)
    by_context = dict(zip(contexts["context_id"].to_list(), found, strict=True))
    for row in rows_of(home.root, "top_contexts").to_dicts():
        wanted = by_context[row["context_id"]][:, row["unit"]]
        np.testing.assert_allclose(row["activations"], wanted, atol=1e-5 * stats[row["unit"]]["max"])


def test_heads_get_graphs_and_scores_and_no_tokens_that_they_raise(study, home):
    assert set(rows_of(home.root, "graph_nodes")["unit"]) == set(range(N_HEADS))
    scores = rows_of(home.root, "evaluation", predictor="graph", text="random")
    assert scores["unit"].to_list() == list(range(N_HEADS))
    assert scores["pearson_r"].is_not_null().all()
    assert rows_of(home.root, "output_tokens").is_empty()
    assert rows_of(home.root, "subject_models")["hook"].to_list() == ["attn.hook_z"]


def test_database_report_pages_and_exports_call_them_heads(study, home, tmp_path):
    opened = open_study("tiny", home)
    assert opened.word == "head"
    assert repr(opened.unit(LAYER, 3)).startswith("<Unit layer 1, head 3 of study tiny")
    assert set(opened.frame("FROM unit_kinds WHERE study = $study")["kind"]) == {"head"}
    assert "Layer 1, head" in study_summary(home, "tiny")
    report = (home.reports / "tiny.html").read_text(encoding="utf-8")
    assert "layer 1, head" in report.lower()
    client = TestClient(build_app(Database(home.database)))
    page = client.get(f"/study/tiny/{LAYER}/3")
    assert page.status_code == 200
    assert "Layer 1, head 3" in page.text
    assert "One of 4 attention heads of its layer" in page.text
    assert "its 8 values of <code>attn.hook_z</code>" in page.text
    assert "units are attention heads, 4 in layer 1." in client.get("/study/tiny").text
    for text in (report, page.text):
        assert "neuron 3" not in text.lower()
        assert "latent 3" not in text.lower()
    export_neuronpedia(opened, tmp_path / "out", no_progress)
    written = "".join(path.read_text() for path in (tmp_path / "out").rglob("*.jsonl"))
    assert "rules that predict attention heads" in written


def test_a_head_predicts_a_text_and_is_measured_on_it(study, home, folder, monkeypatch, capsys):
    monkeypatch.setenv("N2G_HOME", str(home.root))
    assert cli.main(["predict", "--study", "tiny", "--layer", str(LAYER), "--unit", "2", "--json", "the river"]) == 0
    assert len(json.loads(capsys.readouterr().out)) > 0
    token_ids = rows_of(home.root, "contexts")["token_ids"][0].to_numpy()
    found = Measuring()(open_study("tiny", home).unit(LAYER, 2), token_ids)
    (wanted,) = plainly(folder, [token_ids.tolist()])
    np.testing.assert_allclose(found, wanted[:, 2], atol=1e-4)


def test_a_study_of_heads_can_be_planned_here_and_elsewhere(study, home, folder):
    session = session_of(study, home.root)
    assert "1 layer" in plan_here(session, [[LAYER]])
    stated = Elsewhere("h100", tokens=10_000, config=folder / "model")
    assert f" {N_HEADS}  " in plan_elsewhere(session, [[LAYER]], 1, stated)
    many = session_of(changed(study, neurons={"sample": 9}), home.root)
    with pytest.raises(SettingsError, match="asks for 9 heads a layer, but model has 4"):
        plan_elsewhere(many, [[LAYER]], 1, stated)


def test_heads_and_the_values_of_their_hook_are_told_apart(study, home, folder, tmp_path):
    session = session_of(study, home.root)
    assert subject_model.materialize(session)
    assert reused(run_stage(session, "activation_cache")) == {LAYER: True}
    here = session.model_row
    values = {name: value for name, value in here.items() if name != "encoders"}
    encoded = {**values, "encoders": {LAYER: {"sha256": "cd"}}}
    for identity in (lambda facts: model_identity(facts, LAYER), lambda facts: entry_kind(facts, HarvestSettings(), 1)):
        assert len({identity(facts) for facts in (here, values, encoded)}) == 3
    of_values = tiny_study(folder, layers=[LAYER], neurons=[0], hook="attn.hook_z")
    assert not subject_model.materialize(session_of(of_values, tmp_path))
    assert not subject_model.materialize(session_of(heads_of(folder, neurons=[0]), tmp_path))


# -------------------------------------------------------------------------------------------- settings
LEAST = {"subject": {"source": "local", "path": "model"}, "corpus": [{"source": "files", "path": "texts"}], "layers": 2}


def test_settings_of_heads_survive_being_written_and_read():
    settings = StudySettings(**LEAST, units="heads")
    assert (settings.hook, settings.word) == ("auto", "head")
    assert StudySettings(**json.loads(settings.model_dump_json())) == settings
    assert StudySettings(**LEAST, units="heads", hook="attn.hook_z").hook == "attn.hook_z"


def test_what_depends_on_encoders_is_hashed_as_before_there_were_heads():
    encoder = LocalEncoder(source="local", path="encoder")
    settings = StudySettings(**LEAST, units={"encoder": encoder}).model_dump(mode="json")
    assert (settings["hook"], settings["units"]) == ("auto", {"encoder": encoder.model_dump(mode="json")})
    of_encoder = {"file_sha256": "ab", "hook": "mlp.hook_post", "encoders": {7: {"sha256": "cd"}}}
    assert entry_kind(of_encoder, HarvestSettings(), 7) == "evidence/f137c3f8c1204ca63afab448444a38fa/7"
    assert Encoders("mlp.hook_post", "cd", {}, {"source": "hub"}).identity == ["cd", {"source": "hub"}]


def test_a_head_that_is_not_there_is_said_before_anything_is_computed(folder, tmp_path):
    study = heads_of(folder, neurons=[1, N_HEADS])
    with pytest.raises(SubjectError, match="does not have head 4: it has 4 heads a layer"):
        subject_model.materialize(session_of(study, tmp_path / "home"))
    assert not (tmp_path / "home" / "slices").exists()
