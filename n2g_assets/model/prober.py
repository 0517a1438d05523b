"""Answers probes: the activations of units of one layer on prompts, all prompts of all units in one call.

1. Prompts that occur more than once go through the model once, whichever units ask.
2. Prompts that begin alike are packed into rows that share their beginning (``packing``), where the architecture allows
   it; rows of like length make a batch, as many as the token budget allows (``batching``).
3. The pass stops at the layer, where only the asked neurons are computed (``narrow``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float32, Int32

from n2g_assets.core.units import Unit
from n2g_assets.model.batching import Batch, TokenBudget, run_batches
from n2g_assets.model.model import SubjectModel
from n2g_assets.model.packing import inputs_of, rows_of


class LayerProber:
    """The prober of one layer (``method.probing.Prober``)."""

    def __init__(self, model: SubjectModel, layer: int, budget: TokenBudget) -> None:
        """A prober; the model is in float32, since decisions rest on its activations."""
        self.model, self.layer, self.budget = model, layer, budget
        self.calls = 0
        """Forward passes so far."""
        self.asked = 0
        """Tokens of all prompts so far."""
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
        numbers: dict[bytes, int] = {}
        number_of = [numbers.setdefault(np.asarray(prompt, np.int32).tobytes(), len(numbers)) for prompt in prompts]
        rows = rows_of([np.frombuffer(content, np.int32) for content in numbers], self.model.packs)
        asking: list[list[int]] = [[] for _ in numbers]
        for pair, number in enumerate(number_of):
            asking[number].append(pair)
        neurons = np.array([unit.number for unit in units], np.int64)
        signs = np.array([unit.sign for unit in units], np.float32)

        def run(batch: Batch) -> list[tuple[int, Float32[np.ndarray, " length"]]]:
            together = [rows[number] for number in batch]
            wanted = [
                (index, path, pair)
                for index, row in enumerate(together)
                for number, path in row.paths.items()
                for pair in asking[number]
            ]
            index, paths, pairs = map(list, zip(*wanted, strict=True))
            different, column = np.unique(neurons[pairs], return_inverse=True)
            tokens, inputs = inputs_of(together, self.model.bos_id, self.model.dtype)
            found = self.model.read(tokens, self.layer, torch.from_numpy(different), **inputs).float().cpu().numpy()
            sizes = [len(path) for path in paths]
            row, sign, column = (np.repeat(each, sizes) for each in (index, signs[pairs], column))
            nodes = np.fromiter(chain.from_iterable(paths), np.int64)
            answers = np.split(found[row, nodes, column] * sign, np.cumsum(sizes)[:-1])
            return list(zip(pairs, answers, strict=True))

        answers: list[np.ndarray] = [np.zeros(0, np.float32)] * len(prompts)
        lengths = np.array([len(row.tokens) for row in rows], np.int64)
        for batch, found in run_batches(lengths, self.budget, run):
            for pair, activations in found:
                answers[pair] = activations
            self.calls += 1
            self.tokens += int(lengths[batch].sum())
        self.asked += sum(map(len, prompts))
        return answers
