"""Promise 3 on a real model: a unit's rows are the same whether it is built alone or among all others of its layer."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from n2g_assets.core.settings import MethodSettings
from n2g_assets.core.units import Unit
from n2g_assets.method.augment import augment_examples
from n2g_assets.method.graph import build_graphs
from n2g_assets.method.prune import prune_examples
from n2g_assets.model.batching import TokenBudget
from n2g_assets.model.infill import InfillProposer
from n2g_assets.model.prober import LayerProber
from n2g_assets_tests.method.toy import top_example_rows
from n2g_assets_tests.tiny_models import SENTENCES, load_tiny, tiny_llama

LAYER, WIDTH = 1, 256
METHOD = MethodSettings(infill_candidates=12, infill_rescored=6, substitutes=2, prune_max_prefix=5)


@pytest.fixture(scope="module")
def layer(tmp_path_factory):
    """A model, the contexts of its units and each unit's a_max."""
    model = load_tiny(tiny_llama(tmp_path_factory.mktemp("model") / "tiny", n_layers=2, d_mlp=WIDTH))
    ids = np.concatenate(model.encode(SENTENCES))
    windows = [np.concatenate([[model.bos_id], ids[n : n + 7]]).astype(np.int32) for n in range(0, len(ids) - 7, 7)]
    seen: list[torch.Tensor] = []
    model.run(torch.from_numpy(np.stack(windows)).long(), {LAYER: seen.append})
    found = {window.tobytes(): row for window, row in zip(windows, seen[0].numpy(), strict=True)}
    units = [Unit(neuron, sign) for neuron in range(WIDTH) for sign in (1, -1)]
    strength = {unit: unit.sign * seen[0][:, 1:, unit.number].numpy() for unit in units}
    best = {unit: np.argsort(-rows.max(axis=1), kind="stable")[:2] for unit, rows in strength.items()}
    neurons = {n: (lambda tokens, n=n: found[tokens.astype(np.int32).tobytes()][:, n]) for n in range(WIDTH)}
    top_examples = top_example_rows(neurons, {unit: [windows[n] for n in numbers] for unit, numbers in best.items()})
    a_max = {unit: float(rows.max()) for unit, rows in strength.items()}
    return model, top_examples, {unit: value for unit, value in a_max.items() if value > 0}


def build(layer, units, batch_tokens) -> dict[str, pl.DataFrame]:
    model, top_examples, a_max = layer
    vocabulary = model.vocabulary(normalise=True)
    prober, proposer = LayerProber(model, LAYER, TokenBudget(batch_tokens)), InfillProposer(model, vocabulary, METHOD)
    proposer.budget = TokenBudget(batch_tokens)
    pruned = prune_examples(units, top_examples, a_max, vocabulary, prober, METHOD).tables
    augmented = augment_examples(units, pruned["pruned_examples"], vocabulary, prober, proposer, METHOD).tables
    graphs = build_graphs(units, **pruned, **augmented, a_max=a_max, vocabulary=vocabulary, settings=METHOD).tables
    return {**pruned, **augmented, **graphs}


def test_a_units_rows_are_the_same_alone_and_among_511_others(layer):
    a_max = layer[2]
    assert len(a_max) == 512
    together = build(layer, list(a_max), 4096)
    assert together["token_classes"].is_empty()  # these are the graphs of the paper
    assert min(frame.height for name, frame in together.items() if name != "token_classes") > len(a_max)
    for unit in list(a_max)[::100]:
        for name, frame in build(layer, [unit], 64).items():
            beside = together[name].filter(unit=unit.number, sign=unit.sign)
            assert frame.height == beside.height, (unit, name)
            for column in frame.columns:
                mine, theirs = frame[column].to_list(), beside[column].to_list()
                if frame[column].dtype.base_type() is pl.List:
                    mine, theirs = ([x for row in side for x in row] for side in (mine, theirs))
                if any(isinstance(value, float) for value in mine):
                    assert [value is None for value in mine] == [value is None for value in theirs]
                    mine, theirs = ([value for value in side if value is not None] for side in (mine, theirs))
                    theirs = pytest.approx(theirs, abs=1e-4 * a_max[unit])
                assert mine == theirs, (unit, name, column)
