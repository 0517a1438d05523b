"""The loops that grow and read graphs of token classes, compiled: :mod:`n2g_assets.method.classes` says what for.

Growing works in a *table*: for every token, the sums of the two halves and then their counts. It is all zeros between
calls. Importing this module imports numba (``compiled``), so others import it inside functions.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt8

from n2g_assets.method.compiled import compiled

BINS = 256
"""Bins of a token's value, between which a split is cut: finest around the node's mean."""
FINEST, SPREAD = 0.02, 18.0
"""Standard deviations of the node that ``SPREAD`` bins on each side of its mean resolve."""
COUNT = 2
"""Columns of the table before the counts."""


@compiled
def bin_of(value: float, mean: float, deviation: float) -> int:
    """The bin of a token's value at a node of this mean and standard deviation: by the fourth root of its distance."""
    distance = (value - mean) / (FINEST * deviation)
    place = SPREAD * np.sqrt(np.sqrt(abs(distance)))
    place = BINS // 2 + place if distance >= 0 else BINS // 2 - 1 - place
    return min(max(int(place), 0), BINS - 1)


@compiled
def _gather(
    tokens: Int32[np.ndarray, " tokens"], where: Int64[np.ndarray, " here"], values: Float64[np.ndarray, " tokens"],
    half: UInt8[np.ndarray, " tokens"], table: Float64[np.ndarray, "vocabulary columns"],
    seen: Int32[np.ndarray, " vocabulary"],
) -> int:  # fmt: skip
    """Adds the values of some positions up by half and token; lists the tokens in ``seen``, and returns how many."""
    n_seen = 0
    for index in range(len(where)):
        position = where[index]
        row, side = table[tokens[position]], half[position]
        if row[COUNT] + row[COUNT + 1] == 0:
            seen[n_seen] = tokens[position]
            n_seen += 1
        row[side] += values[position]
        row[COUNT + side] += 1
    return n_seen


@compiled
def _fill_bins(
    seen: Int32[np.ndarray, " tokens"], table: Float64[np.ndarray, "vocabulary columns"], shrinkage: float,
    half_mean: Float64[np.ndarray, " halves"], mean: float, deviation: float,
    bins: Float64[np.ndarray, "bins columns"],
) -> None:  # fmt: skip
    """Puts each half's tokens into the bins of their values in the other half, and empties the table."""
    bins[:] = 0
    for index in range(len(seen)):
        row = table[seen[index]]
        for side in range(2):
            if row[COUNT + side] > 0:
                other = 1 - side
                value = (row[other] + shrinkage * half_mean[other]) / (row[COUNT + other] + shrinkage)
                found = bins[bin_of(value, mean, deviation)]
                found[side] += row[side]
                found[COUNT + side] += row[COUNT + side]
        row[:] = 0


@compiled
def _saved(told: float, total: float, count: float) -> float:
    """Squared error that a told mean saves, over telling 0, on positions with this sum and count."""
    return told * (2 * total - told * count)


@compiled
def best_split(
    lagged: Int32[np.ndarray, "offsets tokens"], where: Int64[np.ndarray, " here"],
    values: Float64[np.ndarray, " tokens"], half: UInt8[np.ndarray, " tokens"], shrinkage: float, fewest: int,
    table: Float64[np.ndarray, "vocabulary columns"], seen: Int32[np.ndarray, " vocabulary"],
) -> tuple[float, int, int, float, float, float, float]:  # fmt: skip
    """The offset and the cut that explain most at some positions.

    At every offset, each token's value is its mean in one half, shrunk towards the half's mean; a cut puts the tokens
    with higher values on one side. Both halves are cut so, each by the order of the other; the gain is the squared
    error that each half's sides save if they are told the other half's means. The last two arguments are room to work
    in.

    Returns:
        Gain (0 if nothing is gained), offset (-1 then), last bin of the low side, mean and standard deviation of the
        positions, and the means of the low and the high side, each half's by the order of the other.
    """
    n, squares = len(where), 0.0
    n_half, total = np.zeros(2), np.zeros(2)
    for index in range(n):
        value, side = values[where[index]], half[where[index]]
        n_half[side] += 1
        total[side] += value
        squares += value * value
    mean = (total[0] + total[1]) / n
    deviation = np.sqrt(max(squares / n - mean * mean, 1e-18))
    best, offset, cut, low_mean, high_mean = 0.0, -1, -1, mean, mean
    if min(n_half[0], n_half[1]) < fewest:
        return best, offset, cut, mean, deviation, low_mean, high_mean
    half_mean = total / n_half
    known = _saved(half_mean[1], total[0], n_half[0]) + _saved(half_mean[0], total[1], n_half[1])
    bins = np.empty((BINS, 4))
    for candidate in range(len(lagged)):
        n_seen = _gather(lagged[candidate], where, values, half, table, seen)
        _fill_bins(seen[:n_seen], table, shrinkage, half_mean, mean, deviation, bins)
        sum_0 = sum_1 = count_0 = count_1 = 0.0
        for place in range(BINS - 1):
            sum_0, sum_1 = sum_0 + bins[place, 0], sum_1 + bins[place, 1]
            count_0, count_1 = count_0 + bins[place, COUNT], count_1 + bins[place, COUNT + 1]
            rest_0, rest_1 = n_half[0] - count_0, n_half[1] - count_1
            if count_0 + count_1 < fewest or rest_0 + rest_1 < fewest or min(count_0, count_1, rest_0, rest_1) == 0:
                continue
            high_0, high_1 = total[0] - sum_0, total[1] - sum_1
            gain = _saved(sum_1 / count_1, sum_0, count_0) + _saved(sum_0 / count_0, sum_1, count_1) - known
            gain += _saved(high_1 / rest_1, high_0, rest_0) + _saved(high_0 / rest_0, high_1, rest_1)
            if gain > best:
                best, offset, cut = gain, candidate, place
                low_mean, high_mean = (sum_0 + sum_1) / (count_0 + count_1), (high_0 + high_1) / (rest_0 + rest_1)
    return best, offset, cut, mean, deviation, low_mean, high_mean


