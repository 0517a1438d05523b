"""Answers probes: the activations of units of one layer on prompts, all prompts of all units in one call.

1. Prompts that occur more than once go through the model once, whichever units ask.
2. Prompts that begin alike are packed into rows that share their beginning (``packing``), where the architecture allows
   it; else they are sorted by length and padded on the right (attention is causal: no mask is needed).
3. The pass stops at the layer, and only the columns of the asked units are taken from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32
from torch import Tensor

from n2g_assets.method.probing import Unit
from n2g_assets.subject.batching import batches, pad
from n2g_assets.subject.model import SubjectModel
from n2g_assets.subject.packing import Row, heeds_masks, inputs_of, pack


class LayerProber:
    """The prober of one layer (``method.probing.Prober``)."""

    def __init__(self, model: SubjectModel, layer: int, batch_tokens: int) -> None:
        """A prober.

        Args:
            model: The subject model; in float32, since what is measured is decided on.
            layer: Layer of the units.
            batch_tokens: The most tokens of one forward pass, padding included.
        """
        self.model, self.layer, self.batch_tokens = model, layer, batch_tokens
        self.calls = 0
        """Forward passes so far."""
        self.tokens = 0
        """Tokens that went through the model so far, padding not counted."""

    def activations(
        self, prompts: Sequence[Int32[np.ndarray, " length"]], units: Sequence[Unit]
    ) -> list[Float32[np.ndarray, " length"]]:
        """Activation of ``units[i]``, times its sign, at every position of ``prompts[i]``, in the order given."""
        numbers: dict[bytes, int] = {}
        number_of = np.array(
            [numbers.setdefault(np.asarray(prompt, np.int32).tobytes(), len(numbers)) for prompt in prompts], np.int64
        )
        different = [np.frombuffer(content, np.int32) for content in numbers]
        neurons = torch.tensor([unit.neuron for unit in units], dtype=torch.int64)
        signs = np.array([unit.sign for unit in units], np.float32)
        asking: list[list[int]] = [[] for _ in different]
        for pair, number in enumerate(number_of.tolist()):
            asking[number].append(pair)
        share = len(different) > 1 and heeds_masks(self.model)
        rows = pack(different) if share else _apart(different)
        packed = len(rows) < len(different)
        answers: list[np.ndarray] = [np.zeros(0, np.float32)] * len(prompts)
        for batch in batches(np.array([len(row.tokens) for row in rows], np.int64), self.batch_tokens):
            together = [rows[number] for number in batch]
            wanted = [
                (index, path, pair)
                for index, row in enumerate(together)
                for number, path in row.paths.items()
                for pair in asking[number]
            ]
            taken = self._read(together, [(index, int(neurons[pair])) for index, _, pair in wanted], packed)
            for value, (_, path, pair) in zip(taken, wanted, strict=True):
                answers[pair] = value[path] * signs[pair]
            self.calls += 1
            self.tokens += sum(len(row.tokens) for row in together)
        return answers

    def _read(
        self, rows: Sequence[Row], columns: Sequence[tuple[int, int]], packed: bool
    ) -> Float32[np.ndarray, "columns pos"]:
        """Activations of (row, neuron) pairs at every position of their row."""
        taken: list[Tensor] = []
        at, neurons = torch.tensor(columns, dtype=torch.int64).reshape(-1, 2).unbind(1)

        def take(activations: Float[Tensor, "batch pos d_mlp"]) -> None:
            device = activations.device
            taken.append(activations[at.to(device), :, neurons.to(device)].float().cpu())

        if packed:
            tokens, inputs = inputs_of(rows, self.model)
            self.model.run(tokens, {self.layer: take}, **inputs)
        else:
            self.model.run(pad([np.array(row.tokens) for row in rows], self.model.bos_id), {self.layer: take})
        return taken[0].numpy()


def _apart(prompts: Sequence[Int32[np.ndarray, " length"]]) -> list[Row]:
    """A row for each prompt."""
    return [
        Row(prompt.tolist(), list(range(-1, len(prompt) - 1)), list(range(len(prompt))), {i: list(range(len(prompt)))})
        for i, prompt in enumerate(prompts)
    ]
