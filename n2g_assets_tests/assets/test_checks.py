"""The asset checks see what is wrong: each is shown a slice with one fault."""

from __future__ import annotations

import polars as pl
import pytest

from n2g_assets_tests.assets.studies import check, rewrite


def shifted(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col("activation") * 1.01)


def one_document_on_both_sides(frame: pl.DataFrame) -> pl.DataFrame:
    first = frame["document_id"][0]
    other = frame.filter(pl.col("unit") == frame["unit"][0], pl.col("split") != frame["split"][0])["rank"][0]
    wrong = (pl.col("unit") == frame["unit"][0]) & (pl.col("rank") == other)
    return frame.with_columns(pl.when(wrong).then(pl.lit(first)).otherwise("document_id").alias("document_id"))


def without_the_first_unit(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("unit") != frame["unit"][0])


def not_a_number(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.lit(float("nan")).alias("f1"))


FAULTS = [
    ("activation_cache", "activations_recomputed", "top_contexts", shifted, "differs by"),
    ("top_examples", "activations_recomputed", "top_examples", shifted, "differs by"),
    ("top_examples", "train_and_test_disjoint", "top_examples", one_document_on_both_sides, "both train and test"),
    ("evaluation", "rows_are_sound", "evaluation", without_the_first_unit, "lacks 1 unit"),
    ("evaluation", "rows_are_sound", "evaluation", not_a_number, "evaluation.f1 holds NaN"),
]


@pytest.mark.parametrize(("asset", "name", "table", "change", "says"), FAULTS)
def test_a_check_sees_its_fault_and_names_the_layer(finished, tmp_path, asset, name, table, change, says):
    home = finished.copy_home(tmp_path)
    rewrite(home, table, 1, change)
    result = check(finished.study, home, asset, name)
    assert not result.passed
    assert says in result.description
    assert "layer 01" in result.description
    assert "layer 00" not in result.description


def test_a_sound_run_passes_every_check_that_blocks(finished):
    assert all(one.passed for one in finished.checks if one.blocking or one.check_name == "rows_are_sound")
    assert {one.check_name for one in finished.checks} == {
        "rows_are_sound", "activations_recomputed", "train_and_test_disjoint", "split_is_sound", "model_is_sane",
        "no_unit_is_missing", "graph_beats_token_lookup", "shuffled_control_is_near_zero", "texts_are_there",
    }  # fmt: skip


def test_a_check_speaks_for_the_layers_that_it_is_given(finished):
    result = check(finished.study, finished.home, "top_examples", "rows_are_sound", [1, 2])
    assert result.metadata["layers"].value == "01, 02"


def test_activations_that_were_found_sound_are_not_computed_again(finished, monkeypatch):
    monkeypatch.setattr("n2g_assets.assets.checks._plain_activations", None)
    assert check(finished.study, finished.home, "top_examples", "activations_recomputed").passed
