"""A harvest in bfloat16 against one in float32: what is measured again, and what is not."""

from __future__ import annotations

import polars as pl
import pytest

from n2g_assets.model.load import load_subject
from n2g_assets_tests.evidence.helpers import (
    NEAR,
    RECORDED,
    SETTINGS,
    CountingModel,
    SmallMemory,
    activations_one_by_one,
    assert_same_rows,
    assert_same_windows,
    run,
)


def test_bfloat16_top_contexts_of_recorded_units_are_chosen_and_stored_in_float32(
    files, model, contexts, first, tmp_path
):
    half = load_subject(files, "mlp.hook_post", SETTINGS, "auto", dtype="bfloat16")
    with pytest.raises(ValueError, match="exact_model"):
        run(half, contexts, tmp_path)
    frames = run(half, contexts, tmp_path, exact_model=model).frames(0)
    exact = first[0].frames(0)
    mine, theirs = (f.top_contexts.filter(pl.col("unit").is_in(RECORDED[0])) for f in (frames, exact))
    assert_same_rows(mine, theirs, "peak")
    assert_same_windows(mine, theirs)
    best = frames.top_contexts.filter(rank=0).sort("sign", "unit")["activation"].cast(pl.Float64)
    assert best.equals(frames.neuron_stats.sort("sign", "unit")["max"], check_names=False)


def test_bfloat16_a_max_and_the_strong_positions_in_shortlisted_contexts_of_recorded_units_are_float32(
    files, model, contexts, first, tmp_path
):
    half = load_subject(files, "mlp.hook_post", SETTINGS, "auto", dtype="bfloat16")
    exact = first[0].frames(0)
    for small in (False, True):
        again = SmallMemory(model, limit=50) if small else model
        frames = run(half, contexts, tmp_path, exact_model=again).frames(0)
        every = activations_one_by_one(model, contexts, 0)
        recorded = pl.col("unit").is_in(RECORDED[0])
        off = {}
        for name, others in (("recorded", recorded), ("others", ~recorded)):
            mine, theirs = (f.neuron_stats.filter(others).sort("unit", "sign")["max"] for f in (frames, exact))
            off[name] = (mine - theirs).abs().max()
        assert off["recorded"] < NEAR < off["others"]
        top = frames.top_contexts.select("unit", "sign", "context_id")
        strong = frames.activations.filter(recorded)
        assert strong.select("unit", "sign", "rank").equals(
            exact.activations.filter(recorded).select("unit", "sign", "rank")
        )
        within = strong.join(top, on=["unit", "sign", "context_id"])
        assert len(within) > 50
        for neuron, sign, context_id, position, activation in within.select(
            "unit", "sign", "context_id", "position", "activation"
        ).iter_rows():
            assert activation == pytest.approx(sign * every[context_id][position, neuron], abs=NEAR)
        steps = strong.select(pl.col("activation").diff().over("unit", "sign").fill_null(0))
        assert (steps["activation"] <= 0).all(), "ranks follow the activations as they are stored"


def test_bfloat16_measures_again_the_recorded_units_of_the_study_and_gives_no_other_windows(
    files, model, contexts, first, tmp_path
):
    half = load_subject(files, "mlp.hook_post", SETTINGS, "auto", dtype="bfloat16")
    more, fewer, later = (CountingModel(model) for _ in range(3))
    run(half, contexts, tmp_path, exact_model=more).frames(0)
    frames = run(half, contexts, tmp_path, recorded={0: [3]}, signs=(1,), exact_model=fewer).frames(0)
    assert 0 < fewer.tokens < more.tokens
    recorded = frames.top_contexts.filter(pl.col("activations").is_not_null())
    assert recorded.select("unit", "sign").unique().rows() == [(3, 1)], "those of others are bfloat16"
    exact = first[0].frames(0).top_contexts.filter(unit=3, sign=1)
    assert_same_rows(recorded, exact, "peak")
    assert_same_windows(recorded, exact)

    run(half, contexts, tmp_path / "positive", signs=(1,), exact_model=model)
    frames = run(half, contexts, tmp_path / "positive", signs=(-1,), exact_model=later).frames(0)
    assert later.tokens == 0
    assert frames.top_contexts["activations"].null_count() == len(frames.top_contexts)
