"""The harvest of a tiny model against its activations read one context at a time; incremental work; damage."""

from __future__ import annotations

import copy
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from n2g_assets.core.errors import CorpusError, StorageError, SubjectError
from n2g_assets.core.tables import TABLES
from n2g_assets_tests.evidence.helpers import (
    LAYERS,
    LENGTH,
    NEAR,
    RECORDED,
    SETTINGS,
    CountingModel,
    SmallMemory,
    activations_one_by_one,
    make_contexts,
    run,
    same_frames,
)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_rows_are_those_of_reading_one_context_at_a_time(model, contexts, first, layer):
    frames = first[0].frames(layer)
    every = activations_one_by_one(model, contexts, layer)
    document = dict(contexts.select("context_id", "document_id").iter_rows())
    inner = np.concatenate([a[1:] for a in every.values()])
    assert len(frames.neuron_stats) == 2 * model.d_mlp
    for sign in (1, -1):
        stats = frames.neuron_stats.filter(sign=sign).sort("unit")
        signed = inner.astype(np.float64) * sign
        assert stats["n_tokens"].to_list() == [len(inner)] * model.d_mlp
        for column, expected in (
            ("mean", signed.mean(0)),
            ("std", signed.std(0)),
            ("max", signed.max(0)),
            ("share_positive", (signed > 0).mean(0)),
        ):
            np.testing.assert_allclose(stats[column], expected, atol=NEAR, err_msg=column)
        expected = np.quantile(signed, [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99], axis=0).T
        np.testing.assert_allclose(np.array(stats["quantiles"].to_list()), expected, atol=NEAR)  # the sample is all
        for neuron in (0, 3, model.d_mlp - 1):
            mine = {c: a[:, neuron] * sign for c, a in every.items()}
            rows = frames.activations.filter(unit=neuron, sign=sign)
            assert rows["rank"].to_list() == list(range(SETTINGS.strongest))
            np.testing.assert_allclose(rows["activation"], np.sort(signed[:, neuron])[::-1][:40], atol=NEAR)
            for context_id, position, activation in rows.select("context_id", "position", "activation").iter_rows():
                assert position > 0
                assert mine[context_id][position] == pytest.approx(activation, abs=NEAR)
            top = frames.top_contexts.filter(unit=neuron, sign=sign)
            taken: list[str] = []
            for context_id in sorted(mine, key=lambda c: -mine[c][1:].max()):
                if sum(document[c] == document[context_id] for c in taken) < 2:
                    taken.append(context_id)
            # Contexts equal within rounding may change places, but each rank's activation is that of the best choice.
            chosen = top["context_id"].to_list()
            assert len(set(chosen)) == 6
            assert max(Counter(document[c] for c in chosen).values()) <= 2
            best = [mine[c][1:].max() for c in taken[:6]]
            np.testing.assert_allclose(top["activation"], best, atol=NEAR)
            np.testing.assert_allclose([mine[c][1:].max() for c in chosen], best, atol=NEAR)
            at_peaks = [mine[c][peak] for c, peak in zip(chosen, top["peak"], strict=True)]
            np.testing.assert_allclose(at_peaks, best, atol=NEAR)
            assert top["peak"].min() > 0
            for context_id, activations in top.select("context_id", "activations").iter_rows():
                if neuron in RECORDED[layer]:
                    np.testing.assert_allclose(activations, mine[context_id], atol=NEAR)
                else:
                    assert activations is None


def test_the_largest_top_context_is_a_max_and_rows_fit_the_tables(first):
    frames = first[0].frames(0)
    best = frames.top_contexts.filter(rank=0).select("unit", "sign", "activation")
    joined = frames.neuron_stats.join(best, on=["unit", "sign"])
    assert (joined["max"] == joined["activation"].cast(pl.Float64)).all()
    for name in ("neuron_stats", "activations", "top_contexts"):
        rows = getattr(frames, name).with_columns(study=pl.lit("s"), layer=pl.lit(0))
        TABLES[name].conform(rows)


