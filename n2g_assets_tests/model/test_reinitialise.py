"""Models with their weights drawn anew: what changes, what stays, and that each is made once."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from n2g_assets.core.errors import SourceError, StorageError
from n2g_assets.core.home import Home
from n2g_assets.core.sources import LocalSubject
from n2g_assets.model import reinitialise, sources
from n2g_assets.model.folder import hash_model
from n2g_assets.model.reinitialise import write_reinitialised
from n2g_assets.model.sources import SubjectFiles, resolve_subject
from n2g_assets_tests.tiny_models import load_tiny, tiny_gpt2, tiny_llama, tiny_neox, tiny_solu


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def trained(tmp_path) -> SubjectFiles:
    return tiny_llama(tmp_path / "tiny")


def resolve(trained: SubjectFiles, home: Home, seed: int | None = 0) -> SubjectFiles:
    settings = LocalSubject(source="local", path=str(trained.folder), reinitialise=seed)
    return resolve_subject(settings, study_folder=home.root, home=home)


def weights(files: SubjectFiles) -> dict[str, torch.Tensor]:
    return load_file(files.folder / "model.safetensors")


# ------------------------------------------------------------------------------------------ what is drawn
def test_matrices_are_drawn_with_their_own_mean_and_deviation_and_vectors_stay(trained, home):
    before, after = weights(trained), weights(resolve(trained, home))
    assert before.keys() == after.keys()
    matrices = {name for name, tensor in before.items() if tensor.ndim >= 2}
    assert len(matrices) > 10
    assert len(before) > len(matrices)
    for name, tensor in before.items():
        drawn = after[name]
        assert (drawn.shape, drawn.dtype) == (tensor.shape, tensor.dtype)
        if name not in matrices:
            assert torch.equal(drawn, tensor), name
            continue
        error = float(tensor.std()) / tensor.numel() ** 0.5
        assert float(drawn.mean()) == pytest.approx(float(tensor.mean()), abs=5 * error), name
        assert float(drawn.std()) == pytest.approx(float(tensor.std()), rel=5 / (2 * tensor.numel()) ** 0.5), name
        correlation = float(np.corrcoef(drawn.flatten().numpy(), tensor.flatten().numpy())[0, 1])
        assert abs(correlation) < 5 / tensor.numel() ** 0.5, name


def test_each_tensor_has_its_own_scale_and_numbers_whatever_its_type(tmp_path):
    generator = torch.Generator().manual_seed(0)
    like = torch.randn(200, 300, generator=generator)
    tensors = {
        "wide": like * 4 + 1,
        "narrow": like * 0.01 - 3,
        "half": (like * 2).bfloat16(),
        "experts": like.reshape(4, 50, 300) * 0.5,
        "constant": torch.full((3, 4), 2.5),
        "mask": torch.ones(8, 8, dtype=torch.bool),
        "numbers": torch.arange(12).reshape(3, 4),
        "norm": torch.ones(300),
        "scalar": torch.tensor(-1e5),
        "empty": torch.zeros(0, 4),
    }
    (tmp_path / "made").mkdir()
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    write_reinitialised([tmp_path / "model.safetensors"], tmp_path / "made", seed=3)
    drawn = load_file(tmp_path / "made" / "model.safetensors")
    for name, mean, std in (("wide", 1, 4), ("narrow", -3, 0.01), ("half", 0, 2), ("experts", 0, 0.5)):
        assert drawn[name].dtype == tensors[name].dtype
        assert drawn[name].shape == tensors[name].shape
        assert float(drawn[name].double().mean()) == pytest.approx(mean, abs=0.03 * std)
        assert float(drawn[name].double().std()) == pytest.approx(std, rel=0.02)
    for name in ("constant", "mask", "numbers", "norm", "scalar", "empty"):
        assert torch.equal(drawn[name], tensors[name]), name
    standard = {
        name: ((drawn[name].double() - drawn[name].double().mean()) / std).flatten()
        for name, std in (("wide", 4), ("narrow", 0.01), ("experts", 0.5))
    }
    assert abs(float((standard["wide"] * standard["narrow"]).mean())) < 0.02, "names give different numbers"
    assert abs(float((standard["wide"] ** 4).mean()) - 3) < 0.1, "as a normal distribution has them"
    with safe_open(tmp_path / "made" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_tensor_in_chunks_keeps_the_whole_tensors_mean_and_deviation(tmp_path, monkeypatch):
    rows = torch.arange(100.0)[:, None] + torch.zeros(100, 40)  # chunks of it differ in mean
    (tmp_path / "made").mkdir()
    save_file({"rows": rows}, tmp_path / "model.safetensors")
    monkeypatch.setattr(reinitialise, "_CHUNK", 333)
    write_reinitialised([tmp_path / "model.safetensors"], tmp_path / "made", seed=0)
    drawn = load_file(tmp_path / "made" / "model.safetensors")["rows"]
    assert float(drawn.mean()) == pytest.approx(49.5, abs=2.5)
    assert float(drawn.std()) == pytest.approx(float(rows.std()), rel=0.06)
    assert float(drawn[:10].mean()) == pytest.approx(49.5, abs=8)


def test_a_seed_gives_the_same_numbers_everywhere_and_another_one_others(trained, home, tmp_path):
    one = resolve(trained, home, 7)
    again = resolve(trained, Home(tmp_path / "elsewhere"), 7)
    other = resolve(trained, home, 8)
    assert one.folder != again.folder
    assert one.file_sha256 == again.file_sha256
    assert len({files.file_sha256 for files in (trained, one, other)}) == 3
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(weights(one)[name], weights(again)[name])
    assert not torch.equal(weights(one)[name], weights(other)[name])


# ------------------------------------------------------------------------------------------ the model that comes of it
@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2, tiny_neox, tiny_solu])
def test_it_loads_passes_the_check_and_is_another_model(make, tmp_path, home):
    trained = make(tmp_path / "tiny")
    files = resolve(trained, home)
    assert (files.name, files.source, files.revision) == ("tiny-reinitialised-0", "local", None)
    assert files.file_sha256 == hash_model(files.folder) != trained.file_sha256
    before, after = load_tiny(trained), load_tiny(files)
    assert (after.d_mlp, after.n_layers, after.facts["architecture"]) == (
        before.d_mlp,
        before.n_layers,
        before.facts["architecture"],
    )
    tokens = torch.tensor([[1, 20, 30, 40]])
    assert torch.isfinite(after.logits(tokens)).all()
    assert not torch.allclose(before.logits(tokens), after.logits(tokens), atol=0.1)
    assert after.encode(["the river"])[0].tolist() == before.encode(["the river"])[0].tolist()


def test_weights_in_several_files_are_drawn_as_those_in_one(trained, home, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "sharded"
    shutil.copytree(trained.folder, folder)
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(trained.folder).save_pretrained(folder, max_shard_size="50KB")
    sharded = SubjectFiles(folder, "sharded", "local", hash_model(folder))
    whole, parts = resolve(trained, home), resolve(sharded, home)
    assert len(list(parts.folder.glob("model-*.safetensors"))) > 1
    tokens = torch.tensor([[1, 20, 30, 40]])
    assert torch.equal(load_tiny(whole).logits(tokens), load_tiny(parts).logits(tokens))


# ------------------------------------------------------------------------------------------ made once
def test_it_is_made_once_and_says_where_it_comes_from(trained, home):
    first = resolve(trained, home)
    written = (first.folder / "model.safetensors").stat().st_mtime_ns
    assert resolve(trained, home) == first
    assert (first.folder / "model.safetensors").stat().st_mtime_ns == written
    provenance = json.loads((first.folder / "provenance.json").read_text())
    assert (provenance["trained_sha256"], provenance["seed"]) == (trained.file_sha256, 0)
    assert resolve(trained, home, None) == trained
    assert list((home.cache / "models").iterdir()) == [first.folder]


def test_one_of_which_a_bit_is_flipped_is_made_anew(trained, home):
    first = resolve(trained, home)
    for path in sorted(first.folder.iterdir()):
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        assert resolve(trained, home) == first
        assert path.read_bytes() == whole, path.name


def test_another_trained_model_or_version_gives_another_one(trained, home, monkeypatch):
    first = resolve(trained, home)
    config = trained.folder / "config.json"
    config.write_text(config.read_text() + "\n")
    second = resolve(trained, home)
    assert second.folder != first.folder
    monkeypatch.setattr(sources, "REINITIALISER_VERSION", 99)
    third = resolve(trained, home)
    assert third.folder != second.folder
    assert third.file_sha256 == second.file_sha256


def test_two_runs_at_once_make_it_once(trained, home, monkeypatch):
    made = []
    real = sources.write_reinitialised
    monkeypatch.setattr(sources, "write_reinitialised", lambda *args: (made.append(1), real(*args)))
    found: list[SubjectFiles] = []
    threads = [threading.Thread(target=lambda: found.append(resolve(trained, home))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert len(found) == 3
    assert len(set(found)) == 1


def test_a_damaged_source_is_named_and_nothing_is_left(trained, home):
    path = trained.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SourceError, match=r"model\.safetensors cannot be read .*anew"):
        resolve(trained, home)
    assert list((home.cache / "models").iterdir()) == []


def test_a_home_that_cannot_be_written_is_named(trained, tmp_path):
    file: Path = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StorageError, match=r"lock cannot be written in .*, or set N2G_HOME"):
        resolve(trained, Home(file))
