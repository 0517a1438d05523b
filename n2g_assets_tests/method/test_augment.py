import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.settings import MethodSettings
from n2g_assets.core.units import Unit
from n2g_assets.method.augment import augment_examples, choose_substitutes, make_variant, positions_to_vary
from n2g_assets.method.probing import Substitute
from n2g_assets.method.prune import prune_examples
from n2g_assets_tests.method.toy import (
    BOS,
    DictionaryProposer,
    ToyProber,
    conform,
    hash_neuron,
    top_example_rows,
    vocabulary_of,
)

WORDS = ["Cat", " cat", "cat", " dog", "Dog", " do", "g", " bird", " fish", " cow"]
VOCABULARY = vocabulary_of(WORDS)
CAT, SPACE_CAT, LOWER_CAT, SPACE_DOG, TITLE_DOG, DO, G, BIRD, FISH, COW = range(2, 12)
UNITS = [Unit(0, 1), Unit(1, 1), Unit(1, -1)]

prompts = st.lists(st.integers(2, 11), min_size=1, max_size=12).map(lambda ids: np.array([BOS, *ids], np.int32))
dictionaries = st.dictionaries(
    st.integers(2, 11), st.lists(st.lists(st.integers(2, 11), max_size=3), max_size=8), max_size=10
)


def test_substitutes_that_equal_the_original_or_a_better_one_after_normalisation_do_not_count():
    proposed = [Substitute(str(ids), ids) for ids in [
        (SPACE_CAT,), (), (LOWER_CAT,), (TITLE_DOG,), (SPACE_DOG,), (DO, G), (G, DO), (BIRD,), (FISH,), (COW,),
    ]]  # fmt: skip
    chosen = choose_substitutes(CAT, proposed, VOCABULARY, 4)
    assert [one.token_ids for one in chosen] == [(TITLE_DOG,), (G, DO), (BIRD,), (FISH,)]
    assert choose_substitutes(CAT, proposed, VOCABULARY, 0) == []


def test_a_substitute_of_several_tokens_stands_for_one():
    variant, origins = make_variant(np.array([BOS, CAT, FISH], np.int32), 1, (DO, G))
    assert variant.tolist() == [BOS, DO, G, FISH]
    assert origins.tolist() == [0, 1, 1, 2]
    variant, origins = make_variant(np.array([BOS, CAT, FISH], np.int32), 2, (DO, G))
    assert variant.tolist() == [BOS, CAT, DO, G]
    assert origins.tolist() == [0, 1, 2, 2]
    assert variant.dtype == origins.dtype == np.int32


def test_positions_are_varied_from_the_threshold_on_and_bos_never_is():
    importances = np.array([1.0, 0.8, np.nextafter(np.float32(0.8), np.float32(0)), 1.5], np.float32)
    assert positions_to_vary(importances, 0.8).tolist() == [1, 3]
    assert importances[0] == 1.0


def pruned_frame(neurons, windows, units=UNITS):
    rows = top_example_rows(neurons, dict.fromkeys(units, windows))
    a_max = dict.fromkeys(units, 2.0)
    return prune_examples(units, rows, a_max, VOCABULARY, ToyProber(neurons), MethodSettings()).tables[
        "pruned_examples"
    ]


def slow_variants(pruned, neurons, words, method):
    """Every tried variant by the definition, one probe at a time: key -> (token ids, origins, activation, kept)."""
    found = {}
    form = {
        token: text.strip().lower() if text.strip().istitle() else text.strip() for token, text in enumerate(WORDS, 2)
    }
    for row in pruned.iter_rows(named=True):
        for position in range(1, len(row["token_ids"])):
            if np.float32(row["importances"][position]) < np.float32(method.augment_threshold):
                continue
            original, forms, choice = row["token_ids"][position], [], 0
            for ids in words.get(original, []):
                text = "".join(form[token] for token in ids)
                if not ids or text == form[original] or text in forms or choice == method.substitutes:
                    continue
                forms.append(text)
                tokens = [*row["token_ids"][:position], *ids, *row["token_ids"][position + 1 :]]
                origins = [*range(position), *[position] * len(ids), *range(position + 1, len(row["token_ids"]))]
                activation = float(np.float32(row["sign"] * neurons[row["unit"]](np.array(tokens))[-1]))
                kept = row["activation"] > 0 and activation >= method.substitute_keep * row["activation"]
                key = (row["unit"], row["sign"], row["rank"], position, choice)
                found[key] = (tokens, origins, activation, kept)
                choice += 1
    return found


