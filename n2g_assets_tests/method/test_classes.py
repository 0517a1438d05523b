"""Graphs of token classes against a plain tree of dictionaries, and what they promise."""

import math
from collections import defaultdict
from copy import copy

import numpy as np
import pytest

from n2g_assets.method.classes import FOREVER, ClassGraph, LaggedText, grow_graph
from n2g_assets.method.splits import BINS
from n2g_assets.method.text import EncodedText
from n2g_assets_tests.method.class_harvest import OFFSETS, SETTINGS, Harvest, positions_at
from n2g_assets_tests.method.toy import BOS


@pytest.fixture(scope="module")
def harvest() -> Harvest:
    return Harvest(0)


@pytest.fixture(scope="module")
def graph(harvest) -> ClassGraph:
    return harvest.grow()


# -------------------------------------------------------------------------------------------- a plain tree
def slow_bin(value: float, mean: float, deviation: float) -> int:
    """128 bins a side, eight an octave of the distance, the first for all that is nearer than 1/256 deviation."""
    distance = float(np.float32(abs(value - mean) / deviation))
    place = 0
    if distance >= 1 / 256:
        octave = math.floor(math.log2(distance))
        place = min(8 * (octave + 8) + int(8 * (distance / 2**octave - 1)), BINS // 2 - 1)
    return BINS // 2 + place if value >= mean else BINS // 2 - 1 - place


def slow_deviations(harvest: Harvest, where: list[int], back: int) -> dict[int, float]:
    """What each token of a class adds, given the positions of the class and the offset at which it is asked for."""
    shrinkage = SETTINGS.class_shrinkage

    def told(places: list[int]) -> dict[int, float]:
        mean = sum(float(harvest.values[place]) for place in places) / len(places)
        sums = defaultdict(list)
        for place in places:
            sums[harvest.before(place, back)].append(float(harvest.values[place]) - mean)
        return {token: sum(values) / (len(values) + shrinkage) for token, values in sums.items()}

    halves = [[place for place in where if harvest.half[place] == side] for side in (0, 1)]
    pairs = []
    for side in (0, 1):
        known, others = told(halves[side]), halves[1 - side]
        guesses = [known.get(harvest.before(place, back), 0.0) for place in others]
        actual = [float(harvest.values[place]) for place in others]
        pairs.append((np.array(guesses) - np.mean(guesses), np.array(actual) - np.mean(actual)))
    slope = sum(guess @ real for guess, real in pairs) / sum(guess @ guess for guess, _ in pairs)
    every = told(where)
    middle = np.mean([every[harvest.before(place, back)] for place in where])
    return {token: min(max(slope, 0.0), 1.0) * (value - middle) for token, value in every.items()}


def slow_split(harvest: Harvest, where: list[int]) -> tuple[float, int, int, tuple[float, float]]:
    """Gain, offset, cut and the means of both sides, each found in the other half's order."""
    sides = [[place for place in where if harvest.half[place] == side] for side in (0, 1)]
    best = (0.0, -1, -1, (0.0, 0.0))
    if min(map(len, sides)) < SETTINGS.class_positions:
        return best
    values = {place: float(harvest.values[place]) for place in where}
    mean = sum(values.values()) / len(where)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values.values()) / len(where))
    of_half = [sum(values[place] for place in side) / len(side) for side in sides]
    for back in range(OFFSETS):
        bins: list[dict[int, int]] = []
        for side in (0, 1):
            sums, counts = defaultdict(float), defaultdict(int)
            for place in sides[side]:
                sums[harvest.before(place, back)] += values[place]
                counts[harvest.before(place, back)] += 1
            shrinkage = SETTINGS.class_shrinkage
            tokens = {harvest.before(place, back) for place in where}
            told = {t: (sums[t] + shrinkage * of_half[side]) / (counts[t] + shrinkage) for t in tokens}
            bins.append({token: slow_bin(value, mean, deviation) for token, value in told.items()})
        for cut in range(BINS - 1):
            low = [[p for p in sides[s] if bins[1 - s][harvest.before(p, back)] <= cut] for s in (0, 1)]
            high = [[p for p in sides[s] if bins[1 - s][harvest.before(p, back)] > cut] for s in (0, 1)]
            if min(sum(map(len, low)), sum(map(len, high))) < SETTINGS.class_positions:
                continue
            if not all(map(len, low + high)):
                continue
            if not all(np.mean([values[p] for p in low[s]]) < np.mean([values[p] for p in high[s]]) for s in (0, 1)):
                continue
            error = 0.0
            for side in (0, 1):
                for part in (low, high):
                    other = sum(values[p] for p in part[1 - side]) / len(part[1 - side])
                    error += sum((values[p] - other) ** 2 - (values[p] - of_half[1 - side]) ** 2 for p in part[side])
            if -error > best[0] + 1e-9:
                means = tuple(
                    sum(values[p] for s in (0, 1) for p in part[s]) / sum(map(len, part)) for part in (low, high)
                )
                best = (-error, back, cut, means)
    return best


