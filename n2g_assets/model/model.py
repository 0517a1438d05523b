"""The loaded subject model: one forward pass that hands out activations and stops after the deepest layer asked for.

The model that runs is the plain transformers one (sdpa attention). A TransformerBridge is booted beside it on the same
parameters, to find where a TransformerLens hook reads (``hooks``) and to check the plain model against it
(``verify``); then it goes, unless the hook can only be read through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from n2g_assets.core.errors import SettingsError, SubjectError
from n2g_assets.core.settings import HarvestSettings
from n2g_assets.method.probing import Vocabulary
from n2g_assets.model.batching import is_out_of_memory
from n2g_assets.model.hooks import ResolvedHook, Tap, boot_bridge, resolve_hook
from n2g_assets.model.narrow import input_matrices, only
from n2g_assets.model.packing import longest_packed
from n2g_assets.model.sources import SubjectFiles
from n2g_assets.model.tokens import SubjectTokenizer
from n2g_assets.model.turns import Turns
from n2g_assets.model.verify import SubjectFacts, verify_subject
from n2g_assets.model.vocabulary import build_vocabulary
from n2g_assets.model.weights import load_plain

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Callback = Callable[[Float[Tensor, "batch pos d_mlp"]], None]
"""Gets the activations of one layer."""


_ALONE = Turns(None)
"""Turns that are shared with nobody."""
_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""By dtype, what :attr:`SubjectModel.rounding` is."""


class _DepthReached(Exception):  # noqa: N818  (a signal, no error)
    """Raised in the deepest hook: nothing below it is wanted."""