@settings(max_examples=60)
@given(st.lists(prompts, min_size=1, max_size=4), dictionaries, st.integers(0, 10**6), st.sampled_from([5, 2, 1]))
def test_tried_and_kept_variants_are_those_of_the_definition(windows, words, seed, substitutes):
    neurons = {0: hash_neuron(seed, 3), 1: hash_neuron(seed, 9)}
    method = MethodSettings(substitutes=substitutes, augment_threshold=0.5)
    pruned = pruned_frame(neurons, windows)
    prober, proposer = ToyProber(neurons), DictionaryProposer(words)
    result = augment_examples(UNITS, pruned, VOCABULARY, prober, proposer, method)
    frame = conform("augmented_examples", result.tables["augmented_examples"])
    found = {
        (row["unit"], row["sign"], row["rank"], row["position"], row["choice"]): (
            row["token_ids"], row["origins"], row["activation"], row["kept"],
        ) for row in frame.iter_rows(named=True)
    }  # fmt: skip
    assert found == slow_variants(pruned, neurons, words, method)
    assert all(row["activations"][-1] == row["activation"] for row in frame.iter_rows(named=True))
    assert len(prober.calls) <= 1
    assert len(proposer.calls) <= 1
    assert all(outcome.status == "ok" for outcome in result.ledger.values())


@settings(max_examples=20)
@given(st.lists(prompts, min_size=1, max_size=4), dictionaries, st.integers(0, 10**6))
def test_units_alone_and_together_give_the_same_rows(windows, words, seed):
    neurons = {0: hash_neuron(seed, 2), 1: hash_neuron(seed, 9)}
    pruned, method = pruned_frame(neurons, windows), MethodSettings()
    together = augment_examples(UNITS, pruned, VOCABULARY, ToyProber(neurons), DictionaryProposer(words), method)
    for unit in UNITS:
        alone = augment_examples([unit], pruned, VOCABULARY, ToyProber(neurons), DictionaryProposer(words), method)
        rows = together.tables["augmented_examples"].filter(unit=unit.number, sign=unit.sign)
        assert alone.tables["augmented_examples"].equals(rows)


def example_row(unit, activation, importances):
    return {
        **unit.key(), "rank": 0, "token_ids": [BOS, CAT, FISH], "activation": activation, "importances": importances
    }  # fmt: skip


@pytest.mark.parametrize("activation", [0.0, -1.0])
def test_a_prompt_that_does_not_fire_has_no_variant_that_is_kept(activation):
    pruned = pl.DataFrame([example_row(Unit(0, 1), activation, [0.0, 1.0, 0.0])])
    prober = ToyProber({0: lambda tokens: np.full(len(tokens), activation)})
    result = augment_examples(
        [Unit(0, 1)], pruned, VOCABULARY, prober, DictionaryProposer({CAT: [[BIRD]]}), MethodSettings()
    )
    assert result.tables["augmented_examples"]["kept"].to_list() == [False]


def test_half_the_activation_is_just_enough_and_a_prompt_shared_by_two_units_is_proposed_for_once():
    pruned = pl.DataFrame([example_row(unit, 2.0, [0.0, 1.0, 0.0]) for unit in UNITS[:2]])
    just = np.nextafter(np.float32(1), np.float32(0))
    prober = ToyProber({0: lambda tokens: np.full(len(tokens), 1.0), 1: lambda tokens: np.full(len(tokens), just)})
    proposer = DictionaryProposer({CAT: [[BIRD]]})
    result = augment_examples(UNITS[:2], pruned, VOCABULARY, prober, proposer, MethodSettings())
    assert result.tables["augmented_examples"].sort("unit")["kept"].to_list() == [True, False]
    assert (prober.calls, proposer.calls) == ([2], [1])


def test_without_substitutes_nothing_is_asked():
    pruned = pl.DataFrame([example_row(Unit(0, 1), 2.0, [0.0, 1.0, 0.0])])
    prober, proposer = ToyProber({}), DictionaryProposer({})
    result = augment_examples([Unit(0, 1)], pruned, VOCABULARY, prober, proposer, MethodSettings(substitutes=0))
    assert (prober.calls, proposer.calls) == ([], [])
    assert result.tables["augmented_examples"].is_empty()
    assert result.ledger == {Unit(0, 1): result.ledger[Unit(0, 1)]}
