"""Slow, obvious second implementations of the baselines: dictionaries of tuples."""

from collections import defaultdict

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
