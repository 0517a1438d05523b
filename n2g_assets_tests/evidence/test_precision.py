"""Activations in fewer bits: what each precision keeps of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from n2g_assets.evidence.precision import DTYPES, decode, encode

ROWS = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=20),
    elements=st.floats(-(2.0**120), 2.0**120, width=32) | st.sampled_from([0.0, 1.0, -3.5, 1e-3, 2.0**-120]),
)  # fmt: skip


def kept(values: np.ndarray, name: str) -> np.ndarray:
    codes = np.empty(values.shape, DTYPES[name])
    scales = encode(values, codes)
    return np.stack([decode(row, scale) for row, scale in zip(codes, scales.tolist(), strict=True)])


@given(ROWS)
def test_int8_keeps_the_strongest_exactly_and_square_roots_within_half_a_step(values):
    found, largest = kept(values, "int8").astype(np.float64), np.abs(values).max(axis=1, keepdims=True)
    strongest = np.abs(values) == largest
    assert np.array_equal(found[strongest], values[strongest])
    apart = np.sqrt(np.abs(found)) * np.sign(found) - np.sqrt(np.abs(values.astype(float))) * np.sign(values)
    assert (np.abs(apart) <= (0.5 / 127 + 1e-6) * np.sqrt(largest)).all()


@given(ROWS)
def test_float16_keeps_11_bits_of_whatever_magnitude(values):
    exact = values.astype(np.float64)
    apart = np.abs(kept(values, "float16") - exact)
    largest = np.abs(exact).max(axis=1, keepdims=True)
    assert (apart <= np.maximum(2.0**-11 * np.abs(exact), 2.0**-38 * largest)).all()


@pytest.mark.parametrize("name", ["float16", "int8"])
@given(values=ROWS)
def test_order_and_sign_are_kept_and_silence_stays_silence(name, values):
    found = kept(values, name)
    order = np.argsort(values, axis=1)
    assert (np.diff(np.take_along_axis(found, order, 1), axis=1) >= 0).all()
    assert ((found == 0) | (np.sign(found) == np.sign(values))).all()
    assert not kept(np.zeros((2, 5), np.float32), name).any()


def test_float32_is_handed_through():
    codes = np.array([1.5, -2.0], np.float32)
    assert decode(codes, 1.0) is codes
