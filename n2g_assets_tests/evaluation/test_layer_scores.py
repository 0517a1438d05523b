"""Means over units against a slow computation that keeps every unit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.bootstrap import draw_graded_scores, draw_scores, poisson_weights
from n2g_assets.evaluation.document_counts import DocumentCounts, count_documents, document_rows
from n2g_assets.evaluation.layer_scores import layer_scores
from n2g_assets.evaluation.scores import score_row
from n2g_assets.method.results import unit_frame
from n2g_assets_tests.evaluation.slow_evaluation import slow_interval

DRAWS, SEED = 12, 3
DOCUMENTS = [f"d{number}" for number in range(4)]
ENDS = ("", "_low", "_high")
SCORES = ("f1", "average_precision", "pearson_r", "explained_variance")

Scored = tuple[dict, DocumentCounts]
"""One unit: columns of ``evaluation``, and its counts."""
Tokens = Sequence[tuple[float, float, int]]
"""Actual and predicted activation and the document of each token."""


def a_unit(tokens: Tokens, documents: Sequence[str] = DOCUMENTS) -> Scored:
    actual, predicted, numbers = (np.array([token[part] for token in tokens]) for part in range(3))
    counts = count_documents(actual, predicted, numbers.astype(int), len(documents), 0.5)
    return score_row(actual, predicted, counts, poisson_weights(documents, 2, SEED), 0.5), counts


def unit_rows(
    unit: Unit, scored: Mapping[tuple[str, str], Scored], documents: Sequence[str] = DOCUMENTS
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of ``evaluation`` and ``document_scores`` of one unit, given its scores by predictor and text."""
    rows = [
        {**unit.key(), "predictor": predictor, "text": text, "threshold": 0.5, "ngram_n": None, **row}
        for (predictor, text), (row, _) in scored.items()
    ]
    counts = [(predictor, text, documents, counts) for (predictor, text), (_, counts) in scored.items()]
    return unit_frame("evaluation", rows), document_rows(unit, counts)


def rows_of(by_pair: Mapping[tuple[str, str], Sequence[Scored]]) -> list[tuple[pl.DataFrame, pl.DataFrame]]:
    """A block a unit; predictors may have different numbers of units."""
    most = max(map(len, by_pair.values()))
    return [
        unit_rows(Unit(n, 1), {pair: units[n] for pair, units in by_pair.items() if n < len(units)})
        for n in range(most)
    ]


def means(blocks, asked: int, expected: Sequence[tuple[str, str]] = (), draws: int = DRAWS) -> pl.DataFrame:
    return layer_scores(blocks, units_asked=asked, draws=draws, seed=SEED, expected=expected)


def only(frame: pl.DataFrame, predictor: str, text: str = "random") -> dict:
    [row] = frame.filter(predictor=predictor, text=text).to_dicts()
    return row


def columns(row: dict, name: str) -> list[float | None]:
    return [row[name + end] for end in ENDS]


def close(score: float | None, draws: Sequence[float]):
    """A score with its interval."""
    if score is None:
        return [None] * 3
    ends = slow_interval(draws, score)
    return [score, None, None] if ends[0] is None else pytest.approx([score, *ends], abs=1e-9)


def mean(scores) -> float | None:
    defined = [float(score) for score in scores if score is not None and not math.isnan(score)]
    return sum(defined) / len(defined) if defined else None


def drawn(units: Sequence[Scored], kind: int) -> list[list[float]]:
    """The score with this place in ``SCORES`` of every unit in every draw."""
    weights, draw = poisson_weights(DOCUMENTS, DRAWS, SEED), draw_scores if kind < 2 else draw_graded_scores
    return [draw(counts, weights)[kind % 2].tolist() for _, counts in units]


def drawn_means(units: Sequence[Scored], kind: int) -> list[float]:
    found = [mean(of_draw) for of_draw in zip(*drawn(units, kind), strict=True)]
    return [math.nan if score is None else score for score in found]


def mean_of_all(units: Sequence[Scored], asked: int) -> tuple[float, list[float]]:
    """F1 over all units, undefined or missing ones 0; in a draw, the share that is defined times their mean there."""
    total = sum(row["f1"] or 0 for row, _ in units) / asked
    share = sum(row["f1"] is not None for row, _ in units) / asked
    return total, [total if math.isnan(score) else score * share for score in drawn_means(units, 0)]


VALUES = st.sampled_from([0.0, 0.0, 0.0, 0.3, 0.5, 0.75, 1.0])
UNITS = st.lists(
    st.lists(st.tuples(VALUES, VALUES, st.integers(0, 3)), min_size=1, max_size=12).map(a_unit), min_size=1, max_size=5
)


