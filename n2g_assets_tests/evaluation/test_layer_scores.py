"""Means over units against a slow computation that keeps every unit."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.bootstrap import poisson_weights
from n2g_assets.evaluation.layer_scores import LayerScores
from n2g_assets.evaluation.scores import Draws, Scores
from n2g_assets_tests.evaluation.slow_evaluation import slow_interval

DRAWS = 12
ENDS = ("", "_low", "_high")


def a_unit(f1, f1_draws, precision, precision_draws, n_firings=3, level=0) -> tuple[dict, Draws]:
    levels = np.zeros(101, np.int64)
    levels[level] = n_firings
    row = {"f1": f1, "average_precision": precision, "n_firings": n_firings}
    return row, Draws(np.array(f1_draws, np.float32), np.array(precision_draws, np.float32), levels, 2 * levels)


def some_units(seed: int, n: int) -> list[tuple[dict, Draws]]:
    """Units with many ties, undefined scores and undefined draws; sometimes nothing is defined at all."""
    rng = np.random.default_rng(seed)
    undefined = rng.choice([0, 0.3, 0.9])

    def score() -> float | None:
        return None if rng.random() < undefined else float(rng.integers(0, 9) / 8)

    def draws() -> list[float]:
        return [math.nan if drawn is None else drawn for drawn in (score() for _ in range(DRAWS))]

    return [
        a_unit(score(), draws(), score(), draws(), int(rng.integers(0, 3)), int(rng.integers(0, 101))) for _ in range(n)
    ]


UNITS = st.builds(some_units, st.integers(0, 10**6), st.integers(1, 6))


def only(frame: pl.DataFrame, predictor: str, text: str = "random") -> dict:
    [row] = frame.filter((pl.col("predictor") == predictor) & (pl.col("text") == text)).to_dicts()
    return row


def columns(row: dict, name: str) -> list[float | None]:
    return [row[name + end] for end in ENDS]


def close(score: float | None, draws: list[float]):
    """A score with its interval."""
    if score is None:
        return [None] * 3
    ends = slow_interval(draws, score)
    return [score, None, None] if ends[0] is None else pytest.approx([score, *ends], abs=1e-9)


def mean(scores) -> float | None:
    defined = [float(score) for score in scores if score is not None and not math.isnan(score)]
    return sum(defined) / len(defined) if defined else None


def drawn_means(units, name: str) -> list[float]:
    means = [mean([getattr(draws, name)[draw] for _, draws in units]) for draw in range(DRAWS)]
    return [math.nan if one is None else one for one in means]


def mean_of_all(units, asked: int) -> tuple[float, list[float]]:
    """F1 over all units, undefined or missing ones 0; in a draw, the share that is defined times their mean there."""
    total = sum(row["f1"] or 0 for row, _ in units) / asked
    share = sum(row["f1"] is not None for row, _ in units) / asked
    return total, [total if math.isnan(one) else one * share for one in drawn_means(units, "f1")]


@given(UNITS, UNITS, st.integers(6, 9))
def test_means_and_intervals_equal_the_slow_computation(graph, lookup, asked):
    layer = LayerScores(asked, DRAWS)
    for predictor, units in (("graph", graph), ("token_lookup", lookup)):
        for row, draws in units:
            layer.add(predictor, "random", row, draws)
    frame = layer.frame()
    row = only(frame, "graph")
    assert (row["units"], row["evaluated"]) == (asked, len(graph))
    assert row["without_firing"] == sum(one["n_firings"] == 0 for one, _ in graph)
    assert columns(row, "f1") == close(mean(one["f1"] for one, _ in graph), drawn_means(graph, "f1"))
    assert columns(row, "average_precision") == close(
        mean(one["average_precision"] for one, _ in graph), drawn_means(graph, "average_precision")
    )
    (all_graph, drawn_graph), (all_lookup, drawn_lookup) = mean_of_all(graph, asked), mean_of_all(lookup, asked)
    assert columns(row, "f1_all") == close(all_graph, drawn_graph)
    in_pairs = [one - other for one, other in zip(drawn_graph, drawn_lookup, strict=True)]
    assert columns(row, "f1_gain") == close(all_graph - all_lookup, in_pairs)
    assert columns(only(frame, "token_lookup"), "f1_gain") == [0, 0, 0]
    for name in ("levels_firing", "levels_silent"):
        assert row[name] == sum(getattr(draws, name) for _, draws in graph).tolist()


@given(UNITS, st.integers(0, 6))
def test_sums_that_are_kept_and_taken_over_go_on_as_if_nothing_had_happened(units, kept):
    whole, begun, resumed = (LayerScores(6, DRAWS, [("graph", "random"), ("graph", "top")]) for _ in range(3))
    scored = [
        (Unit(n, 1), [(row | {"predictor": "graph", "text": "top"}, draws)]) for n, (row, draws) in enumerate(units)
    ]
    for unit, scores in scored:
        whole.add_unit(unit, scores)
    for unit, scores in scored[:kept]:
        begun.add_unit(unit, scores)
    resumed.take_over(begun.sums())
    assert resumed.units == {unit for unit, _ in scored[:kept]}
    for unit, scores in scored:  # those that were taken over count once
        resumed.add_unit(unit, scores)
    assert resumed.frame().equals(whole.frame())
    assert resumed.units == whole.units == {unit for unit, _ in scored}


def test_sums_that_do_not_fit_change_nothing():
    layer = LayerScores(2, DRAWS)
    layer.add_unit(
        Unit(0, 1), [(row | {"predictor": "graph", "text": "top"}, draws) for row, draws in some_units(0, 1)]
    )
    before, sums = layer.frame(), layer.sums()
    del sums["levels"]
    with pytest.raises(KeyError):
        layer.take_over(sums)
    assert layer.frame().equals(before)


def test_the_order_of_units_and_texts_does_not_matter():
    units = [a_unit(n / 4, [n / 4] * DRAWS, n / 8, [math.nan] * DRAWS, level=n) for n in range(4)]
    frames = []
    for order in (units, units[::-1]):
        layer = LayerScores(4, DRAWS)
        for text in ("top", "random"):
            for row, draws in order:
                layer.add("graph", text, row, draws)
        frames.append(layer.frame())
    assert frames[0].equals(frames[1])
    assert frames[0]["text"].to_list() == ["top", "random"]


def test_two_conventions_for_what_is_undefined_or_missing():
    layer = LayerScores(4, 2)
    layer.add("graph", "top", *a_unit(0.5, [0.5, math.nan], 0.25, [0.25, 0.25]))
    layer.add("graph", "top", *a_unit(None, [math.nan, math.nan], None, [math.nan, math.nan], n_firings=0))
    layer.add("graph", "top", *a_unit(1.0, [0.75, 1.0], 0.75, [0.75, math.nan]))
    row = only(layer.frame(), "graph", "top")
    assert (row["units"], row["evaluated"], row["without_firing"]) == (4, 3, 1)
    assert columns(row, "f1") == pytest.approx([0.75, *np.percentile([0.625, 1.0], [2.5, 97.5])])
    assert columns(row, "f1_all") == pytest.approx([0.375, *np.percentile([0.625 / 2, 1.0 / 2], [2.5, 97.5])])
    # The mean equals the higher of its draws, .5 and .25, and so stands at the 3/4 quantile of a normal: .674. Below
    # 2 * .674 -+ 1.96 lie shares of .2706 and .9995; the upper end, just below .5, is moved to the mean.
    assert columns(row, "average_precision") == pytest.approx([0.5, 0.25 + 0.25 * 0.2706, 0.5], abs=1e-5)


def test_a_gain_needs_the_lookup_on_the_same_text_and_the_same_model():
    layer = LayerScores({"graph": 3, "token_lookup": 3, "graph_reinitialised": 2}, 2)
    unit = a_unit(0.75, [0.75, 0.75], 0.5, [0.5, 0.5])
    layer.add("graph", "top", *unit)
    layer.add("graph", "random", *unit)
    layer.add("token_lookup", "random", *a_unit(0.0, [0.0, 0.0], 0.5, [0.5, 0.5]))
    layer.add("graph_reinitialised", "random", *unit)
    frame = layer.frame()
    assert columns(only(frame, "graph", "top"), "f1_gain") == [None] * 3
    assert columns(only(frame, "graph"), "f1_gain") == [0.25] * 3
    reinitialised = only(frame, "graph_reinitialised")
    assert (reinitialised["units"], reinitialised["f1_all"]) == (2, 0.375)
    assert columns(reinitialised, "f1_gain") == [None] * 3


def test_where_nothing_is_defined_means_are_none_and_the_mean_of_all_is_0():
    layer = LayerScores(2, 2)
    layer.add("graph", "top", *a_unit(None, [math.nan] * 2, None, [math.nan] * 2, n_firings=0))
    row = only(layer.frame(), "graph", "top")
    assert columns(row, "f1") == columns(row, "average_precision") == [None] * 3
    assert columns(row, "f1_all") == [0.0] * 3


def test_an_improvement_of_every_document_has_an_interval_above_0_though_the_scores_overlap():
    rng, documents = np.random.default_rng(0), 40
    weights = poisson_weights([f"d{n}" for n in range(documents)], 300, 0)
    layer = LayerScores(6, 300)
    for _ in range(6):
        document = rng.integers(0, documents, 3000)
        hard = rng.random(documents)[document]  # documents differ a lot, the two predictors within one only a little
        actual = (rng.random(3000) < 0.2).astype(np.float64)
        found = rng.random(3000)
        for predictor, ease in (("graph", 0.08), ("token_lookup", 0.0)):
            scores = Scores(documents, 0.5)
            scores.add(actual, actual * (found > hard - ease), document)
            layer.add(predictor, "random", *scores.row(weights))
    frame = layer.frame()
    graph, lookup = only(frame, "graph"), only(frame, "token_lookup")
    assert graph["f1_all_low"] < lookup["f1_all_high"]
    assert 0 < graph["f1_gain_low"] < graph["f1_gain"] < graph["f1_gain_high"]
    assert graph["f1_low"] < graph["f1"] < graph["f1_high"]


def test_expected_pairs_have_a_row_before_any_unit_is_scored_and_the_same_row_as_others_after():
    expected = [("graph", "top"), ("token_lookup", "top"), ("graph", "random")]
    layer, plain = LayerScores(3, 2, expected), LayerScores(3, 2)
    frame = layer.frame()
    assert frame.select("predictor", "text").rows() == expected
    for row in frame.to_dicts():
        assert (row["units"], row["evaluated"], row["without_firing"]) == (3, 0, 0)
        assert columns(row, "f1") == columns(row, "average_precision") == [None] * 3
        assert columns(row, "f1_all") == [0.0] * 3
        assert columns(row, "f1_gain") == [None] * 3
        assert row["levels_firing"] == row["levels_silent"] == [0] * 101
    for predictor, text in (("token_lookup", "top"), ("graph", "top"), ("graph", "quantiles")):
        for one in (layer, plain):
            one.add(predictor, text, *a_unit(0.5, [0.5, 0.25], 0.75, [0.75, math.nan]))
    assert layer.frame().select("predictor", "text").rows() == [*expected, ("graph", "quantiles")]
    scored = layer.frame().filter(pl.col("evaluated") > 0)
    assert scored.sort("predictor", "text").equals(plain.frame().sort("predictor", "text"))


def test_rows_that_are_expected_know_their_units_asked_for():
    row = only(LayerScores({"graph": 7}, 2, [("graph", "top")]).frame(), "graph", "top")
    assert (row["units"], row["f1_all"]) == (7, 0.0)
    with pytest.raises(ValueError, match="ngram"):
        LayerScores({"graph": 7}, 2, [("ngram", "top")]).frame()


def test_the_frame_is_the_table_without_study_and_layer():
    layer = LayerScores(2, 2)
    empty = layer.frame()
    layer.add("graph", "top", *a_unit(0.5, [0.5, 0.5], 0.5, [0.5, 0.5]))
    key = [pl.lit("a").alias("study"), pl.lit(0, pl.Int32).alias("layer")]
    for frame in (empty, layer.frame(), LayerScores(2, 2, [("graph", "top"), ("ngram", "random")]).frame()):
        assert TABLES["layer_scores"].conform(frame.with_columns(key)).height == frame.height


def test_memory_does_not_grow_with_units():
    layer = LayerScores(500, 3)
    sizes = []
    for _ in range(500):
        layer.add("graph", "top", *a_unit(0.5, [0.5] * 3, 0.5, [0.5] * 3))
        sizes.append(sum(np.size(part) for sums in layer._sums.values() for part in vars(sums).values()))
    assert sizes[0] == sizes[-1]


def test_more_units_than_asked_for_other_draws_and_unknown_predictors_are_refused():
    layer = LayerScores({"graph": 1}, 2)
    unit = a_unit(0.5, [0.5, 0.5], 0.5, [0.5, 0.5])
    layer.add("graph", "top", *unit)
    with pytest.raises(ValueError, match="more units"):
        layer.add("graph", "top", *unit)
    with pytest.raises(ValueError, match="draws"):
        layer.add("graph", "random", *a_unit(0.5, [0.5], 0.5, [0.5]))
    with pytest.raises(ValueError, match="ngram"):
        layer.add("ngram", "top", *unit)
    assert layer.frame().height == 1
