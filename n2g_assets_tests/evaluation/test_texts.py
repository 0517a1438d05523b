"""Held-out texts: how documents are numbered through shards, and the contexts that are drawn for one unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.evaluation.texts import DECILES, DocumentText, draw_quantiles, drawn_rows, tokens_of
from n2g_assets_tests.evaluation.small_layer import frame_of
from n2g_assets_tests.method.toy import BOS, vocabulary_of

VOCABULARY = vocabulary_of(["a", " B", "b"])

Contexts = Sequence[tuple[str, Sequence[float]]]
"""For each context its document and the unit's activations, position 0 included."""


def drawn(contexts: Contexts, per_decile: int, seed: int = 0) -> set[int]:
    """The contexts drawn; all their tokens but BOS are, or none."""
    frame = frame_of([(f"c{c}", document, [BOS, *[2] * (len(row) - 1)]) for c, (document, row) in enumerate(contexts)])
    values = np.array([value for _, row in contexts for value in row], np.float32)
    text = DocumentText.of(frame, VOCABULARY)
    tokens = tokens_of(text, draw_quantiles(text, values, per_decile, [seed]))
    assert tokens.dtype == bool
    for context in range(len(contexts)):
        of_context = tokens[text.windows == context]
        assert not of_context[0]
        assert of_context[1:].all() or not of_context.any()
    return set(text.windows[tokens].tolist())


# ------------------------------------------------------------------------------------------ DocumentText
def test_documents_are_numbered_in_the_order_of_their_ids_and_contexts_one_by_one():
    rows = [("z:0", "z", [0, 2, 3]), ("y:0", "y", [0, 4]), ("x:0", "x", [0]), ("z:1", "z", [0, 2])]
    text = DocumentText.of(frame_of(rows), VOCABULARY)
    assert text.document_ids == ["x", "y", "z"]
    assert text.documents.tolist() == [2, 2, 2, 1, 1, 0, 2, 2]
    assert text.windows.tolist() == [0, 0, 0, 1, 1, 2, 3, 3]
    assert text.inside.tolist() == [False, True, True, False, True, False, False, True]
    assert text.encoded.forms[:5].tolist() == VOCABULARY.form_of[[0, 2, 3, 0, 4]].tolist()
    assert text.encoded.forms[2] == text.encoded.forms[4]  # " B" and "b"


# ------------------------------------------------------------------------------------------ draw_quantiles
@pytest.mark.parametrize("per_decile", [1, 2, 3, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_tenth_of_the_positive_activations_gives_its_contexts(per_decile, seed):
    """Fifty contexts with one positive position each: five a tenth, strengths mixed up."""
    strengths = np.random.default_rng(9).permutation(50)
    found = drawn([("d", [9.0, -1.0, 1.0 + strength, 0.0]) for strength in strengths], per_decile, seed)
    tenths = strengths[sorted(found)] // 5
    assert np.bincount(tenths, minlength=DECILES).tolist() == [min(per_decile, 5)] * DECILES


def test_a_context_that_holds_several_tenths_is_taken_once():
    both = [[0, *range(1, 21)], [0, *range(1, 21)]]
    assert drawn([("x", both[0]), ("y", both[1])], 1) == {0, 1}
    assert len(drawn([("x", row) for row in both * 20], 1)) == DECILES


def test_few_positive_positions_are_all_drawn_and_none_gives_none():
    few = [("x", [0, 1, 0]), ("y", [0, 0, 0]), ("z", [0, -1, 2]), ("z", [0, 3])]
    assert drawn(few, 1) == {0, 2, 3}
    assert drawn([("x", [9, 0, -1]), ("y", [9])], 2) == set()
    assert drawn([("x", [9])], 2) == set()


def test_the_other_sign_of_a_neuron_draws_where_the_neuron_is_negative():
    contexts = [("x", [0, 1, 0.5]), ("y", [0, -1, 0]), ("z", [0, 0, -2])]
    assert drawn(contexts, 5) == {0}
    assert drawn([(document, [-value for value in row]) for document, row in contexts], 5) == {1, 2}


def test_the_seed_alone_decides_which_contexts_of_a_tenth_are_drawn():
    contexts = [("x", [0, 1.0 + number]) for number in range(200)]
    assert drawn(contexts, 2, 3) == drawn(contexts, 2, 3)
    assert drawn(contexts, 2, 3) != drawn(contexts, 2, 4)
    alike = [("x", [0, 1.0]) for _ in range(200)]  # tenths of equal activations, by their order in the text
    assert sorted(context // 20 for context in drawn(alike, 2)) == [tenth for tenth in range(10) for _ in range(2)]


VALUES = st.sampled_from([-1.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.5, 2.0, 3.0])
CONTEXTS = st.lists(
    st.tuples(st.sampled_from("xyz"), st.lists(VALUES, min_size=1, max_size=6)), min_size=1, max_size=20
)


@settings(max_examples=60, deadline=None)
@given(CONTEXTS, st.integers(1, 4), st.integers(0, 5))
def test_every_tenth_gives_as_many_new_contexts_as_it_has(contexts, per_decile, seed):
    found = drawn(contexts, per_decile, seed)
    positive = [(value, context) for context, (_, row) in enumerate(contexts) for value in row[1:] if value > 0]
    positive.sort(key=lambda pair: pair[0])  # stable: of equals the first in the text
    sizes = [len(positive) // DECILES + (tenth < len(positive) % DECILES) for tenth in range(DECILES)]
    at = 0
    for size in sizes:
        there = {context for _, context in positive[at : at + size]}
        at += size
        assert len(found & there) >= min(per_decile, len(there))
    assert found <= {context for _, context in positive}
    assert len(found) <= DECILES * per_decile


def test_of_every_tenth_one_context_is_kept_with_the_position_that_was_drawn():
    strengths = np.random.default_rng(9).permutation(20)
    rows = [(f"c{c}", "d", [BOS, 2, 3, 2]) for c in range(20)]
    text = DocumentText.of(frame_of(rows), VOCABULARY)
    values = np.concatenate([[9.0, -1.0, 1.0 + strength, 0.0] for strength in strengths]).astype(np.float32)
    kept = drawn_rows(text, draw_quantiles(text, values, 2, [0]), values)
    assert [row["tenth"] for row in kept] == list(range(DECILES))
    for row in kept:
        strength = strengths[int(row["context_id"].removeprefix("c"))]
        assert strength // 2 == row["tenth"]
        assert (row["position"], row["activation"]) == (2, 1.0 + strength)
        assert row["activations"] == [9.0, -1.0, 1.0 + strength, 0.0]
