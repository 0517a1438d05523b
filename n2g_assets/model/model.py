"""The loaded subject model: a forward pass hands out activations and stops after the deepest layer asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from n2g_assets.core.errors import SettingsError, SubjectError
from n2g_assets.core.unit_settings import NEURON
from n2g_assets.method.probing import Vocabulary
from n2g_assets.model.batching import is_out_of_memory, to_device
from n2g_assets.model.hooks import ResolvedHook, Tap, input_matrices, only
from n2g_assets.model.packing import ROW_TOKENS, pack
from n2g_assets.model.tokens import SubjectTokenizer
from n2g_assets.model.vocabulary import build_vocabulary

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from n2g_assets.model.encoders.encoder import Asked, Encoder
    from n2g_assets.model.encoders.heads import Heads

Callback = Callable[[Float[Tensor, "batch pos d_mlp"]], None]
"""Called with the activations of one layer."""

ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""By dtype, the share of the largest activation by which two ways to compute the same activation may differ."""
_KEPT = 8
"""Sets of latents or heads whose weights stay on the device."""
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
"""What models call, in their config, the tokens that some of their layers look back."""


class _DepthReached(Exception):  # noqa: N818  (a signal, no error)
    """Raised in the deepest hook: no later layer is wanted."""


@dataclass(eq=False)
class SubjectModel:
    """A language model whose units can be read at one hook; built by ``load.load_subject``."""

    name: str
    hook: ResolvedHook
    n_layers: int
    d_mlp: int
    """Values a position, measured at the hook: for the hooks of an MLP its neurons."""
    d_vocab: int
    max_context: int
    """Longest context in tokens."""
    device: torch.device
    dtype: torch.dtype
    bos_id: int
    """Id at position 0 of every context; from ``d_vocab`` on it is no token, and stands for the beginning of the text:
    the model reads what follows it, as if that began at position 0, and every activation at position 0 is 0."""
    mask_id: int
    """Token id that masks another in saliency."""
    tokenizer: SubjectTokenizer = field(repr=False)
    plain: torch.nn.Module = field(repr=False)
    """The model that runs: transformers', or TransformerLens' own for models in its format."""
    unembedding: torch.nn.Module = field(repr=False)
    """Its last matrix: hidden states to logits."""
    lock: AbstractContextManager[object] = field(repr=False, default_factory=nullcontext)
    """Held during each forward pass: a reentrant file lock that runs on one machine share, or nothing."""
    bridge: TransformerBridge | None = field(repr=False, default=None)
    """Kept only where the hook can be read through it alone."""
    encoders: Mapping[int, Encoder | Heads] = field(repr=False, default_factory=dict)
    """By layer, what makes latents or heads of what the hook carries; without it a unit is one of its values."""
    targets: Mapping[str, ResolvedHook] = field(repr=False, default_factory=dict)
    """The hooks that transcoders among them predict, as far as they can be read."""
    facts: dict[str, Any] = field(repr=False, init=False)
    """What the check at load found: the row of ``subject_models`` without the study; with encoders, by layer those of
    ``encoders`` under this name."""

    def encode(self, texts: Sequence[str]) -> list[Int32[np.ndarray, " length"]]:
        """Token ids of each text, without BOS; special tokens written in a text are read as text."""
        return self.tokenizer.encode(texts)

    def vocabulary(self, *, normalise: bool) -> Vocabulary:
        """Its tokens, and the forms under which graphs match them; see :mod:`n2g_assets.model.vocabulary`."""
        return build_vocabulary(
            self.tokenizer, self.d_vocab, normalise=normalise, bos_id=self.bos_id, mask_id=self.mask_id
        )

    def n_units(self, layer: int) -> int:
        """Units of a layer: the latents of its encoder, its heads, or the values at the hook."""
        return self.encoders[layer].n_latents if layer in self.encoders else self.d_mlp

    def check_study(self, layers: Sequence[int], neurons: Sequence[int] | int, context_length: int) -> None:
        """Check a study against the model; ``neurons`` lists them, or says how many are sampled a layer.

        Raises:
            SubjectError: A layer or unit that the model does not have, or an encoder that does not fit it.
            SettingsError: ``context_length`` is longer than the model reads.
        """
        for layer in layers:
            if layer not in self.hook.layers:
                raise SubjectError(
                    f"{self.name} has no layer {layer} with the hook '{self.hook.name}': choose layers from "
                    f"{_ranges(self.hook.layers)}."
                )
            if layer in self.encoders:
                self.encoders[layer].check(self, layer)
            width, word = self.n_units(layer), self.encoders[layer].word if layer in self.encoders else NEURON
            wrong = [n for n in ([neurons - 1] if isinstance(neurons, int) else neurons) if not 0 <= n < width]
            if wrong:
                what, cure = f"{word} {wrong[0]}", f"choose from 0 to {width - 1}"
                if isinstance(neurons, int):
                    what, cure = f"{neurons} {word}s a layer", "lower neurons.sample, or write neurons: all"
                raise SubjectError(f"{self.name} does not have {what}: it has {width} {word}s a layer, so {cure}.")
        longest = self.max_context + self.unread
        if context_length > longest:
            raise SettingsError(
                f"harvest.context_length is {context_length}, but {self.name} reads at most {self.max_context} tokens: "
                f"set it to {longest} or less."
            )

    @property
    def unread(self) -> int:
        """Positions at the beginning of every context that the model does not read: 1 where BOS is no token."""
        return int(self.bos_id >= self.d_vocab)

    def run(self, tokens: Int64[Tensor, "batch pos"], taps: Mapping[int, Callback], **inputs: Tensor) -> None:
        """One forward pass that calls ``taps[layer]`` with the activations there and stops after the deepest layer.

        Prompts are padded on the right: attention is causal, so padding needs no mask, but positions of padding carry
        activations that mean nothing.

        Args:
            tokens: Token ids, BOS at position 0; moved to the model's device.
            taps: For each layer, what gets its activations, in the model's dtype, on its device.
            inputs: ``attention_mask`` [batch, 1, pos, pos] and ``position_ids`` [batch, pos]; not for hooks that the
                bridge alone reads.
        """
        deepest = max(taps)
        tokens, inputs = self.as_read(tokens, **inputs)
        taps = {layer: partial(self._hand_out, callback, tokens) for layer, callback in taps.items()}
        with self.lock, torch.inference_mode(), ExitStack() as hooks:
            if self.bridge is not None:
                readers: list[Any] = [
                    (f"blocks.{layer}.{self.hook.name}", lambda found, hook, take=take: take(found))
                    for layer, take in taps.items()
                ]
                self.bridge.run_with_hooks(tokens, return_type=None, stop_at_layer=deepest + 1, fwd_hooks=readers)
                return
            assert self.hook.taps is not None
            for layer, take in taps.items():
                hooks.enter_context(_tapped(self.plain, self.hook.taps[layer], take, stop=layer == deepest))
            with suppress(_DepthReached):
                self.plain(tokens, use_cache=False, **inputs)

    def read(
        self, tokens: Int64[Tensor, "batch pos"], layer: int, neurons: Int64[Tensor, " neurons"], **inputs: Tensor
    ) -> Float[Tensor, "batch pos neurons"]:
        """Activations of some units of a layer, in the order given; others are computed only where it must be."""
        if layer in self.encoders:
            carried = self.read_layers(tokens, [layer], **inputs)[layer]
            with torch.inference_mode():
                return self.picker(layer, neurons)(carried).t().unflatten(0, carried.shape[:2])
        neurons = to_device(neurons, self.device)
        if not self.narrows:
            return self.read_layers(tokens, [layer], **inputs)[layer].index_select(2, neurons)
        with self.lock, torch.inference_mode(), only(self._input_matrices(layer), neurons):
            return self.read_layers(tokens, [layer], **inputs)[layer]

    def picker(
        self, layer: int, numbers: Int64[Tensor, " units"]
    ) -> Callable[[Float[Tensor, "batch pos width"]], Float[Tensor, "units tokens"]]:
        """What makes some units' activations, in the order given, of what the hook carries in a layer.

        Latents and heads are computed in float32, whatever the model's arithmetic; at position 0 they are 0.
        """
        if layer not in self.encoders:
            rows = to_device(numbers, self.device)
            return lambda carried: carried.flatten(0, 1).t().index_select(0, rows)
        asked = self._asked(layer, tuple(numbers.tolist()))

        def activations(carried: Float[Tensor, "batch pos width"]) -> Float32[Tensor, "units tokens"]:
            with multiplying("float32"):
                found = asked(carried.flatten(0, 1))
            found.unflatten(0, carried.shape[:2])[:, 0] = 0
            return found.t()

        return activations

    @cached_property
    def _asked(self) -> Callable[[int, tuple[int, ...]], Asked]:
        """The asked latents or heads of a layer, whose weights stay loaded for the next batch."""
        return lru_cache(_KEPT)(lambda layer, numbers: self.encoders[layer].ask(torch.tensor(numbers), self.device))

    def read_layers(
        self, tokens: Int64[Tensor, "batch pos"], layers: Sequence[int], **inputs: Tensor
    ) -> dict[int, Float[Tensor, "batch pos width"]]:
        """All that the hook carries in some layers."""
        found: dict[int, Tensor] = {}
        self.run(tokens, {layer: partial(found.__setitem__, layer) for layer in layers}, **inputs)
        return found

    @cached_property
    def packs(self) -> int:
        """Tokens of the longest prompts that may be packed (see ``packing``).

        0 where packed and separate reading disagree on a few prompts: some architectures ignore masks or positions.
        """
        if self.bridge is not None:
            return 0
        longest = min([self.max_context, *stated(self.plain, *_WINDOWS)])
        ids = np.linspace(0, self.d_vocab - 1, min(longest, ROW_TOKENS // 2)).astype(np.int32)
        ids[0] = self.bos_id
        prompts = [ids, *(np.append(ids[:length], ids[1]) for length in range(1, len(ids), 1 + len(ids) // 4))]
        layer = self.hook.layers[-1]
        found = []
        try:
            for rows in (pack(prompts), pack(prompts, 0)):
                batch = rows.batch(np.arange(rows.starts.shape[1] - 1), self)
                activations = self.read_layers(batch.tokens, [layer], **batch.inputs)[layer].flatten(0, 1)
                found.append(activations[batch.cells[np.argsort(batch.places)]].float().split([*map(len, prompts)]))
        except (TypeError, ValueError, RuntimeError, IndexError) as error:  # an architecture that takes no masks
            if is_out_of_memory(error):
                raise
            return 0
        for packed, alone in zip(*found, strict=True):
            rounding = ROUNDING[self.dtype] * float(alone[1:].abs().max())
            if not float((packed - alone)[1:].abs().max()) <= rounding:
                return 0
        return longest

    @cached_property
    def narrows(self) -> bool:
        """Whether neurons can be computed without the others of their layer: checked on a few, in the outer layers."""
        layers = sorted({self.hook.layers[0], self.hook.layers[-1]})
        if self.bridge is not None or not all(self._input_matrices(layer) for layer in layers):
            return False
        tokens = torch.tensor([[self.bos_id, *range(0, self.d_vocab, 1 + self.d_vocab // 8)]])
        neurons = torch.tensor([self.d_mlp - 1, 0, self.d_mlp // 2], device=self.device)
        for layer, whole in self.read_layers(tokens, layers).items():
            try:
                with self.lock, torch.inference_mode(), only(self._input_matrices(layer), neurons):
                    narrow = self.read_layers(tokens, [layer])[layer]
            except (RuntimeError, ValueError, IndexError) as error:  # a later module needs all neurons
                if is_out_of_memory(error):
                    raise
                return False
            if narrow.shape[2] != 3:
                return False
            apart = (whole[:, 1:, neurons] - narrow[:, 1:]).abs()
            if not float(apart.max()) <= ROUNDING[self.dtype] * float(whole[:, 1:].abs().max()):
                return False
        return True

    def _input_matrices(self, layer: int) -> list[torch.nn.Module]:
        assert self.hook.taps is not None
        return input_matrices(self.plain, self.hook.taps[layer], self.d_mlp)

    def logits(
        self,
        tokens: Int64[Tensor, "batch pos"],
        at: tuple[Int64[np.ndarray, " chosen"], Int64[np.ndarray, " chosen"]] | None = None,
        **inputs: Tensor,
    ) -> Float32[Tensor, "... d_vocab"]:
        """Next-token logits on the model's device, over the full depth, in float32: ``[batch, pos, d_vocab]``.

        With ``at``, rows and positions, only those are computed: ``[len(at[0]), d_vocab]``. ``tokens`` and ``inputs``
        are those of :meth:`run`. Logits at a position that is not read are 0, and cannot be asked for.
        """
        tokens, inputs = self.as_read(tokens, **inputs)
        with self.lock, torch.inference_mode(), ExitStack() as hooks:
            if at is not None:
                if np.min(at[1], initial=self.unread) < self.unread:
                    raise ValueError(f"{self.name} reads nothing at position 0, so it has no logits there.")
                places = np.asarray(at[0], np.int64), np.asarray(at[1], np.int64) - self.unread
                chosen = tuple(to_device(each, self.device) for each in places)

                def pick(_module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                    return (args[0][chosen].unsqueeze(0), *args[1:])

                # What follows the unembedding (soft caps, scales) works on each element alone, so it may see few rows.
                hooks.enter_context(self.unembedding.register_forward_pre_hook(pick))
            output = self.plain(tokens, use_cache=False, **inputs)
            logits = (output if isinstance(output, Tensor) else output.logits).float()
            return self.by_context(logits) if at is None else logits[0]

    def as_read(
        self, tokens: Int64[Tensor, "batch pos"], **inputs: Tensor
    ) -> tuple[Int64[Tensor, "batch read"], dict[str, Tensor]]:
        """What the model reads of contexts, on its device; ``inputs`` are those of :meth:`run`."""
        tokens, inputs = to_device(tokens, self.device), {k: to_device(v, self.device) for k, v in inputs.items()}
        if self.unread:
            tokens = tokens[:, 1:].masked_fill(tokens[:, 1:] == self.bos_id, self.mask_id)  # there it is padding
            if inputs:
                mask, positions = inputs["attention_mask"], inputs["position_ids"]
                inputs = {"attention_mask": mask[..., 1:, 1:], "position_ids": positions[:, 1:] - 1}
        return tokens, inputs

    def by_context(self, values: Float[Tensor, "batch read width"]) -> Float[Tensor, "batch pos width"]:
        """Values at what the model reads, with 0 at each position of the contexts that it does not read."""
        return torch.nn.functional.pad(values, (0, 0, self.unread, 0)) if self.unread else values

    def _hand_out(self, callback: Callback, tokens: Int64[Tensor, "batch read"], value: Any) -> None:
        """Calls back with what a hook gave for ``tokens``."""
        callback(self.by_context(by_position(value[0] if isinstance(value, tuple) else value, tokens)))


@contextmanager
def multiplying(arithmetic: str) -> Iterator[None]:
    """For ``tf32``, matrix products round the factors of float32 to TF32, on devices that can; else they are exact."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if arithmetic == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def text_config(plain: torch.nn.Module) -> Any:
    """What the config of a transformers model says of the model of text in it; None for models of other libraries."""
    config: Any = getattr(plain, "config", None)
    return config and config.get_text_config()


def stated(plain: torch.nn.Module, *names: str) -> list[int]:
    """The sizes that a model's config gives under some names: whole numbers above 0, no null and no list of layers'."""
    found = [getattr(text_config(plain), name, None) for name in names]
    return [size for size in found if type(size) is int and size > 0]


def by_position(value: Tensor, tokens: Tensor) -> Tensor:
    """What a hook gave for ``tokens`` as [batch, pos, width]; OPT puts batch and positions into one dimension."""
    if value.ndim == 2 and len(value) == tokens.numel():
        return value.view(*tokens.shape, -1)
    return value.flatten(2)


def _tapped(plain: torch.nn.Module, tap: Tap, take: Callable[[Any], None], *, stop: bool) -> Any:
    """A hook on the plain model that hands out what it reads; removed when its context ends."""

    def read(value: Any) -> None:
        take(value)
        if stop:
            raise _DepthReached

    module = plain.get_submodule(tap.module)
    if tap.side == "output":
        return module.register_forward_hook(lambda _module, _args, output: read(output))
    return module.register_forward_pre_hook(
        lambda _module, args, kwargs: read(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )


def _ranges(numbers: Sequence[int]) -> str:
    first, last = numbers[0], numbers[-1]
    return f"{first} to {last}" if len(numbers) == last - first + 1 else ", ".join(map(str, numbers))
