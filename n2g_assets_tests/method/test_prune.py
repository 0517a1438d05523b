import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.settings import MethodSettings
from n2g_assets.core.units import Unit
from n2g_assets.method.prune import TrainContext, importance_rows, masked_prompts, prune_contexts, prune_examples
from n2g_assets_tests.method.toy import (
    BOS,
    MASK,
    ToyProber,
    conform,
    encode,
    except_neuron,
    hash_neuron,
    top_example_rows,
    vocabulary_of,
)

WORDS = ["All", "Everyone", " except", " excluding", " all", " students", " in", " here"]
VOCABULARY = vocabulary_of(WORDS)
PAPER = MethodSettings()

contexts_strategy = st.lists(st.integers(2, 6), min_size=1, max_size=45).map(
    lambda ids: np.array([BOS, *ids], np.int32)
)


def slow_prune(neuron, sign, tokens, settings):
    """One suffix at a time, to the letter: (kept tokens, activations, reduced)."""
    full = (sign * neuron(tokens)).astype(np.float32)
    peak = max(range(1, len(tokens)), key=lambda position: (full[position], -position))
    for start in range(peak, max(0, peak - settings.prune_max_prefix - 1), -1):
        prompt = np.array([BOS, *tokens[start : peak + 1]], np.int32)
        found = (sign * neuron(prompt)).astype(np.float32)
        is_peak = all(found[-1] > earlier for earlier in found[1:-1])
        if float(found[-1]) >= settings.prune_keep * float(full[peak]) and is_peak:
            return prompt, found, True
    return prompt, found, False


def slow_importance(neuron, sign, tokens, k, j):
    """I_k(j) by its definition."""
    masked = tokens.copy()
    masked[k] = MASK
    whole, without = (np.float32(sign * neuron(one)[j]) for one in (tokens, masked))
    return 1 - float(without) / float(whole)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([1, -1]), contexts_strategy), min_size=1, max_size=6),
    st.integers(0, 10**6),
    st.sampled_from([PAPER, MethodSettings(prune_max_prefix=0), MethodSettings(prune_max_prefix=11, prune_keep=1.0)]),
    st.sampled_from([1, 100, 10_000]),
)
def test_pruning_in_waves_finds_what_trying_one_suffix_at_a_time_finds(examples, seed, method, full_batch_tokens):
    neurons = {0: hash_neuron(seed, 1), 1: hash_neuron(seed, 3), 2: hash_neuron(seed, 25)}
    contexts, expected = [], []
    for rank, (neuron, sign, tokens) in enumerate(examples):
        full = (sign * neurons[neuron](tokens)).astype(np.float32)
        peak = 1 + int(np.argmax(full[1:]))
        if full[peak] > 0:
            contexts.append(TrainContext(Unit(neuron, sign), rank, tokens, peak, float(full[peak])))
            expected.append(slow_prune(neurons[neuron], sign, tokens, method))
    prober = ToyProber(neurons, full_batch_tokens=full_batch_tokens)
    pruned = prune_contexts(contexts, VOCABULARY, prober, method)
    for (one, masked), context, (tokens, activations, reduced) in zip(pruned, contexts, expected, strict=True):
        assert len(masked) == len(tokens) - 1
        assert one.context is context
        assert one.token_ids.tolist() == tokens.tolist()
        assert one.activations.tolist() == activations.tolist()
        assert one.reduced == reduced


