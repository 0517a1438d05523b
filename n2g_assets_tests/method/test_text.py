"""Text as predictors read it, against plain loops over contexts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.text import EncodedText
from n2g_assets_tests.method.toy import BOS, vocabulary_of

VOCABULARY = vocabulary_of(["a", "b", " Cat", "cat", " cat", "d"])
CONTEXTS = st.lists(st.lists(st.integers(0, len(VOCABULARY.tokens) - 1), max_size=8), max_size=6)


def assert_is_text(text: EncodedText, contexts: Sequence[Sequence[int]]) -> None:
    """The text of contexts of forms, position by position; every form's tokens are indexed but for BOS."""
    forms, places = [], []
    for context in contexts:
        for place, form in enumerate(context):
            forms.append(form)
            places.append(place)
    assert (text.forms.tolist(), text.positions.tolist(), len(text)) == (forms, places, len(forms))
    at: dict[int, list[int]] = {}
    for token, (form, place) in enumerate(zip(forms, places, strict=True)):
        if place > 0:
            at.setdefault(form, []).append(token)
    n_forms = len(text.starts) - 1
    for form in set(range(n_forms)) if n_forms < 100 else set(forms) | {0, n_forms - 1}:
        assert text.by_form[text.starts[form] : text.starts[form + 1]].tolist() == at.get(form, [])
    assert len(text.by_form) == text.starts[-1] == sum(place > 0 for place in places)
    assert (text.forms.dtype, text.positions.dtype, text.by_form.dtype, text.starts.dtype) == (
        np.int32, np.int32, np.int64, np.int64,
    )  # fmt: skip


@given(CONTEXTS)
def test_a_text_is_its_contexts_one_behind_another_by_form(contexts):
    contexts = [[BOS, *context] for context in contexts]
    text = EncodedText.from_contexts([np.array(context, np.int32) for context in contexts], VOCABULARY)
    assert_is_text(text, [VOCABULARY.form_of[context].tolist() for context in contexts])


@pytest.mark.parametrize("contexts", [[], [[BOS]], [[BOS], [BOS]], [[], [BOS, 2]]], ids=str)
def test_texts_without_tokens_to_match_have_an_empty_index(contexts):
    text = EncodedText.from_contexts([np.array(context, np.int32) for context in contexts], VOCABULARY)
    assert_is_text(text, [VOCABULARY.form_of[context].tolist() if context else [] for context in contexts])


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=8), max_size=6),
    st.sampled_from([5, 2**16 - 1, 2**16, 2**16 + 1, 70_000, 200_000]),
)
def test_forms_may_be_more_than_16_bits_tell_apart(contexts, n_forms):
    """Forms that differ by 65,536 are different, and the largest form there is has its place."""
    some = [0, 1, n_forms - 1, (n_forms - 1) % 2**16, n_forms // 2]
    contexts = [[some[number] for number in context] for context in contexts]
    forms = np.array([form for context in contexts for form in context], np.int32)
    places = np.array([place for context in contexts for place in range(len(context))], np.int32)
    text = EncodedText.from_forms(forms, places, n_forms)
    assert len(text.starts) == n_forms + 1
    assert_is_text(text, contexts)


def test_a_vocabulary_of_more_than_65536_forms_is_encoded_whole():
    n = 2**16 + 10
    forms = tuple(str(number).encode() for number in range(n))
    vocabulary = Vocabulary(forms, forms, np.arange(n, dtype=np.int32), BOS, 1)
    contexts = [[BOS, 5, 2**16 + 5, 5], [BOS, n - 1, 9, 2**16 + 5]]
    assert_is_text(EncodedText.from_contexts([np.array(context) for context in contexts], vocabulary), contexts)
