"""Slow, obvious second implementations of the token graph: a list of paths, and rules about lists of paths."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from n2g_assets.core.units import Unit
from n2g_assets.method.probing import Vocabulary

IGNORE = None


@dataclass(frozen=True)
class SlowPath:
    """Forms from the activating token backwards (None: any token), importances beside them, and the activation."""

    forms: tuple[bytes | None, ...]
    importances: tuple[float | None, ...]
    activation: float


def slow_path(forms, importances, position, activation, threshold) -> SlowPath:
    """One activating position, to the letter."""
    important = [k for k in range(1, position) if importances[k] >= np.float32(threshold)]
    first = min(important, default=position)
    read = range(position, first - 1, -1)
    is_node = [k == position or k in important for k in read]
    return SlowPath(
        tuple(forms[k] if node else IGNORE for k, node in zip(read, is_node, strict=True)),
        tuple(importances[k] if node else None for k, node in zip(read, is_node, strict=True)),
        activation,
    )


def slow_paths(unit: Unit, pruned, saliencies, augmented, a_max, vocabulary: Vocabulary, settings) -> list[SlowPath]:
    """All paths of one unit from the tables, to the letter."""
    mine = [frame.filter(unit=unit.number, sign=unit.sign) for frame in (pruned, saliencies, augmented)]
    examples = {row["rank"]: row for row in mine[0].iter_rows(named=True)}
    salient = {(row["rank"], row["position"]): row for row in mine[1].iter_rows(named=True)}
    paths = []
    for (rank, position), row in sorted(salient.items()):
        forms = [vocabulary.form(token) for token in examples[rank]["token_ids"]]
        paths.append(
            slow_path(forms, row["importances"], position, row["activation"] / a_max, settings.important_threshold)
        )
    for row in mine[2].sort("rank", "position", "choice").iter_rows(named=True):
        example = examples[row["rank"]]
        factor = example["full_activation"] / example["activation"] if example["activation"] > 0 else 1
        forms = [vocabulary.form(token) for token in row["token_ids"]]
        for position, activation in enumerate(row["activations"]):
            normalised, origin = activation * factor / a_max, row["origins"][position]
            fires = position > 0 and normalised >= settings.firing_threshold
            if row["kept"] and fires and (row["rank"], origin) in salient:
                original = salient[row["rank"], origin]["importances"]
                importances = [original[one] for one in row["origins"]]
                paths.append(slow_path(forms, importances, position, normalised, settings.important_threshold))
    return paths


def slow_merge(paths: list[SlowPath]) -> list[SlowPath]:
    """Copies of paths that go on behind an exact node with an ignore sibling, depth by depth."""
    paths = list(paths)
    for depth in range(1, max((len(path.forms) for path in paths), default=0)):
        siblings = defaultdict(list)
        for path in paths:
            if len(path.forms) > depth:
                siblings[path.forms[:depth]].append(path)
        for group in siblings.values():
            if any(path.forms[depth] is IGNORE for path in group):
                paths += [
                    replace(
                        path,
                        forms=(*path.forms[:depth], IGNORE, *path.forms[depth + 1 :]),
                        importances=(*path.importances[:depth], None, *path.importances[depth + 1 :]),
                    )
                    for path in group
                    if path.forms[depth] is not IGNORE and len(path.forms) > depth + 1
                ]
    return paths


def slow_nodes(paths: list[SlowPath]) -> dict[tuple, tuple]:
    """Every node by its forms from the activating token: (activation, importance, end activation, end count)."""
    nodes = {}
    for forms in {path.forms[:length] for path in paths for length in range(1, len(path.forms) + 1)}:
        through = [path for path in paths if path.forms[: len(forms)] == forms]
        ends = [path.activation for path in through if path.forms == forms]
        importances = [path.importances[len(forms) - 1] for path in through]
        nodes[forms] = (
            max(path.activation for path in through),
            None if forms[-1] is IGNORE else max(importances),
            sum(ends) / len(ends) if ends else None,
            len(ends),
        )
    return nodes


def nodes_by_forms(rows: list[dict]) -> dict[tuple, tuple]:
    """Rows of ``graph_nodes`` of one unit in the shape of ``slow_nodes``; checks how they are numbered on the way."""
    forms, nodes = {}, {}
    for number, row in enumerate(rows):
        assert row["node_id"] == number
        forms[number] = (*(forms[row["parent_id"]] if row["parent_id"] is not None else ()), row["token"])
        assert row["depth"] == len(forms[number]) - 1
        assert row["kind"] == (
            "activating" if row["depth"] == 0 else "context" if row["token"] is not None else "ignore"
        )
        assert forms[number] not in nodes
        nodes[forms[number]] = (row["activation"], row["importance"], row["end_activation"], row["end_count"])
    return nodes


def slow_predict(graph_nodes: pl.DataFrame, forms: list[bytes]) -> tuple[list[float], list[int]]:
    """Every path to an end tried at every position; values and the nodes that gave them."""
    rows = {row["node_id"]: row for row in graph_nodes.iter_rows(named=True)}
    paths = []
    for node_id, row in rows.items():
        if row["end_activation"] is None:
            continue
        tokens, above = [], node_id
        while above is not None:
            tokens.insert(0, rows[above]["token"])
            above = rows[above]["parent_id"]
        paths.append((tokens, row["end_activation"], node_id))
    values, ends = [0.0], [-1]
    for position in range(1, len(forms)):
        matching = []
        for tokens, value, node_id in paths:
            before = [forms[position - back] if position - back >= 1 else "BOS" for back in range(len(tokens))]
            if all(seen != "BOS" and token in (None, seen) for token, seen in zip(tokens, before, strict=True)):
                exact = sum(token is not None for token in tokens)
                matching.append((len(tokens), exact, value, -node_id))
        values.append(max(matching)[2] if matching else 0.0)
        ends.append(-max(matching)[3] if matching else -1)
    return values, ends