@settings(max_examples=50)
@given(st.lists(contexts_strategy, min_size=1, max_size=5), st.integers(0, 10**6))
def test_saliency_rows_are_the_definition_at_every_firing_position_and_the_peak(windows, seed):
    units = [Unit(0, 1), Unit(1, 1), Unit(1, -1)]
    neurons = {0: hash_neuron(seed, 2), 1: hash_neuron(seed, 6)}
    a_max = {Unit(0, 1): 2.0, Unit(1, 1): 2.0, Unit(1, -1): 1.0}
    top_examples = top_example_rows(neurons, dict.fromkeys(units, windows))
    result = prune_examples(units, top_examples, a_max, VOCABULARY, ToyProber(neurons), PAPER)
    pruned = conform("pruned_examples", result.tables["pruned_examples"])
    saliencies = conform("saliencies", result.tables["saliencies"])
    found = {(row["unit"], row["sign"], row["rank"], row["position"]): row for row in saliencies.iter_rows(named=True)}
    assert pruned.height == top_examples.height
    for row in pruned.iter_rows(named=True):
        neuron, sign, tokens = neurons[row["unit"]], row["sign"], np.array(row["token_ids"], np.int32)
        key, full, kept = (row["unit"], sign, row["rank"]), row["full_activation"], row["activation"]
        ratio = full / kept if kept > 0 else 1.0
        for position in range(1, len(tokens)):
            whole = float(sign * neuron(tokens)[position])
            fires = whole * ratio / a_max[Unit(*key[:2])] >= 0.5
            assert ((*key, position) in found) == (fires or position == len(tokens) - 1)
            if (*key, position) in found:
                saliency = found[*key, position]
                expected = [
                    slow_importance(neuron, sign, tokens, k, position) if 0 < k <= position and whole > 0 else 0.0
                    for k in range(len(tokens))
                ]
                assert saliency["importances"] == pytest.approx(expected, abs=1e-6)
                assert saliency["activation"] == pytest.approx(whole * ratio, rel=1e-6)
        assert row["importances"] == found[*key, len(tokens) - 1]["importances"]
        assert row["kept_share"] == pytest.approx(kept / full, rel=1e-6)
        source = top_examples.filter(unit=key[0], sign=key[1], rank=key[2]).row(0, named=True)
        assert source["token_ids"][row["start"] : source["peak"] + 1] == row["token_ids"][1:]


def test_the_except_neuron_keeps_its_subject_and_one_call_a_wave_serves_all_units():
    near = encode(VOCABULARY, " here", " in", "All", " students", " except", " here")
    far = encode(VOCABULARY, " here", "Everyone", " in", " here", " except", " in")
    neurons = {0: except_neuron(VOCABULARY), 1: hash_neuron(0, 1, (0, 1))}
    prober = ToyProber(neurons, full_batch_tokens=12)
    units = [Unit(0, 1), Unit(1, 1)]
    top_examples = top_example_rows(neurons, {units[0]: [near, far], units[1]: [near]})
    result = prune_examples(units, top_examples, {units[0]: 4.0, units[1]: 1.0}, VOCABULARY, prober, PAPER)
    frame = result.tables["pruned_examples"].filter(unit=0)
    assert frame["token_ids"].to_list() == [
        encode(VOCABULARY, "All", " students", " except").tolist(),
        encode(VOCABULARY, "Everyone", " in", " here", " except").tolist(),
    ]
    assert frame["start"].to_list() == [3, 2]
    assert frame["peak"].to_list() == [3, 4]
    assert frame["reduced"].to_list() == [True, True]
    assert frame["activation"].to_list() == frame["full_activation"].to_list() == [4.0, 3.0]
    assert frame["importances"].to_list() == [
        pytest.approx([0, 0.875, 0, 1.0]), pytest.approx([0, 1 - 0.5 / 3, 0, 0, 1.0]),
    ]  # fmt: skip
    assert prober.calls == [3, 1 + 2, 2, 3 + 1, 4]  # masked prompts go with suffixes; two units' worth fills a wave


def test_an_equal_activation_before_it_takes_the_peak_away():
    tokens = np.array([BOS, 2, 3], np.int32)
    context = TrainContext(Unit(0, 1), 0, tokens, 2, 1.0)
    tie = {0: lambda prompt: np.where(np.arange(len(prompt)) > 0, 1.0 if len(prompt) > 2 else 0.0, 0.0)}
    ((pruned, _),) = prune_contexts([context], VOCABULARY, ToyProber(tie), PAPER)
    assert not pruned.reduced
    assert pruned.token_ids.tolist() == tokens.tolist()


def test_a_large_value_at_bos_is_never_the_peak_and_never_an_activating_position():
    loud_bos = {0: lambda prompt: np.where(np.arange(len(prompt)) == 0, 99.0, prompt)}
    context = TrainContext(Unit(0, 1), 0, np.array([BOS, 2, 3], np.int32), 2, 3.0)
    ((pruned, _),) = prune_contexts([context], VOCABULARY, ToyProber(loud_bos), PAPER)
    assert (pruned.token_ids.tolist(), pruned.reduced) == ([BOS, 3], True)
    assert pruned.activating(3.0, 0.5).tolist() == [1]


