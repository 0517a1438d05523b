"""How activations are kept: in float32; in float16, times a power of two; or in int8, companded, with a scale.

Every neuron has a scale of its own in each file. An int8 code c stands for scale * sign(c) * (c / 127)**2, and the
scale is the largest magnitude: the square spends half of the codes on the weakest quarter, where most activations lie,
and keeps a strong one within 1.6 %. A float16 code stands for scale * c and is as exact as float16 can be, whatever
the magnitude of the activations.
"""

import numpy as np
from jaxtyping import Float32, Num

DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "int8": np.dtype(np.int8),
}
"""By the name of a precision, the type of its codes."""
_HALF_RANGE = 15
"""Codes in float16 are below two to this power."""
_SMALLEST = -126
"""Exponent of the smallest scale."""
_STEPS = 127
_SIGNED = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32)
_VALUES = np.sign(_SIGNED) * np.square(_SIGNED / _STEPS)
"""What each code in int8 stands for, by its bits."""


def encode(
    values: Float32[np.ndarray, "neurons tokens"], codes: Num[np.ndarray, "neurons tokens"]
) -> Float32[np.ndarray, " neurons"]:
    """Write finite activations into ``codes``, in float16 or int8, a neuron at a time; gives the neurons' scales."""
    scales = np.ones(len(values), np.float32)
    for number, row in enumerate(values):
        largest = np.abs(row).max(initial=0)
        if largest == 0:
            codes[number] = 0
        elif codes.dtype == np.float16:
            scales[number] = np.ldexp(np.float32(1), max(np.frexp(largest)[1] - _HALF_RANGE, _SMALLEST))
            codes[number] = row / scales[number]
        else:
            scales[number] = largest
            codes[number] = np.rint(np.sign(row) * np.sqrt(np.abs(row) / largest) * _STEPS)
    return scales


def decode(codes: Num[np.ndarray, " tokens"], scale: float) -> Float32[np.ndarray, " tokens"]:
    """The activations of one neuron; those kept in float32 are not copied."""
    if codes.dtype == np.float32:
        return codes
    return (_VALUES[codes.view(np.uint8)] if codes.dtype == np.int8 else codes.astype(np.float32)) * np.float32(scale)
