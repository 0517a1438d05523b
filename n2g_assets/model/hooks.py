"""TransformerLens hook names, resolved to modules of the plain model, and to the matrices that compute their neurons.

A TransformerBridge wraps every module of a transformers model that it knows, and its hook points sit on the input or
the output side of such a wrapper. In four steps:

1. copy the plain model's structure, sharing its parameters, and boot a bridge on the copy (the bridge rewires the
   model it is given and forces eager attention, which is several times slower);
2. look up ``blocks.<layer>.<hook>`` among the bridge's hooks; aliases such as ``mlp.hook_post`` lead to the same
   hook point as what they stand for (``mlp.out.hook_in``);
3. find where that hook point hangs in the copy: its path without the wrappers is a module of the plain model;
4. where there is no such module (the bridge computes the value itself), the caller runs through the bridge instead.

A layer's neurons are computed from the residual stream by the input matrix and, in a gated MLP, the gate. Where each
neuron depends on its own rows alone (an activation function, a product with its gate), the MLP's own code gives the
same values from the rows of the asked neurons (``only``). Where neurons mix (SoLU's softmax and LayerNorm), or the
matrices are of another kind, the check at first use finds it, and all neurons are computed.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from n2g_assets.core.errors import SubjectError, short_reason
from n2g_assets.model.config import NEURONS
from n2g_assets.model.folder import quiet_transformers

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_WRAPPER = "_original_component"
_SIDES: dict[str, Literal["input", "output"]] = {"hook_in": "input", "hook_out": "output"}


@dataclass(frozen=True)
class Tap:
    """A module of the plain model and the side of it that a hook reads."""

    module: str
    side: Literal["input", "output"]


@dataclass(frozen=True)
class ResolvedHook:
    """A hook name and the modules that it reads, for every layer that has it."""

    name: str
    """The hook inside a block, such as ``mlp.hook_post``."""
    layers: tuple[int, ...]
    """Those that have the hook, ascending."""
    taps: dict[int, Tap] | None
    """For each of them what is read in the plain model; None where the hook can only be read through the bridge."""


def boot_bridge(plain: torch.nn.Module, folder: Path, tokenizer: Any) -> TransformerBridge:
    """A TransformerBridge on a copy of ``plain`` that shares its parameters; what is handed in stays as it is.

    ``plain`` is a model of transformers or of TransformerLens; the bridge reads config.json in its ``folder``.

    Raises:
        SubjectError: The bridge does not know the architecture.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    twin: Any = copy.deepcopy(plain, {id(parameter): parameter for parameter in plain.parameters()})
    parameter = next(plain.parameters())
    with quiet_transformers():
        if type(plain).__name__ == "NativeModel":
            return build_bridge_from_module(twin, "TransformerLensNative", tl_config=twin.cfg).eval()
        try:
            return TransformerBridge.boot_transformers(
                str(folder),
                hf_model=twin,
                tokenizer=copy.deepcopy(tokenizer),  # which it gives tokens that it lacks, such as one for padding
                device=parameter.device,
                dtype=parameter.dtype,
            ).eval()
        except (ValueError, NotImplementedError, KeyError, AttributeError, TypeError) as error:
            raise SubjectError(
                f"TransformerLens cannot wrap a {type(plain).__name__} ({short_reason(error)}): choose a model of an "
                "architecture that its TransformerBridge supports."
            ) from error


def resolve_hook(bridge: TransformerBridge, hook: str, plain: torch.nn.Module, n_layers: int) -> ResolvedHook:
    """What ``blocks.<layer>.<hook>`` reads in the plain model, for every layer.

    Blocks whose MLP the bridge does not take apart, such as mixtures of experts, have no neurons: there it gives what
    enters or leaves the whole MLP under the name of the hook.

    Raises:
        SubjectError: No block has the hook; the message lists the hooks and names the nearest.
    """
    points = bridge.hook_dict
    having = [layer for layer in range(n_layers) if f"blocks.{layer}.{hook}" in points]
    layers = tuple(layer for layer in having if hook not in NEURONS or not _is_whole(points, layer, hook))
    if having and not layers:
        raise SubjectError(
            f"A {type(plain).__name__} has no neurons at '{hook}': TransformerLens gives there what enters or leaves "
            "the whole MLP, a mixture of experts or another kind that it does not take apart, so choose another model, "
            "or a hook that says so, such as hook_mlp_out."
        )
    if not layers:
        known = sorted(name.removeprefix("blocks.0.") for name in points if name.startswith("blocks.0."))
        near = difflib.get_close_matches(hook, known, n=1, cutoff=0.5)
        suggestion = f"did you mean '{near[0]}'? " if near else ""
        raise SubjectError(f"The model's blocks have no hook '{hook}': {suggestion}They have {', '.join(known)}.")
    readable = _readable_points(bridge, plain)
    taps = {layer: readable.get(id(points[f"blocks.{layer}.{hook}"])) for layer in layers}
    found = {layer: tap for layer, tap in taps.items() if tap is not None}
    return ResolvedHook(hook, layers, found if len(found) == len(layers) else None)


def _is_whole(points: Mapping[str, Any], layer: int, hook: str) -> bool:
    """Whether a hook of a block is the one before or behind its whole MLP, under another name."""
    point, ends = points[f"blocks.{layer}.{hook}"], ("mlp.hook_in", "mlp.hook_out")
    return any(point is points.get(f"blocks.{layer}.{end}") for end in ends)


def another(hook: str) -> str:
    """The cure for a hook that cannot be read."""
    return "choose another, such as " + ("mlp.hook_post" if hook != "mlp.hook_post" else "hook_mlp_out")


def _readable_points(bridge: TransformerBridge, plain: torch.nn.Module) -> dict[int, Tap]:
    """By the id of a hook point of the bridge, the tap in the plain model that reads the same, where there is one."""
    modules = {path for path, _ in plain.named_modules()}
    taps: dict[int, Tap] = {}
    for path, point in bridge.original_model.named_modules(remove_duplicate=False):
        *parents, name = [part for part in path.split(".") if part != _WRAPPER]
        module = ".".join(parents)
        if name in _SIDES and module in modules:
            taps.setdefault(id(point), Tap(module, _SIDES[name]))
    return taps


def input_matrices(plain: torch.nn.Module, tap: Tap, d_mlp: int) -> list[torch.nn.Module]:
    """The modules of the MLP at a tap whose outputs are its neurons; empty where there are none."""
    from transformers.pytorch_utils import Conv1D

    mlp = plain.get_submodule(tap.module.rpartition(".")[0])
    return [
        module
        for module in mlp.modules()
        if (type(module) is torch.nn.Linear and module.out_features == d_mlp)
        or (type(module) is Conv1D and module.nf == d_mlp)
    ]


@contextmanager
def only(matrices: Sequence[torch.nn.Module], neurons: Int64[Tensor, " neurons"]) -> Iterator[None]:
    """Inside the block each matrix computes the asked neurons alone, in their order."""
    try:
        for matrix in matrices:
            weight, bias = matrix.weight, matrix.bias
            assert isinstance(weight, Tensor)
            rows = weight[neurons] if isinstance(matrix, torch.nn.Linear) else weight[:, neurons].t()
            few = bias[neurons] if isinstance(bias, Tensor) else None
            matrix.forward = partial(torch.nn.functional.linear, weight=rows, bias=few)
        yield
    finally:
        for matrix in matrices:
            matrix.__dict__.pop("forward", None)
