"""The baselines against dictionaries, and by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from n2g_assets.evaluation.predictors import always_zero
from n2g_assets.evaluation.predictors.ngram import choose
from n2g_assets.evaluation.runs import mean_graph
from n2g_assets.method.results import unit_frame
from n2g_assets.method.text import EncodedText
from n2g_assets_tests.evaluation.slow_baselines import slow_choice, slow_fit, slow_predict
from n2g_assets_tests.method.toy import vocabulary_of

BOS = 0
N_FORMS = 100


def forms(*ids: int) -> np.ndarray:
    return np.array([BOS, *ids], np.int32)


def text_of(contexts) -> EncodedText:
    places = [np.arange(len(context)) for context in contexts]
    return EncodedText.from_forms(np.concatenate(contexts), np.concatenate(places), N_FORMS)


def fitted(n, contexts, activations):
    return mean_graph(text_of(contexts), np.concatenate(activations), n)


def predicted(predictor, *contexts):
    return predictor.predict(text_of(contexts)).tolist()


def labelled(alphabet: int = 4):
    """Contexts of few forms (BOS among them) with activations that often lie on the threshold."""
    position = st.tuples(st.integers(0, alphabet - 1), st.sampled_from([-0.2, 0.0, 0.25, 0.5, 0.75, 1.0]))
    context = st.lists(position, max_size=12)
    return st.lists(context, min_size=1, max_size=5).map(
        lambda contexts: (
            [forms(*(form for form, _ in context)) for context in contexts],
            [np.array([9.0, *(value for _, value in context)]) for context in contexts],
        )
    )


def test_lookup_predicts_the_mean_of_a_form_and_never_learns_from_position_0():
    lookup = fitted(1, [forms(1, 2, 1), forms(1)], [np.array([9, 1, 0.5, 0]), np.array([9, 0.5])])
    assert predicted(lookup, forms(2, 1, 3, BOS)) == [0, 0.5, 0.5, 0, 0]


def test_ngram_predicts_after_n_tokens_and_never_reaches_over_position_0():
    ngram = fitted(2, [forms(1, 2, 1, 2)], [np.array([9, 8, 1, 0.25, 0.5])])
    assert predicted(ngram, forms(1, 2), forms(2), forms(2, 1, 1)) == [0, 0, 0.75, 0, 0, 0, 0, 0.25, 0]


def test_a_run_does_not_span_two_contexts():
    ngram = fitted(2, [forms(1), forms(2)], [np.array([9, 1.0]), np.array([9, 1.0])])
    assert not any(predicted(ngram, forms(1, 2)))
    assert not any(predicted(ngram, forms(1, BOS, 2)))
    ngram = fitted(2, [forms(1, 2)], [np.array([9, 1.0, 1.0])])
    assert not any(predicted(ngram, forms(1), forms(2)))
    ngram = fitted(2, [forms(BOS, 2)], [np.array([9, 1.0, 1.0])])
    assert not any(predicted(ngram, forms(2)))


def test_always_zero_is_silent_everywhere():
    vocabulary = vocabulary_of([*map(str, range(N_FORMS - 2))])
    nodes = unit_frame("graph_nodes", [])
    material = SimpleNamespace(rows={"graph_nodes": nodes}, shared=SimpleNamespace(vocabulary=vocabulary))
    assert predicted(always_zero.fit(material), forms(1, 2), forms(3)) == [0.0] * 5
    assert always_zero.fit(material).predict(text_of([forms(1)])).dtype == np.float32


@given(labelled(), labelled(5), st.integers(1, 5))
def test_predictions_equal_those_of_dictionaries(train, test, n):
    predictor = fitted(n, *train)
    means = slow_fit(*train, n)
    expected = [slow_predict(means, context, n) for context in test[0]]
    assert predicted(predictor, *test[0]) == np.concatenate(expected).tolist()


@given(labelled(), st.sampled_from([0.5, 0.3]))
def test_the_chosen_n_is_that_of_the_slow_leave_one_out(train, threshold):
    chosen = choose(text_of(train[0]), np.concatenate(train[1]), threshold)
    assert chosen.ngram_n == slow_choice(*train, threshold)
    means = slow_fit(*train, chosen.ngram_n)
    expected = [slow_predict(means, context, chosen.ngram_n) for context in train[0]]
    assert predicted(chosen, *train[0]) == np.concatenate(expected).tolist()


def test_three_tokens_are_chosen_where_two_mislead():
    """The unit fires on 3 after (1, 2) but not after (4, 2): runs of three can tell, longer ones are new each time."""
    contexts = [forms(10 + i, 1, 2, 3, 20 + i, 4, 2, 3) for i in range(4)]
    activations = np.concatenate([np.array([0, 0, 0, 0, 1.0, 0, 0, 0, 0])] * 4)
    chosen = choose(text_of(contexts), activations, 0.6)
    assert chosen.ngram_n == 3
    assert predicted(chosen, forms(99, 1, 2, 3)) == [0, 0, 0, 0, 1]


def test_of_equals_the_smaller_n_is_chosen():
    assert choose(text_of([forms(1, 2, 3)]), np.zeros(4), 0.5).ngram_n == 2


def test_activations_of_another_text_are_refused():
    with pytest.raises(ValueError, match="5 activations"):
        mean_graph(text_of([forms(1, 2, 3)]), np.zeros(5), 1)
