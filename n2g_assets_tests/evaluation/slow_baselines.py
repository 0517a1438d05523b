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


def slow_evidence(contexts, cluster_of, listed, train, test_documents, a_max, strongest, threshold):
    """What is known of a unit: by context id, one value a position, None where nothing is known.

    Args:
        contexts: by context id, document and forms.
        cluster_of: by document, its cluster.
        listed: (context id, position, activation) triples.
        train: by context id, activations.
        test_documents: documents that are no evidence, nor are those of their clusters.
        a_max: what activations are divided by.
        strongest: length of a full list.
        threshold: of firing.
    """
    out = {cluster_of.get(document, document) for document in test_documents}
    is_out = {name: cluster_of.get(document, document) in out for name, (document, _) in contexts.items()}
    known = {(name, position): max(0.0, a / a_max) for name, position, a in listed if not is_out[name]}
    floor = min(known.values()) if known else 0.0
    saturated = len(listed) >= strongest and floor >= threshold
    strong_forms = {contexts[name][1][position] for name, position in known}
    evidence = {}
    for name, (_, forms) in contexts.items():
        row = [None] * len(forms)
        for position in range(1, len(forms)):
            if is_out[name]:
                continue
            if name in train:
                row[position] = max(0.0, train[name][position] / a_max)
            elif (name, position) in known:
                row[position] = known[name, position]
            elif not (saturated and forms[position] in strong_forms):
                row[position] = 0.0
        evidence[name] = row
    return evidence


def _totals(rows):
    known = [value for _, values in rows for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0


def slow_backoff(rows, forms, longest, shrinkage):
    """Prediction for one context from labelled contexts: the definition, run by run, without leaving any out."""
    values, active = defaultdict(list), set()
    for seen, labels in rows:
        for position, label in enumerate(labels):
            if label is not None:
                if label > 0:
                    active.add(seen[position])
                for k in range(1, min(longest, position) + 1):
                    values[tuple(seen[position - k + 1 : position + 1])].append(label)
    predicted = [0.0] * len(forms)
    for position in range(1, len(forms)):
        value = _totals(rows)
        if forms[position] not in active:
            continue
        for k in range(1, min(longest, position) + 1):
            labels = values.get(tuple(forms[position - k + 1 : position + 1]))
            if labels is None:
                break
            value = (sum(labels) + shrinkage * value) / (len(labels) + shrinkage)
        predicted[position] = value
    return np.array(predicted)


def slow_skip_bigrams(rows, forms, farthest, shrinkage, negligible):
    """The same for skip-bigrams; decisions are taken in single precision, as ties are decided by distance."""
    by_form, by_pair = defaultdict(list), defaultdict(list)
    for seen, labels in rows:
        for position, label in enumerate(labels):
            if label is not None:
                by_form[seen[position]].append(label)
                for distance in range(1, min(farthest, position - 1) + 1):
                    by_pair[seen[position], distance, seen[position - distance]].append(label)
    mean = _totals(rows)
    predicted = np.zeros(len(forms), np.float32)
    for position in range(1, len(forms)):
        labels = by_form.get(forms[position], [])
        if not any(labels):
            continue
        own = (sum(labels) + shrinkage * mean) / (len(labels) + shrinkage)
        best, best_change = np.float32(own), np.float32(0)
        for distance in range(1, min(farthest, position - 1) + 1):
            labels = by_pair.get((forms[position], distance, forms[position - distance]))
            if labels is None:
                continue
            value = (sum(labels) + shrinkage * own) / (len(labels) + shrinkage)
            change = abs(np.float32(value) - np.float32(own))
            if abs(value - own) >= negligible and change > best_change:
                best, best_change = np.float32(value), change
        predicted[position] = best
    return predicted