def test_a_second_call_runs_nothing_and_gives_the_same_rows(model, contexts, first):
    counting = CountingModel(model)
    again = run(counting, contexts, first[1])
    assert counting.tokens == 0 == again.tokens_run == again.shards_run
    assert again.tokens_reused == first[0].tokens_run
    assert again.shards_reused == first[0].shards_run > 2
    assert again.frames(2).top_contexts.equals(first[0].frames(2).top_contexts)


def test_new_documents_cost_only_their_own_pass(model, contexts, tmp_path):
    run(model, make_contexts(model, [0, 1, 2, 5, 6, 7, 8]), tmp_path)
    counting = CountingModel(model)
    grown = run(counting, contexts, tmp_path)
    new = make_contexts(model, [3, 4, 9, 10, 11, 12, 13])["token_ids"].list.len().sum()
    assert grown.tokens_run == new
    same_frames(grown.frames(2), run(model, contexts, tmp_path / "fresh").frames(2))


def test_a_removed_document_costs_only_its_shard(model, contexts, tmp_path):
    whole = run(model, contexts, tmp_path)
    left = contexts.filter(pl.col("document_id") != "doc04")
    fewer = run(model, left, tmp_path)
    assert 0 < fewer.tokens_run <= SETTINGS.shard_tokens
    assert fewer.shards_reused == whole.shards_run - 1
    same_frames(fewer.frames(0), run(model, left, tmp_path / "fresh").frames(0))
    back = run(model, contexts, tmp_path)
    assert back.tokens_run == 0


def test_another_layer_runs_only_that_layer(model, contexts, tmp_path):
    run(model, contexts, tmp_path, layers=(2,))
    counting = CountingModel(model)
    both = run(counting, contexts, tmp_path)
    assert set(counting.layers) == {(0,)}
    same_frames(both.frames(0), run(model, contexts, tmp_path / "fresh").frames(0))


