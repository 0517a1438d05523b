"""Table ``size_curve``: the graph of each number of rules, scored as if it were the only one."""

from __future__ import annotations

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from n2g_assets.core.registry import TEXTS
from n2g_assets.core.tables import TABLES
from n2g_assets.evaluation.size_curve import SIZES
from n2g_assets_tests.evaluation.small_layer import METHOD, UNITS, SmallLayer, small_layer
from n2g_assets_tests.method.toy import conform

GROWN = [n_rules for n_rules in SIZES if n_rules <= METHOD.max_rules]
KEY = ["unit", "sign", "text"]
SCORES = [name for name in TABLES["size_curve"].schema if name not in ("study", "layer", "n_rules", *KEY)]


@pytest.fixture(scope="module")
def curve() -> pl.DataFrame:
    return scored(small_layer(1, preset="evidence"))["size_curve"]


def scored(layer: SmallLayer) -> dict[str, pl.DataFrame]:
    return layer.but(predictors=["graph"]).evaluate().tables


def test_every_unit_has_a_row_for_every_text_and_size_that_graphs_may_have(curve):
    found = conform("size_curve", curve).select(*KEY, "n_rules").rows()
    assert len(found) == len(set(found))
    assert set(found) == {(*unit, text.name, n_rules) for unit in UNITS for text in TEXTS for n_rules in GROWN}


@pytest.mark.parametrize("n_rules", GROWN)
def test_a_row_is_what_the_graph_of_so_many_rules_scores_where_no_other_is_grown(curve, n_rules):
    """Its threshold too, which is chosen on what graphs of that size, grown without a document, say of it."""
    alone = scored(small_layer(1, preset="evidence", max_rules=n_rules))["evaluation"]
    assert set(alone["predictor"]) == {"graph"}
    assert_frame_equal(
        curve.filter(n_rules=n_rules).select(*KEY, *SCORES).sort(KEY), alone.select(*KEY, *SCORES).sort(KEY)
    )


def test_graphs_of_other_sizes_have_other_scores_and_thresholds(curve):
    assert len(GROWN) > 2
    for name in ("pearson_r", "explained_variance", "average_precision", "threshold"):
        by_size = curve.group_by("n_rules").agg(pl.col(name).sort())
        assert by_size[name].n_unique() == len(GROWN), name
    assert curve["f1_low"].null_count() < curve.height


def test_the_graphs_of_the_paper_have_no_size_curve():
    assert scored(small_layer(1))["size_curve"].is_empty()
