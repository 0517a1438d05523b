"""The control for what a model learned: the same model with its weight matrices drawn at random.

An explanation that scores as well on such a model says nothing about what training put into the weights. Architecture,
tokenizer and the scale of every weight stay: at another scale, units could be flat or saturated for that reason alone.
Every floating-point tensor of two or more dimensions is drawn from a normal distribution with its own mean and standard
deviation; the others, such as biases and the scales of norms, stay. The comparison follows Adebayo et al., Sanity
Checks for Saliency Maps, arXiv 1810.03292.

Any safetensors will do, in one file or several; no model is loaded.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from n2g_assets.core.errors import SourceError

if TYPE_CHECKING:
    import torch

REINITIALISER_VERSION = 1
"""Raised when other weights are drawn from the same seed: older folders are then made anew."""

_CHUNK = 2**22
"""Elements of a tensor that are measured or drawn at once."""


def write_reinitialised(weights: Iterable[Path], folder: Path, seed: int) -> None:
    """Write safetensors files of the same names, tensors, shapes and types, their matrices drawn anew.

    The numbers of a tensor depend on the seed and the tensor's name alone. Memory holds one file at a time.

    Raises:
        SourceError: A file is damaged.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    for path in weights:
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                drawn = {name: _draw(file.get_tensor(name), name, seed) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise SourceError(f"The weights {path} cannot be read ({error}): put the file there anew.") from error
        save_file(drawn, folder / path.name, metadata)


def _draw(trained: "torch.Tensor", name: str, seed: int) -> "torch.Tensor":
    """A tensor with the mean and the standard deviation of ``trained``; itself, if it is no matrix."""
    import torch

    if trained.ndim < 2 or not trained.is_floating_point():
        return trained
    named = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    generator = np.random.default_rng(np.random.SeedSequence([seed, named]))
    pieces = trained.reshape(-1).split(_CHUNK)
    count = max(1, trained.numel())
    mean = sum(float(piece.double().numpy().sum()) for piece in pieces) / count
    std = (sum(float(((piece.double().numpy() - mean) ** 2).sum()) for piece in pieces) / count) ** 0.5
    drawn = [torch.from_numpy(mean + std * generator.standard_normal(len(piece))).to(trained.dtype) for piece in pieces]
    return torch.cat(drawn).reshape(trained.shape)
