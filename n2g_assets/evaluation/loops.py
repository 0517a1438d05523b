"""The loops of the baselines that count, compiled: their modules say what they are for.

Importing this module imports numba (``method.compiled``), so others import it inside functions.
"""

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from n2g_assets.method.compiled import compiled


@compiled
def add_up(
    numbers: Int32[np.ndarray, " tokens"],
    where: Bool[np.ndarray, " tokens"],
    values: Float32[np.ndarray, " tokens"],
    sums: Float64[np.ndarray, " n"],
    counts: Int32[np.ndarray, " n"],
) -> None:
    """Adds the value of each token that is asked for, if it has a number, to what has this number."""
    for token in range(len(numbers)):
        number = numbers[token]
        if where[token] and number >= 0:
            sums[number] += values[token]
            counts[number] += 1


@compiled
def look_up(
    numbers: Int32[np.ndarray, "lengths tokens"],
    positions: Int32[np.ndarray, " tokens"],
    values: Float32[np.ndarray, " runs"],
    first: Int64[np.ndarray, " lengths"],
    predicted: Float32[np.ndarray, " tokens"],
) -> None:
    """Puts the value of the longest run that is known at each token in its place; BOS and what is unknown are left.

    ``numbers`` are those of ``SuffixIndex.numbers``. ``values`` hold NaN for a run that is not known; those of the runs
    of k tokens begin at ``first[k - 1]``.
    """
    for token in range(len(positions)):
        for back in range(min(len(first), positions[token])):
            number = numbers[back, token]
            if number < 0 or np.isnan(values[first[back] + number]):
                break
            predicted[token] = values[first[back] + number]


@compiled
def leave_out(
    tokens: Int64[np.ndarray, " tokens"],
    bounds: Int64[np.ndarray, " clusters_and_end"],
    numbers: Int32[np.ndarray, " tokens"],
    sums: Float64[np.ndarray, " runs"],
    counts: Int32[np.ndarray, " runs"],
    where: Bool[np.ndarray, " tokens"],
    values: Float32[np.ndarray, " tokens"],
    shrinkage: float,
    expected: Float64[np.ndarray, " tokens"],
) -> None:
    """Goes on from shorter runs to those of one token more, as if each token's own documents had not been seen.

    ``tokens`` are ordered by cluster of documents, ``sums`` and ``counts`` those over all tokens ``where`` a run ends
    that counts. ``expected`` holds what the shorter run predicts at each token, and then what this one does. Where no
    other cluster has the run, ``where`` becomes false and the shorter run's value stands.
    """
    own_sums, own_counts = np.zeros(len(sums)), np.zeros(len(sums), np.int32)
    for cluster in range(len(bounds) - 1):
        inside = tokens[bounds[cluster] : bounds[cluster + 1]]
        for token in inside:
            if where[token]:
                own_sums[numbers[token]] += values[token]
                own_counts[numbers[token]] += 1
        for token in inside:
            if where[token]:
                run = numbers[token]
                left = counts[run] - own_counts[run]
                if left:
                    total = sums[run] - own_sums[run] + shrinkage * expected[token]
                    expected[token] = total / (left + shrinkage)
                else:
                    where[token] = False
        for token in inside:
            if numbers[token] >= 0:
                own_sums[numbers[token]], own_counts[numbers[token]] = 0.0, 0


@compiled
def farthest(
    numbers: Int32[np.ndarray, "distances tokens"],
    positions: Int32[np.ndarray, " tokens"],
    forms: Int32[np.ndarray, " tokens"],
    own: Float32[np.ndarray, " forms"],
    values: Float32[np.ndarray, " pairs"],
    predicted: Float32[np.ndarray, " tokens"],
) -> None:
    """Puts, at each token but BOS, the value in its place that is farthest from that of the token's own form.

    ``numbers`` are those of ``PairIndex.numbers``; ``values`` hold NaN for a pair that is not known. Of equals the
    nearest pair wins.
    """
    for token in range(len(forms)):
        if positions[token] == 0:
            continue
        alone = own[forms[token]]
        predicted[token] = alone
        distance = np.float32(0)
        for row in range(len(numbers)):
            number = numbers[row, token]
            if number >= 0:
                change = abs(values[number] - alone)
                if change > distance:
                    distance = change
                    predicted[token] = values[number]
