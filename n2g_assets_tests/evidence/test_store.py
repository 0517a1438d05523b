"""The evidence of a tiny model against one context at a time without padding; what is run again, and what is said."""

from __future__ import annotations

import copy
import logging
import os
import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import DEFAULT, Mock

import numpy as np
import polars as pl
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from n2g_assets.core.errors import SettingsError, StorageError, SubjectError
from n2g_assets.core.home import MINIMUM_FREE_BYTES, Home
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.kept import Rows
from n2g_assets.evidence.plan import drop_evidence
from n2g_assets.evidence.store import Evidence
from n2g_assets.model.load import load_subject
from n2g_assets.model.model import SubjectModel
from n2g_assets.storage import files as storage_files
from n2g_assets.storage.cache import Cache, Entry
from n2g_assets_tests.evidence.helpers import (
    NEAR,
    NEURONS,
    SETTINGS,
    CountingModel,
    SmallMemory,
    activations_one_by_one,
    make_contexts,
    read,
)
from n2g_assets_tests.tiny_models import load_tiny, tiny_gemma, tiny_gpt2, tiny_llama, tiny_neox, tiny_solu


def assert_right(found: Evidence, model: SubjectModel, contexts: pl.DataFrame, neurons=NEURONS) -> None:
    for layer, asked in neurons.items():
        one_by_one = np.concatenate(list(activations_one_by_one(model, contexts, layer).values()))
        np.testing.assert_allclose(found.rows(layer, asked), one_by_one[:, asked].T, atol=NEAR)


def entries(folder: Path, layer: int | None = None) -> list[Entry]:
    """All entries, or those of a layer."""
    cache = Cache(Home(folder))
    kinds = [path.relative_to(folder / "cache").as_posix() for path in (folder / "cache/evidence").glob("*/*/*")]
    found = [cache.find(kind, key) for kind in kinds for key in cache.listing(kind)]
    return [entry for entry in found if entry and layer in (None, entry.about["layer"])]


def n_tokens(contexts: pl.DataFrame) -> int:
    return int(contexts["token_ids"].list.len().sum())


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2, tiny_solu, tiny_neox, tiny_gemma])
def test_activations_are_those_of_one_context_at_a_time_without_padding(make, tmp_path):
    subject = load_tiny(make(tmp_path / "model"))
    contexts = make_contexts(subject, range(9))
    assert contexts["token_ids"].list.len().n_unique() > 3, "there is padding to leak"
    found = read(subject, contexts, tmp_path / "cache", {1: [5, 0, 40], 0: [7]})
    for layer, neurons in ((1, [40, 5]), (1, [0, 5, 40]), (0, [7]), (1, [5, 5])):
        assert_right(found, subject, contexts, {layer: neurons})


def test_an_entry_holds_a_layer_at_a_shard_of_whole_documents(model, contexts, tmp_path):
    found = read(model, contexts, tmp_path)
    assert found.corpus.token_ids.tolist() == contexts["token_ids"].explode().to_list()
    names = [name for entry in entries(tmp_path, 0) for name in entry.about["documents"]]
    assert sorted(names) == found.corpus.document_ids, "no document is in two shards"
    assert len(entries(tmp_path)) == 2 * found.shards_run > 4
    for entry in entries(tmp_path, 0):
        size = n_tokens(contexts.filter(pl.col("document_id").is_in(entry.about["documents"])))
        assert np.load(entry.path("activations.npy")).shape == (3, size)
        assert size <= SETTINGS.shard_tokens
        assert entry.about["neurons"] == [0, 3, 47]


def test_no_contexts_and_no_neurons_are_no_work(model, contexts, tmp_path):
    nothing = read(model, make_contexts(model, []), tmp_path)
    assert (nothing.tokens_run, nothing.tokens_reused, nothing.shards_run) == (0, 0, 0)
    assert nothing.rows(0, [3]).shape == (1, 0)
    assert read(model, contexts, tmp_path, {1: []}).rows(1, []).shape == (0, n_tokens(contexts))


def test_a_second_call_runs_no_tokens_and_gives_the_same(model, contexts, tmp_path):
    first = read(model, contexts, tmp_path)
    assert (first.tokens_run, first.tokens_reused, first.shards_reused) == (n_tokens(contexts), 0, 0)
    again = read(CountingModel(model, fail_after=0), contexts, tmp_path)
    assert again.tokens_run == again.shards_run == 0
    assert (again.tokens_reused, again.shards_reused) == (n_tokens(contexts), first.shards_run)
    for layer, neurons in NEURONS.items():
        assert np.array_equal(again.rows(layer, neurons), first.rows(layer, neurons))


