"""Evidence on a study's real rows: ``python -m n2g_assets_tests.recomputation --study demo --units 20``.

For random units it runs the model again on each top example, one context at a time, and predicts the test contexts with
a slow, obvious predictor written here; both must give what is stored.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from n2g_assets.core.home import Home
from n2g_assets.model.model import SubjectModel
from n2g_assets.storage.slices import SliceKey, SliceStore
from n2g_assets_tests.method.slow_classes import slow_predict_classes, slow_rules
from n2g_assets_tests.storage.helpers import rows_of_all

THRESHOLD = 0.5


class Rule(NamedTuple):
    """A path from the activating token backwards; None matches any token."""

    tokens: list[bytes | None]
    value: float


class Evidence(NamedTuple):
    """What was compared, and the largest difference of an activation as a share of a_max."""

    units: int
    examples: int
    largest_difference: float
    wrong_counts: list[str]


def gather(store: SliceStore, study: str, model: SubjectModel, n_units: int, seed: int = 0) -> Evidence:
    """Compare stored rows of random units with what is computed anew."""
    examples = rows_of_all(store, "top_examples", study)
    nodes, classes = (rows_of_all(store, table, study) for table in ("graph_nodes", "token_classes"))
    evaluation = rows_of_all(store, "evaluation", study).filter(predictor="graph", text="top")
    stats = rows_of_all(store, "neuron_stats", study)
    form_of = dict(store.read(SliceKey("vocabulary", study)).select("token_id", "normalised").iter_rows())
    units = evaluation.select("layer", "unit", "sign").rows()
    chosen = [units[i] for i in np.random.default_rng(seed).permutation(len(units))[:n_units]]
    largest, count, wrong = 0.0, 0, []
    for layer, neuron, sign in chosen:
        unit = {"layer": layer, "unit": neuron, "sign": sign}
        a_max = stats.filter(**unit)["max"].item()
        mine = examples.filter(**unit)
        for row in mine.iter_rows(named=True):
            fresh = activations(model, layer, neuron, row["token_ids"]) * sign
            largest = max(largest, abs(fresh[row["peak"]] - row["activation"]) / a_max)
            count += 1
        predict = slow_predictor(nodes.filter(**unit), classes.filter(**unit), form_of)
        stored = evaluation.filter(**unit).row(0, named=True)
        counts = {"true_positives": 0, "false_positives": 0, "false_negatives": 0, "true_negatives": 0}
        for row in mine.filter(pl.col("split") == "test").iter_rows(named=True):
            values = predict(row["token_ids"])
            for position in range(1, len(values)):
                fires = np.float32(row["activations"][position]) / a_max >= THRESHOLD
                said = values[position] >= stored["threshold"]
                right = "true" if fires == said else "false"
                counts[f"{right}_{'positives' if said else 'negatives'}"] += 1
        wrong += [f"{unit}: {name} {stored[name]} is {n}" for name, n in counts.items() if stored[name] != n]
    return Evidence(len(chosen), count, largest, wrong)


def activations(model: SubjectModel, layer: int, neuron: int, token_ids: list[int]) -> np.ndarray:
    """One context by itself, without padding."""
    import torch

    read: list[torch.Tensor] = []
    model.run(torch.tensor([token_ids]), {layer: lambda found: read.append(found[0, :, neuron].float())})
    return read[0].cpu().numpy()


def slow_predictor(
    nodes: pl.DataFrame, classes: pl.DataFrame, form_of: Mapping[int, bytes]
) -> Callable[[Sequence[int]], list[float]]:
    """What a unit's graph says of every position of a context, by the reader of its kind of graph."""
    if nodes["rank"].count():
        rules = slow_rules(nodes, classes)
        return lambda token_ids: slow_predict_classes(rules, token_ids)[0]
    paths = list(paths_of(nodes))

    def by_paths(token_ids: Sequence[int]) -> list[float]:
        forms = [form_of[token] for token in token_ids]
        return [slow_value(paths, forms, position) for position in range(len(forms))]

    return by_paths


def paths_of(nodes: pl.DataFrame) -> Iterator[Rule]:
    """Every path of a graph that ends somewhere, by climbing from its end to the root."""
    by_id = {row["node_id"]: row for row in nodes.iter_rows(named=True)}
    for row in by_id.values():
        if row["end_activation"] is None:
            continue
        upwards, node = [], row
        while node is not None:
            upwards.append(node["token"])
            node = by_id.get(node["parent_id"])
        yield Rule(upwards[::-1], row["end_activation"])


def slow_value(paths: list[Rule], forms: list[bytes], position: int) -> float:
    """Try every path; the longest that matches wins, then the most exact one, then the largest value."""
    best = (0, 0, 0.0)
    for path in paths:
        start = position - len(path.tokens) + 1
        if start < 1:
            continue
        text = forms[start : position + 1][::-1]
        if all(token is None or token == form for token, form in zip(path.tokens, text, strict=True)):
            exact = sum(token is not None for token in path.tokens)
            best = max(best, (len(path.tokens), exact, path.value))
    return best[2]


def main() -> int:
    """Print the evidence of a study; 1 if something differs."""
    from n2g_assets.assets.session import Session
    from n2g_assets.study import shipped_study

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="demo")
    parser.add_argument("--units", type=int, default=20)
    asked = parser.parse_args()
    home = Home.from_environment()
    bench = Session(shipped_study(asked.study), home, logging.getLogger())
    evidence = gather(SliceStore(home), asked.study, bench.subject(), asked.units)
    print(f"{evidence.units} units, {evidence.examples} top examples run again one by one:")
    print(f"largest difference at a peak: {evidence.largest_difference:.1e} of a_max")
    print(f"counts that differ from the slow predictor's: {len(evidence.wrong_counts)}")
    print(*evidence.wrong_counts, sep="\n")
    return int(bool(evidence.wrong_counts) or evidence.largest_difference > 1e-4)


if __name__ == "__main__":
    raise SystemExit(main())
