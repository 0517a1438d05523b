"""Attention heads as units: each is as active as what it adds to the residual stream is long.

Head h adds z_h W_O^h: its ``d_head`` values of ``attn.hook_z`` times its rows of attention's output matrix, without the
bias, which is no head's, and before any norm behind attention. Where Q R is W_O^h transposed, that vector of
``d_model`` numbers is as long as R z_h, which has ``d_head`` and is computed in float32. With grouped keys and values
there are as many heads as queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from n2g_assets.core.errors import SubjectError
from n2g_assets.core.unit_settings import HEAD, HEADS, HEADS_HOOK
from n2g_assets.model.config import Shape
from n2g_assets.model.encoders.encoder import Asked
from n2g_assets.model.model import ROUNDING, SubjectModel

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_ORIGIN = ("source", "revision", "file_sha256")
"""What ``subject_models`` says of where a model came from."""
_PROBED = 8
"""Random inputs on which an output matrix is tried."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Heads:
    """The heads of a layer, with what an ``Encoder`` offers under the same names."""

    matrix: Float[Tensor, "heads d_head d_model"]
    """The model's own output matrix of attention, on its device."""
    model: str
    """Its name."""
    origin: Mapping[str, Any]
    """By ``_ORIGIN``, where it came from."""

    word: ClassVar = HEAD
    sparse: ClassVar = False
    writes: ClassVar = None
    directions: ClassVar = None
    """What a head adds has another direction at every position."""

    @property
    def n_latents(self) -> int:
        """Heads in all."""
        return self.matrix.shape[0]

    @property
    def d_in(self) -> int:
        """Values of all heads together."""
        return self.matrix.shape[:2].numel()

    def facts(self) -> dict[str, Any]:
        """Their row of ``encoders``, as far as it is known without a text."""
        return {
            "source": self.origin["source"],
            "name": self.model,
            "revision": self.origin["revision"],
            "format": "model",
            "architecture": HEADS,
            "n_latents": self.n_latents,
            "d_in": self.d_in,
            "target_layer": None,
            "target_hook": None,
            "top": None,
            "sparse": self.sparse,
            "dtype": str(self.matrix.dtype).removeprefix("torch."),
            "sha256": self.origin["file_sha256"],
            "neuronpedia": None,
        }

    def check(self, model: SubjectModel, layer: int) -> None:
        """Check that the hook carries the values of all heads.

        Raises:
            SubjectError: It carries more or fewer.
        """
        if self.d_in != model.d_mlp:
            raise SubjectError(
                f"{model.hook.name} of {model.name} carries {model.d_mlp} values in layer {layer}, which are not those "
                f"of {self.n_latents} heads: choose another model, or leave units out."
            )

    def ask(self, heads: Int64[Tensor, " asked"], device: torch.device | None = None) -> Asked:
        """What computes some heads, in the order given, on a device."""
        matrix = self.matrix[heads].cpu().float()  # where every device's matrices can be decomposed
        triangles, places = torch.linalg.qr(matrix.mT, mode="r").R.to(device), heads.to(device)

        def lengths(inputs: Float[Tensor, "tokens d_in"]) -> Float32[Tensor, "tokens asked"]:
            values = inputs.unflatten(1, self.matrix.shape[:2])[:, places].float()
            return torch.einsum("thd,hrd->thr", values, triangles).norm(dim=-1)

        return lengths

    def active(self, inputs: Float[Tensor, "tokens d_in"]) -> float:
        """Heads above 0 at a position, on the mean."""
        every = self.ask(torch.arange(self.n_latents), inputs.device)(inputs)
        return int((every > 0).sum()) / len(inputs)


@dataclass(frozen=True)
class HeadsOfLayers:
    """What makes heads the units of a study, as ``Encoders`` do latents."""

    layers: tuple[int, ...]
    hook: ClassVar = HEADS_HOOK
    identity: ClassVar[Sequence[Any]] = (HEADS,)
    densities: ClassVar[Mapping[int, float]] = {}

    def of(self, model: SubjectModel, bridge: TransformerBridge) -> tuple[dict[int, Heads], dict[int, dict[str, Any]]]:
        """By layer that has the hook, its heads and what is known of them.

        Raises:
            SubjectError: Attention there has no output matrix that reads them.
        """
        origin = {name: model.facts[name] for name in _ORIGIN}
        found = {
            layer: Heads(matrix=_output_matrix(model, bridge, layer), model=model.name, origin=origin)
            for layer in self.layers
            if layer in model.hook.layers
        }
        return found, {layer: heads.facts() for layer, heads in found.items()}

    def width(self, shape: Shape) -> int:
        """Heads of a layer of a model."""
        return shape.heads


def _output_matrix(model: SubjectModel, bridge: TransformerBridge, layer: int) -> Float[Tensor, "heads d_head d_model"]:
    """The output matrix of attention, a part a head, checked against what attention makes of random values.

    Raises:
        SubjectError: There is none, or it gives something else.
    """
    attention: Any = bridge.blocks[layer].attn
    try:
        matrix = attention.W_O.detach()
        values = torch.randn(_PROBED, matrix.shape[:2].numel(), generator=torch.Generator().manual_seed(0))
        values = values.to(matrix.device, matrix.dtype)
        with torch.inference_mode():
            given = (attention.o(values) - attention.o(torch.zeros_like(values))).float()
            expected = values.float() @ matrix.float().flatten(0, 1)
        same = (given - expected).abs().max() <= ROUNDING[model.dtype] * expected.abs().max()
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):  # of attention of another kind
        same = torch.tensor(False)
    if not same:
        raise SubjectError(
            f"Attention of {model.name} has no output matrix in layer {layer} that reads its heads: choose another "
            f"model, or leave units out and set hook to {HEADS_HOOK}, whose values are then units."
        )
    return matrix
