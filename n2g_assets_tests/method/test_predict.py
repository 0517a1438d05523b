import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.errors import StorageError
from n2g_assets.method import predict as module
from n2g_assets.method.graph import build_trie, node_rows
from n2g_assets.method.predict import TokenGraph, predict, predict_with_ends
from n2g_assets.method.results import unit_frame
from n2g_assets_tests.method.slow_graph import slow_predict
from n2g_assets_tests.method.test_graph import path
from n2g_assets_tests.method.toy import vocabulary_of

VOCABULARY = vocabulary_of(["x", "y", "a", "b", "c"])
FORMS = [form.decode() for form in VOCABULARY.forms]


def graph_frame(*paths):
    return unit_frame("graph_nodes", [{"neuron": 0, "sign": 1, **row} for row in node_rows(build_trie(paths))])


def graph_of(*paths):
    return TokenGraph.from_rows(graph_frame(*paths), VOCABULARY)


def forms_of(text: str) -> np.ndarray:
    return np.array([FORMS.index(word) for word in ["<bos>", *text.split()]], np.int32)


def predicted(graph, text):
    return predict(graph, forms_of(text)).tolist()[1:]


def test_the_longest_path_that_reaches_an_end_wins():
    graph = graph_of(path("x", 0.25), path("x a", 0.5), path("x * b", 0.75), path("x a b c", 1.0))
    assert predicted(graph, "x a x b a x c b a x b c x") == [0.25, 0, 0.5, 0, 0, 0.75, 0, 0, 0, 1.0, 0, 0, 0.75]


def test_of_equally_long_paths_the_one_with_more_exact_nodes_wins_and_then_the_larger_value():
    assert predicted(graph_of(path("x a b", 0.5), path("x * b", 1.0)), "b a x") == [0, 0, 0.5]
    frame = graph_frame(path("x a * b", 0.5), path("x * a b", 0.75))
    assert predicted(TokenGraph.from_rows(frame, VOCABULARY), "b a a x") == [0, 0, 0, 0.75]
    assert predicted(graph_of(path("x a * b", 0.75), path("x * a b", 0.5)), "b a a x")[-1] == 0.75
    for paths in ([path("x a * b", 0.5), path("x * a b", 0.5)], [path("x * a b", 0.5), path("x a * b", 0.5)]):
        frame = graph_frame(*paths)
        _, ends = predict_with_ends(TokenGraph.from_rows(frame, VOCABULARY), forms_of("b a a x"))
        assert ends[-1] == frame.filter(pl.col("end_activation").is_not_null())["node_id"].min()


def test_nothing_is_matched_at_bos_neither_exactly_nor_by_an_ignore_node():
    graph = graph_of(path("x", 0.25), path("x * a", 0.5), path("a x", 1.0))
    assert predict(graph, forms_of("x")).tolist() == [0, 0.25]
    starts_with_a = np.array([FORMS.index("a"), FORMS.index("b"), FORMS.index("x")], np.int32)
    assert predict(graph, starts_with_a).tolist() == [0, 0, 0.25]
    starts_with_x = np.array([FORMS.index("x"), FORMS.index("a")], np.int32)
    assert predict(graph, starts_with_x).tolist() == [0, 0]


def test_an_empty_graph_and_an_empty_text_predict_nothing():
    empty = TokenGraph.from_rows(unit_frame("graph_nodes", []), VOCABULARY)
    values, ends = predict_with_ends(empty, forms_of("x a b"))
    assert (values.tolist(), ends.tolist()) == ([0, 0, 0, 0], [-1, -1, -1, -1])
    assert predict(graph_of(path("x", 1.0)), np.array([], np.int32)).tolist() == []
    assert values.dtype == np.float32


def test_an_end_that_predicts_zero_is_an_end():
    values, ends = predict_with_ends(graph_of(path("x", 0.5), path("x a", 0.0)), forms_of("a x x"))
    assert values.tolist() == [0, 0, 0, 0.5]
    assert ends.tolist() == [-1, -1, 1, 0]


def test_rows_that_do_not_fit_the_vocabulary_or_each_other_are_refused():
    frame = graph_frame(path("x a", 1.0))
    with pytest.raises(StorageError, match=r"Node 0 .* materialize"):
        TokenGraph.from_rows(frame, vocabulary_of(["a"]))
    with pytest.raises(StorageError, match="Node 1 "):
        TokenGraph.from_rows(frame.filter(pl.col("node_id") == 1), VOCABULARY)
    circle = frame.with_columns(parent_id=pl.lit(1, pl.Int32))
    with pytest.raises(StorageError, match="Node 0 "):
        TokenGraph.from_rows(circle, VOCABULARY)


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
texts = st.lists(st.sampled_from("xyaabbc"), min_size=1, max_size=25).map(" ".join)


@settings(max_examples=300)
@given(paths_strategy, texts)
def test_predictions_are_those_of_trying_every_path_at_every_position(paths, text):
    frame = graph_frame(*paths)
    values, ends = predict_with_ends(TokenGraph.from_rows(frame, VOCABULARY), forms_of(text))
    expected_values, expected_ends = slow_predict(frame, [VOCABULARY.forms[form] for form in forms_of(text)])
    assert values.tolist() == expected_values
    assert ends.tolist() == expected_ends


@settings(max_examples=100)
@given(paths_strategy, st.lists(texts, min_size=1, max_size=5), st.sampled_from([1, 2, 65_536]))
def test_contexts_one_behind_the_other_are_predicted_as_each_alone(paths, contexts, at_once):
    graph = graph_of(*paths)
    before, module.POSITIONS_AT_ONCE = module.POSITIONS_AT_ONCE, at_once
    try:
        joined = np.concatenate([forms_of(text) for text in contexts])
        is_bos = np.concatenate([np.arange(len(forms_of(text))) == 0 for text in contexts])
        values, ends = predict_with_ends(graph, joined, is_bos)
    finally:
        module.POSITIONS_AT_ONCE = before
    alone = [predict_with_ends(graph, forms_of(text)) for text in contexts]
    assert values.tolist() == np.concatenate([one for one, _ in alone]).tolist()
    assert ends.tolist() == np.concatenate([one for _, one in alone]).tolist()
