"""What units write: the tokens whose logits the output direction of each raises and lowers most.

A neuron's row of the MLP's output matrix is added to the residual stream, in some models through a norm behind the MLP,
and reaches the logits through the final norm and the unembedding. So does a latent's row of its encoder's decoder, or a
direction itself, where it lies in the residual stream, in what a block's MLP or attention adds to it, or in what their
output matrices read. Of a norm its weight and, where it has one, its centring count; its division, which is
another at every position, is left out, and so is what follows the logits, such as a soft cap: it keeps their order.
What stands on the way is seen in a short pass, whatever the model calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import polars as pl
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from n2g_assets.core.units import Unit
from n2g_assets.model.hooks import ResolvedHook, Tap
from n2g_assets.model.model import SubjectModel

WRITING = "mlp.hook_post"
"""What the output matrix of an MLP reads."""
MIXED = (WRITING, "attn.hook_z")
"""What the output matrices of MLP and attention read."""
RESIDUAL = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
"""The residual stream, whose vectors reach the logits through the final norm alone."""
ADDED = ("hook_mlp_out", "mlp.hook_out", "hook_attn_out", "attn.hook_out")
"""What is added to it, in some models through a norm."""
SHOWN = 10
"""Tokens of a unit in each direction."""
DIRECTIONS = ("raised", "lowered")
"""Values of ``output_tokens.direction``."""

_BLOCK_ELEMENTS = 2**24
"""Logits that are in memory at once."""
_SCHEMA = {
    "unit": pl.Int32, "sign": pl.Int8, "direction": pl.String, "rank": pl.Int32, "token_id": pl.Int32,
    "effect": pl.Float32,
}  # fmt: skip


class _Call(NamedTuple):
    """A module without parts that ran, what it read and what it gave."""

    module: torch.nn.Module
    read: Tensor
    gave: Tensor


def output_tokens(model: SubjectModel, layer: int, units: Sequence[Unit]) -> pl.DataFrame:
    """The rows of ``output_tokens`` for units of a layer.

    There are none of values that the hook carries elsewhere than at ``WRITING``, of heads, of latents whose directions
    lie in no space that is known, or where the way to the logits has a step that is neither a norm nor a matrix.
    """
    directions, steps = _written(model, layer) if layer in model.encoders else _of_neurons(model, layer)
    if directions is None:
        return pl.DataFrame(schema=_SCHEMA)
    unembedding: Any = model.unembedding.weight
    n_tokens = unembedding.shape[0]
    shown, at_once = min(SHOWN, n_tokens), max(1, _BLOCK_ELEMENTS // n_tokens)
    frames = [pl.DataFrame(schema=_SCHEMA)]
    with torch.inference_mode():
        for start in range(0, len(units), at_once):
            block = units[start : start + at_once]
            signs = torch.tensor([unit.sign for unit in block], device=model.device)
            rows = directions[[unit.number for unit in block]].to(model.device, torch.float32) * signs[:, None]
            for step in steps:
                through = _through(step, rows)
                if through is None:
                    return pl.DataFrame(schema=_SCHEMA)
                rows = through
            effects = rows @ unembedding.float().t()
            effects -= effects.mean(dim=1, keepdim=True)
            for direction, largest in zip(DIRECTIONS, (True, False), strict=True):
                top = effects.topk(shown, largest=largest)
                frames.append(_frame(block, direction, top.indices.cpu(), top.values.cpu()))
    return pl.concat(frames)


def _frame(block: Sequence[Unit], direction: str, token_ids: Tensor, effects: Tensor) -> pl.DataFrame:
    shown = token_ids.shape[1]
    columns = {
        "unit": [unit.number for unit in block for _ in range(shown)],
        "sign": [unit.sign for unit in block for _ in range(shown)],
        "direction": [direction] * (len(block) * shown),
        "rank": list(range(shown)) * len(block),
        "token_id": token_ids.flatten().numpy(),
        "effect": effects.flatten().numpy(),
    }
    return pl.DataFrame(columns, schema=_SCHEMA)


_Step = torch.nn.Module | Tensor
"""On the way to the logits: a norm, or a matrix as a module or as [read, given]."""
_Way = tuple[Float[Tensor, "units width"] | None, Sequence[_Step]]
"""Directions, a row a unit, and the steps from there to the unembedding; None where no way to the logits is known."""


def _written(model: SubjectModel, layer: int) -> _Way:
    """What the latents of a layer's encoder write; heads write in no direction of their own."""
    encoder = model.encoders[layer]
    directions = encoder.directions
    hook: ResolvedHook | None = model.hook
    if encoder.writes is not None:
        hook = model.targets.get(str(encoder.writes.hook))
        layer = layer if encoder.writes.layer is None else encoder.writes.layer
    tap = hook.taps.get(layer) if hook is not None and hook.taps is not None else None
    if directions is None or hook is None or tap is None:
        return None, ()
    if hook.name in RESIDUAL:
        return directions, _to_logits(model, _calls(model))
    if hook.name in MIXED:
        matrix, steps = _writing(model, tap)
        return (None, ()) if matrix is None else (directions, [matrix, *steps])
    if hook.name not in ADDED:
        return None, ()
    calls, module = _calls(model, tap.module), model.plain.get_submodule(tap.module)
    added = next(call.gave if tap.side == "output" else call.read for call in calls if call.module is module)
    return directions, [*_behind(calls, added), *_to_logits(model, calls)]