def test_a_killed_harvest_goes_on_at_the_missing_shards(model, contexts, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(CountingModel(model, fail_after=5), contexts, tmp_path)
    seen: list[tuple[int, int]] = []
    resumed = run(model, contexts, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert 0 < resumed.tokens_run < resumed.tokens_run + resumed.tokens_reused
    assert resumed.tokens_reused > 0
    assert seen[-1] == (resumed.tokens_run, resumed.tokens_run)
    same_frames(resumed.frames(2), run(model, contexts, tmp_path / "fresh").frames(2))


def test_a_damaged_checkpoint_is_made_anew(model, contexts, tmp_path):
    whole = run(model, contexts, tmp_path)
    paths = sorted(tmp_path.glob("cache/harvest/*/layer=2.*/state.safetensors"))
    paths[0].write_bytes(paths[0].read_bytes()[:-7] + b"garbage")
    paths[1].with_name("entry.json").write_text(json.dumps({"documents": 3}))
    again = run(model, contexts, tmp_path)
    assert again.shards_run == 2
    assert again.frames(2).activations.equals(whole.frames(2).activations)
    paths[0].unlink()
    with pytest.raises(StorageError, match="materialize activation_cache again"):
        again.frames(2)


def test_windows_are_missing_where_a_shard_recorded_other_neurons(model, contexts, tmp_path):
    run(model, contexts, tmp_path, recorded={0: [3]})
    frames = run(model, contexts, tmp_path, recorded={0: [3, 4]}).frames(0)
    recorded = frames.top_contexts.filter(pl.col("activations").is_not_null())
    assert recorded["unit"].unique().to_list() == [3]


def test_only_the_recorded_signs_have_windows_and_all_else_is_the_same(model, contexts, first, tmp_path):
    found = run(model, contexts, tmp_path, signs=(-1,)).frames(0)
    both = first[0].frames(0)
    windows = pl.col("activations").is_not_null()
    recorded = found.top_contexts.filter(windows)
    assert recorded.equals(both.top_contexts.filter(windows, sign=-1))
    assert len(recorded) == 6 * len(RECORDED[0])
    assert found.top_contexts.drop("activations").equals(both.top_contexts.drop("activations"))
    assert found.activations.equals(both.activations)
    assert found.neuron_stats.equals(both.neuron_stats)
    sizes = [sum(path.stat().st_size for path in each.rglob("*.safetensors")) for each in (tmp_path, first[1])]
    assert sizes[0] < sizes[1], "checkpoints hold no window of the other sign"


def test_the_batch_size_does_not_change_the_rows(model, contexts, first, tmp_path):
    other = run(
        model, contexts, tmp_path, settings=SETTINGS.model_copy(update={"batch_tokens": 17, "shard_tokens": 900})
    )
    for layer in LAYERS:
        same_frames(first[0].frames(layer), other.frames(layer))


def test_out_of_memory_the_shard_begins_anew_with_smaller_batches_and_nothing_counts_twice(
    model, contexts, first, tmp_path
):
    small, seen = SmallMemory(model, limit=40), []
    found = run(small, contexts, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert small.failed == (128, 64), "later shards begin with the smaller batches"
    assert found.tokens_run == first[0].tokens_run == seen[-1][0] == seen[-1][1]
    for layer in LAYERS:
        frames, whole = found.frames(layer), first[0].frames(layer)
        same_frames(frames, whole)
        shares = [found.neuron_stats["share_positive"] for found in (frames, whole)]
        np.testing.assert_allclose(
            *shares, atol=1.5 / whole.neuron_stats["n_tokens"][0]
        )  # one may be 0 within rounding


def test_out_of_memory_later_in_a_shard_its_batches_before_count_once(model, contexts, first, tmp_path):
    later = SmallMemory(model, limit=128)
    batch = later.run

    def run_fewer(tokens, taps):
        later.limit = 30 if len(later.layers) == 1 else later.limit
        batch(tokens, taps)

    later.run = run_fewer
    found = run(later, contexts, tmp_path)
    assert later.failed
    assert later.tokens > found.tokens_run, "the first batch ran twice"
    same_frames(found.frames(2), first[0].frames(2))


def test_a_context_that_does_not_fit_into_memory_says_what_to_do(model, contexts, tmp_path):
    with pytest.raises(SubjectError, match=r"no memory left .*lower harvest.context_length"):
        run(SmallMemory(model, limit=LENGTH - 1), contexts, tmp_path)


def test_what_is_kept_of_every_unit_does_not_fit_into_memory_says_what_to_do(model, contexts, tmp_path):
    huge = SETTINGS.model_copy(update={"strongest": 10**13})
    with pytest.raises(SubjectError, match=r"no memory left for what .* of 2 layers: lower harvest.strongest"):
        run(model, contexts, tmp_path, settings=huge)


@pytest.mark.parametrize("poison", [float("inf"), float("nan")])
def test_a_layer_that_is_not_finite_fails_alone(poison, model, contexts, first, tmp_path):
    broken = replace(model, plain=copy.deepcopy(model.plain))
    broken.facts = model.facts
    with torch.no_grad():
        broken.plain.get_submodule("model.layers.2.mlp.up_proj").weight[5] = poison
    counting = CountingModel(broken)
    found = run(counting, contexts, tmp_path)
    same_frames(found.frames(0), first[0].frames(0))
    with pytest.raises(SubjectError, match=r"layer 2 are not finite .*dtype to float32, or choose another hook"):
        found.frames(2)
    assert not list(tmp_path.glob("*/layer=2/*"))
    assert counting.layers[0] == LAYERS
    assert counting.layers[-1] == (0,), "after its first shard the layer is not read any more"
    assert (found.tokens_run, found.shards_run) == (first[0].tokens_run, first[0].shards_run)
    again = run(broken, contexts, tmp_path)
    assert (again.shards_run, again.shards_reused) == (1, 0), "one shard tells that the layer is still not finite"


def test_an_empty_harvest_says_what_to_do(model, tmp_path):
    with pytest.raises(CorpusError, match="add documents"):
        run(model, make_contexts(model, []), tmp_path)


def test_a_folder_that_cannot_be_written_says_what_to_do(model, contexts, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="set N2G_HOME"):
        run(model, contexts, tmp_path / "file")
