"""The asset checks see what is wrong: each is shown a slice with one fault."""

from __future__ import annotations

import polars as pl
import pytest

from n2g_assets.core.home import Home
from n2g_assets.storage.slices import SliceStore
from n2g_assets_tests.assets.studies import definitions_of


def rewrite(home, table, layer, change):
    """Replace a slice by a changed one that is whole in itself."""
    store = SliceStore(Home(home))
    before = store.manifest(table, "tiny", layer)
    store.write(
        table, change(store.read(table, "tiny", layer)), study="tiny", layer=layer, input_hash=before.input_hash,
        code_version=before.code_version, unit_hashes=before.unit_hashes,
    )  # fmt: skip


def evaluate(finished, home, instance, asset, check):
    """The evaluation of one check, run by itself."""
    import dagster as dg

    key = dg.AssetCheckKey(finished.study.key(asset), check)
    job = dg.define_asset_job("checks", selection=dg.AssetSelection.checks(key))
    definitions = dg.Definitions.merge(definitions_of(finished.study, home), dg.Definitions(jobs=[job]))
    result = definitions.resolve_job_def("checks").execute_in_process(instance=instance, raise_on_error=False)
    return result.get_asset_check_evaluations()[0]


def shifted(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col("activation") * 1.01)


def one_document_on_both_sides(frame: pl.DataFrame) -> pl.DataFrame:
    first = frame["document_id"][0]
    other = frame.filter(pl.col("unit") == frame["unit"][0], pl.col("split") != frame["split"][0])["rank"][0]
    wrong = (pl.col("unit") == frame["unit"][0]) & (pl.col("rank") == other)
    return frame.with_columns(pl.when(wrong).then(pl.lit(first)).otherwise("document_id").alias("document_id"))


@pytest.mark.parametrize(
    ("asset", "check", "table", "change", "says"),
    [
        ("activation_cache", "activations_recomputed", "top_contexts", shifted, "layer 01"),
        ("top_examples", "activations_recomputed", "top_examples", shifted, "differs by"),
        ("top_examples", "train_and_test_disjoint", "top_examples", one_document_on_both_sides, "both train and test"),
        (
            "evaluation", "rows_are_sound", "evaluation",
            lambda frame: frame.filter(pl.col("unit") != frame["unit"][0]), "lacks 1 unit",
        ),
        (
            "evaluation", "rows_are_sound", "evaluation",
            lambda frame: frame.with_columns(pl.lit(float("nan")).alias("f1")), "evaluation.f1 holds NaN",
        ),
    ],
)  # fmt: skip
def test_a_check_sees_its_fault(finished, tmp_path, instance, asset, check, table, change, says):
    home = finished.copy_home(tmp_path)
    assert evaluate(finished, home, instance, asset, check).passed
    rewrite(home, table, 1, change)
    evaluation = evaluate(finished, home, instance, asset, check)
    assert not evaluation.passed
    assert says in evaluation.description
    assert "layer 01" in evaluation.description
    assert "layer 00" not in evaluation.description
