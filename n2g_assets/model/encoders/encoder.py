"""An encoder: what a hook carries becomes activations of latents, and latents become what they reconstruct.

For an input x, in this order:

1. Normalisation, where the encoder was trained with one: to mean 0 and deviation 1, or to the length sqrt(d_in).
2. An offset is subtracted (autoencoders that are centred at the bias of their decoder).
3. Each latent is a row of the matrix: a dot product, with a gain and a bias, and rescaled by the length of the latent's
   row in the decoder where encoders are made so.
4. ReLU, except for directions, whose activation is the identity. A threshold (jumprelu; what is saved of a batch
   top-k) or a gate of its own makes the activation 0.
5. Of a top-k encoder the k largest of a position are kept.

The reconstruction is the activations times the decoder, plus its bias, with the normalisation undone; of a transcoder,
which predicts another hook, nothing is undone, and a skip connection may be added.

Up to step 4 a latent depends on its own row alone, so only asked latents are read from the files and computed. Step 5
needs all: they are computed in tiles, with the k largest so far. Everything is float32, whatever the files hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from n2g_assets.core.errors import SourceError, SubjectError
from n2g_assets.core.unit_settings import LATENT
from n2g_assets.model.encoders.files import ANEW
from n2g_assets.model.encoders.places import Place
from n2g_assets.model.folder import hash_files
from n2g_assets.model.model import SubjectModel

Asked = Callable[[Float[Tensor, "tokens d_in"]], Float32[Tensor, "tokens asked"]]
"""Computes the asked latents of what a hook carries."""
Normalisation = Literal["none", "layer_norm", "constant_norm_rescale"]

_TILE_ELEMENTS = 2**24
"""Activations or weights of a tile of latents, at most."""
_LOADED_BYTES = 2**29
"""Weights of a top-k encoder, at most, that stay on the device from batch to batch; a larger one is loaded by tiles."""
_LOADED = 4
"""Encoders whose weights stay there: those that were used last."""
_EPSILON = 1e-5
"""Added to the deviation by which ``layer_norm`` divides."""


@dataclass(frozen=True)
class _Rows:
    """Some latents, in float32."""

    matrix: Float32[Tensor, "rows d_in"]
    bias: Float32[Tensor, " rows"] | None
    gain: Float32[Tensor, " rows"] | None
    gate: Float32[Tensor, " rows"] | None
    threshold: Float32[Tensor, " rows"] | None
    rectifies: bool

    def __call__(self, inputs: Float32[Tensor, "tokens d_in"]) -> Float32[Tensor, "tokens rows"]:
        """Activations before top-k; ``inputs`` are normalised and centred."""
        values = inputs @ self.matrix.t()
        on = None if self.gate is None else values + self.gate > 0
        if self.gain is not None:
            values *= self.gain
        if self.bias is not None:
            values += self.bias
        if self.threshold is not None:
            on = values > self.threshold
        if self.rectifies:
            values.relu_()
        return values if on is None else values.mul_(on)

    def __getitem__(self, tile: slice) -> _Rows:
        """Some of them, without a copy."""

        def part(tensor: Tensor | None) -> Tensor | None:
            return tensor if tensor is None or tensor.ndim == 0 else tensor[tile]

        bias, gain, gate, threshold = map(part, (self.bias, self.gain, self.gate, self.threshold))
        return _Rows(self.matrix[tile], bias, gain, gate, threshold, self.rectifies)


@dataclass(frozen=True, eq=False, kw_only=True)
class Encoder:
    """An encoder of files; ``formats`` reads them. Its tensors are mapped into memory, in the dtype of the file."""

    files: tuple[Path, ...]
    """All that decides what it computes, the weights first."""
    neuronpedia: str | None = None
    """Where Neuronpedia shows its latents."""
    format: str
    architecture: str
    """As the files call it."""
    reads: Place
    writes: Place | None = None
    """Of a transcoder the hook that it predicts; None for others."""
    matrix: Float[Tensor, "latents d_in"]
    bias: Float[Tensor, " latents"] | None = None
    log_gain: Float[Tensor, " latents"] | None = None
    """Logarithm of what the dot product is multiplied by before the bias is added."""
    gate: Float[Tensor, " latents"] | None = None
    """A latent is 0 where the dot product plus this is not above 0."""
    threshold: Float[Tensor, " latents"] | Float[Tensor, ""] | None = None
    """A latent is 0 where it is not above this."""
    rectifies: bool = True
    rescales: bool = False
    """Whether activations are multiplied by the length of the latent's row of the decoder, and divided by it again."""
    top: int | None = None
    """Latents that are kept at a position."""
    normalisation: Normalisation = "none"
    offset: Float[Tensor, " d_in"] | None = None
    decoder: Float[Tensor, "latents d_out"] | None = None
    """None for directions."""
    decoder_bias: Float[Tensor, " d_out"] | None = None
    skip: Float[Tensor, "d_out d_in"] | None = None

    word: ClassVar = LATENT

    @property
    def n_latents(self) -> int:
        """Latents in all."""
        return self.matrix.shape[0]

    @property
    def d_in(self) -> int:
        """Width of what it reads."""
        return self.matrix.shape[1]

    @property
    def directions(self) -> Float[Tensor, "latents d_out"]:
        """What 1 of each latent's activation writes; of plain directions they themselves."""
        return self.matrix if self.decoder is None else self.decoder

    @property
    def alone(self) -> bool:
        """Whether asked latents are computed without the others."""
        return self.top is None

    @property
    def sparse(self) -> bool:
        """Whether activations that are 0 say something: all but those of directions."""
        return self.rectifies or not self.alone or self.threshold is not None or self.gate is not None

    @cached_property
    def sha256(self) -> str:
        """Identity of its files."""
        return hash_files(self.files)

    def facts(self) -> dict[str, Any]:
        """What the files say, and their hash."""
        writes = self.writes or Place()
        return {
            "format": self.format,
            "architecture": self.architecture,
            "n_latents": self.n_latents,
            "d_in": self.d_in,
            "layer": self.reads.layer,
            "hook": self.reads.hook,
            "target_layer": writes.layer,
            "target_hook": writes.hook,
            "top": self.top,
            "alone": self.alone,
            "sparse": self.sparse,
            "dtype": str(self.matrix.dtype).removeprefix("torch."),
            "sha256": self.sha256,
        }

    def check(self, model: SubjectModel, layer: int) -> None:
        """Check that it reads what a model's hook carries in a layer.

        Raises:
            SubjectError: The files name another layer or hook, or the hook carries vectors of another width.
        """
        what, hook = f"The encoder {self.files[0]}", model.hook.name
        if self.reads.layer not in (None, layer):
            raise SubjectError(f"{what} reads {self.reads}, not layer {layer}: name the encoder of that layer.")
        if self.reads.hook not in (None, hook):
            raise SubjectError(f"{what} reads {self.reads}, not {hook}: set hook to {self.reads.hook}.")
        if self.d_in != model.d_mlp:
            turned = "transpose it, " if self.n_latents == model.d_mlp else ""
            raise SubjectError(
                f"{what} reads vectors of {self.d_in} numbers, but {hook} of {model.name} carries {model.d_mlp}: "
                f"{turned}name the hook that it was trained on, or an encoder of this model."
            )

    def ask(self, latents: Int64[Tensor, " asked"], device: torch.device | None = None) -> Asked:
        """What computes some latents, in the order given, on a device; their weights are loaded once, here.

        Raises:
            SubjectError: It has no such latent.
            SourceError: Weights are no finite numbers.
        """
        missing = [number for number in latents.tolist() if not 0 <= number < self.n_latents]
        if missing:
            raise SubjectError(
                f"The encoder {self.files[0]} has no latent {missing[0]}: choose from 0 to {self.n_latents - 1}."
            )
        if not self.alone:
            once, places = latents.to(device).unique(return_inverse=True)
            return lambda inputs: _spread(*self._top(self._enter(inputs)), once, self.n_latents)[:, places]
        rows = self._rows(latents, device)
        return lambda inputs: rows(self._enter(inputs))

    def tiles(self, inputs: Float[Tensor, "tokens d_in"]) -> Iterator[tuple[slice, Float32[Tensor, "tokens tile"]]]:
        """Activations of all latents, a tile after the other."""
        entered = self._enter(inputs)
        kept = None if self.alone else self._top(entered)
        for tile in self._cuts(len(inputs)):
            if kept is None:
                yield tile, self._rows(tile, inputs.device)(entered)
            else:
                yield tile, _spread(*kept, torch.arange(self.n_latents, device=inputs.device)[tile], self.n_latents)

    def reconstruct(self, inputs: Float[Tensor, "tokens d_in"]) -> Float32[Tensor, "tokens d_out"]:
        """What the decoder makes of all latents.

        Raises:
            SubjectError: It has no decoder.
        """
        if self.decoder is None:
            raise SubjectError(
                f"The encoder {self.files[0]} holds directions, without a decoder: it reconstructs nothing, so give "
                "an autoencoder or transcoder."
            )
        found = inputs.new_zeros(len(inputs), self.decoder.shape[1], dtype=torch.float32)
        for tile, values in self.tiles(inputs):
            decoder = self._loaded(self.decoder[tile], inputs.device)
            if self.rescales:
                decoder = torch.nan_to_num(decoder / decoder.norm(dim=1, keepdim=True))
            found.addmm_(values, decoder)
        if self.decoder_bias is not None:
            found += self._loaded(self.decoder_bias, inputs.device)
        if self.writes is None:
            found = self._leave(found, inputs.float())
        return found if self.skip is None else found.addmm_(inputs.float(), self._loaded(self.skip, inputs.device).t())

    def active(self, inputs: Float[Tensor, "tokens d_in"]) -> float:
        """Latents above 0 at a position, on the mean."""
        return sum(int((values > 0).sum()) for _, values in self.tiles(inputs)) / len(inputs)

    def unexplained(
        self, inputs: Float[Tensor, "tokens d_in"], targets: Float[Tensor, "tokens d_out"] | None = None
    ) -> float:
        """The share of the variance of what it predicts that the reconstruction leaves; ``inputs`` without targets."""
        targets = (inputs if targets is None else targets).float()
        left = (targets - self.reconstruct(inputs)).square().sum()
        return float(left / (targets - targets.mean(dim=0)).square().sum())

    def _tile(self, tile: slice, device: torch.device) -> _Rows:
        """Latents of a tile, whose weights stay loaded where there are not too many."""
        few = 4 * self.matrix.numel() <= _LOADED_BYTES
        return _whole(self, device)[tile] if few else self._rows(tile, device)

    def _rows(self, chosen: Int64[Tensor, " rows"] | slice, device: torch.device | None) -> _Rows:
        def some(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            return self._loaded(tensor if tensor.ndim == 0 else tensor[chosen], device)

        matrix, bias, log_gain = some(self.matrix), some(self.bias), some(self.log_gain)
        assert matrix is not None
        if self.rescales:
            decoder = some(self.decoder)
            assert decoder is not None
            lengths = decoder.norm(dim=1)
            matrix, bias = matrix * lengths[:, None], None if bias is None else bias * lengths
        gain = None if log_gain is None else log_gain.exp()
        return _Rows(matrix, bias, gain, some(self.gate), some(self.threshold), self.rectifies)

    def _loaded(self, tensor: Tensor, device: torch.device | None) -> Tensor:
        """Numbers of the files in float32 on a device.

        Raises:
            SourceError: Some are no finite numbers.
        """
        found = tensor.to(device, torch.float32)
        if not torch.isfinite(found).all():
            raise SourceError(f"Weights in {self.files[0]} are no finite numbers: {ANEW}.")
        return found

    def _cuts(self, tokens: int) -> Iterator[slice]:
        """Tiles of latents that bound what is in memory at once."""
        width = max(1, _TILE_ELEMENTS // max(tokens, self.d_in))
        return (slice(start, start + width) for start in range(0, self.n_latents, width))

    def _top(
        self, entered: Float32[Tensor, "tokens d_in"]
    ) -> tuple[Float32[Tensor, "tokens top"], Int64[Tensor, "tokens top"]]:
        """The largest activations of each position and whose they are."""
        assert self.top is not None
        values = entered.new_zeros(len(entered), 0)
        owners = torch.zeros(len(entered), 0, dtype=torch.int64, device=entered.device)
        numbers = torch.arange(self.n_latents, device=entered.device)
        for tile in self._cuts(len(entered)):
            values = torch.cat([values, self._tile(tile, entered.device)(entered)], dim=1)
            owners = torch.cat([owners, numbers[tile].expand(len(entered), -1)], dim=1)
            values, places = values.topk(min(self.top, values.shape[1]), dim=1)
            owners = owners.gather(1, places)
        return values, owners

    def _enter(self, inputs: Float[Tensor, "tokens d_in"]) -> Float32[Tensor, "tokens d_in"]:
        entered = inputs.float()
        if self.normalisation == "layer_norm":
            centred = entered - entered.mean(dim=-1, keepdim=True)
            entered = centred / (centred.std(dim=-1, keepdim=True) + _EPSILON)
        if self.normalisation == "constant_norm_rescale":
            entered = entered * (self.d_in**0.5 / entered.norm(dim=-1, keepdim=True))
        return entered if self.offset is None else entered - self._loaded(self.offset, entered.device)

    def _leave(
        self, found: Float32[Tensor, "tokens d_out"], inputs: Float32[Tensor, "tokens d_in"]
    ) -> Float32[Tensor, "tokens d_out"]:
        if self.normalisation == "layer_norm":
            return found * inputs.std(dim=-1, keepdim=True) + inputs.mean(dim=-1, keepdim=True)
        if self.normalisation == "constant_norm_rescale":
            return found * (inputs.norm(dim=-1, keepdim=True) / self.d_in**0.5)
        return found


@lru_cache(_LOADED)
def _whole(encoder: Encoder, device: torch.device) -> _Rows:
    """All latents on a device."""
    return encoder._rows(slice(None), device)


def _spread(
    values: Float32[Tensor, "tokens top"],
    owners: Int64[Tensor, "tokens top"],
    latents: Int64[Tensor, " asked"],
    n_latents: int,
) -> Float32[Tensor, "tokens asked"]:
    """The kept activations as columns of some latents, 0 where others were kept."""
    columns = torch.full((n_latents,), len(latents), device=latents.device).index_copy_(
        0, latents, torch.arange(len(latents), device=latents.device)
    )
    spread = values.new_zeros(len(values), len(latents) + 1)
    return spread.scatter_(1, columns[owners], values)[:, :-1]