def _of_neurons(model: SubjectModel, layer: int) -> _Way:
    """What the neurons of a layer write."""
    taps = model.hook.taps if model.hook.name == WRITING else None
    return (None, ()) if taps is None else _writing(model, taps[layer])


def _writing(model: SubjectModel, tap: Tap) -> _Way:
    """The output matrix that reads at a tap, a row a neuron, and the modules between it and the unembedding."""
    from transformers.pytorch_utils import Conv1D

    matrix: Any = model.plain.get_submodule(tap.module)
    if tap.side != "input" or type(matrix) not in (torch.nn.Linear, Conv1D):
        return None, ()
    calls = _calls(model)
    written = next(call.gave for call in calls if call.module is matrix)
    steps = [*_behind(calls, written), *_to_logits(model, calls)]
    return (matrix.weight if type(matrix) is Conv1D else matrix.weight.t()), steps


def _behind(calls: Sequence[_Call], written: Tensor) -> list[torch.nn.Module]:
    """The norm that reads what a part of a block writes, where there is one."""
    found = [call.module for call in calls if _same(call.read, written) and not _same(call.gave, written)]
    return found[:1]


def _to_logits(model: SubjectModel, calls: Sequence[_Call]) -> list[torch.nn.Module]:
    """The modules between the last block and the unembedding."""
    before: list[torch.nn.Module] = []
    end = next(call.read for call in calls if call.module is model.unembedding)
    while call := next((each for each in calls if _same(each.gave, end) and not _same(each.read, end)), None):
        before.insert(0, call.module)
        end = call.read
    return before


def _calls(model: SubjectModel, also: str = "") -> list[_Call]:
    """The modules without parts that a short text runs through, in order, and another one, by its path.

    What they gave is kept, so that no memory is used again.
    """
    calls: list[_Call] = []
    whole = model.plain.get_submodule(also) if also else None

    def note(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], gave: Any) -> None:
        read = args[0] if args else next(iter(kwargs.values()), None)
        gave = gave[0] if module is whole and isinstance(gave, tuple) else gave
        if isinstance(read, Tensor) and isinstance(gave, Tensor):
            calls.append(_Call(module, read, gave))

    with ExitStack() as hooks:
        for module in model.plain.modules():
            if next(module.children(), None) is None or module is whole:
                hooks.enter_context(module.register_forward_hook(note, with_kwargs=True))
        model.logits(torch.tensor([[model.bos_id, 0, 1]]))
    return calls


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are one in memory, such as a view of another shape."""
    return one.data_ptr() == other.data_ptr() and one.numel() == other.numel()


def _through(module: _Step, rows: Float32[Tensor, "rows width"]) -> Float32[Tensor, "rows width"] | None:
    """Directions behind a matrix or a norm without its division; None where it is neither.

    What a norm is, is seen in what it makes of known vectors: whether it centres, and its weight, however it is kept.
    """
    if isinstance(module, Tensor):
        return rows @ module.float()
    if type(module) is torch.nn.Linear:
        return rows @ module.weight.float().t()
    width, device = rows.shape[1], rows.device
    known = torch.ones(width, device=device)
    known[1::2] = -1
    known -= known.mean()
    probe = torch.randn(width, generator=torch.Generator().manual_seed(0)).to(device)
    even = torch.ones(width, device=device)
    said = [module(1e3 * each).float() for each in (known, -known, even, -even, probe)]
    weight = (said[0] - said[1]) / 2 / known * known.square().mean().sqrt()
    bias = (said[0] + said[1]) / 2
    centres = bool((said[2] - said[3]).abs().max() <= 1e-3 * weight.abs().max())

    def linear(rows: Tensor) -> Tensor:
        return (rows - rows.mean(dim=-1, keepdim=True) if centres else rows) * weight

    deviation = (probe - probe.mean() if centres else probe).square().mean().sqrt()
    apart = (linear(probe) / deviation + bias - said[4]).abs().max()
    return linear(rows) if apart <= 1e-3 * said[4].abs().max() else None
