"""Compiles loops over arrays with numba.

Compiled code is kept on disk, beside its module or in the user's cache folder. Where neither can be written, each
process compiles again.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function, compiled when it is first called. It releases the GIL, so other threads run at the same time."""
    from numba import njit

    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba finds no folder for its cache
        return njit(nogil=True)(function)
