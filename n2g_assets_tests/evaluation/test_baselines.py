"""The baselines against dictionaries, and by hand."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from n2g_assets.evaluation.baselines import NGram, TokenLookup
from n2g_assets_tests.evaluation.slow_baselines import slow_choice, slow_fit, slow_predict

BOS = 0


def forms(*ids: int) -> np.ndarray:
    return np.array([BOS, *ids], np.int32)


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
    lookup = TokenLookup().fit([forms(1, 2, 1), forms(1)], [np.array([9, 1, 0.5, 0]), np.array([9, 0.5])])
    assert lookup.predict(forms(2, 1, 3, BOS)).tolist() == [0, 0.5, 0.5, 0, 0]


def test_ngram_predicts_after_n_tokens_and_never_reaches_over_position_0():
    ngram = NGram(2).fit([forms(1, 2, 1, 2)], [np.array([9, 8, 1, 0.25, 0.5])])
    assert ngram.predict(forms(1, 2)).tolist() == [0, 0, 0.75]
    assert ngram.predict(forms(2)).tolist() == [0, 0]
    assert ngram.predict(forms(2, 1, 1)).tolist() == [0, 0, 0.25, 0]


def test_a_run_does_not_span_two_contexts():
    ngram = NGram(2).fit([forms(1), forms(2)], [np.array([9, 1.0]), np.array([9, 1.0])])
    assert not ngram.predict(forms(1, 2)).any()
    assert not ngram.predict(forms(1, BOS, 2)).any()


@given(labelled(), labelled(5), st.integers(1, 5))
def test_predictions_equal_those_of_dictionaries(train, test, n):
    predictor = (TokenLookup() if n == 1 else NGram(n)).fit(*train)
    means = slow_fit(*train, n)
    for context in test[0]:
        assert predictor.predict(context).tolist() == slow_predict(means, context, n).tolist()


@given(labelled(), st.sampled_from([0.5, 0.3]))
def test_the_chosen_n_is_that_of_the_slow_leave_one_out(train, threshold):
    chosen = NGram.choose(*train, threshold)
    assert chosen.n == slow_choice(*train, threshold)
    means = slow_fit(*train, chosen.n)
    for context in train[0]:
        assert chosen.predict(context).tolist() == slow_predict(means, context, chosen.n).tolist()


def test_three_tokens_are_chosen_where_two_mislead():
    """The unit fires on 3 after (1, 2) but not after (4, 2): runs of three can tell, longer ones are new each time."""
    contexts = [forms(10 + i, 1, 2, 3, 20 + i, 4, 2, 3) for i in range(4)]
    activations = [np.array([0, 0, 0, 0, 1.0, 0, 0, 0, 0])] * 4
    chosen = NGram.choose(contexts, activations, 0.6)
    assert chosen.n == 3
    assert chosen.predict(forms(99, 1, 2, 3)).tolist() == [0, 0, 0, 0, 1]


def test_of_equals_the_smaller_n_is_chosen():
    assert NGram.choose([forms(1, 2, 3)], [np.zeros(4)], 0.5).n == 2