@dataclass(eq=False)
class SubjectModel:
    """A language model whose units can be read at one hook; built by :func:`load_subject`."""

    name: str
    """Name of the model."""
    hook: ResolvedHook
    """The hook that is read."""
    n_layers: int
    """Number of layers."""
    d_mlp: int
    """Neurons of a layer, measured at the hook (for the hooks of an MLP, the MLP's width)."""
    d_model: int
    """Width of the residual stream."""
    d_vocab: int
    """Number of token ids."""
    max_context: int
    """Longest context in tokens."""
    activation: str
    """Activation function of the MLP."""
    gated: bool
    """Whether the MLP multiplies its activation with a gate (then units fire both ways)."""
    device: torch.device
    """Where it runs."""
    dtype: torch.dtype
    """Its arithmetic."""
    bos_id: int
    """Token id at position 0 of every context."""
    mask_id: int
    """Token id that masks another in saliency."""
    tokenizer: SubjectTokenizer = field(repr=False)
    """Its tokenizer."""
    plain: torch.nn.Module = field(repr=False)
    """The model that runs: transformers', or TransformerLens' own for models in its format."""
    unembedding: torch.nn.Module = field(repr=False)
    """Its last matrix: hidden states to logits."""
    turns: Turns = field(repr=False, default=_ALONE)
    """Turns at the machine, taken for each forward pass."""
    bridge: TransformerBridge | None = field(repr=False, default=None)
    """Kept only where the hook can be read through it alone."""
    facts: SubjectFacts = field(repr=False, init=False)
    """What the check at load found, as a row for ``subject_models``."""

    @property
    def width(self) -> int:
        """Neurons of a layer, the same as ``d_mlp``."""
        return self.d_mlp

    @property
    def rounding(self) -> float:
        """Share of the largest activation by which two ways of computing the same may differ."""
        return _ROUNDING[self.dtype]

    def encode(self, texts: Sequence[str]) -> list[Int32[np.ndarray, " length"]]:
        """Token ids of each text, without BOS; special tokens written in a text are read as text."""
        return self.tokenizer.encode(texts)

    def vocabulary(self, *, normalise: bool) -> Vocabulary:
        """Its tokens, and the forms under which graphs match them; see :mod:`n2g_assets.model.vocabulary`."""
        return build_vocabulary(
            self.tokenizer, self.d_vocab, normalise=normalise, bos_id=self.bos_id, mask_id=self.mask_id
        )

    def check_study(self, layers: Sequence[int], neurons: Sequence[int] | int, context_length: int) -> None:
        """Check a study against the model.

        Args:
            layers: Layers of the study.
            neurons: The neurons, or how many are sampled a layer.
            context_length: Tokens of a context, BOS included.

        Raises:
            SubjectError: A layer or neuron that the model does not have.
            SettingsError: ``context_length`` is longer than the model reads.
        """
        for layer in layers:
            if layer not in self.hook.layers:
                have = self.hook.layers
                raise SubjectError(
                    f"{self.name} has no layer {layer} with the hook '{self.hook.name}': choose layers from "
                    f"{_ranges(have)}."
                )
        wrong = [n for n in ([neurons - 1] if isinstance(neurons, int) else neurons) if not 0 <= n < self.d_mlp]
        if wrong:
            what = f"{neurons} neurons a layer" if isinstance(neurons, int) else f"neuron {wrong[0]}"
            raise SubjectError(
                f"{self.name} does not have {what}: it has {self.d_mlp} neurons a layer, so choose from 0 to "
                f"{self.d_mlp - 1}."
            )
        if context_length > self.max_context:
            raise SettingsError(
                f"harvest.context_length is {context_length}, but {self.name} reads at most {self.max_context} tokens: "
                f"set it to {self.max_context} or less."
            )

    def run(self, tokens: Int64[Tensor, "batch pos"], taps: Mapping[int, Callback], **inputs: Tensor) -> None:
        """One forward pass that calls ``taps[layer]`` with the activations there and stops after the deepest layer.

        Prompts are padded on the right: attention is causal, so padding needs no mask, but positions of padding carry
        activations that mean nothing.

        Args:
            tokens: Token ids, BOS at position 0; moved to the model's device.
            taps: For each layer, what gets its activations, in the model's dtype, on its device.
            inputs: More inputs of the transformers model, such as a mask; not for hooks that the bridge alone reads.
        """
        if not taps:
            return
        deepest = max(taps)
        tokens = tokens.to(self.device)
        if self.bridge is not None:
            with self.turns.mine():
                self._run_bridge(self.bridge, tokens, taps, deepest)
            return
        assert self.hook.taps is not None
        with self.turns.mine(), torch.inference_mode(), ExitStack() as hooks:
            for layer, callback in taps.items():
                hooks.enter_context(_tapped(self.plain, self.hook.taps[layer], callback, stop=layer == deepest))
            with suppress(_DepthReached):
                self.plain(tokens, use_cache=False, **inputs)

    def read(
        self, tokens: Int64[Tensor, "batch pos"], layer: int, neurons: Int64[Tensor, " neurons"], **inputs: Tensor
    ) -> Float[Tensor, "batch pos neurons"]:
        """Activations of some neurons of one layer; where the architecture allows it, its others are not computed.

        Args:
            tokens: As for :meth:`run`.
            layer: Where the pass stops.
            neurons: The neurons, in any order.
            inputs: As for :meth:`run`.
        """
        neurons = neurons.to(self.device)
        if self.narrows:
            return self._read_narrow(tokens, layer, neurons, **inputs)
        found: list[Tensor] = []
        self.run(tokens, {layer: lambda activations: found.append(activations.index_select(2, neurons))}, **inputs)
        return found[0]

    @cached_property
    def packs(self) -> int:
        """Tokens of the longest prompts that it reads alike packed and apart (see ``packing``); 0 for none."""
        return longest_packed(self)

    @cached_property
    def narrows(self) -> bool:
        """Whether a layer's neurons can be computed one without the other: checked on a few, in the outer layers."""
        layers = sorted({self.hook.layers[0], self.hook.layers[-1]})
        if self.bridge is not None or not all(self._input_matrices(layer) for layer in layers):
            return False
        tokens = torch.tensor([[self.bos_id, *range(0, self.d_vocab, 1 + self.d_vocab // 8)]])
        neurons = torch.tensor([self.d_mlp - 1, 0, self.d_mlp // 2], device=self.device)
        for layer in layers:
            whole, narrow = self._read_whole_and_narrow(tokens, layer, neurons)
            if narrow.shape[2] != 3:
                return False
            apart = (whole[:, 1:, neurons] - narrow[:, 1:]).abs()
            if not float(apart.max()) <= self.rounding * float(whole[:, 1:].abs().max()):
                return False
        return True

    def _read_whole_and_narrow(
        self, tokens: Int64[Tensor, "batch pos"], layer: int, neurons: Int64[Tensor, " neurons"]
    ) -> tuple[Float[Tensor, "batch pos d_mlp"], Float[Tensor, "batch pos width"]]:
        """The latter of another width than there are neurons where the MLP cannot do with some."""
        found: list[Tensor] = []
        self.run(tokens, {layer: found.append})
        try:
            return found[0], self._read_narrow(tokens, layer, neurons)
        except (RuntimeError, ValueError, IndexError) as error:  # a module behind them wants all neurons
            if is_out_of_memory(error):
                raise
            return found[0], found[0]

    def _read_narrow(
        self, tokens: Int64[Tensor, "batch pos"], layer: int, neurons: Int64[Tensor, " neurons"], **inputs: Tensor
    ) -> Float[Tensor, "batch pos neurons"]:
        found: list[Tensor] = []
        with self.turns.mine(), torch.inference_mode(), only(self._input_matrices(layer), neurons):
            self.run(tokens, {layer: found.append}, **inputs)
        return found[0]

    def _input_matrices(self, layer: int) -> list[torch.nn.Module]:
        assert self.hook.taps is not None
        return input_matrices(self.plain, self.hook.taps[layer], self.d_mlp)

    def _run_bridge(
        self, bridge: TransformerBridge, tokens: Int64[Tensor, "batch pos"], taps: Mapping[int, Callback], deepest: int
    ) -> None:
        def read(layer: int) -> Callable[..., None]:
            def tap(activations: Tensor, hook: Any) -> None:
                taps[layer](activations.flatten(2))

            return tap

        fwd_hooks: list[Any] = [(self.hook.full_name(layer), read(layer)) for layer in taps]
        with torch.inference_mode():
            bridge.run_with_hooks(tokens, return_type=None, stop_at_layer=deepest + 1, fwd_hooks=fwd_hooks)

    def logits(
        self,
        tokens: Int64[Tensor, "batch pos"],
        at: tuple[Sequence[int], Sequence[int]] | None = None,
        **inputs: Tensor,
    ) -> Float32[Tensor, "... d_vocab"]:
        """Next-token logits, over the full depth, in float32.

        Args:
            tokens: Token ids, BOS at position 0, padded on the right.
            at: Rows and positions whose logits are wanted; the others are then never computed. None takes all.
            **inputs: What else the transformers model is to get: ``attention_mask``, ``position_ids``.

        Returns:
            ``[batch, pos, d_vocab]``, or ``[len(at[0]), d_vocab]``, on the model's device.
        """
        tokens = tokens.to(self.device)
        with self.turns.mine(), torch.inference_mode(), ExitStack() as hooks:
            if at is None:
                return self._all_logits(tokens, inputs)
            rows = torch.as_tensor(at[0], dtype=torch.long, device=self.device)
            positions = torch.as_tensor(at[1], dtype=torch.long, device=self.device)

            def pick(_module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                return (args[0][rows, positions].unsqueeze(0), *args[1:])

            # Whatever follows the unembedding (soft caps, scales) works on each element alone, so it may see few rows.
            hooks.enter_context(self.unembedding.register_forward_pre_hook(pick))
            return self._all_logits(tokens, inputs)[0]

    def _all_logits(
        self, tokens: Int64[Tensor, "batch pos"], inputs: Mapping[str, Tensor]
    ) -> Float32[Tensor, "rows columns d_vocab"]:
        output = self.plain(tokens, use_cache=False, **inputs)
        return (output if isinstance(output, Tensor) else output.logits).float()


def _tapped(plain: torch.nn.Module, tap: Tap, callback: Callback, *, stop: bool) -> Any:
    """A hook on the plain model that hands activations to ``callback``; removed when its context ends."""

    def read(value: Any) -> None:
        callback((value[0] if isinstance(value, tuple) else value).flatten(2))
        if stop:
            raise _DepthReached

    def before(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read(args[0] if args else kwargs["hidden_states"])

    def after(_module: Any, _args: Any, output: Any) -> None:
        read(output)

    module = plain.get_submodule(tap.module)
    if tap.side == "input":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


def load_subject(
    files: SubjectFiles,
    hook: str,
    harvest: HarvestSettings,
    mask_token: str,
    dtype: Literal["float32", "bfloat16"] = "float32",
    turns: Turns = _ALONE,
) -> SubjectModel:
    """Load a subject model and check it.

    Args:
        files: The model on disk.
        hook: TransformerLens hook inside a block, such as ``mlp.hook_post``.
        harvest: Only ``device`` is read.
        mask_token: ``auto``, or the text of one token.
        dtype: Arithmetic.
        turns: Turns at the machine that it shares with other runs.

    Raises:
        SourceError: Files are damaged, or weights are missing in them.
        SubjectError: The model lacks the hook, TransformerLens cannot wrap it, or the two disagree.
        SettingsError: The device is not there, or the mask token is not one token.
    """
    device = _choose_device(harvest.device)
    tokenizer = SubjectTokenizer.load(files.folder)
    plain = load_plain(files.folder, getattr(torch, dtype), device)
    bridge = boot_bridge(plain.module, files.folder, tokenizer.transformers)
    resolved = resolve_hook(bridge, hook, plain.module, int(bridge.cfg.n_layers))
    model = SubjectModel(
        name=files.name,
        hook=resolved,
        n_layers=int(bridge.cfg.n_layers),
        d_mlp=0,
        d_model=int(bridge.cfg.d_model),
        d_vocab=plain.d_vocab,
        max_context=int(plain.max_context or bridge.cfg.n_ctx),
        activation=plain.activation or str(bridge.cfg.act_fn),
        gated=bool(getattr(bridge.cfg, "gated_mlp", False)),
        device=device,
        dtype=getattr(torch, dtype),
        bos_id=tokenizer.bos_id(plain.d_vocab),
        mask_id=tokenizer.mask_id(mask_token, plain.d_vocab),
        tokenizer=tokenizer,
        plain=plain.module,
        unembedding=plain.unembedding,
        turns=turns,
        bridge=bridge if resolved.taps is None else None,
    )
    model.d_mlp = _measure_width(model)
    with turns.mine():
        model.facts = verify_subject(model, bridge, files)
    return model


def _choose_device(device: str) -> torch.device:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, available in there.items() if available))
    if not there[device]:
        raise SettingsError(f"harvest.device is {device}, which this machine does not offer: set it to auto or cpu.")
    return torch.device(device)


def _measure_width(model: SubjectModel) -> int:
    """Neurons of a layer at the hook, from one short pass through all layers that have it."""
    shapes: dict[int, tuple[int, ...]] = {}
    tokens = torch.full((2, 5), model.bos_id)

    def note(layer: int) -> Callback:
        return lambda activations: shapes.__setitem__(layer, tuple(activations.shape))

    try:
        model.run(tokens, {layer: note(layer) for layer in model.hook.layers})
    except (ValueError, IndexError, KeyError) as error:
        raise SubjectError(
            f"The hook '{model.hook.name}' of {model.name} cannot be read ({error}): choose another, such as "
            "mlp.hook_post."
        ) from error
    widths = {shape[2] for shape in shapes.values() if len(shape) == 3 and shape[:2] == tokens.shape}
    if set(shapes) != set(model.hook.layers) or len(widths) != 1:
        raise SubjectError(
            f"The hook '{model.hook.name}' of {model.name} does not give one vector of the same width a position in "
            "every layer: choose another, such as mlp.hook_post."
        )
    return widths.pop()


def _ranges(numbers: Sequence[int]) -> str:
    first, last = numbers[0], numbers[-1]
    return f"{first} to {last}" if len(numbers) == last - first + 1 else ", ".join(map(str, numbers))