@settings(max_examples=40, deadline=None)
@given(UNITS, UNITS, st.integers(5, 8))
def test_means_and_intervals_equal_the_slow_computation(graph, lookup, asked):
    """Also of units in which nothing fires, and in draws that miss all of a unit's firing documents."""
    frame = means(rows_of({("graph", "random"): graph, ("token_lookup", "random"): lookup}), asked)
    row = only(frame, "graph")
    assert (row["units"], row["evaluated"]) == (asked, len(graph))
    assert row["without_firing"] == sum(scores["n_firings"] == 0 for scores, _ in graph)
    for kind, name in enumerate(SCORES):
        assert columns(row, name) == close(mean(scores[name] for scores, _ in graph), drawn_means(graph, kind))
    (all_graph, drawn_graph), (all_lookup, drawn_lookup) = mean_of_all(graph, asked), mean_of_all(lookup, asked)
    assert columns(row, "f1_all") == close(all_graph, drawn_graph)
    in_pairs = [ours - theirs for ours, theirs in zip(drawn_graph, drawn_lookup, strict=True)]
    assert columns(row, "f1_gain") == close(all_graph - all_lookup, in_pairs)
    assert columns(only(frame, "token_lookup"), "f1_gain") == [0, 0, 0]
    for name, part in (("levels_firing", "firing"), ("levels_silent", "silent")):
        expected = np.zeros(101, int)
        for _, counts in graph:
            for level, tokens in zip(counts.levels, getattr(counts, part), strict=True):
                expected[level // 10] += tokens
        assert row[name] == expected.tolist()


@settings(max_examples=15, deadline=None)
@given(UNITS, st.integers(1, 4))
def test_the_cut_into_blocks_and_the_order_of_units_change_nothing(units, size):
    single = rows_of({("graph", "random"): units, ("graph", "top"): units[::-1]})
    blocks = [
        tuple(pl.concat(part) for part in zip(*single[start : start + size], strict=True))
        for start in range(0, len(single), size)
    ]
    key = ["predictor", "text"]
    expected = means(single, 5).sort(key)
    for other in (blocks, single[::-1]):
        found = means(other, 5).sort(key)
        for row, wanted in zip(found.to_dicts(), expected.to_dicts(), strict=True):
            assert row == {
                name: pytest.approx(value, abs=1e-12) if isinstance(value, float) else value
                for name, value in wanted.items()
            }


def test_two_conventions_for_what_is_undefined_or_missing():
    silent = a_unit([(0.0, 0.0, 0)])
    half, whole = a_unit([(1.0, 1.0, 0), (1.0, 0.0, 0), (0.0, 0.6, 1)]), a_unit([(1.0, 1.0, 0)])
    assert [scores["f1"] for scores, _ in (half, silent, whole)] == [0.5, None, 1.0]
    row = only(means(rows_of({("graph", "random"): [half, silent, whole]}), 4), "graph")
    assert (row["units"], row["evaluated"], row["without_firing"]) == (4, 3, 1)
    assert (row["f1"], row["f1_all"]) == (0.75, 0.375)


def test_means_of_r_leave_out_a_constant_prediction_in_the_text_and_in_every_draw():
    """Done by hand: one unit is predicted exactly, one in the wrong order, one is always predicted alike."""
    tokens = [(-0.5, 0), (0.25, 1), (0.0, 2), (0.125, 3)]
    right, wrong, flat = (
        a_unit([(actual, guess(actual), document) for actual, document in tokens])
        for guess in (lambda actual: actual, lambda actual: -actual / 2, lambda _: 0.1)
    )
    row = only(means(rows_of({("graph", "random"): [right, wrong, flat]}), 4), "graph")
    assert columns(row, "pearson_r") == pytest.approx([0, 0, 0])
    # Var(actual + actual / 2) is nine quarters of Var(actual), whatever documents are drawn.
    assert columns(row, "explained_variance") == pytest.approx([(1 - 1.25 + 0) / 3] * 3)
    alone = only(means(rows_of({("graph", "random"): [flat]}), 4), "graph")
    assert columns(alone, "pearson_r") == [None] * 3


def test_a_gain_needs_the_lookup_on_the_same_text():
    right, wrong = a_unit([(1.0, 1.0, 0)]), a_unit([(1.0, 0.0, 0)])
    blocks = rows_of({
        ("graph", "top"): [right], ("graph", "random"): [right] * 2, ("token_lookup", "random"): [right, wrong],
    })  # fmt: skip
    frame = means(blocks, 2)
    assert columns(only(frame, "graph", "top"), "f1_gain") == [None] * 3
    assert only(frame, "graph")["f1_gain"] == 0.5


def test_where_nothing_is_defined_means_are_none_and_the_mean_of_all_is_0():
    row = only(means(rows_of({("graph", "random"): [a_unit([(0.0, 0.0, 1)])]}), 2), "graph")
    assert [columns(row, name) for name in SCORES] == [[None] * 3] * 4
    assert columns(row, "f1_all") == [0.0] * 3


def test_a_unit_without_a_token_in_a_text_counts_as_evaluated():
    row = only(means(rows_of({("graph", "quantiles"): [a_unit([])]}), 2), "graph", "quantiles")
    assert (row["evaluated"], row["without_firing"], row["f1"], row["f1_all"]) == (1, 1, None, 0.0)


def test_an_improvement_of_every_document_has_an_interval_above_0_though_the_scores_overlap():
    rng, documents = np.random.default_rng(0), [f"d{number}" for number in range(40)]
    weights = poisson_weights(documents, 2, SEED)
    blocks = []
    for number in range(6):
        document = rng.integers(0, len(documents), 3000)
        hard = rng.random(len(documents))[document]  # documents differ a lot, two predictors within one only a little
        actual = (rng.random(3000) < 0.2).astype(np.float64)
        found, scored = rng.random(3000), {}
        for predictor, ease in (("graph", 0.08), ("token_lookup", 0.0)):
            pair = actual, actual * (found > hard - ease)
            counts = count_documents(*pair, document, len(documents), 0.5)
            scored[predictor, "random"] = score_row(*pair, counts, weights, 0.5), counts
        blocks.append(unit_rows(Unit(number, 1), scored, documents))
    frame = means(blocks, 6, draws=300)
    graph, lookup = only(frame, "graph"), only(frame, "token_lookup")
    assert graph["f1_all_low"] < lookup["f1_all_high"]
    assert 0 < graph["f1_gain_low"] < graph["f1_gain"] < graph["f1_gain_high"]
    assert graph["f1_low"] < graph["f1"] < graph["f1_high"]


def test_expected_pairs_have_a_row_without_any_unit_and_come_first():
    expected = [("graph", "top"), ("token_lookup", "top"), ("graph", "random")]
    frame = means([], 3, expected)
    assert frame.select("predictor", "text").rows() == expected
    for row in frame.to_dicts():
        assert (row["units"], row["evaluated"], row["without_firing"]) == (3, 0, 0)
        assert [columns(row, name) for name in SCORES] == [[None] * 3] * 4
        assert columns(row, "f1_all") == [0.0] * 3
        assert columns(row, "f1_gain") == [None] * 3
        assert row["levels_firing"] == row["levels_silent"] == [0] * 101
    blocks = rows_of({("graph", "quantiles"): [a_unit([(1.0, 1.0, 0)])], ("graph", "top"): [a_unit([(1.0, 0.0, 0)])]})
    frame = means(blocks, 3, expected)
    assert frame.select("predictor", "text").rows() == [*expected, ("graph", "quantiles")]
    plain = means(blocks, 3)
    key = ["predictor", "text"]
    assert frame.filter(pl.col("evaluated") > 0).sort(key).equals(plain.sort(key))


def test_the_frame_is_the_table_without_study_and_layer():
    blocks = rows_of({("graph", "top"): [a_unit([(1.0, 1.0, 0)])]})
    key = [pl.lit("a").alias("study"), pl.lit(0, pl.Int32).alias("layer")]
    for frame in (means([], 2), means(blocks, 2), means(blocks, 2, [("graph", "top"), ("ngram", "random")])):
        assert TABLES["layer_scores"].conform(frame.with_columns(key)).height == frame.height


def test_blocks_are_read_one_by_one():
    """No block is asked for before the one before it is done with: memory does not grow with units."""
    read: list[int] = []

    def blocks():
        for number, block in enumerate(rows_of({("graph", "top"): [a_unit([(1.0, 1.0, 0)])] * 3})):
            read.append(number)
            yield block

    assert means(blocks(), 3)["evaluated"].to_list() == [3]
    assert read == [0, 1, 2]


def test_more_units_than_asked_for_are_refused():
    with pytest.raises(ValueError, match="more units"):
        means(rows_of({("graph", "top"): [a_unit([(1.0, 1.0, 0)])] * 2}), 1)
