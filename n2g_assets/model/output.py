"""What the neurons of an MLP write: the tokens whose logits the output direction of each raises and lowers most.

A neuron's row of the output matrix is added to the residual stream, in some models through a norm behind the MLP, and
reaches the logits through the final norm and the unembedding. Of a norm its weight and, where it has one, its centring
count; its division, which is another at every position, is left out, and so is what follows the logits, such as a soft
cap: it keeps their order. What stands on the way is seen in a short pass, whatever the model calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import polars as pl
import torch
from jaxtyping import Float32
from torch import Tensor

from n2g_assets.core.units import Unit
from n2g_assets.model.model import SubjectModel

WRITING = "mlp.hook_post"
"""The hook whose units have tokens: what the output matrix of an MLP reads."""
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

    There are none at other hooks than ``WRITING``, or where the way to the logits has a step that is neither a norm nor
    a matrix.
    """
    found = _writing(model, layer)
    if found is None:
        return pl.DataFrame(schema=_SCHEMA)
    weight, steps = found
    unembedding: Any = model.unembedding.weight
    n_tokens = unembedding.shape[0]
    shown, at_once = min(SHOWN, n_tokens), max(1, _BLOCK_ELEMENTS // n_tokens)
    frames = [pl.DataFrame(schema=_SCHEMA)]
    with torch.inference_mode():
        for start in range(0, len(units), at_once):
            block = units[start : start + at_once]
            signs = torch.tensor([unit.sign for unit in block], device=model.device)
            rows = weight[[unit.number for unit in block]].float() * signs[:, None]
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


def _writing(model: SubjectModel, layer: int) -> tuple[Float32[Tensor, "d_mlp d_model"], list[torch.nn.Module]] | None:
    """The output matrix that reads the hook, a row a neuron, and the modules between it and the unembedding."""
    from transformers.pytorch_utils import Conv1D

    tap = model.hook.taps[layer] if model.hook.taps is not None and model.hook.name == WRITING else None
    if tap is None or tap.side != "input":
        return None
    matrix: Any = model.plain.get_submodule(tap.module)
    if type(matrix) not in (torch.nn.Linear, Conv1D):
        return None
    calls = _calls(model)
    written = next(call.gave for call in calls if call.module is matrix)
    behind = [call.module for call in calls if _same(call.read, written) and not _same(call.gave, written)]
    before: list[torch.nn.Module] = []
    end = next(call.read for call in calls if call.module is model.unembedding)
    while call := next((each for each in calls if _same(each.gave, end) and not _same(each.read, end)), None):
        before.insert(0, call.module)
        end = call.read
    return (matrix.weight if type(matrix) is Conv1D else matrix.weight.t()), [*behind[:1], *before]


def _calls(model: SubjectModel) -> list[_Call]:
    """The modules without parts that a short text runs through, in order; what they gave is kept, so none is reused."""
    calls: list[_Call] = []

    def note(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], gave: Any) -> None:
        read = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(read, Tensor) and isinstance(gave, Tensor):
            calls.append(_Call(module, read, gave))

    with ExitStack() as hooks:
        for module in model.plain.modules():
            if next(module.children(), None) is None:
                hooks.enter_context(module.register_forward_hook(note, with_kwargs=True))
        model.logits(torch.tensor([[model.bos_id, 0, 1]]))
    return calls


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are one in memory, such as a view of another shape."""
    return one.data_ptr() == other.data_ptr() and one.numel() == other.numel()


def _through(module: torch.nn.Module, rows: Float32[Tensor, "rows width"]) -> Float32[Tensor, "rows width"] | None:
    """Directions behind a matrix or a norm without its division; None where it is neither.

    What a norm is, is seen in what it makes of known vectors: whether it centres, and its weight, however it is kept.
    """
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
