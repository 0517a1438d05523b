import subprocess
import sys
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.errors import RowsError
from n2g_assets.method.compiled import compiled
from n2g_assets.method.graph import build_trie, node_rows
from n2g_assets.method.predict import TokenGraph
from n2g_assets.method.results import unit_frame
from n2g_assets.method.text import EncodedText
from n2g_assets_tests.method.slow_graph import slow_predict
from n2g_assets_tests.method.test_graph import path
from n2g_assets_tests.method.toy import encode, vocabulary_of

VOCABULARY = vocabulary_of(["x", "y", "a", "b", "c"])


def graph_frame(*paths):
    return unit_frame("graph_nodes", [{"unit": 0, "sign": 1, **row} for row in node_rows(build_trie(paths))])


def graph_of(*paths):
    return TokenGraph.from_rows(graph_frame(*paths), VOCABULARY)


def text_of(*contexts: str) -> EncodedText:
    return EncodedText.from_contexts([encode(VOCABULARY, *context.split()) for context in contexts], VOCABULARY)


def predicted(graph, *contexts):
    """What is predicted at every token but BOS."""
    text = text_of(*contexts)
    return graph.predict(text)[text.positions > 0].tolist()


def slowly(frame, text, forms=VOCABULARY.forms):
    """Values and ends by trying every path at every position, one context at a time."""
    bounds = [*np.flatnonzero(text.positions == 0), len(text)]
    alone = [slow_predict(frame, [forms[form] for form in text.forms[begin:end]]) for begin, end in pairwise(bounds)]
    return [value for values, _ in alone for value in values], [end for _, ends in alone for end in ends]


def test_the_longest_path_that_reaches_an_end_wins():
    graph = graph_of(path("x", 0.25), path("x a", 0.5), path("x * b", 0.75), path("x a b c", 1.0))
    assert predicted(graph, "x a x b a x c b a x b c x") == [0.25, 0, 0.5, 0, 0, 0.75, 0, 0, 0, 1.0, 0, 0, 0.75]


def test_of_equally_long_paths_the_one_with_more_exact_nodes_wins_then_the_larger_value_then_the_lower_node():
    assert predicted(graph_of(path("x a b", 0.5), path("x * b", 1.0)), "b a x") == [0, 0, 0.5]
    assert predicted(graph_of(path("x a * b", 0.5), path("x * a b", 0.75)), "b a a x") == [0, 0, 0, 0.75]
    assert predicted(graph_of(path("x a * b", 0.75), path("x * a b", 0.5)), "b a a x")[-1] == 0.75
    for paths in ([path("x a * b", 0.5), path("x * a b", 0.5)], [path("x * a b", 0.5), path("x a * b", 0.5)]):
        frame = graph_frame(*paths)
        _, ends = TokenGraph.from_rows(frame, VOCABULARY).predict_with_ends(text_of("b a a x"))
        assert ends[-1] == frame.filter(pl.col("end_activation").is_not_null())["node_id"].min()


def test_a_chain_of_ignore_nodes_matches_any_tokens_and_needs_that_many():
    graph = graph_of(path("x * * * a", 0.75), path("x * * b", 0.5))
    assert predicted(graph, "a b c y x") == [0, 0, 0, 0, 0.75]
    assert predicted(graph, "a x y x x") == [0, 0, 0, 0, 0.75]
    assert predicted(graph, "a y y x") == [0, 0, 0, 0]
    assert predicted(graph, "a b c y y x") == [0, 0, 0, 0, 0, 0]
    assert predicted(graph, "c c b y y x") == [0, 0, 0, 0, 0, 0.5]


def test_a_shorter_end_counts_where_the_longer_branch_breaks_off():
    graph = graph_of(path("x a b", 0.25), path("x a b c a", 1.0), path("x * * b", 0.5))
    assert predicted(graph, "c b a x") == [0, 0, 0, 0.25]
    assert predicted(graph, "b b a x") == [0, 0, 0, 0.5]
    assert predicted(graph, "a c b a x") == [0, 0, 0, 0, 1.0]