def test_more_layers_cost_a_pass_for_them_alone_over_the_same_shards(model, contexts, tmp_path):
    counting = CountingModel(model)
    read(counting, contexts, tmp_path, {0: [1], 1: [2]})
    assert set(counting.layers) == {(0, 1)}
    other = SETTINGS.model_copy(update={"shard_tokens": 90})
    for neurons, expected in (({0: [1], 1: [2], 2: [3]}, {(2,)}), ({2: [3], 0: [1]}, set())):
        counting.layers = ()
        found = read(counting, contexts, tmp_path, neurons, other)
        assert set(counting.layers) == expected
        assert_right(found, model, contexts, neurons)
    assert len({entry.about["shard"] for entry in entries(tmp_path)}) == found.shards_reused, "one cut serves all"


def test_more_neurons_cost_a_pass_for_them_alone(model, contexts, tmp_path):
    read(model, contexts, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.npy")}
    counting = CountingModel(model)
    grown = read(counting, contexts, tmp_path, {0: [47, 9, 3, 10], 2: [1]})
    assert set(counting.layers) == {(0,)}, "the pass ends at the layer with new neurons"
    new = [entry for entry in entries(tmp_path) if entry.path("activations.npy") not in before]
    assert len(new) == grown.shards_run
    assert all(entry.about["neurons"] == [9, 10] for entry in new)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert_right(grown, model, contexts, {0: [10, 3, 9, 47], 2: [1]})
    assert read(model, contexts, tmp_path, {0: [0, 9], 2: [1]}).tokens_run == 0


def test_new_documents_cost_only_their_own_pass_wherever_they_stand(model, contexts, tmp_path):
    new = pl.col("document_id").is_in(["doc03", "doc04", "doc09", "doc13"])
    read(model, contexts.filter(~new), tmp_path)
    grown = read(model, contexts, tmp_path)
    assert grown.tokens_run == n_tokens(contexts.filter(new))
    assert_right(grown, model, contexts)


def test_a_removed_document_costs_only_its_shard(model, contexts, tmp_path):
    whole = read(model, contexts, tmp_path)
    left = contexts.filter(pl.col("document_id") != "doc04")
    fewer = read(model, left, tmp_path)
    assert fewer.shards_run == 1, "what is left of its shard"
    assert fewer.shards_reused == whole.shards_run - 1
    assert_right(fewer, model, left)
    assert read(model, contexts, tmp_path).tokens_run == 0


def test_another_model_hook_or_dtype_is_read_anew(files, model, contexts, tmp_path):
    cache = tmp_path / "cache"
    exact = read(model, contexts, cache).rows(0, [3])
    other = load_tiny(tiny_llama(tmp_path / "other", seed=1))
    half = load_subject(files, "mlp.hook_post", SETTINGS, "auto", dtype="bfloat16")
    for subject in (other, load_tiny(files, "hook_resid_post"), half):
        settings = SETTINGS.model_copy(update={"dtype": "bfloat16" if subject is half else "float32"})
        found = read(subject, contexts, cache, {0: [3]}, settings)
        assert found.tokens_run == n_tokens(contexts)
        assert not np.allclose(found.rows(0, [3]), exact, atol=NEAR)
        if subject is not half:  # whose sums depend on the shape of the batch
            assert_right(found, subject, contexts, {0: [3]})
    values = found.rows(0, [3])
    assert np.array_equal(torch.from_numpy(values).bfloat16().float().numpy(), values)
    np.testing.assert_allclose(values, exact, atol=0.05 * np.abs(exact).max())
    assert np.array_equal(read(model, contexts, cache).rows(0, [3]), exact)


@pytest.mark.parametrize(("dtype", "size", "share"), [("float16", 2, 2**-11), ("int8", 1, 0.5 / 127)])
def test_fewer_bits_take_as_much_less_disk_and_are_kept_apart(dtype, size, share, model, contexts, tmp_path, caplog):
    exact, coarse = read(model, contexts, tmp_path), SETTINGS.model_copy(update={"evidence_dtype": dtype})
    before = {path: path.stat().st_size for path in tmp_path.rglob("activations.npy")}
    with caplog.at_level(logging.INFO, "n2g_assets.evidence.store"):
        found = read(model, contexts, tmp_path, settings=coarse)
    new = [path.stat().st_size for path in tmp_path.rglob("activations.npy") if path not in before]
    assert found.tokens_run == n_tokens(contexts) == exact.tokens_run
    assert sum(new) - 128 * len(new) == size * 4 * n_tokens(contexts), "a header takes 128 bytes"
    most = max(n_tokens(contexts.filter(pl.col("document_id").is_in(e.about["documents"]))) for e in entries(tmp_path))
    assert f"{size * 4 * n_tokens(contexts) + 4 * 4 * most:,} bytes" in caplog.text, "and a shard in float32"
    assert not list((tmp_path / "cache" / "evidence").rglob("*.codes.npy"))
    again = read(CountingModel(model, fail_after=0), contexts, tmp_path, settings=coarse)
    for layer, neurons in NEURONS.items():
        rows, whole = found.rows(layer, neurons), exact.rows(layer, neurons)
        assert np.array_equal(again.rows(layer, neurons), rows)
        assert not np.array_equal(rows, whole)
        np.testing.assert_allclose(rows, whole, atol=2.1 * share * np.abs(whole).max())


def test_tf32_is_for_the_pass_alone_and_what_it_gives_is_kept_apart(model, contexts, tmp_path):
    seen = set()

    class Watched(CountingModel):
        def run(self, tokens, taps):
            seen.add(torch.get_float32_matmul_precision())
            super().run(tokens, taps)

    for arithmetic, precision in (("float32", "highest"), ("tf32", "high")):
        found = read(Watched(model), contexts, tmp_path, settings=SETTINGS.model_copy(update={"dtype": arithmetic}))
        assert (found.tokens_run, seen) == (n_tokens(contexts), {precision})
        seen.clear()
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(ValueError, match="is to be in bfloat16"):
        read(model, contexts, tmp_path, settings=SETTINGS.model_copy(update={"dtype": "bfloat16"}))


def test_the_evidence_of_some_units_and_documents_can_be_dropped_and_no_other(model, contexts, tmp_path):
    read(model, contexts, tmp_path)
    others = make_contexts(model, range(20, 24))
    read(model, others, tmp_path)
    read(model, contexts, tmp_path, {0: [7]})
    drop_evidence(
        model.facts, TokenCorpus.from_frame(contexts), {0: NEURONS[0], 1: [5]}, SETTINGS, Cache(Home(tmp_path))
    )
    assert read(CountingModel(model, fail_after=0), others, tmp_path).tokens_run == 0
    assert read(CountingModel(model, fail_after=0), contexts, tmp_path, {0: [7], 2: NEURONS[2]}).tokens_run == 0
    counting = CountingModel(model)
    assert read(counting, contexts, tmp_path).tokens_run == n_tokens(contexts)
    assert set(counting.layers) == {(0,)}


def stop() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["in a batch", "between shards"])
def test_a_killed_run_goes_on_at_its_shard(where, model, contexts, tmp_path, monkeypatch):
    counting = CountingModel(model, fail_after=5 if where == "in a batch" else None)
    if where == "between shards":  # an entry takes two moves: of its file, and of its folder
        rename, left = os.rename, iter(range(8))
        monkeypatch.setattr(os, "rename", lambda *paths: rename(*paths) if next(left, None) is not None else stop())
    with pytest.raises(KeyboardInterrupt):
        read(counting, contexts, tmp_path)
    names = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert names == {"activations.npy", "entry.json"}, "nothing is left of what was not finished"
    monkeypatch.undo()
    seen: list[tuple[int, int]] = []
    resumed = read(model, contexts, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert 0 < resumed.tokens_reused < n_tokens(contexts) == resumed.tokens_run + resumed.tokens_reused
    assert seen[-1] == (resumed.tokens_run, resumed.tokens_run)
    assert_right(resumed, model, contexts)


def test_what_a_writing_thread_meets_is_raised_and_nothing_is_kept(model, contexts, tmp_path, monkeypatch):
    settings, scatter = SETTINGS.model_copy(update={"shard_tokens": 10_000}), Mock(wraps=Rows.add)
    monkeypatch.setattr(Rows, "add", lambda self, *args: scatter(self, *args))  # noqa: PLW0108  (a mock is no method)
    read(model, contexts, tmp_path / "whole", settings=settings)
    for failing in (0, scatter.call_count - 1):
        scatter.side_effect = [DEFAULT] * failing + [ZeroDivisionError] + [DEFAULT] * 99
        with pytest.raises(ZeroDivisionError):
            read(model, contexts, tmp_path, settings=settings)
    assert not entries(tmp_path)


def test_a_damaged_entry_is_made_again_and_no_other(model, contexts, tmp_path):
    first = read(model, contexts, tmp_path)
    path = entries(tmp_path, 0)[1].path("activations.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    counting = CountingModel(model)
    again = read(counting, contexts, tmp_path)
    assert (set(counting.layers), again.shards_run) == ({(0,)}, 1)
    assert np.array_equal(again.rows(0, [3]), first.rows(0, [3]))


def test_reading_verifies_nothing_again_and_an_entry_that_went_says_what_to_do(model, contexts, tmp_path, monkeypatch):
    read(model, contexts, tmp_path)
    found = read(model, contexts, tmp_path)
    for entry in entries(tmp_path, 2):
        shutil.rmtree(entry.folder)
    monkeypatch.setattr(Cache, "find", None)
    monkeypatch.setattr(storage_files, "file_sha256", None)
    assert_right(found, model, contexts, {0: NEURONS[0]})
    with pytest.raises(StorageError, match="run the same command again"):
        found.rows(2, [1])


@pytest.mark.parametrize("poison", [float("inf"), float("nan")])
def test_a_layer_that_is_not_finite_fails_alone(poison, model, contexts, tmp_path):
    broken = replace(model, plain=copy.deepcopy(model.plain))
    broken.facts = model.facts
    with torch.no_grad():
        broken.plain.get_submodule("model.layers.2.mlp.up_proj").weight[1, 0] = poison
    counting = CountingModel(broken)
    found = read(counting, contexts, tmp_path)
    assert_right(found, model, contexts, {0: [3, 47]})
    with pytest.raises(SubjectError, match=r"in layer 2 are not finite in float32: leave .*, or choose another hook"):
        found.rows(2, [1])
    assert not entries(tmp_path, 2)
    assert counting.layers[-1] == (0,), "after its first shard the layer is not read any more"
    assert read(broken, contexts, tmp_path).shards_run == 1, "one shard tells that the layer is still not finite"
    assert read(broken, contexts, tmp_path, {2: [5]}).rows(2, [5]).any(), "other neurons of it can be read"


def test_out_of_memory_the_batch_is_repeated_in_halves_and_later_batches_are_as_small(model, contexts, tmp_path):
    small = SmallMemory(model, limit=40)
    found = read(small, contexts, tmp_path)
    assert small.failed == (96, 48)
    assert found.tokens_run == n_tokens(contexts)
    assert_right(found, model, contexts)
    with pytest.raises(SubjectError, match="no memory left"):
        read(SmallMemory(model, limit=3), contexts, tmp_path / "none")


def test_the_bytes_are_said_and_a_full_disk_is_refused_before_the_pass(model, contexts, tmp_path, monkeypatch, caplog):
    needed = 4 * 4 * n_tokens(contexts)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=MINIMUM_FREE_BYTES + needed - 1))
    with pytest.raises(StorageError, match=rf"{needed:,} bytes .* may take {needed - 1:,}: .*fewer.*N2G_HOME"):
        read(CountingModel(model, fail_after=0), contexts, tmp_path)
    assert not entries(tmp_path)
    with caplog.at_level(logging.INFO, "n2g_assets.evidence.store"):
        assert read(model, contexts, tmp_path, {0: [3, 47, 0]}).shards_run
    assert f"{needed * 3 // 4:,} bytes" in caplog.text
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert read(model, contexts, tmp_path, {0: [3, 47, 0]}).tokens_run == 0, "what is there needs no disk"


