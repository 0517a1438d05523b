"""Windows of the last tokens and what they are scored, against windows cut by hand and a slow second computation."""

from __future__ import annotations

from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from n2g_assets.core.units import Unit
from n2g_assets.evaluation.reach import Windows, cut_windows, reach_of_units
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.method.results import BlockResult
from n2g_assets_tests.evaluation.small_layer import (
    A_MAX,
    UNITS,
    Corpus,
    activations_of,
    corpus_of,
    frame_of,
    neurons_of,
    readings,
)
from n2g_assets_tests.method.toy import BOS

NEURONS = neurons_of(0)
"""Neuron 3 looks at the last two tokens, neuron 8 at the last three."""
TEXTS = {
    "random": corpus_of(np.random.default_rng(0), "h", 40),
    "out_of_domain": corpus_of(np.random.default_rng(1), "o", 9),
}
CORPORA = {name: TokenCorpus.from_frame(frame) for name, frame in TEXTS.items()}


def read_of(corpus: TokenCorpus, unit: Unit) -> np.ndarray:
    """A unit's activations at every token of some windows."""
    contexts = [corpus.tokens(number) for number in range(len(corpus.lengths))]
    return np.concatenate([activations_of(NEURONS, unit, tokens) for tokens in contexts])


def reach(windows: Windows, units=UNITS, texts: dict[str, Corpus] = TEXTS, threshold: float = 0.5) -> BlockResult:
    read_text = readings(texts, partial(activations_of, NEURONS))
    a_max = dict.fromkeys(units, A_MAX)
    return reach_of_units(units, windows, read_text, partial(read_of, windows.corpus), a_max, threshold)


def drawn(windows: Windows, name: str, corpora: dict[str, TokenCorpus] = CORPORA) -> list[tuple[str, int]]:
    """Context and position of the drawn places, in their order."""
    text = corpora[name]
    contexts = np.searchsorted(text.starts, windows.places[name], side="right") - 1
    positions = windows.places[name] - text.starts[contexts]
    return list(zip(text.context_ids.gather(contexts), positions.tolist(), strict=True))


# -------------------------------------------------------------------------------------------- windows
def test_a_window_is_bos_and_the_last_tokens_or_the_whole_prefix_and_equal_ones_are_one_context():
    text = frame_of([("a:0", "a", [BOS, 5, 6, 7]), ("a:1", "a", [BOS, 6, 7]), ("b:0", "b", [BOS])])
    windows = cut_windows({"random": TokenCorpus.from_frame(text)}, 99, 0, last_tokens=(1, 2, 9))
    expected = {
        ("a:0", 1): [(5,), (5,), (5,)], ("a:0", 2): [(6,), (5, 6), (5, 6)], ("a:0", 3): [(7,), (6, 7), (5, 6, 7)],
        ("a:1", 1): [(6,), (6,), (6,)], ("a:1", 2): [(7,), (6, 7), (6, 7)],
    }  # fmt: skip
    corpus = windows.corpus
    ends = windows.ends["random"]
    contexts = np.searchsorted(corpus.starts, ends, side="right") - 1
    assert (ends == corpus.starts[contexts + 1] - 1).all()
    places = drawn(windows, "random", {"random": TokenCorpus.from_frame(text)})
    assert {
        place: [tuple(corpus.tokens(number)[1:].tolist()) for number in contexts[:, column]]
        for column, place in enumerate(places)
    } == expected
    assert (corpus.token_ids[corpus.starts[:-1]] == BOS).all()
    assert len(corpus.lengths) == len({tuple(window) for found in expected.values() for window in found})


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**130))
def test_the_first_of_more_positions_are_the_same_and_position_0_is_never_drawn(few, many, seed):
    few, many = sorted((few, many))
    fewer, more = (drawn(cut_windows(CORPORA, n, seed, (1,)), "random") for n in (few, many))
    there = [(row[0], position) for row in TEXTS["random"].iter_rows() for position in range(1, len(row[2]))]
    assert fewer == more[:few]
    assert len(more) == len(set(more)) == min(many, len(there))
    assert set(more) <= set(there)