def test_what_never_passes_keeps_the_longest_tried_and_is_not_rescaled_where_it_does_not_fire():
    tokens = np.array([BOS, *range(2, 42)], np.int32)
    silent = {
        0: lambda prompt: np.where(len(prompt) == len(tokens), 1.0, -1.0) * (np.arange(len(prompt)) == len(prompt) - 1)
    }
    top_examples = top_example_rows(silent, {Unit(0, 1): [tokens]})
    result = prune_examples([Unit(0, 1)], top_examples, {Unit(0, 1): 1.0}, VOCABULARY, ToyProber(silent), PAPER)
    row = result.tables["pruned_examples"].row(0, named=True)
    assert row["token_ids"] == [BOS, *tokens[-31:].tolist()]
    assert (row["reduced"], row["activation"], row["kept_share"], row["start"]) == (False, -1.0, -1.0, 10)
    assert set(row["importances"]) == {0.0}
    (saliency,) = result.tables["saliencies"].iter_rows(named=True)
    assert (saliency["position"], saliency["activation"]) == (31, -1.0)


def test_a_one_token_context_is_kept_whole():
    neurons = {0: hash_neuron(0, 1, (1, 2))}
    top_examples = top_example_rows(neurons, {Unit(0, 1): [np.array([BOS, 5], np.int32)]})
    result = prune_examples([Unit(0, 1)], top_examples, {Unit(0, 1): 2.0}, VOCABULARY, ToyProber(neurons), PAPER)
    row = result.tables["pruned_examples"].row(0, named=True)
    assert (row["token_ids"], row["peak"], row["start"], row["reduced"]) == ([BOS, 5], 1, 1, True)


def test_test_contexts_are_never_read():
    neurons = {0: hash_neuron(0, 2, (1, 2))}
    rows = top_example_rows(neurons, {Unit(0, 1): [np.array([BOS, 5, 2], np.int32)]})
    unseen = rows.with_columns(split=rows["split"].replace("train", "test"), rank=rows["rank"] + 1)
    alone, both = (
        prune_examples([Unit(0, 1)], frame, {Unit(0, 1): 2.0}, VOCABULARY, ToyProber(neurons), PAPER)
        for frame in (rows, rows.vstack(unseen))
    )
    assert alone.tables["pruned_examples"].equals(both.tables["pruned_examples"])


@settings(max_examples=25)
@given(st.lists(contexts_strategy, min_size=2, max_size=4), st.integers(0, 10**6))
def test_units_alone_and_together_give_the_same_rows(windows, seed):
    units = [Unit(0, 1), Unit(1, 1), Unit(0, -1)]
    neurons = {0: hash_neuron(seed, 2), 1: hash_neuron(seed, 12)}
    top_examples, a_max = top_example_rows(neurons, dict.fromkeys(units, windows)), dict.fromkeys(units, 2.0)
    together = prune_examples(units, top_examples, a_max, VOCABULARY, ToyProber(neurons), PAPER)
    assert set(together.ledger) == set(units)
    for unit in units:
        alone = prune_examples([unit], top_examples, a_max, VOCABULARY, ToyProber(neurons), PAPER)
        for table, frame in alone.tables.items():
            assert frame.equals(together.tables[table].filter(unit=unit.number, sign=unit.sign))


def test_masked_prompts_mask_each_kept_token_once_and_never_bos():
    assert masked_prompts(np.array([BOS, 5, 6], np.int32), MASK).tolist() == [[BOS, MASK, 6], [BOS, 5, MASK]]


def test_nothing_is_important_where_there_is_no_activation_to_lose():
    activations = np.array([9, 0, -1, 2], np.float32)
    masked = np.array([[9, 5, 5, 1], [9, 0, 3, -2], [9, 0, -1, 2]], np.float32)
    rows = importance_rows(activations, masked, np.array([1, 2, 3]))
    assert rows.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0.5, 2, 0]]


def test_a_unit_whose_activations_overflow_fails_and_leaves_the_others_alone():
    neurons = {0: lambda prompt: np.full(len(prompt), np.nan), 1: hash_neuron(0, 1, (1, 2))}
    fine = top_example_rows(neurons, {Unit(1, 1): [np.array([BOS, 5, 2], np.int32)]})
    broken = fine.with_columns(unit=fine["unit"] * 0)
    units = [Unit(0, 1), Unit(1, 1)]
    result = prune_examples(
        units, fine.vstack(broken), dict.fromkeys(units, 2.0), VOCABULARY, ToyProber(neurons), PAPER
    )
    assert {unit: outcome.status for unit, outcome in result.ledger.items()} == {units[0]: "failed", units[1]: "ok"}
    assert set(result.tables["saliencies"]["unit"]) == {1}
