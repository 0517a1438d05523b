"""Slow, obvious second implementations of the baselines: dictionaries of tuples."""

from collections import defaultdict
from itertools import pairwise

import numpy as np


def slow_fit(contexts, activations, n):
    """Mean activation of every run of n forms that ends at a position and does not reach position 0."""
    values = defaultdict(list)
    for forms, row in zip(contexts, activations, strict=True):
        for position in range(n, len(forms)):
            values[tuple(int(form) for form in forms[position - n + 1 : position + 1])].append(float(row[position]))
    return {gram: sum(seen) / len(seen) for gram, seen in values.items()}


def slow_predict(means, forms, n):
    predicted = [0.0] * len(forms)
    for position in range(n, len(forms)):
        predicted[position] = means.get(tuple(int(form) for form in forms[position - n + 1 : position + 1]), 0.0)
    return np.array(predicted, np.float32)


def slow_choice(contexts, activations, threshold):
    """The n with the best F1 on left-out contexts, smaller n first; an undefined F1 is worse than 0."""
    best, best_n = -2.0, None
    for n in (2, 3, 4, 5):
        hits = alarms = firings = 0
        for left_out, forms in enumerate(contexts):
            others = [i for i in range(len(contexts)) if i != left_out]
            means = slow_fit([contexts[i] for i in others], [activations[i] for i in others], n)
            predicted = slow_predict(means, forms, n)
            for position in range(1, len(forms)):
                fires, alarm = activations[left_out][position] >= threshold, predicted[position] >= threshold
                hits, alarms, firings = hits + (fires and alarm), alarms + alarm, firings + fires
        f1 = 2 * hits / (alarms + firings) if alarms + firings else -1.0
        if f1 > best:
            best, best_n = f1, n
    return best_n


def slow_evidence(contexts, cluster_of, activations, left_out, a_max):
    """What may be learnt of a unit: by context id, one signed value a position, None where nothing may be.

    Args:
        contexts: by context id, document and symbols.
        cluster_of: by document, its cluster.
        activations: by context id, one a position.
        left_out: documents that are no evidence, nor are those of their clusters.
        a_max: what activations are divided by.
    """
    out = {cluster_of.get(document, document) for document in left_out}
    return {
        name: [
            None if position == 0 or cluster_of.get(document, document) in out else activations[name][position] / a_max
            for position in range(len(symbols))
        ]
        for name, (document, symbols) in contexts.items()
    }


def _mean(rows):
    known = [value for _, values in rows for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0


def slow_suffixes(rows, symbols, shrinkage):
    """Prediction for one context from labelled contexts: the definition, run by run."""
    values = defaultdict(list)
    for seen, labels in rows:
        for position, label in enumerate(labels):
            if label is not None:
                for k in range(1, min(len(shrinkage), position) + 1):
                    values[tuple(seen[position - k + 1 : position + 1])].append(label)
    predicted = [0.0] * len(symbols)
    for position in range(1, len(symbols)):
        value = _mean(rows)
        for k in range(1, min(len(shrinkage), position) + 1):
            labels = values.get(tuple(symbols[position - k + 1 : position + 1]))
            if labels is None:
                break
            value = (sum(labels) + shrinkage[k - 1] * value) / (len(labels) + shrinkage[k - 1])
        predicted[position] = value
    return np.array(predicted)


def slow_skip_bigrams(rows, forms, farthest, shrinkage):
    """The same for skip-bigrams; decisions are taken in single precision, as ties are decided by distance."""
    by_form, by_pair = defaultdict(list), defaultdict(list)
    for seen, labels in rows:
        for position, label in enumerate(labels):
            if label is not None:
                by_form[seen[position]].append(label)
                for distance in range(1, min(farthest, position - 1) + 1):
                    by_pair[seen[position], distance, seen[position - distance]].append(label)
    mean = _mean(rows)
    predicted = np.zeros(len(forms), np.float32)
    for position in range(1, len(forms)):
        labels = by_form.get(forms[position], [])
        own = (sum(labels) + shrinkage[0] * mean) / (len(labels) + shrinkage[0])
        best, best_change = np.float32(own), np.float32(0)
        for distance in range(1, min(farthest, position - 1) + 1):
            labels = by_pair.get((forms[position], distance, forms[position - distance]))
            if labels is None:
                continue
            value = (sum(labels) + shrinkage[1] * own) / (len(labels) + shrinkage[1])
            change = abs(np.float32(value) - np.float32(own))
            if change > best_change:
                best, best_change = np.float32(value), change
        predicted[position] = best
    return predicted


def slow_threshold(actual, predicted, firing_threshold):
    """The best threshold and its F1 by trying the middle between any two neighbouring predictions."""

    def f1(threshold):
        fires, alarms = [a >= firing_threshold for a in actual], [p >= threshold for p in predicted]
        hits = sum(a and b for a, b in zip(fires, alarms, strict=True))
        return 2 * hits / (sum(fires) + sum(alarms)) if sum(fires) + sum(alarms) else None

    levels = sorted(set(predicted))
    middles = [(low + high) / 2 for low, high in pairwise(levels)]
    if not middles or not any(a >= firing_threshold for a in actual):
        return firing_threshold, f1(firing_threshold)
    return max(((middle, f1(middle)) for middle in middles), key=lambda one: (one[1], one[0]))
