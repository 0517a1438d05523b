"""Held-out texts: how documents are numbered through shards, and the contexts that are drawn for one unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.units import Unit
from n2g_assets.evaluation.texts import DECILES, TEXTS, HeldOutText, TextName, quantile_windows
from n2g_assets_tests.evaluation.small_layer import frame_of
from n2g_assets_tests.method.toy import BOS, vocabulary_of

VOCABULARY = vocabulary_of(["a", " B", "b"])

Contexts = Sequence[tuple[str, Sequence[float]]]
"""A shard: for each context its document and the unit's activations, position 0 included."""


def text_of(shards: Sequence[Contexts]) -> tuple[HeldOutText, list[np.ndarray]]:
    """A text of contexts of the lengths given, and the unit's activations a shard each."""
    frames = [
        frame_of([(f"c{s}.{c}", document, [BOS, *[2] * (len(row) - 1)]) for c, (document, row) in enumerate(shard)])
        for s, shard in enumerate(shards)
    ]
    values = [np.array([value for _, row in shard for value in row], np.float32) for shard in shards]
    return HeldOutText.of("random", frames, VOCABULARY, lambda number, _: values[number][None]), values


def drawn(shards: Sequence[Contexts], per_decile: int, seed: int = 0) -> set[tuple[int, int]]:
    """Shard and context of every context drawn; all its tokens but BOS are, or none."""
    text, values = text_of(shards)
    found = set()
    for number, (shard, inside) in enumerate(
        zip(text.shards, quantile_windows(text, values, per_decile, [seed]), strict=True)
    ):
        assert inside.dtype == bool
        for context in range(len(shard.contexts)):
            of_context = inside[shard.windows == context]
            assert not of_context[0]
            assert of_context[1:].all() or not of_context.any()
            if of_context.any():
                found.add((number, context))
    return found


# ------------------------------------------------------------------------------------------ HeldOutText
def test_documents_are_numbered_through_shards_and_contexts_within_them():
    rows = [[("x:0", "x", [0, 2, 3]), ("y:0", "y", [0, 4])], [("z:0", "z", [0]), ("z:1", "z", [0, 2])]]
    shards = [frame_of(of_shard) for of_shard in rows]
    asked = []

    def read(number, units):
        asked.append((number, units))
        return np.zeros((len(units), 3), np.float32)

    text = HeldOutText.of("out_of_domain", shards, VOCABULARY, read)
    first, second = text.shards
    assert (text.name, text.document_ids) == ("out_of_domain", ["x", "y", "z"])
    assert (first.documents.tolist(), first.windows.tolist()) == ([0, 0, 0, 1, 1], [0, 0, 0, 1, 1])
    assert (second.documents.tolist(), second.windows.tolist()) == ([2, 2, 2], [0, 1, 1])
    assert (first.inside.tolist(), second.inside.tolist()) == ([False, True, True, False, True], [False, False, True])
    assert first.encoded.forms.tolist() == VOCABULARY.form_of[[0, 2, 3, 0, 4]].tolist()
    assert first.encoded.forms[2] == first.encoded.forms[4]  # " B" and "b"
    assert text.read(1, [Unit(3, -1)]).shape == (1, 3)
    assert asked == [(1, [Unit(3, -1)])]


def test_a_document_that_goes_on_in_the_next_shard_keeps_its_number():
    text, _ = text_of([[("x", [0, 1]), ("y", [0, 1])], [("y", [0, 1]), ("z", [0, 1]), ("x", [0, 1])]])
    assert [shard.documents.tolist() for shard in text.shards] == [[0, 0, 1, 1], [1, 1, 2, 2, 0, 0]]


def test_the_names_of_the_texts_are_listed_once():
    assert get_args(TextName) == TEXTS


# ------------------------------------------------------------------------------------------ quantile_windows
@pytest.mark.parametrize("per_decile", [1, 2, 3, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_tenth_of_the_positive_activations_gives_its_contexts(per_decile, seed):
    """Fifty contexts with one positive position each: five a tenth, strengths mixed up over three shards."""
    strengths = np.random.default_rng(9).permutation(50)
    contexts = [("d", [9.0, -1.0, 1.0 + strength, 0.0]) for strength in strengths]
    shards = [contexts[:20], contexts[20:21], contexts[21:]]
    found = drawn(shards, per_decile, seed)
    offsets = [0, 20, 21]
    tenths = [strengths[offsets[shard] + context] // 5 for shard, context in found]
    assert np.bincount(tenths, minlength=DECILES).tolist() == [min(per_decile, 5)] * DECILES


def test_a_context_that_holds_several_tenths_is_taken_once():
    both = [[0, *range(1, 21)], [0, *range(1, 21)]]
    assert drawn([[("x", both[0]), ("y", both[1])]], 1) == {(0, 0), (0, 1)}
    assert len(drawn([[("x", row) for row in both * 20]], 1)) == DECILES


def test_few_positive_positions_are_all_drawn_and_none_gives_none():
    few = [[("x", [0, 1, 0]), ("y", [0, 0, 0])], [("z", [0, -1, 2]), ("z", [0, 3])]]
    assert drawn(few, 1) == {(0, 0), (1, 0), (1, 1)}
    assert drawn([[("x", [9, 0, -1])], [("y", [9])]], 2) == set()
    assert drawn([[("x", [9])]], 2) == set()


def test_the_other_sign_of_a_neuron_draws_where_the_neuron_is_negative():
    shards = [[("x", [0, 1, 0.5]), ("y", [0, -1, 0]), ("z", [0, 0, -2])]]
    negated = [[(document, [-value for value in row]) for document, row in shard] for shard in shards]
    assert drawn(shards, 5) == {(0, 0)}
    assert drawn(negated, 5) == {(0, 1), (0, 2)}


def test_the_seed_alone_decides_which_contexts_of_a_tenth_are_drawn():
    contexts = [[("x", [0, 1.0 + number]) for number in range(200)]]
    assert drawn(contexts, 2, 3) == drawn(contexts, 2, 3)
    assert drawn(contexts, 2, 3) != drawn(contexts, 2, 4)
    alike = [[("x", [0, 1.0]) for _ in range(200)]]  # tenths of equal activations, by their order in the text
    assert len(drawn(alike, 2)) == 20
    assert sorted(context // 20 for _, context in drawn(alike, 2)) == [tenth for tenth in range(10) for _ in range(2)]


VALUES = st.sampled_from([-1.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.5, 2.0, 3.0])
SHARDS = st.lists(
    st.lists(st.tuples(st.sampled_from("xyz"), st.lists(VALUES, min_size=1, max_size=6)), min_size=1, max_size=8),
    min_size=1,
    max_size=4,
)


@settings(max_examples=100)
@given(SHARDS, st.integers(1, 4), st.integers(0, 5))
def test_every_tenth_gives_as_many_new_contexts_as_it_has(shards, per_decile, seed):
    found = drawn(shards, per_decile, seed)
    positive = [
        (value, (number, context))
        for number, shard in enumerate(shards)
        for context, (_, row) in enumerate(shard)
        for value in row[1:]
        if value > 0
    ]
    positive.sort(key=lambda one: one[0])  # stable: of equals the first in the text
    sizes = [len(positive) // DECILES + (tenth < len(positive) % DECILES) for tenth in range(DECILES)]
    at = 0
    for size in sizes:
        contexts = {where for _, where in positive[at : at + size]}
        at += size
        assert len(found & contexts) >= min(per_decile, len(contexts))
    assert found <= {where for _, where in positive}
    assert len(found) <= DECILES * per_decile
