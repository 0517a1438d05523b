"""Computes only the asked neurons of an MLP: the rows of its input matrices that belong to them, and no others.

A layer's neurons are computed from the residual stream by the input matrix and, in a gated MLP, the gate. Where each
neuron depends on its own rows alone (an activation function, a product with its gate), the MLP's own code gives the
same values from the rows of the asked neurons. Where neurons mix (SoLU's softmax and LayerNorm), or the matrices are of
another kind, the check at first use finds it, and all neurons are computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Int64
from torch import Tensor

from n2g_assets.model.hooks import Tap


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
