import copy
import math
from dataclasses import replace

import polars as pl
import pytest
import torch

from n2g_assets.core.errors import SubjectError
from n2g_assets.core.tables import TABLES
from n2g_assets.model.hooks import ResolvedHook, Tap, boot_bridge
from n2g_assets.model.load import VERIFICATION_TEXT, verify_subject
from n2g_assets.model.model import SubjectModel
from n2g_assets_tests.tiny_models import load_tiny, tiny_llama


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(files):
    return load_tiny(files)


@pytest.fixture(scope="module")
def bridge(model, files):
    return boot_bridge(model.plain, files.folder, model.tokenizer.transformers)


def test_the_facts_are_a_row_of_subject_models(model, files):
    row = model.facts
    assert {"study", *row} == set(TABLES["subject_models"].schema)
    TABLES["subject_models"].conform(pl.DataFrame([{"study": "s", **row}]))
    expected = {
        "model": "tiny",
        "source": "local",
        "file_sha256": files.file_sha256,
        "revision": None,
        "architecture": "LlamaForCausalLM",
    }
    assert {key: row[key] for key in expected} == expected
    assert (row["dtype"], row["device"], row["hook"]) == ("float32", "cpu", "mlp.hook_post")


def test_the_revision_of_the_files_is_a_fact(model, bridge, files):
    assert verify_subject(model, bridge, replace(files, revision="1.0"))["revision"] == "1.0"


def test_nats_per_token_are_the_mean_surprise_of_the_fixed_text(model):
    ids = [model.bos_id, *model.encode([VERIFICATION_TEXT])[0].tolist()][: model.max_context]
    logits = model.logits(torch.tensor([ids]))[0].double()
    surprises = [float(logits[i].logsumexp(0) - logits[i, ids[i + 1]]) for i in range(len(ids) - 1)]
    assert math.isclose(model.facts["nats_per_token"], sum(surprises) / len(surprises), rel_tol=1e-5)


def test_a_sound_model_differs_from_the_bridge_by_rounding_only(model):
    assert model.facts["logit_difference"] < 1e-3


def test_another_weight_than_the_bridges_is_found(model, bridge, files):
    changed = replace(model, plain=copy.deepcopy(model.plain))
    with torch.no_grad():
        changed.plain.get_submodule("model.layers.2.mlp.up_proj").weight[5] *= 1.5
    with pytest.raises(SubjectError, match="logits of tiny differ"):
        verify_subject(changed, bridge, files)


def test_a_tap_at_the_wrong_place_is_found(model, bridge, files):
    assert model.hook.taps is not None
    for wrong in ("mlp.gate_proj", "mlp.up_proj"):
        taps = model.hook.taps | {2: Tap(f"model.layers.2.{wrong}", "output")}
        with pytest.raises(SubjectError, match=r"activations at blocks\.2\.mlp\.hook_post of tiny differ"):
            verify_subject(replace(model, hook=ResolvedHook("mlp.hook_post", (0, 1, 2), taps)), bridge, files)


def test_a_tap_of_another_width_is_found(model, bridge, files):
    taps = {layer: Tap(f"model.layers.{layer}.mlp.down_proj", "output") for layer in range(3)}
    with pytest.raises(SubjectError, match="shape"):
        verify_subject(replace(model, hook=ResolvedHook("mlp.hook_post", (0, 1, 2), taps)), bridge, files)


def test_activations_that_are_no_numbers_are_found(model, bridge, files):
    broken = replace(model, plain=copy.deepcopy(model.plain))
    with torch.no_grad():
        broken.plain.get_submodule("model.layers.1.mlp.up_proj").weight[0, 0] = float("nan")
    with pytest.raises(SubjectError, match="differ"):
        verify_subject(broken, bridge, files)


def test_the_fixed_text_goes_through_the_whole_model_once(files, monkeypatch):
    whole, read = SubjectModel.logits, list[torch.Tensor]()
    monkeypatch.setattr(SubjectModel, "logits", lambda self, tokens, **more: read.append(tokens) or whole(self, tokens))
    load_tiny(files)
    assert len(read) == 1