def test_the_first_splits_are_those_of_a_plain_tree(harvest, graph):
    gain, back, _, (low, high) = slow_split(harvest, harvest.counted.tolist())
    assert gain > 0
    assert graph.offsets[1] == graph.offsets[2] == -back
    own = [float(np.mean(harvest.values[positions_at(harvest, graph, node)])) for node in (1, 2)]
    for mean, node in zip((high, low) if own[0] > own[1] else (low, high), (1, 2), strict=True):
        share = graph.supports[node] / (graph.supports[node] + SETTINGS.class_shrinkage)
        told = min(mean - graph.values[0], own[node - 1] - graph.values[0], key=abs)
        assert graph.values[node] == pytest.approx(graph.values[0] + share * told, abs=1e-5)
    inside, outside = (positions_at(harvest, graph, node) for node in (1, 2))
    added = slow_deviations(harvest, inside, back)
    assert dict(zip(graph.tokens[graph.members(1)].tolist(), graph.deviations[graph.members(1)], strict=True)) == (
        pytest.approx(added, abs=1e-5)
    )
    left = copy(harvest)
    left.values = harvest.values.astype(np.float64)
    for place in inside:
        left.values[place] -= added[harvest.before(place, back)]
    best = [slow_split(left, where)[0] for where in (inside, outside)]
    assert graph.parents[3] == 1 + int(best[1] > best[0])


# -------------------------------------------------------------------------------------------- promises
def test_a_graph_finds_what_the_unit_does(harvest, graph):
    strongest = int(np.argmax(graph.values))
    offsets = {
        int(graph.offsets[step]): graph.starts[step] for step in graph.path(strongest) if not graph.all_but[step]
    }
    assert set(offsets) >= {0, -1}
    assert graph.values[strongest] == pytest.approx(0.9, abs=0.1)
    assert graph.values.min() == pytest.approx(-0.4, abs=0.1)