def test_nothing_is_matched_at_bos_neither_exactly_nor_by_an_ignore_node():
    graph = graph_of(path("x", 0.25), path("x * a", 0.5), path("a x", 1.0))
    assert graph.predict(text_of("x")).tolist() == [0, 0.25]
    a, b, x = (VOCABULARY.forms.index(form) for form in (b"a", b"b", b"x"))
    for forms, expected in (([a, b, x], [0, 0, 0.25]), ([x, a], [0, 0]), ([b, x, a], [0, 0.25, 1.0])):
        places = np.arange(len(forms), dtype=np.int32)
        text = EncodedText.from_forms(np.array(forms, np.int32), places, len(VOCABULARY.forms))
        assert graph.predict(text).tolist() == expected


def test_no_walk_goes_on_into_the_context_before():
    graph = graph_of(path("x", 0.25), path("x a", 0.5), path("x * a", 0.75), path("x * * a", 1.0))
    assert predicted(graph, "b a", "x", "a x", "y x") == [0, 0, 0.25, 0, 0.5, 0, 0.25]


def test_an_empty_graph_and_an_empty_text_predict_nothing():
    empty = TokenGraph.from_rows(unit_frame("graph_nodes", []), VOCABULARY)
    values, ends = empty.predict_with_ends(text_of("x a b"))
    assert (values.tolist(), ends.tolist()) == ([0, 0, 0, 0], [-1, -1, -1, -1])
    assert (values.dtype, ends.dtype) == (np.float32, np.int32)
    assert empty.roots.tolist() == []
    assert graph_of(path("x", 1.0)).predict(text_of()).tolist() == []
    assert graph_of(path("x", 1.0)).predict(text_of("", "")).tolist() == [0, 0]


def test_an_end_that_predicts_zero_is_an_end():
    values, ends = graph_of(path("x", 0.5), path("x a", 0.0)).predict_with_ends(text_of("a x x"))
    assert values.tolist() == [0, 0, 0, 0.5]
    assert ends.tolist() == [-1, -1, 1, 0]


def test_the_rows_may_come_in_any_order():
    frame = graph_frame(path("x a * b", 0.5), path("x * a b", 0.75), path("y", 0.25))
    text = text_of("b a a x y")
    forwards, backwards = (
        TokenGraph.from_rows(rows, VOCABULARY).predict_with_ends(text) for rows in (frame, frame[::-1])
    )
    assert forwards[0].tolist() == backwards[0].tolist() == [0, 0, 0, 0, 0.75, 0.25]
    assert forwards[1].tolist() == backwards[1].tolist()


def test_rows_that_do_not_fit_the_vocabulary_or_each_other_are_refused():
    frame = graph_frame(path("x a", 1.0))
    with pytest.raises(RowsError, match=r"Node 0 .* build the graph again"):
        TokenGraph.from_rows(frame, vocabulary_of(["a"]))
    with pytest.raises(RowsError, match="Node 1 "):
        TokenGraph.from_rows(frame.filter(pl.col("node_id") == 1), VOCABULARY)
    circle = frame.with_columns(parent_id=pl.lit(1, pl.Int32))
    with pytest.raises(RowsError, match="Node 0 "):
        TokenGraph.from_rows(circle, VOCABULARY)
    with pytest.raises(RowsError, match="Node 0 "):
        TokenGraph.from_rows(frame.with_columns(token=pl.lit(None, pl.Binary)), VOCABULARY)


def test_nodes_that_are_out_of_order_or_of_no_form_are_refused():
    for parents, forms, what in (
        ([1, -1], [0, 1], "order the nodes"),
        ([-1, 1], [0, 1], "order the nodes"),
        ([-2, 0], [0, 1], "order the nodes"),
        ([-1, 0], [0, 5], r"0\.\.4"),
        ([-1, 0], [0, -2], r"0\.\.4"),
        ([-1, 0], [-1, 0], "be -1 for a node with a parent"),
    ):
        with pytest.raises(ValueError, match=what):
            TokenGraph.from_nodes(
                np.array(parents, np.int32), np.array(forms, np.int32), np.ones(2, np.float32), n_forms=5
            )


def test_a_text_of_another_vocabulary_is_refused():
    with pytest.raises(ValueError, match="encode it with the vocabulary"):
        graph_of(path("x", 1.0)).predict(EncodedText.from_contexts([], vocabulary_of(["x"])))


