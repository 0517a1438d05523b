"""The activation cache under studies that ask for other units later, and under rows that an earlier version wrote."""

from __future__ import annotations

import logging
from pathlib import Path

import polars as pl
import pytest

from n2g_assets.assets import activation_cache, top_examples
from n2g_assets.assets.session import Session
from n2g_assets.assets.study import Study
from n2g_assets.core.home import Home
from n2g_assets.storage.slices import hash_json
from n2g_assets_tests.assets.studies import tiny_study

LAYER = 1


def session(study: Study, home: Path) -> Session:
    return Session(study, Home(home), logging.getLogger())


def no_progress(_done: int, _total: int) -> None:
    pass


def test_another_sign_that_is_asked_for_later_is_probed_and_costs_no_harvest(finished, tmp_path):
    home = finished.copy_home(tmp_path)
    before = session(finished.study, home).read("top_examples", LAYER)
    bench = session(tiny_study(finished.study.folder, signs=["positive", "negative"]), home)
    strong = bench.read("top_contexts", LAYER, units=bench.units(LAYER))
    recorded = strong.filter(pl.col("activations").is_not_null())
    assert set(recorded["sign"]) == {1}, "only the sign that the study asked for"

    assert activation_cache.STAGE.work(bench, LAYER, no_progress).reused
    report = top_examples.STAGE.work(bench, LAYER, no_progress)
    assert (report.computed, report.kept) == (4, 4)
    after = bench.read("top_examples", LAYER)
    assert after.filter(sign=1).equals(before)
    probed = after.filter(sign=-1)
    assert probed["unit"].n_unique() > 1
    joined = probed.join(strong, on=["unit", "sign", "context_id"], suffix="_harvested")
    assert len(joined) == len(probed)
    apart = (joined["activation"] - joined["activation_harvested"]).abs().max()
    assert apart <= 1e-4 * probed["activation"].max()


@pytest.mark.parametrize(("dtype", "fresh"), [("float32", True), ("bfloat16", False)])
def test_of_the_rows_of_the_first_version_only_those_of_bfloat16_are_made_again(finished, tmp_path, dtype, fresh):
    harvest = finished.study.settings.harvest.model_dump() | {"dtype": dtype}
    bench = session(tiny_study(finished.study.folder, harvest=harvest), finished.copy_home(tmp_path))
    first = hash_json(
        {
            "code_version": "1",
            "model": bench.model_hash,
            "contexts": bench.harvest_hash,
            "layer": LAYER,
            "strongest": 16,
            "dtype": dtype,
            "top_contexts": 20,
            "contexts_per_document": 2,
        }
    )
    for table in activation_cache.STAGE.tables:
        bench.write(table, bench.read(table, LAYER), layer=LAYER, input_hash=first, code_version="1")
    assert activation_cache.STAGE.work(bench, LAYER, no_progress).reused is fresh
    assert activation_cache.STAGE.work(bench, LAYER, no_progress).reused