def test_every_text_ends_in_one_rule_and_counts_there(harvest, graph):
    for n_rules in (1, 2, 5, 12):
        ends = graph.ends(harvest.token_ids, harvest.positions, [n_rules])[0][harvest.counted]
        rules = graph.rules_of(n_rules)
        assert len(rules) == min(n_rules, len(graph) // 2 + 1)
        assert set(ends) == set(rules)
        for rule in rules:
            where = positions_at(harvest, graph, int(rule))
            assert where == harvest.counted[ends == rule].tolist()
            assert graph.supports[rule] == len(where)
            assert graph.documents[rule] == len(set(harvest.documents[where]))
            assert graph.firings[rule] == sum(harvest.values[where] >= 0.5)


def test_a_smaller_graph_is_part_of_a_larger_one(harvest, graph):
    small = harvest.grow(max_rules=5)
    n = len(small)
    assert n == 9
    for name in ("parents", "offsets", "all_but", "ranks", "values", "supports"):
        assert np.array_equal(getattr(small, name), getattr(graph, name)[:n])
    later = graph.until[:n] > 4
    assert np.array_equal(small.until, np.where(later, FOREVER, graph.until[:n]))


def test_members_are_counted_at_the_parent(harvest, graph):
    for node in np.flatnonzero(np.diff(graph.starts)).tolist():
        where = positions_at(harvest, graph, int(graph.parents[node]))
        tokens = [harvest.before(place, -int(graph.offsets[node])) for place in where]
        for member in range(graph.starts[node], graph.starts[node + 1]):
            at = [
                float(harvest.values[place])
                for place, token in zip(where, tokens, strict=True)
                if token == graph.tokens[member]
            ]
            assert graph.counts[member] == len(at)
            assert graph.means[member] == pytest.approx(sum(at) / len(at), abs=1e-5)


def test_the_tokens_of_a_class_add_what_they_do_more_or_less_than_it():
    harvest = Harvest(1)
    harvest.values = np.where(harvest.token_ids < 6, 0.1 * harvest.token_ids, -1).astype(np.float32)
    graph = harvest.grow(max_rules=2)
    assert len(graph) == 3
    inside = np.setdiff1d(np.arange(1, 6), graph.tokens) if len(graph.tokens) > 5 else graph.tokens
    assert set(inside) <= set(range(1, 6))
    found = graph.predict_sizes(harvest.token_ids, harvest.positions, [2])[0]
    at = graph.members(1)
    assert graph.deviations[at] @ graph.counts[at] == pytest.approx(0, abs=1e-3)
    for token in graph.tokens[at]:
        told = found[harvest.counted][harvest.token_ids[harvest.counted] == token]
        assert np.ptp(told) == 0
        assert told[0] == pytest.approx(0.1 * token, abs=0.03)


def test_differences_that_the_other_half_does_not_show_add_nothing():
    harvest = Harvest(2)
    liked = harvest.token_ids < 6
    harvest.values = np.where(liked, 1 + 0.1 * harvest.token_ids * (2.0 * harvest.half - 1), -1).astype(np.float32)
    graph = harvest.grow(max_rules=2)
    assert np.abs(graph.deviations).max() == 0


def test_what_a_text_is_expected_to_have_is_the_base_of_its_rule_and_what_its_tokens_add(harvest, graph):
    for n_rules in (2, 5, 12):
        ends, told = (each[0] for each in graph.walk(harvest.token_ids, harvest.positions, [n_rules]))
        assert not told[harvest.positions == 0].any()
        for place in harvest.counted[::7].tolist():
            path, expected = graph.path(int(ends[place])), float(graph.bases[ends[place]])
            for step in path:
                if not graph.all_but[step]:
                    of_class, token = graph.members(step), harvest.before(place, -int(graph.offsets[step]))
                    expected += float(graph.deviations[of_class][graph.tokens[of_class].tolist().index(token)])
            assert told[place] == pytest.approx(expected, abs=1e-6)
        for rule in graph.rules_of(n_rules).tolist():
            of_rule = told[harvest.counted][ends[harvest.counted] == rule]
            assert graph.values[rule] == pytest.approx(of_rule.mean(), abs=1e-5)


def test_a_tally_changes_nothing(harvest, graph, monkeypatch):
    monkeypatch.setattr("n2g_assets.method.classes._TALLIED", 0.0)
    other = harvest.grow()
    for name in ("parents", "offsets", "all_but", "until", "supports", "tokens"):
        assert np.array_equal(getattr(other, name), getattr(graph, name)), name
    assert other.bases == pytest.approx(graph.bases, abs=1e-6)
    assert other.deviations == pytest.approx(graph.deviations, abs=1e-6)


def with_scan_of(harvest: Harvest, shown: np.ndarray, told: np.ndarray, **changes: float) -> ClassGraph:
    """The graph grown on a harvest and on contexts of BOS, a token and the one shown, in which the unit does as told.

    Every second one stands in the second half.
    """
    contexts = np.column_stack([np.full(len(shown), BOS), np.full(len(shown), 1), shown]).astype(np.int32)
    last = len(harvest.token_ids) + np.arange(2, contexts.size, 3)
    values = np.append(harvest.values, np.zeros(contexts.size, np.float32))
    values[last] = told
    text = LaggedText.of(
        np.append(harvest.token_ids, contexts),
        np.append(harvest.positions, np.tile(np.arange(3, dtype=np.int32), len(shown))),
        np.append(harvest.documents, np.full(contexts.size, 99)).astype(np.int32),
        np.append(harvest.half, np.repeat(np.tile([0, 1], len(shown) // 2), 3)).astype(np.uint8), OFFSETS,
        np.append(np.ones(len(harvest.token_ids), bool), np.zeros(contexts.size, bool)),
    )  # fmt: skip
    settings = SETTINGS.model_copy(update=changes)
    return grow_graph(text, values, np.append(harvest.counted, last), BOS, 0.5, settings)


def test_a_scan_teaches_what_its_tokens_do_and_supports_nothing(harvest, graph):
    shown = np.repeat(np.arange(1, 16, dtype=np.int32), 2)  # 12 to 15 stand in no text
    told = np.where(np.isin(shown, (13, 14, 3, 5)), 0.3, 0)
    found = with_scan_of(harvest, shown, told)
    asked = np.array([BOS, 1, 13, 1, 15], np.int32)
    with_scan, without = (each.predict_sizes(asked, np.arange(5, dtype=np.int32), [12])[0] for each in (found, graph))
    assert with_scan[2] > with_scan[4] + 0.15
    assert without[2] == pytest.approx(without[4], abs=0.1)
    for name in ("supports", "documents", "firings"):
        assert getattr(found, name)[0] == getattr(graph, name)[0], name
    assert not found.counts[np.isin(found.tokens, (12, 13, 14, 15)) & np.isin(
        np.repeat(found.offsets, np.diff(found.starts)), 0)].any()  # fmt: skip


def test_what_is_said_of_a_rule_is_said_of_text_where_text_supports_it(harvest):
    shown = np.repeat(np.arange(1, 16, dtype=np.int32), 2)
    found = with_scan_of(harvest, shown, np.where(shown == 3, -1, np.where(shown == 5, 0.9, 0.2)))
    assert found.values[0] == pytest.approx(harvest.values[harvest.counted].mean(), abs=1e-5)
    ends, told = (each[0] for each in found.walk(harvest.token_ids, harvest.positions, [12]))
    for rule in found.rules_of(12).tolist():
        of_rule = told[harvest.counted][ends[harvest.counted] == rule]
        if found.supports[rule]:
            assert found.values[rule] == pytest.approx(of_rule.mean(), abs=1e-5)
    for node in np.flatnonzero(np.diff(found.starts)).tolist():
        where = positions_at(harvest, found, int(found.parents[node]))
        of_class = found.members(node)
        for token, count, mean in zip(
            *(row[of_class] for row in (found.tokens, found.counts, found.means)), strict=True
        ):
            at = [place for place in where if harvest.before(place, -int(found.offsets[node])) == token]
            assert count == len(at)
            if at:
                assert mean == pytest.approx(harvest.values[at].mean(), abs=1e-5)
    tokens, weights = found.by_weight(1)
    means = dict(zip(found.tokens[found.members(1)].tolist(), found.means[found.members(1)], strict=True))
    counts = dict(zip(found.tokens[found.members(1)].tolist(), found.counts[found.members(1)], strict=True))
    ordered = [counts[token] > 0 for token in tokens.tolist()]
    assert ordered == sorted(ordered, reverse=True)
    assert not weights[np.logical_not(ordered)].any()
    unseen = [token for token in tokens.tolist() if not counts[token]]
    assert unseen == sorted(unseen, key=lambda token: -abs(means[token] - found.values[0]))


@pytest.mark.parametrize("seed", range(3))
def test_no_rule_expects_the_opposite_of_its_text_where_chance_is_all_there_is(seed):
    """What both halves do not say in the same direction is no split, and moves no expectation."""
    harvest = Harvest(seed, contexts=40, vocabulary=30)
    harvest.values = np.random.default_rng(seed).normal(0, 0.2, len(harvest.values)).astype(np.float32)
    graph, left = harvest.grow(max_rules=40), harvest.values.astype(np.float64)
    for node in range(1, len(graph), 2):
        inside, outside = (positions_at(harvest, graph, side) for side in (node, node + 1))
        mean = left[[*inside, *outside]].mean()
        for side, where in ((node, inside), (node + 1, outside)):
            own, told = left[where].mean() - mean, graph.bases[side] - graph.bases[graph.parents[side]]
            assert told * own >= 0
            assert abs(told) <= abs(own) + 1e-6
        back, of_class = -int(graph.offsets[node]), graph.members(node)
        added = dict(zip(graph.tokens[of_class].tolist(), graph.deviations[of_class], strict=True))
        for place in inside:
            left[place] -= added[harvest.before(place, back)]


def test_what_one_half_calls_high_and_the_other_low_is_no_split():
    harvest = Harvest(2)
    harvest.values = np.where(harvest.token_ids < 6, 1 - 2.0 * harvest.half, 0).astype(np.float32)
    assert len(harvest.grow()) == 1


def test_no_rule_expects_more_than_its_own_text_does():
    harvest = Harvest(1, contexts=200)
    harvest.values = np.select([harvest.token_ids == 3, harvest.token_ids == 7], [1.4, 0.47]).astype(np.float32)
    shown = np.repeat(np.arange(100, 120, dtype=np.int32), 2)
    found = with_scan_of(harvest, shown, np.full(len(shown), 0.9), max_rules=2)
    rare = found.tokens[found.tokens >= 100]
    assert 3 in found.tokens
    assert 7 not in found.tokens
    assert len(rare) == 20  # by one half they are below 7, by both they are above it
    inside = np.append(harvest.values[positions_at(harvest, found, 1)], np.full(2 * len(rare), 0.9))
    assert found.bases[1] <= inside.mean() + 1e-6


def test_what_was_never_seen_goes_with_the_larger_side(graph):
    unseen = np.array([BOS, 4000], np.int32)
    end = int(graph.ends(unseen, np.arange(2, dtype=np.int32), [2])[0][1])
    assert end == 2
    assert graph.all_but[end]
    assert graph.supports[2] >= graph.supports[1]


def test_two_sizes_may_be_asked_in_any_order(harvest, graph):
    both = graph.ends(harvest.token_ids, harvest.positions, [7, 2, 7])
    assert np.array_equal(both[0], both[2])
    assert np.array_equal(both[1], graph.ends(harvest.token_ids, harvest.positions, [2])[0])


def test_a_token_is_activating_where_a_class_at_offset_0_expects_more_than_the_mean(harvest, graph):
    classes = [
        set(graph.tokens[graph.starts[node] : graph.starts[node + 1]].tolist())
        for node in range(1, len(graph))
        if graph.offsets[node] == 0 and not graph.all_but[node] and graph.values[node] > graph.values[0]
    ]
    tokens = np.arange(16, dtype=np.int32)
    found = graph.activating(EncodedText.from_forms(tokens, tokens, 16))
    assert found.tolist() == [any(token in members for members in classes) for token in tokens.tolist()]
    assert found[[3, 5]].all()
    assert not found[[BOS, 4, 15]].any()


def test_test_documents_do_not_count(harvest):
    other = Harvest(0)
    other.values = np.where(other.documents == 5, np.float32(3), other.values)
    assert np.array_equal(other.grow().values, harvest.grow().values)


def test_noise_gets_no_rule():
    harvest = Harvest(3)
    harvest.values = np.zeros_like(harvest.values)
    assert len(harvest.grow()) == 1


def test_an_activation_that_is_not_finite_is_refused(harvest):
    values = harvest.values.copy()
    values[harvest.counted[3]] = np.nan
    with pytest.raises(ValueError, match="finite"):
        grow_graph(harvest.text, values, harvest.counted, BOS, 0.5, SETTINGS)