@compiled
def sides_of(
    tokens: Int32[np.ndarray, " tokens"], where: Int64[np.ndarray, " here"], values: Float64[np.ndarray, " tokens"],
    half: UInt8[np.ndarray, " tokens"], shrinkage: float, mean: float, deviation: float, cut: int,
    table: Float64[np.ndarray, "vocabulary columns"], seen: Int32[np.ndarray, " vocabulary"],
) -> tuple[
    Int32[np.ndarray, " members"], Int64[np.ndarray, " members"], Float64[np.ndarray, " members"],
    Bool[np.ndarray, " here"], bool,
]:  # fmt: skip
    """Cuts a node's positions in two, by the tokens' values in both halves together.

    The *class* is the side with fewer positions; tokens that the node has not seen go with the other side. ``tokens``
    are those at the offset that is asked about; the last two arguments are room to work in.

    Returns:
        The tokens of the class, ascending, with their counts and mean values; which positions belong to it, and
        whether it is the high side.
    """
    n_seen = _gather(tokens, where, values, half, table, seen)
    high, n_high = np.zeros(n_seen, np.bool_), 0.0
    for index in range(n_seen):
        row = table[seen[index]]
        count = row[COUNT] + row[COUNT + 1]
        high[index] = bin_of((row[0] + row[1] + shrinkage * mean) / (count + shrinkage), mean, deviation) > cut
        n_high += count * high[index]
    is_high = 2 * n_high <= len(where)
    members = np.sort(seen[:n_seen][high == is_high])
    counts, means = np.empty(len(members), np.int64), np.empty(len(members))
    for index in range(len(members)):
        row = table[members[index]]
        counts[index] = np.int64(row[COUNT] + row[COUNT + 1])
        means[index] = (row[0] + row[1]) / counts[index]
    for index in range(n_seen):
        table[seen[index], :] = 0
    table[members, 0] = 1  # marks the members, for a moment
    inside = np.empty(len(where), np.bool_)
    for index in range(len(where)):
        inside[index] = table[tokens[where[index]], 0] > 0
    table[members, 0] = 0
    return members, counts, means, inside, is_high


@compiled
def walk_down(
    token_ids: Int32[np.ndarray, " tokens"], positions: Int32[np.ndarray, " tokens"], bos_id: int,
    offsets: Int32[np.ndarray, " nodes"], children: Int32[np.ndarray, " nodes"], ranks: Int32[np.ndarray, " nodes"],
    member: UInt8[np.ndarray, "splits bytes"], split_of: Int32[np.ndarray, " nodes"],
    n_rules: Int32[np.ndarray, " sizes"], nodes: Int32[np.ndarray, "sizes tokens"],
) -> None:  # fmt: skip
    """Fills in the node at which each token ends in the graph of each of some numbers of rules, ascending.

    ``children`` are the class that a node is split off into (its complement follows), -1 at an end; ``offsets`` how
    many tokens back a node's class asks; ``member`` the bits of each split's class, ``split_of`` the split of a node.
    """
    for token in range(len(token_ids)):
        node, size = 0, 0
        while size < len(n_rules):
            child = children[node]
            if child < 0 or ranks[child] > n_rules[size]:
                nodes[size, token] = node
                size += 1
                continue
            back = offsets[child]
            asked = token_ids[token - back] if positions[token] >= back else bos_id
            place = asked >> 3
            inside = place < member.shape[1] and member[split_of[node], place] >> (asked & 7) & 1
            node = child if inside else child + 1
