"""Cached activations of a tiny model against one context at a time without padding; what is run again."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from n2g_assets.core.errors import SettingsError, StorageError, SubjectError
from n2g_assets.core.home import Home
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.evidence import cached_activations
from n2g_assets.evidence.cached_activations import CachedActivations, read_texts
from n2g_assets.model.load import load_subject
from n2g_assets.model.model import SubjectModel
from n2g_assets.storage.cache import Cache, Entry
from n2g_assets_tests.evidence.helpers import (
    NEAR,
    CountingModel,
    SmallMemory,
    activations_one_by_one,
    make_contexts,
)
from n2g_assets_tests.tiny_models import load_tiny, tiny_gpt2, tiny_llama, tiny_solu

SETTINGS = HarvestSettings(batch_tokens=96, device="cpu")
NEURONS = {0: [3, 47, 0], 2: [1]}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(cached_activations, "SHARD_TOKENS", 150)


def read(model, contexts, folder: Path, neurons=NEURONS, **more) -> CachedActivations:
    return read_texts(model, contexts, neurons, SETTINGS, cache=Cache(Home(folder)), **more)


def everything(found: CachedActivations, layer: int, neurons: list[int]) -> np.ndarray:
    return np.concatenate([found.activations(layer, i, neurons) for i in range(len(found.shards))], axis=1)


def one_by_one(model: SubjectModel, contexts: pl.DataFrame, layer: int, neurons: list[int]) -> np.ndarray:
    return np.concatenate(list(activations_one_by_one(model, contexts, layer).values()))[:, neurons].T


def entries(folder: Path, layer: int | None = None) -> list[Entry]:
    """All entries, or those of a layer."""
    cache = Cache(Home(folder))
    kinds = [f"activations/{path.name}" for path in (folder / "cache/activations").glob("*")]
    found = [cache.find(kind, key) for kind in kinds for key in cache.listing(kind)]
    return [entry for entry in found if entry and layer in (None, entry.about["layer"])]


def n_tokens(contexts: pl.DataFrame) -> int:
    return int(contexts["token_ids"].list.len().sum())


# ------------------------------------------------------------------------------------------ what is read
@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2, tiny_solu])
def test_they_are_those_of_one_context_at_a_time_without_padding(make, tmp_path):
    subject = load_tiny(make(tmp_path / "model"))
    contexts = make_contexts(subject, range(9))
    assert contexts["token_ids"].list.len().n_unique() > 3, "there is padding to leak"
    found = read(subject, contexts, tmp_path / "cache", {1: [5, 0, 40], 0: [7]})
    for layer, neurons in ((1, [40, 5]), (1, [0, 5, 40]), (0, [7]), (1, [5, 5])):
        values = everything(found, layer, neurons)
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, one_by_one(subject, contexts, layer, neurons), atol=NEAR)


def test_shards_are_whole_documents_in_order(model, contexts, tmp_path):
    found = read(model, contexts, tmp_path)
    assert pl.concat(found.shards).equals(contexts)
    names = [set(shard["document_id"]) for shard in found.shards]
    assert len(names) > 2
    assert sum(map(len, names)) == len(set.union(*names)), "no document is in two shards"
    sizes = [n_tokens(shard) for shard in found.shards]
    following = [n_tokens(s.filter(pl.col("document_id") == s["document_id"][0])) for s in found.shards[1:]]
    assert all(size <= 150 for size in sizes)
    assert all(size + more > 150 for size, more in zip(sizes, following, strict=False)), "each is as full as can be"
    assert found.activations(0, 1, [3]).shape == (1, sizes[1])


def test_a_document_that_is_longer_than_a_shard_stands_alone(model, tmp_path, monkeypatch):
    monkeypatch.setattr(cached_activations, "SHARD_TOKENS", 20)
    contexts = make_contexts(model, [5, 4, 10])
    found = read(model, contexts, tmp_path)
    assert [shard["document_id"].unique().to_list() for shard in found.shards] == [["doc05"], ["doc04"], ["doc10"]]
    np.testing.assert_allclose(everything(found, 2, [1]), one_by_one(model, contexts, 2, [1]), atol=NEAR)


def test_no_contexts_and_no_neurons_are_no_work(model, contexts, tmp_path):
    nothing = read(model, make_contexts(model, []), tmp_path)
    assert (nothing.shards, nothing.tokens_run, nothing.tokens_reused) == ((), 0, 0)
    found = read(model, contexts, tmp_path, {1: []})
    assert found.tokens_run == 0
    assert everything(found, 1, []).shape == (0, n_tokens(contexts))


# ------------------------------------------------------------------------------------------ what is run again
def test_a_second_call_runs_no_tokens_and_gives_the_same(model, contexts, tmp_path):
    first = read(model, contexts, tmp_path)
    assert (first.tokens_run, first.tokens_reused) == (n_tokens(contexts), 0)
    counting = CountingModel(model)
    again = read(counting, contexts, tmp_path)
    assert counting.tokens == 0
    assert (again.tokens_run, again.tokens_reused) == (0, n_tokens(contexts))
    for layer, neurons in NEURONS.items():
        assert np.array_equal(everything(again, layer, neurons), everything(first, layer, neurons))


def test_one_pass_serves_all_layers_and_stops_at_the_deepest(model, contexts, tmp_path):
    counting = CountingModel(model)
    read(counting, contexts, tmp_path, {0: [1], 1: [2]})
    assert set(counting.layers) == {(0, 1)}
    counting.layers = ()
    read(counting, contexts, tmp_path, {0: [1], 1: [2], 2: [3]})
    assert set(counting.layers) == {(2,)}
    counting.layers = ()
    read(counting, contexts, tmp_path, {2: [3]})
    assert counting.layers == ()


def test_more_neurons_cost_their_own_pass_and_only_their_own_columns(model, contexts, tmp_path):
    read(model, contexts, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.npy")}
    counting = CountingModel(model)
    grown = read(counting, contexts, tmp_path, {0: [47, 9, 3, 10], 2: [1]})
    assert set(counting.layers) == {(0,)}, "the pass ends at the layer with new neurons"
    assert grown.tokens_run == n_tokens(contexts)
    new = [entry for entry in entries(tmp_path) if entry.path("activations.npy") not in before]
    assert len(new) == len(grown.shards)
    assert all(entry.about["neurons"] == [9, 10] for entry in new)
    assert all(path.read_bytes() == content for path, content in before.items())
    np.testing.assert_allclose(
        everything(grown, 0, [10, 3, 9, 47]), one_by_one(model, contexts, 0, [10, 3, 9, 47]), atol=NEAR
    )
    assert read(model, contexts, tmp_path, {0: [0, 9], 2: [1]}).tokens_run == 0


def test_a_text_that_grows_at_its_end_costs_its_last_shard_and_what_is_new(model, contexts, tmp_path):
    first = read(model, contexts.filter(pl.col("document_id") < "doc10"), tmp_path)
    grown = read(model, contexts, tmp_path)
    kept = sum(n_tokens(shard) for shard in first.shards[:-1])
    assert kept > 0
    assert (grown.tokens_run, grown.tokens_reused) == (n_tokens(contexts) - kept, kept)


@pytest.mark.parametrize("part", ["context_id", "token_ids"])
def test_another_text_is_read_anew(part, model, contexts, tmp_path):
    read(model, contexts, tmp_path)
    changed = {
        "context_id": pl.col("context_id") + "!",
        "token_ids": pl.col("token_ids").list.eval(pl.element() + (pl.element() > 1)).cast(pl.List(pl.Int32)),
    }[part]
    other = contexts.with_columns(changed)
    found = read(model, other, tmp_path)
    assert found.tokens_run == n_tokens(contexts)
    np.testing.assert_allclose(everything(found, 2, [1]), one_by_one(model, other, 2, [1]), atol=NEAR)


def test_another_model_or_hook_is_read_anew(files, model, contexts, tmp_path):
    read(model, contexts, tmp_path / "cache")
    other = load_tiny(tiny_llama(tmp_path / "other", seed=1))
    hook = load_tiny(files, "hook_resid_post")
    for subject in (other, hook):
        found = read(subject, contexts, tmp_path / "cache", {0: [3]})
        assert found.tokens_run == n_tokens(contexts)
        np.testing.assert_allclose(everything(found, 0, [3]), one_by_one(subject, contexts, 0, [3]), atol=NEAR)


def test_a_killed_run_goes_on_with_the_next_shard(model, contexts, tmp_path):
    counting = CountingModel(model, fail_after=5)
    with pytest.raises(KeyboardInterrupt):
        read(counting, contexts, tmp_path)
    names = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert names == {"activations.npy", "entry.json"}, "nothing is left of the shard that was not finished"
    seen: list[tuple[int, int]] = []
    resumed = read(model, contexts, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert 0 < resumed.tokens_reused < n_tokens(contexts) == resumed.tokens_run + resumed.tokens_reused
    assert seen[-1] == (resumed.tokens_run, resumed.tokens_run)
    np.testing.assert_allclose(everything(resumed, 2, [1]), one_by_one(model, contexts, 2, [1]), atol=NEAR)


def test_two_runs_at_once_leave_sound_files(model, contexts, tmp_path):
    inner: list[CachedActivations] = []

    def another(done: int, total: int) -> None:
        if not inner:
            inner.append(read(model, contexts, tmp_path))

    outer = read(model, contexts, tmp_path, progress=another)
    assert outer.tokens_run == inner[0].tokens_run == n_tokens(contexts)
    for found in (outer, inner[0], read(model, contexts, tmp_path)):
        np.testing.assert_allclose(everything(found, 0, [3]), one_by_one(model, contexts, 0, [3]), atol=NEAR)
    assert found.tokens_run == 0


# ------------------------------------------------------------------------------------------ damage
def test_a_damaged_entry_is_made_again_and_no_other(model, contexts, tmp_path):
    first = read(model, contexts, tmp_path)
    path = entries(tmp_path, 0)[1].path("activations.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    counting = CountingModel(model)
    again = read(counting, contexts, tmp_path)
    assert set(counting.layers) == {(0,)}
    assert again.tokens_run in [n_tokens(shard) for shard in first.shards]
    assert path.read_bytes() == whole
    assert np.array_equal(everything(again, 0, [3]), everything(first, 0, [3]))


def test_an_entry_that_went_since_says_what_to_do(model, contexts, tmp_path):
    found = read(model, contexts, tmp_path)
    for entry in entries(tmp_path, 2):
        shutil.rmtree(entry.folder)
    with pytest.raises(StorageError, match="materialize evaluation again"):
        found.activations(2, 0, [1])
    assert found.activations(0, 0, [3]).shape[0] == 1


@pytest.mark.parametrize("poison", [float("inf"), float("nan")])
def test_a_layer_that_is_not_finite_fails_alone(poison, model, contexts, tmp_path):
    broken = replace(model, plain=copy.deepcopy(model.plain))
    broken.facts = model.facts
    with torch.no_grad():
        broken.plain.get_submodule("model.layers.2.mlp.up_proj").weight[1] = poison
    counting = CountingModel(broken)
    found = read(counting, contexts, tmp_path)
    np.testing.assert_allclose(everything(found, 0, [3, 47]), one_by_one(model, contexts, 0, [3, 47]), atol=NEAR)
    with pytest.raises(SubjectError, match=r"in layer 2 are not finite .*choose another hook"):
        found.activations(2, 0, [1])
    assert not entries(tmp_path, 2)
    assert counting.layers[-1] == (0,), "after its first shard the layer is not read any more"
    assert read(broken, contexts, tmp_path, {2: [5]}).activations(2, 0, [5]).any(), "other neurons of it can be read"


def test_out_of_memory_the_batch_is_repeated_in_halves_and_later_batches_are_as_small(model, contexts, tmp_path):
    small = SmallMemory(model, limit=40)
    found = read(small, contexts, tmp_path)
    assert small.failed == (96, 48)
    assert small.tokens >= found.tokens_run == n_tokens(contexts)
    for layer, neurons in NEURONS.items():
        np.testing.assert_allclose(
            everything(found, layer, neurons), one_by_one(model, contexts, layer, neurons), atol=NEAR
        )
    with pytest.raises(SubjectError, match="no memory left"):
        read(SmallMemory(model, limit=3), contexts, tmp_path / "none")


# ------------------------------------------------------------------------------------------ what is refused
def test_what_cannot_be_read_is_refused_before_any_work(files, model, contexts, tmp_path):
    counting = CountingModel(model)
    with pytest.raises(SubjectError, match="no layer 3"):
        read(counting, contexts, tmp_path, {3: [0]})
    with pytest.raises(SubjectError, match="choose from 0 to 47"):
        read(counting, contexts, tmp_path, {0: [0, 48]})
    with pytest.raises(ValueError, match="one behind another"):
        read(counting, pl.concat([contexts, contexts[:1]]), tmp_path)
    with pytest.raises(SettingsError, match="at most 128 tokens"):
        read(counting, contexts.with_columns(token_ids=pl.lit([1] * 129)), tmp_path)
    half = load_subject(files, "mlp.hook_post", SETTINGS, "auto", dtype="bfloat16")
    with pytest.raises(ValueError, match="float32"):
        read(half, contexts, tmp_path)
    assert counting.tokens == 0


def test_only_what_was_asked_can_be_had(model, contexts, tmp_path):
    read(model, contexts, tmp_path, {0: [5]})
    found = read(model, contexts, tmp_path)
    for layer, neurons in ((1, [0]), (0, [3, 4]), (0, [5])):
        with pytest.raises(ValueError, match="not among those"):
            found.activations(layer, 0, neurons)


def test_a_folder_that_cannot_be_written_says_what_to_do(model, contexts, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="set N2G_HOME"):
        read(model, contexts, tmp_path / "file")
