"""Answers probes: the activations of units of one layer on prompts, all prompts of all units in one call.

1. Prompts are packed into rows that share their beginnings (``packing``); one that several units ask about runs once.
2. The pass stops at the layer, where only the asked neurons are computed (``hooks``).
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from n2g_assets.core.units import Unit
from n2g_assets.model.batching import TokenBudget, to_device
from n2g_assets.model.model import SubjectModel
from n2g_assets.model.packing import PackedBatch, run_packed


class LayerProber:
    """The prober of one layer (``method.probing.Prober``)."""

    def __init__(self, model: SubjectModel, layer: int, budget: TokenBudget) -> None:
        """A prober; the model is in float32, since decisions rest on its activations."""
        self.model, self.layer, self.budget = model, layer, budget
        self.calls = 0
        """Forward passes so far."""
        self.tokens = 0
        """Tokens that went through the model so far, padding not counted."""

    @property
    def full_batch_tokens(self) -> int:
        """Tokens that fill the machine: asking for fewer at once takes hardly less time."""
        return self.budget.tokens // 8

    def activations(
        self, prompts: Sequence[Int32[np.ndarray, " length"]], units: Sequence[Unit]
    ) -> list[Float32[np.ndarray, " length"]]:
        """Activation of ``units[i]``, times its sign, at every position of ``prompts[i]``, in the order given."""
        lengths = list(map(len, prompts))
        neurons = np.repeat(np.array([unit.number for unit in units], np.int64), lengths)
        answers = np.repeat(np.array([unit.sign for unit in units], np.float32), lengths)

        def run(batch: PackedBatch) -> tuple[Tensor]:
            asked, columns = np.unique(neurons[batch.places], return_inverse=True)
            found = self.model.read(batch.tokens, self.layer, torch.from_numpy(asked), **batch.inputs)
            return (found.take(to_device(batch.cells * len(asked) + columns, found.device)).float(),)

        for batch, (found,) in run_packed(prompts, self.model, self.budget, run):
            answers[batch.places] *= found
            self.calls += 1
            self.tokens += batch.n_tokens
        return [answers[start:end] for start, end in pairwise(np.cumsum([0, *lengths]).tolist())]
