"""The loops that grow and read graphs of token classes, compiled: :mod:`n2g_assets.method.classes` says what for.

Growing sorts the positions of the harvest by nodes, so that those of a node stand together, in the order of the text.
It works in a *table*: for every token, the sums of the two halves and then their counts. It is all zeros between
calls. A *tally* is such a table for every offset, filled with the positions of one node. Importing this module imports
numba (``compiled``), so others import it inside functions.
"""

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, Shaped, UInt8

from n2g_assets.method.compiled import compiled
from n2g_assets.method.walk import first_from

BINS = 256
"""Bins of a token's value, between which a split is cut: 128 on each side of the node's mean, eight an octave."""
NEAREST = 119 * 8
"""The bits of a distance from the mean, in standard deviations, at the first of a side's bins: 1/256 of one."""
COUNT = 2
"""Columns of the table before the counts."""


@compiled
def bin_of(value: float, mean: float, per_deviation: float) -> int:
    """The bin of a token's value at a node of this mean; ``per_deviation`` is 1 over its standard deviation."""
    distance = (value - mean) * per_deviation
    bits = int(np.float32(abs(distance)).view(np.int32)) >> 20  # the exponent, and three bits of what it leaves
    place = min(max(bits - NEAREST, 0), BINS // 2 - 1)
    return BINS // 2 + place if distance >= 0 else BINS // 2 - 1 - place


@compiled
def _gather(
    tokens: Int32[np.ndarray, " here"], values: Float64[np.ndarray, " here"], half: UInt8[np.ndarray, " here"],
    table: Float64[np.ndarray, "vocabulary columns"], seen: Int32[np.ndarray, " vocabulary"],
) -> Int32[np.ndarray, " tokens_here"]:  # fmt: skip
    """Adds the values of some positions up by half and token, and returns the tokens."""
    n_seen = 0
    for index in range(len(tokens)):
        row, side = table[tokens[index]], half[index]
        if row[COUNT] + row[COUNT + 1] == 0:
            seen[n_seen] = tokens[index]
            n_seen += 1
        row[side] += values[index]
        row[COUNT + side] += 1
    return seen[:n_seen]


@compiled
def _empty(here: Int32[np.ndarray, " tokens_here"], table: Float64[np.ndarray, "vocabulary columns"]) -> None:
    for index in range(len(here)):
        table[here[index], :] = 0


@compiled
def tally_up(
    lagged: Int32[np.ndarray, "offsets tokens"], values: Float64[np.ndarray, " tokens"],
    half: UInt8[np.ndarray, " tokens"], start: int, stop: int, sign: int,
    tally: Float64[np.ndarray, "offsets vocabulary columns"],
) -> None:  # fmt: skip
    """Adds the values of a node to a tally, or takes them away (``sign`` -1)."""
    for back in range(len(lagged)):
        tokens, table = lagged[back], tally[back]
        for index in range(start, stop):
            row, side = table[tokens[index]], half[index]
            row[side] += sign * values[index]
            row[COUNT + side] += sign


@compiled
def _fill_bins(
    seen: Int32[np.ndarray, " tokens"], table: Float64[np.ndarray, "vocabulary columns"], shrinkage: float,
    half_mean: Float64[np.ndarray, " halves"], mean: float, per_deviation: float,
    bins: Float64[np.ndarray, "bins columns"],
) -> None:  # fmt: skip
    """Puts each half's tokens into the bins of their values in the other half."""
    bins[:] = 0
    for index in range(len(seen)):
        row = table[seen[index]]
        for side in range(2):
            if row[COUNT + side] > 0:
                other = 1 - side
                value = (row[other] + shrinkage * half_mean[other]) / (row[COUNT + other] + shrinkage)
                found = bins[bin_of(value, mean, per_deviation)]
                found[side] += row[side]
                found[COUNT + side] += row[COUNT + side]


@compiled
def _saved(told: float, total: float, count: float) -> float:
    """Squared error that a told mean saves, over telling 0, on positions with this sum and count."""
    return told * (2 * total - told * count)


@compiled
def best_split(
    lagged: Int32[np.ndarray, "offsets tokens"], values: Float64[np.ndarray, " tokens"],
    half: UInt8[np.ndarray, " tokens"], start: int, stop: int, shrinkage: float, fewest: int,
    tally: Float64[np.ndarray, "offsets_or_none vocabulary columns"],
    table: Float64[np.ndarray, "vocabulary columns"], seen: Int32[np.ndarray, " vocabulary"],
) -> tuple[float, int, int, float, float, float, float]:  # fmt: skip
    """The offset and the cut that explain most at the positions of a node, ``start`` to ``stop``.

    At every offset, each token's value is its mean in one half, shrunk towards the half's mean; a cut puts the tokens
    with higher values on one side. Both halves are cut so, each by the order of the other, and the side that is called
    high must have the higher mean in both; the gain is the squared error that each half's sides save if they are told
    the other half's means. ``tally`` is that of the node, or empty; the last two arguments are room to work in.

    Returns:
        Gain (0 if nothing is gained), offset (-1 then), last bin of the low side, mean of the positions and 1 over
        their standard deviation, and the means of the low and the high side, each half's by the order of the other.
    """
    values, half, n, squares = values[start:stop], half[start:stop], stop - start, 0.0
    n_half, total = np.zeros(2), np.zeros(2)
    for index in range(n):
        value, side = values[index], half[index]
        n_half[side] += 1
        total[side] += value
        squares += value * value
    mean = (total[0] + total[1]) / n
    per_deviation = 1 / np.sqrt(max(squares / n - mean * mean, 1e-18))
    best, offset, cut, low_mean, high_mean = 0.0, -1, -1, mean, mean
    if min(n_half[0], n_half[1]) < fewest:
        return best, offset, cut, mean, per_deviation, low_mean, high_mean
    half_mean = np.empty(2)
    half_mean[0], half_mean[1] = total[0] / n_half[0], total[1] / n_half[1]
    known = _saved(half_mean[1], total[0], n_half[0]) + _saved(half_mean[0], total[1], n_half[1])
    bins, every = np.empty((BINS, 4)), np.empty(len(table) if len(tally) else 0, np.int32)
    for token in range(len(every)):
        every[token] = token
    for candidate in range(len(lagged)):
        if len(tally):
            _fill_bins(every, tally[candidate], shrinkage, half_mean, mean, per_deviation, bins)
        else:
            here = _gather(lagged[candidate, start:stop], values, half, table, seen)
            _fill_bins(here, table, shrinkage, half_mean, mean, per_deviation, bins)
            _empty(here, table)
        sum_0 = sum_1 = count_0 = count_1 = 0.0
        for place in range(BINS - 1):
            sum_0, sum_1 = sum_0 + bins[place, 0], sum_1 + bins[place, 1]
            count_0, count_1 = count_0 + bins[place, COUNT], count_1 + bins[place, COUNT + 1]
            rest_0, rest_1 = n_half[0] - count_0, n_half[1] - count_1
            if count_0 + count_1 < fewest or rest_0 + rest_1 < fewest or min(count_0, count_1, rest_0, rest_1) == 0:
                continue
            high_0, high_1 = total[0] - sum_0, total[1] - sum_1
            if sum_0 * rest_0 >= high_0 * count_0 or sum_1 * rest_1 >= high_1 * count_1:
                continue  # what one half calls high is low in the other
            gain = _saved(sum_1 / count_1, sum_0, count_0) + _saved(sum_0 / count_0, sum_1, count_1) - known
            gain += _saved(high_1 / rest_1, high_0, rest_0) + _saved(high_0 / rest_0, high_1, rest_1)
            if gain > best:
                best, offset, cut = gain, candidate, place
                low_mean, high_mean = (sum_0 + sum_1) / (count_0 + count_1), (high_0 + high_1) / (rest_0 + rest_1)
    return best, offset, cut, mean, per_deviation, low_mean, high_mean


@compiled
def sides_of(
    tokens: Int32[np.ndarray, " here"], values: Float64[np.ndarray, " here"], half: UInt8[np.ndarray, " here"],
    shrinkage: float, mean: float, per_deviation: float, cut: int,
    table: Float64[np.ndarray, "vocabulary columns"], seen: Int32[np.ndarray, " vocabulary"],
) -> tuple[Bool[np.ndarray, " here"], bool]:  # fmt: skip
    """Cuts the positions of a node in two, by the tokens' values in both halves together.

    The *class* is the side with fewer positions; tokens that the node has not seen go with the other side. ``tokens``
    are those at the offset that is asked about; the last two arguments are room to work in.

    Returns:
        Which positions belong to the class, and whether it is the high side.
    """
    here, n_high = _gather(tokens, values, half, table, seen), 0.0
    for index in range(len(here)):
        row = table[here[index]]
        count = row[COUNT] + row[COUNT + 1]
        high = bin_of((row[0] + row[1] + shrinkage * mean) / (count + shrinkage), mean, per_deviation) > cut
        n_high += count * high
        row[0] = high  # from here on the table says on which side a token is
    is_high = 2 * n_high <= len(tokens)
    inside = np.empty(len(tokens), np.bool_)
    for index in range(len(tokens)):
        inside[index] = (table[tokens[index], 0] > 0) == is_high
    _empty(here, table)
    return inside, is_high


@compiled
def bring_forward(inside: Bool[np.ndarray, " here"], row: Shaped[np.ndarray, " here"]) -> None:
    """Puts what is ``inside`` first; both parts keep their order."""
    front, rest = 0, np.empty_like(row)
    for index in range(len(row)):  # without branches, which a processor could not foresee
        row[front] = rest[index - front] = row[index]
        front += inside[index]
    for index in range(len(row) - front):
        row[front + index] = rest[index]


@compiled
def grade(
    tokens: Int32[np.ndarray, " here"], values: Float64[np.ndarray, " here"], left: Float64[np.ndarray, " here"],
    half: UInt8[np.ndarray, " here"], real: Bool[np.ndarray, " here"], members: Int32[np.ndarray, " members"],
    shrinkage: float, table: Float64[np.ndarray, "vocabulary columns"], seen: Int32[np.ndarray, " vocabulary"],
) -> tuple[
    Int64[np.ndarray, " members"], Float64[np.ndarray, " members"], Float64[np.ndarray, " members"]
]:  # fmt: skip
    """Finds what each token of a class adds to what the class expects, and takes it from what is ``left`` to explain.

    A token's deviation is that of its mean from the mean of the class, shrunk, times the slope with which the
    deviations in one half explain those in the other, both ways round: 0 where they explain nothing, 1 at the most.
    Over the positions of the class, which are those given, the mean deviation is 0. ``tokens`` are those at the offset
    of the class, and ``members`` each of them once; the last two arguments are room to work in.

    Returns:
        Of each member, its count of ``real`` positions, the mean value there (anywhere for a token without one) and the
        deviation.
    """
    _gather(tokens, values, half, table, seen)
    counts, means = np.empty(len(members), np.int64), np.empty(len(members))
    for index in range(len(members)):
        row = table[members[index]]
        means[index] = (row[0] + row[1]) / (row[COUNT] + row[COUNT + 1])
        row[:COUNT] = 0
    for index in range(len(tokens)):
        if real[index]:
            table[tokens[index], 0] += values[index]
            table[tokens[index], 1] += 1
    for index in range(len(members)):
        row = table[members[index]]
        counts[index] = np.int64(row[1])
        if counts[index] > 0:
            means[index] = row[0] / row[1]
    _empty(members, table)
    _gather(tokens, left, half, table, seen)
    total = np.zeros(4)
    for index in range(len(members)):
        row = table[members[index]]
        for column in range(len(total)):
            total[column] += row[column]
    half_mean, mean = np.empty(2), (total[0] + total[1]) / len(tokens)
    for side in range(2):
        half_mean[side] = total[side] / max(total[COUNT + side], 1)
    explained = squares = added = 0.0
    deviations, sums = np.empty(len(members)), np.zeros(2)
    for index in range(len(members)):
        row = table[members[index]]
        for side in range(2):
            other = 1 - side
            told = (row[side] - half_mean[side] * row[COUNT + side]) / (row[COUNT + side] + shrinkage)
            explained += told * (row[other] - half_mean[other] * row[COUNT + other])
            squares += told * told * row[COUNT + other]
            sums[side] += told * row[COUNT + other]
        count = row[COUNT] + row[COUNT + 1]
        deviations[index] = (row[0] + row[1] - mean * count) / (count + shrinkage)
        added += deviations[index] * count
    squares -= sums[0] * sums[0] / max(total[COUNT + 1], 1) + sums[1] * sums[1] / max(total[COUNT], 1)
    slope = min(max(explained / squares, 0.0), 1.0) if squares > 1e-18 else 0.0
    for index in range(len(members)):
        deviations[index] = slope * (deviations[index] - added / len(tokens)) + 0.0  # never -0.0
        table[members[index], 0] = deviations[index]
    for index in range(len(tokens)):
        left[index] -= table[tokens[index], 0]
    _empty(members, table)
    return counts, means, deviations


@compiled
def walk_down(
    token_ids: Int32[np.ndarray, " tokens"], positions: Int32[np.ndarray, " tokens"], bos_id: int,
    offsets: Int32[np.ndarray, " nodes"], children: Int32[np.ndarray, " nodes"], ranks: Int32[np.ndarray, " nodes"],
    member: UInt8[np.ndarray, "splits bytes"], split_of: Int32[np.ndarray, " nodes"],
    starts: Int64[np.ndarray, " nodes+1"], tokens: Int32[np.ndarray, " members"],
    deviations: Float32[np.ndarray, " members"], n_rules: Int32[np.ndarray, " sizes"],
    nodes: Int32[np.ndarray, "sizes tokens"], added: Float32[np.ndarray, "sizes tokens"],
) -> None:  # fmt: skip
    """Fills in the node at which each token ends in the graph of each of some numbers of rules, ascending.

    And what the deviations of the classes on its way add. ``children`` are the class that a node is split off into (its
    complement follows), -1 at an end; ``offsets`` how many tokens back a node's class asks; ``member`` the bits of each
    split's class, ``split_of`` the split of a node; ``starts``, ``tokens`` and ``deviations`` are those of a graph.
    """
    for token in range(len(token_ids)):
        node, size, more = 0, 0, 0.0
        while size < len(n_rules):
            child = children[node]
            if child < 0 or ranks[child] > n_rules[size]:
                nodes[size, token], added[size, token] = node, more
                size += 1
                continue
            back = offsets[child]
            asked = token_ids[token - back] if positions[token] >= back else bos_id
            place = asked >> 3
            if place < member.shape[1] and member[split_of[node], place] >> (asked & 7) & 1:
                node = child
                more += deviations[first_from(tokens, starts[node], starts[node + 1], asked)]
            else:
                node = child + 1
