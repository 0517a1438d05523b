"""Numbers scattered over all 64-bit numbers, so that an order by them is as good as random and the same everywhere."""

import numpy as np
from jaxtyping import UInt64

STEP = np.uint64(0x9E3779B97F4A7C15)
"""What SplitMix64 adds between two numbers of a sequence."""


def mixed(values: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """The finaliser of SplitMix64 (Steele et al., 2014)."""
    values = (values ^ (values >> 30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> 27)) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> 31)
