"""Answers probes: the activations of units of one layer on prompts, all prompts of all units in one call.

1. Prompts that occur more than once go through the model once, whichever units ask.
2. They are sorted by length and cut into batches, padded on the right (attention is causal: no mask is needed).
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
        lengths = np.array([len(prompt) for prompt in different], np.int64)
        neurons = torch.tensor([unit.neuron for unit in units], dtype=torch.int64)
        signs = torch.tensor([unit.sign for unit in units], dtype=torch.float32)
        by_number = np.argsort(number_of, kind="stable")
        starts = np.searchsorted(number_of[by_number], np.arange(len(different) + 1))
        answers: list[np.ndarray] = [np.zeros(0, np.float32)] * len(prompts)
        for batch in batches(lengths, self.batch_tokens):
            asked = [by_number[starts[number] : starts[number + 1]] for number in batch]
            rows = torch.from_numpy(np.repeat(np.arange(len(batch)), [len(pairs) for pairs in asked]))
            pairs = torch.from_numpy(np.concatenate(asked))
            taken: list[Tensor] = []

            def take(
                activations: Float[Tensor, "batch pos d_mlp"],
                rows: Tensor = rows,
                pairs: Tensor = pairs,
                taken: list[Tensor] = taken,
            ) -> None:
                device = activations.device
                taken.append(activations[rows.to(device), :, neurons[pairs].to(device)].float().cpu())

            self.model.run(pad([different[number] for number in batch], self.model.bos_id), {self.layer: take})
            values = (taken[0] * signs[pairs][:, None]).numpy()
            for value, pair in zip(values, pairs.tolist(), strict=True):
                answers[pair] = value[: len(prompts[pair])].copy()
            self.calls += 1
            self.tokens += int(lengths[batch].sum())
        return answers
