"""The stream against a slow oracle that sorts everything, on activations with many ties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.evidence.state import LayerState, lay_out
from n2g_assets.evidence.streaming import LayerStream, merge
from n2g_assets.evidence.top_k import EMPTY, LARGEST_OFFSET, pack, select, unpack

SAMPLE = 7


@dataclass
class Corpus:
    """Contexts with their activations: small integers, so that ties are the rule and sums are exact."""

    length: int
    documents: np.ndarray
    activations: list[np.ndarray]

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(a) for a in self.activations], dtype=np.int64)

    @property
    def ids(self) -> list[str]:
        return [f"context {i}" for i in range(len(self.activations))]


@st.composite
def corpora(draw: st.DrawFn) -> Corpus:
    length, d_mlp = draw(st.integers(2, 9)), draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    documents = np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.integers(1, 8))
    lengths = rng.integers(1, length + 1, len(documents))
    if draw(st.booleans()):
        lengths[:] = length
    values = [rng.integers(-spread, spread + 1, (n, d_mlp)).astype(np.float32) for n in lengths]
    for value in values:
        value[value == 0] *= rng.choice([-1.0, 1.0])
        value[0] = 1000
    return Corpus(length, documents, values)


def stream(
    corpus: Corpus,
    contexts: np.ndarray,
    order: np.ndarray,
    recorded: list[int],
    caps: tuple[int, int, int],
    **more,
):
    """The state of a shard that holds ``contexts``, fed in ``order``."""
    layout = lay_out(
        [corpus.ids[c] for c in contexts], corpus.documents[contexts], corpus.lengths[contexts], corpus.length, SAMPLE
    )
    d_mlp = corpus.activations[0].shape[1]
    layer = LayerStream(d_mlp, layout, *caps, recorded, **more)
    for batch in np.array_split(order, 1 + len(order) // 5):
        lengths = corpus.lengths[contexts[batch]]
        padded = np.full((len(batch), lengths.max(), d_mlp), 999, dtype=np.float32)
        for row, number in zip(padded, batch, strict=True):
            row[: corpus.lengths[contexts[number]]] = corpus.activations[contexts[number]]
        layer.add_batch(batch, torch.from_numpy(padded), lengths)
    return layer.finish()


def merged(parts: list[tuple[LayerState, np.ndarray]], corpus: Corpus, per_document: int) -> LayerState:
    return merge(
        parts,
        documents=corpus.documents,
        context_length=corpus.length,
        contexts_per_document=per_document,
        sample=SAMPLE,
    )


def signed(corpus: Corpus, unit: int) -> list[np.ndarray]:
    d_mlp = corpus.activations[0].shape[1]
    sign = 1 if unit < d_mlp else -1
    return [a[:, unit % d_mlp] * sign + 0.0 for a in corpus.activations]


def oracle_positions(corpus: Corpus, unit: int, keep: int) -> list[tuple[float, int, int]]:
    every = [(-v, c, p) for c, a in enumerate(signed(corpus, unit)) for p, v in enumerate(a) if p]
    return [(-v, c, p) for v, c, p in sorted(every)[:keep]]


def oracle_contexts(corpus: Corpus, unit: int, keep: int, per_document: int) -> list[tuple[float, int, int]]:
    peaks = [(-max(a[1:]), c, 1 + int(np.argmax(a[1:]))) for c, a in enumerate(signed(corpus, unit)) if len(a) > 1]
    taken: list[tuple[float, int, int]] = []
    for value, context, peak in sorted(peaks):
        document = corpus.documents[context]
        if sum(corpus.documents[c] == document for _, c, _ in taken) < per_document and len(taken) < keep:
            taken.append((-value, context, peak))
    return taken


def listed(entries: torch.Tensor, length: int) -> list[tuple[float, int, int]]:
    activations, offsets = unpack(entries[entries != EMPTY])
    return [(float(a), int(p) // length, int(p) % length) for a, p in zip(activations, offsets, strict=True)]


@settings(max_examples=50, deadline=None)
@given(
    corpora(),
    st.integers(0, 2**32),
    st.integers(1, 6),
    st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 3)),
)
def test_shards_in_any_order_merge_to_what_sorting_everything_gives(corpus, seed, n_shards, caps):
    rng = np.random.default_rng(seed)
    shard_of = rng.integers(0, n_shards, corpus.documents.max() + 1)[corpus.documents]
    recorded = [0] if corpus.activations[0].shape[1] < 3 else [2, 0]
    parts = []
    for shard in rng.permutation(np.unique(shard_of)):
        contexts = np.flatnonzero(shard_of == shard)
        parts.append((stream(corpus, contexts, rng.permutation(len(contexts)), recorded, caps), contexts))
    state = merged(parts, corpus, caps[2])

    inner = np.concatenate([a[1:] for a in corpus.activations])
    assert int(state.tokens) == len(inner)
    np.testing.assert_array_equal(state.total, inner.sum(0))
    np.testing.assert_array_equal(state.squares, (inner.astype(np.float64) ** 2).sum(0))
    np.testing.assert_array_equal(state.positive, (inner > 0).sum(0))
    np.testing.assert_array_equal(state.negative, (inner < 0).sum(0))
    d_mlp = inner.shape[1]
    assert state.recorded.tolist() == sorted(recorded) + [d_mlp + n for n in sorted(recorded)]
    for unit in range(2 * d_mlp):
        assert listed(state.strongest[unit], corpus.length) == oracle_positions(corpus, unit, caps[0])
        kept = listed(state.contexts[unit], corpus.length)
        assert kept == oracle_contexts(corpus, unit, caps[1], caps[2])
        for row in (state.recorded == unit).nonzero().flatten():
            for (_, context, _), window in zip(kept, state.windows[row], strict=False):
                whole = signed(corpus, unit)[context]
                np.testing.assert_array_equal(window[: len(whole)], whole)
                assert not window[len(whole) :].any()
            assert not state.windows[row, len(kept) :].any()


@settings(max_examples=30, deadline=None)
@given(corpora(), st.integers(0, 2**32), st.integers(1, 4))
def test_the_quantile_sample_is_the_same_however_the_corpus_is_cut(corpus, seed, n_shards):
    rng = np.random.default_rng(seed)
    shard_of = rng.integers(0, n_shards, corpus.documents.max() + 1)[corpus.documents]
    whole = np.arange(len(corpus.documents))
    one = stream(corpus, whole, whole, [], (1, 1, 1))
    groups = [np.flatnonzero(shard_of == shard) for shard in np.unique(shard_of)]
    state = merged([(stream(corpus, g, np.arange(len(g)), [], (1, 1, 1)), g) for g in groups], corpus, 1)
    alone = merged([(one, whole)], corpus, 1)
    assert len(state.sample) == min(SAMPLE, int(state.tokens))
    by_priority, alone_by_priority = state.priorities.argsort(), alone.priorities.argsort()
    assert state.priorities[by_priority].tolist() == alone.priorities[alone_by_priority].tolist()
    np.testing.assert_array_equal(state.sample[by_priority], alone.sample[alone_by_priority])


def test_a_long_stream_in_corpus_order_keeps_what_sorting_everything_keeps():
    """Long enough that rows are cut back many times and floors stand high."""
    rng = np.random.default_rng(3)
    documents = np.repeat(np.arange(60), 5).astype(np.int64)
    values = [np.round(rng.standard_normal((16, 3)) * 8).astype(np.float32) for _ in documents]
    corpus = Corpus(16, documents, values)
    everything = np.arange(len(documents))
    state = stream(corpus, everything, everything, [1], (20, 8, 2))
    for unit in range(6):
        assert listed(state.strongest[unit], 16) == oracle_positions(corpus, unit, 20)
        assert listed(state.contexts[unit], 16) == oracle_contexts(corpus, unit, 8, 2)


def test_a_unit_recorded_in_only_some_shards_has_no_windows():
    values = [np.ones((4, 2), dtype=np.float32) for _ in range(2)]
    corpus = Corpus(4, np.array([0, 1]), values)
    first = stream(corpus, np.array([0]), np.array([0]), [0, 1], (2, 2, 1))
    second = stream(corpus, np.array([1]), np.array([0]), [1], (2, 2, 1))
    state = merged([(first, np.array([0])), (second, np.array([1]))], corpus, 1)
    assert state.recorded.tolist() == [1, 3]
    assert state.windows.shape == (2, 2, 4)


@pytest.mark.parametrize(("signs", "units"), [((1,), [1, 4]), ((-1,), [21, 24]), ((-1, 1), [1, 4, 21, 24])])
def test_the_signs_choose_the_units_with_windows_and_nothing_else(signs, units):
    corpus = random_corpus(20, 8)
    everything = np.arange(90)
    both = stream(corpus, everything, everything, [4, 1], (10, 3, 1))
    state = stream(corpus, everything, everything, [4, 1], (10, 3, 1), signs=signs)
    assert state.recorded.tolist() == units
    assert torch.equal(state.windows, both.windows[torch.isin(both.recorded, state.recorded)])
    assert state.windows.any()
    for name, tensor in state.tensors().items():
        if name not in ("recorded", "windows"):
            assert torch.equal(tensor, both.tensors()[name]), name


def test_bfloat16_activations_are_taken_as_their_exact_value():
    layout = lay_out(["a"], np.array([0]), np.array([3]), 3, 2)
    layer = LayerStream(1, layout, 2, 1, 1, [])
    layer.add_batch(
        np.array([0]), torch.tensor([[[9.0], [0.1], [0.2]]], dtype=torch.bfloat16), np.array([3], dtype=np.int64)
    )
    exact = torch.tensor([0.1, 0.2], dtype=torch.bfloat16).float()
    state = layer.finish()
    assert unpack(state.strongest[0])[0].tolist() == [exact[1], exact[0]]
    assert float(state.total[0]) == pytest.approx(float(exact.sum()))


def random_corpus(d_mlp: int, seed: int) -> Corpus:
    """Contexts of several blocks and of a token; activations of all sizes, some neurons mostly zero."""
    rng = np.random.default_rng(seed)
    lengths = np.where(np.arange(90) % 9 == 0, rng.integers(1, 200, 90), 200)
    scale = np.exp(rng.normal(size=d_mlp) * 3)
    values = [(rng.standard_normal((n, d_mlp)) * scale).astype(np.float32) for n in lengths]
    for value in values:
        value[:, ::5] = np.maximum(value[:, ::5] - 2 * scale[::5], 0)
    return Corpus(200, np.sort(rng.integers(0, 25, 90)), values)


def test_neurons_that_do_not_fill_their_last_group_and_floors_that_rise_within_a_batch():
    corpus = random_corpus(37, 5)
    everything = np.argsort(-corpus.lengths, kind="stable")
    one = stream(corpus, np.arange(90), everything, [36, 4], (30, 6, 2))
    for unit in range(2 * 37):
        assert listed(one.strongest[unit], 200) == oracle_positions(corpus, unit, 30)
        assert listed(one.contexts[unit], 200) == oracle_contexts(corpus, unit, 6, 2)
    assert one.recorded.tolist() == [4, 36, 41, 73]
    for unit, windows in zip(one.recorded.tolist(), one.windows, strict=True):
        for (_, context, _), window in zip(listed(one.contexts[unit], 200), windows, strict=True):
            whole = signed(corpus, unit)[context]
            np.testing.assert_array_equal(window[: len(whole)], whole)
            assert not window[len(whole) :].any()
    inner = np.concatenate([a[1:] for a in corpus.activations]).astype(np.float64)
    np.testing.assert_allclose(one.total, inner.sum(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.squares, (inner**2).sum(0), rtol=1e-9)


def test_threads_change_nothing():
    corpus = random_corpus(70, 6)
    threads = torch.get_num_threads()
    states = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            states.append(stream(corpus, np.arange(90), np.arange(90), [1], (10, 3, 1)))
    finally:
        torch.set_num_threads(threads)
    for name, tensor in states[0].tensors().items():
        assert torch.equal(tensor, states[1].tensors()[name]), name


def test_activations_that_are_not_finite_show_in_the_squares_and_harm_no_other_neuron():
    corpus = random_corpus(20, 7)
    sound = stream(corpus, np.arange(90), np.arange(90), [3], (10, 3, 1))
    corpus.activations[4][1:3, 3] = [np.nan, -np.inf]
    corpus.activations[5][1:, 8] = -np.nan
    broken = stream(corpus, np.arange(90), np.arange(90), [3], (10, 3, 1))
    assert (~torch.isfinite(broken.squares)).nonzero().flatten().tolist() == [3, 8]
    others = [unit for unit in range(40) if unit % 20 not in (3, 8)]
    assert torch.equal(broken.strongest[others], sound.strongest[others])
    assert torch.equal(broken.contexts[others], sound.contexts[others])


@given(
    st.lists(st.tuples(st.floats(width=32, allow_nan=False), st.integers(0, LARGEST_OFFSET)), min_size=2, max_size=20)
)
def test_the_order_of_entries_is_activation_then_place(pairs):
    activations, offsets = (torch.tensor(column) for column in zip(*pairs, strict=True))
    entries = pack(activations.float(), offsets)
    assert (entries > EMPTY).all()
    back, back_places = unpack(entries)
    assert torch.equal(back, activations.float() + 0.0)
    assert torch.equal(back_places, offsets)
    expected = sorted(range(len(pairs)), key=lambda i: (-pairs[i][0], pairs[i][1]))
    ordered = entries.sort(descending=True).values
    assert torch.equal(ordered, entries[torch.tensor(expected)])


def test_selection_fills_up_with_empty_entries_where_the_cap_leaves_too_few():
    entries = pack(torch.tensor([[3.0, 2.0, 1.0, 5.0]]), torch.tensor([[0, 1, 2, 3]]))
    kept, chosen = select(entries, 3, torch.tensor([[7, 7, 7, 7]]), 2)
    assert kept[0].tolist() == [int(entries[0, 3]), int(entries[0, 0]), EMPTY]
    assert chosen[0, :2].tolist() == [3, 0]
