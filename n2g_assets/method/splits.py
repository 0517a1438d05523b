"""The loops that grow and read graphs of token classes, compiled: :mod:`n2g_assets.method.classes` says what for.

Importing this module imports numba (``compiled``), so others import it inside functions.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt8

from n2g_assets.method.compiled import compiled

BINS = 256
"""Bins of a token's value, between which a split is cut: finest around the node's mean."""
_FINEST = 0.02  # of the node's standard deviation: width of what the middle bins resolve
_SPREAD = 18.0


@compiled
def bin_of(value: float, mean: float, deviation: float) -> int:
    """The bin of a token's value at a node of this mean and standard deviation, on a scale like a logarithm."""
    place = BINS // 2 + int(np.floor(np.arcsinh((value - mean) / (_FINEST * deviation)) * _SPREAD))
    return min(max(place, 0), BINS - 1)


@compiled
def _gather(
    tokens: Int32[np.ndarray, " tokens"], where: Int64[np.ndarray, " here"], values: Float64[np.ndarray, " tokens"],
    half: UInt8[np.ndarray, " tokens"], sums: Float64[np.ndarray, "halves vocabulary"],
    counts: Float64[np.ndarray, "halves vocabulary"], seen: Int32[np.ndarray, " vocabulary"],
) -> int:  # fmt: skip
    """Adds the values of some positions up by half and token; lists the tokens in ``seen``, and returns how many."""
    n_seen = 0
    for index in range(len(where)):
        position = where[index]
        token, side = tokens[position], half[position]
        if counts[0, token] + counts[1, token] == 0:
            seen[n_seen] = token
            n_seen += 1
        sums[side, token] += values[position]
        counts[side, token] += 1
    return n_seen


@compiled
def _fill_bins(
    seen: Int32[np.ndarray, " tokens"], sums: Float64[np.ndarray, "halves vocabulary"],
    counts: Float64[np.ndarray, "halves vocabulary"], shrinkage: float, half_mean: Float64[np.ndarray, " halves"],
    mean: float, deviation: float, bin_sums: Float64[np.ndarray, "halves bins"],
    bin_counts: Float64[np.ndarray, "halves bins"],
) -> None:  # fmt: skip
    """Puts each half's tokens into the bins of their values in the other half, and empties the room."""
    bin_sums[:], bin_counts[:] = 0, 0
    for index in range(len(seen)):
        token = seen[index]
        for side in range(2):
            if counts[side, token] > 0:
                other = 1 - side
                value = (sums[other, token] + shrinkage * half_mean[other]) / (counts[other, token] + shrinkage)
                place = bin_of(value, mean, deviation)
                bin_sums[side, place] += sums[side, token]
                bin_counts[side, place] += counts[side, token]
        sums[0, token] = sums[1, token] = counts[0, token] = counts[1, token] = 0