def test_what_cannot_be_read_is_refused_before_any_work(model, contexts, tmp_path):
    (tmp_path / "file").write_text("")
    for error, match, folder, rows, neurons in (
        (SubjectError, "no layer 3", tmp_path, contexts, {3: [0]}),
        (SubjectError, "choose from 0 to 47", tmp_path, contexts, {0: [0, 48]}),
        (ValueError, "one behind another", tmp_path, pl.concat([contexts, contexts[:1]]), NEURONS),
        (SettingsError, "at most 128", tmp_path, contexts.with_columns(token_ids=pl.lit([1] * 129)), NEURONS),
        (StorageError, "set N2G_HOME", tmp_path / "file", contexts, NEURONS),
    ):
        with pytest.raises(error, match=match):
            read(CountingModel(model, fail_after=0), rows, folder, neurons)
    found = read(model, contexts, tmp_path, {0: [5]})
    for layer, neurons in ((1, [0]), (0, [3, 4, 5])):
        with pytest.raises(ValueError, match="not among those"):
            found.rows(layer, neurons)


@dataclass
class FreeModel(CountingModel):
    """A model whose own operations do not count."""

    operations: list[str] = field(default_factory=list)

    def run(self, tokens, taps):
        found: dict[int, torch.Tensor] = {}
        before = len(self.operations)
        super().run(tokens, {layer: partial(found.__setitem__, layer) for layer in taps})
        del self.operations[before:]
        for layer, take in taps.items():
            take(found[layer])


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("batch_tokens", [16, 96, 400])
def test_a_batch_of_any_size_takes_three_operations_a_layer_and_three_more(
    batch_tokens, n_layers, model, contexts, tmp_path
):
    free, seen = FreeModel(model), list[int]()

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            free.operations.append(str(func))
            return func(*args, **(kwargs or {}))

    settings = SETTINGS.model_copy(update={"batch_tokens": batch_tokens, "shard_tokens": 10_000})
    neurons = dict.fromkeys(range(n_layers), range(40))
    with Operations():
        read(free, contexts, tmp_path, neurons, settings, progress=lambda *_: seen.append(len(free.operations)))
    assert len(seen) > 2
    *each, last = np.diff(seen).tolist()
    assert set(each) == {3 * n_layers + 3}, "a batch is told of when the next one has been launched"
    assert last == 1
