"""Computes only the asked neurons of an MLP: the rows of its input matrices that belong to them, and no others.

Two kinds of matrices make a layer's neurons out of the residual stream: the input matrix, and beside it, in a gated
MLP, the gate. Where all else that happens to a neuron happens to it alone (an activation function, a product with its
gate), the MLP computes the same with some of their rows, and its own code goes on to say how. Where neurons mix (SoLU's
softmax and LayerNorm), or where the matrices are made otherwise, the check at first use finds it, and everything is
computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from n2g_assets.model.hooks import Tap


def input_matrices(plain: torch.nn.Module, tap: Tap, d_mlp: int) -> list[torch.nn.Module]:
    """The modules of the MLP at a tap that map to its neurons; none where there are no such modules."""
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
    """While it lasts, each matrix gives the asked neurons alone, in their order."""
    try:
        for matrix in matrices:
            matrix.forward = _narrowed(matrix, neurons)
        yield
    finally:
        for matrix in matrices:
            matrix.__dict__.pop("forward", None)


def _narrowed(
    matrix: torch.nn.Module, neurons: Int64[Tensor, " neurons"]
) -> Callable[[Float[Tensor, "... d_model"]], Float[Tensor, "... neurons"]]:
    weight, bias = matrix.weight, matrix.bias
    assert isinstance(weight, Tensor)
    rows = weight[neurons] if isinstance(matrix, torch.nn.Linear) else weight[:, neurons].t()
    return partial(torch.nn.functional.linear, weight=rows, bias=bias[neurons] if isinstance(bias, Tensor) else None)