def test_importing_the_predictor_does_not_load_its_compiler():
    code = "import sys, n2g_assets.method.predict; print('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_where_no_folder_can_hold_compiled_code_functions_are_compiled_for_the_process(monkeypatch):
    from numba.core import caching

    def double(number):
        return 2 * number

    assert compiled(double)._cache.cache_path
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    alone = compiled(double)
    assert alone(21) == 42
    assert alone.signatures
    assert isinstance(alone._cache, caching.NullCache)


paths_strategy = st.lists(
    st.builds(
        lambda words, last, activation: path(" ".join([*words[:1], *words[1:], *last]), activation),
        st.tuples(st.sampled_from("xy")).flatmap(
            lambda first: st.lists(st.sampled_from("**ab"), max_size=4).map(lambda rest: [*first, *rest])
        ),
        st.lists(st.sampled_from("abc"), min_size=1, max_size=1),
        st.sampled_from([0.0, 0.25, 0.5, 0.5, 1.0, -0.25]),
    )
    | st.builds(path, st.sampled_from("xy"), st.sampled_from([0.5, 1.0])),
    max_size=8,
)
contexts = st.lists(st.lists(st.sampled_from("xyaabbc"), max_size=25).map(" ".join), max_size=4)


@settings(max_examples=150)
@given(paths_strategy, contexts)
def test_predictions_are_those_of_trying_every_path_at_every_position(paths, contexts):
    frame, text = graph_frame(*paths), text_of(*contexts)
    graph = TokenGraph.from_rows(frame, VOCABULARY)
    values, ends = graph.predict_with_ends(text)
    assert (values.tolist(), ends.tolist()) == slowly(frame, text)
    assert graph.predict(text).tolist() == values.tolist()
    assert graph.roots.tolist() == sorted(map(VOCABULARY.forms.index, frame.filter(depth=0)["token"].to_list()))


@settings(max_examples=60)
@given(paths_strategy, contexts)
def test_a_graph_from_nodes_is_the_graph_from_rows(paths, contexts):
    frame, text = graph_frame(*paths), text_of(*contexts)
    forms = [-1 if token is None else VOCABULARY.forms.index(token) for token in frame["token"].to_list()]
    graph = TokenGraph.from_nodes(
        frame["parent_id"].fill_null(-1).to_numpy(),
        np.array(forms, np.int32),
        frame["end_activation"].fill_null(float("nan")).to_numpy(),
        len(VOCABULARY.forms),
    )
    values, ends = graph.predict_with_ends(text)  # node ids of rows count from 0, too
    expected_values, expected_ends = TokenGraph.from_rows(frame, VOCABULARY).predict_with_ends(text)
    assert values.tolist() == expected_values.tolist()
    assert ends.tolist() == expected_ends.tolist()


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 40]), st.sampled_from([1, 10, 300]))
def test_any_trie_predicts_as_its_paths_say(seed, n_forms, n_nodes):
    """Wide ones too, whose children are searched by halving, and siblings that match the same."""
    rng = np.random.default_rng(seed)
    parents = np.array([rng.integers(-1, min(index, 8)) for index in range(n_nodes)], np.int32)
    forms = np.where(parents < 0, rng.integers(0, n_forms, n_nodes), rng.integers(-1, n_forms, n_nodes))
    values = np.where(rng.random(n_nodes) < 0.3, np.nan, rng.choice([-0.5, 0, 0.5, 1], n_nodes))
    graph = TokenGraph.from_nodes(parents, forms.astype(np.int32), values.astype(np.float32), n_forms)
    frame = pl.DataFrame({
        "node_id": range(n_nodes),
        "parent_id": [None if parent < 0 else parent for parent in parents.tolist()],
        "token": [None if form < 0 else form for form in forms.tolist()],
        "end_activation": [None if np.isnan(value) else value for value in values.tolist()],
    })  # fmt: skip
    places = np.concatenate([np.arange(length, dtype=np.int32) for length in rng.integers(1, 30, 3)])
    text = EncodedText.from_forms(rng.integers(0, n_forms, len(places)).astype(np.int32), places, n_forms)
    predicted_values, predicted_ends = graph.predict_with_ends(text)
    assert (predicted_values.tolist(), predicted_ends.tolist()) == slowly(frame, text, range(n_forms))