@compiled
def best_split(
    lagged: Int32[np.ndarray, "offsets tokens"], where: Int64[np.ndarray, " here"],
    values: Float64[np.ndarray, " tokens"], half: UInt8[np.ndarray, " tokens"], shrinkage: float, fewest: int,
    sums: Float64[np.ndarray, "halves vocabulary"], counts: Float64[np.ndarray, "halves vocabulary"],
    seen: Int32[np.ndarray, " vocabulary"],
) -> tuple[float, int, int, float, float, float, float]:  # fmt: skip
    """The offset and the cut that explain most at some positions.

    At every offset, each token's value is its mean in one half, shrunk towards the half's mean; a cut puts the tokens
    with higher values on one side. Its gain is the squared error that the sides' means in that half save in the other
    half, added up over both ways round.

    The last three arguments are room to work in, all zeros; they are left so.

    Returns:
        Gain (0 if nothing is gained), offset (-1 then), last bin of the low side, mean and standard deviation of the
        positions, and the means of the low and the high side, each half's by the order of the other.
    """
    n = len(where)
    n_half, total = np.zeros(2), np.zeros(2)
    squares = 0.0
    for index in range(n):
        position = where[index]
        value = values[position]
        n_half[half[position]] += 1
        total[half[position]] += value
        squares += value * value
    mean = total.sum() / n
    deviation = np.sqrt(max(squares / n - mean * mean, 1e-18))
    best, offset, cut, low_mean, high_mean = 0.0, -1, -1, mean, mean
    if min(n_half[0], n_half[1]) < fewest:
        return best, offset, cut, mean, deviation, low_mean, high_mean
    half_mean = total / n_half
    error = 0.0
    for side in range(2):
        told = half_mean[1 - side]
        error -= 2 * told * total[side] - told * told * n_half[side]
    bin_sums, bin_counts = np.empty((2, BINS)), np.empty((2, BINS))
    low_sum, low_count = np.empty(2), np.empty(2)
    for candidate in range(len(lagged)):
        n_seen = _gather(lagged[candidate], where, values, half, sums, counts, seen)
        _fill_bins(seen[:n_seen], sums, counts, shrinkage, half_mean, mean, deviation, bin_sums, bin_counts)
        low_sum[:], low_count[:] = 0, 0
        for place in range(BINS - 1):
            low_sum += bin_sums[:, place]
            low_count += bin_counts[:, place]
            if low_count.sum() < fewest:
                continue
            if n - low_count.sum() < fewest:
                break
            if low_count.min() == 0 or (n_half - low_count).min() == 0:
                continue
            gain = error
            for side in range(2):
                other = 1 - side
                low, high = (
                    low_sum[other] / low_count[other],
                    (total[other] - low_sum[other]) / (n_half[other] - low_count[other]),
                )
                gain += 2 * low * low_sum[side] - low * low * low_count[side]
                gain += 2 * high * (total[side] - low_sum[side]) - high * high * (n_half[side] - low_count[side])
            if gain > best:
                best, offset, cut = gain, candidate, place
                low_mean = low_sum.sum() / low_count.sum()
                high_mean = (total.sum() - low_sum.sum()) / (n - low_count.sum())
    return best, offset, cut, mean, deviation, low_mean, high_mean


@compiled
def sides_of(
    tokens: Int32[np.ndarray, " tokens"], where: Int64[np.ndarray, " here"], values: Float64[np.ndarray, " tokens"],
    half: UInt8[np.ndarray, " tokens"], shrinkage: float, mean: float, deviation: float, cut: int,
    sums: Float64[np.ndarray, "halves vocabulary"], counts: Float64[np.ndarray, "halves vocabulary"],
    seen: Int32[np.ndarray, " vocabulary"],
) -> tuple[
    Int32[np.ndarray, " members"], Int64[np.ndarray, " members"], Float64[np.ndarray, " members"],
    Bool[np.ndarray, " here"], bool,
]:  # fmt: skip
    """Cuts a node's positions in two, by the tokens' values in both halves together.

    The *class* is the side with fewer positions; tokens that the node has not seen go with the other side. ``tokens``
    are those at the offset that is asked about.

    Returns:
        The tokens of the class, ascending, with their counts and mean values; which positions belong to it, and
        whether it is the high side.
    """
    n_seen = _gather(tokens, where, values, half, sums, counts, seen)
    high, n_high = np.zeros(n_seen, np.bool_), 0.0
    for index in range(n_seen):
        token = seen[index]
        count = counts[0, token] + counts[1, token]
        value = (sums[0, token] + sums[1, token] + shrinkage * mean) / (count + shrinkage)
        high[index] = bin_of(value, mean, deviation) > cut
        n_high += count * high[index]
    is_high = 2 * n_high <= len(where)
    members = np.sort(seen[:n_seen][high == is_high])
    member_counts, means = np.empty(len(members), np.int64), np.empty(len(members))
    for index in range(len(members)):
        token = members[index]
        member_counts[index] = np.int64(counts[0, token] + counts[1, token])
        means[index] = (sums[0, token] + sums[1, token]) / member_counts[index]
    for index in range(n_seen):
        sums[0, seen[index]] = sums[1, seen[index]] = counts[0, seen[index]] = counts[1, seen[index]] = 0
    for token in members:
        counts[0, token] = 1  # a table of membership, for a moment
    inside = np.empty(len(where), np.bool_)
    for index in range(len(where)):
        inside[index] = counts[0, tokens[where[index]]] > 0
    for token in members:
        counts[0, token] = 0
    return members, member_counts, means, inside, is_high


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