def test_another_seed_draws_other_positions_and_a_new_document_leaves_the_order_of_the_others():
    before = drawn(cut_windows(CORPORA, 99, 0), "random")
    assert before != drawn(cut_windows(CORPORA, 99, 1), "random")
    larger = {"random": TokenCorpus.from_frame(pl.concat([TEXTS["out_of_domain"], TEXTS["random"]]))}
    after = drawn(cut_windows(larger, 999, 0), "random", larger)
    assert [place for place in after if place[0].startswith("h")][:99] == before


# -------------------------------------------------------------------------------------------- scores
def test_every_score_is_that_of_a_slow_second_computation():
    windows = cut_windows(CORPORA, 60, 3, last_tokens=(1, 2))
    rows = reach(windows).tables["reach"]
    assert rows.select("unit", "sign", "text", "last_tokens").n_unique() == rows.height == len(UNITS) * 2 * 2
    for row in rows.iter_rows(named=True):
        unit = Unit(row["unit"], row["sign"])
        text = {context_id: token_ids for context_id, _, token_ids in TEXTS[row["text"]].iter_rows()}
        pairs = []
        for context_id, position in drawn(windows, row["text"]):
            prefix = text[context_id][: position + 1]
            window = [BOS, *prefix[max(1, len(prefix) - row["last_tokens"]) :]]
            pairs.append([activations_of(NEURONS, unit, tokens)[-1] / A_MAX for tokens in (prefix, window)])
        actual, shown = np.array(pairs).T
        fires, alarm = actual >= 0.5, shown >= 0.5
        assert (row["n_positions"], row["n_firings"]) == (len(pairs), fires.sum())
        assert row["pearson_r"] == pytest.approx(np.corrcoef(actual, shown)[0, 1])
        assert row["explained_variance"] == pytest.approx(1 - np.var(actual - shown) / np.var(actual))
        assert row["average_precision"] == pytest.approx(average_precision_score(fires, shown.clip(0, 1)))
        assert row["f1"] == pytest.approx(2 * (fires & alarm).sum() / (fires.sum() + alarm.sum()))
    assert rows.filter(last_tokens=1)["pearson_r"].max() < 0.99


def test_a_unit_that_looks_at_three_tokens_is_reproduced_by_three_and_not_by_two():
    rows = reach(cut_windows(CORPORA, 60, 0, last_tokens=(1, 2, 3, 32))).tables["reach"].filter(unit=8)
    perfect = rows.select(pl.all_horizontal(pl.col("pearson_r", "explained_variance", "f1") > 1 - 1e-9)).to_series()
    assert perfect.to_list() == rows.select(pl.col("last_tokens") >= 3).to_series().to_list()


def test_what_is_not_defined_is_null():
    text = {"random": frame_of([("a:0", "a", [BOS, 2])])}
    windows = cut_windows({"random": TokenCorpus.from_frame(text["random"])}, 5, 0, last_tokens=(1,))
    (row,) = reach(windows, UNITS[:1], text, threshold=9.0).tables["reach"].to_dicts()
    assert (row["n_positions"], row["n_firings"]) == (1, 0)
    assert [row[name] for name in ("pearson_r", "explained_variance", "average_precision", "f1")] == [None] * 4


@pytest.mark.parametrize(("corpora", "positions"), [(CORPORA, 0), ({}, 9)])
def test_without_positions_or_texts_nothing_is_read_and_every_unit_is_ok(corpora, positions):
    windows = cut_windows(corpora, positions, 0)
    result = reach_of_units(UNITS, windows, None, None, {}, 0.5)
    assert result.tables["reach"].is_empty()
    assert {outcome.status for outcome in result.ledger.values()} == {"ok"}
