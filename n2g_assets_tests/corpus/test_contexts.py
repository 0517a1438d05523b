from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from n2g_assets.corpus.contexts import SHORTEST_PIECE, cut_contexts


def cut(n_tokens, context_length):
    tokens = np.arange(10, 10 + n_tokens, dtype=np.int32)
    return [window.tolist() for window in cut_contexts(tokens, context_length=context_length, bos_id=1)]


def test_twenty_tokens_in_windows_of_nine():
    # pieces of 8, 8 and 4: the last is under 8 tokens and goes
    assert cut(20, 9) == [[1, *range(10, 18)], [1, *range(18, 26)]]


def test_a_last_piece_of_eight_tokens_stays():
    assert cut(18, 11) == [[1, *range(10, 20)], [1, *range(20, 28)]]


def test_a_short_document_keeps_its_only_piece():
    assert cut(3, 128) == [[1, 10, 11, 12]]


def test_no_tokens_make_no_context():
    assert cut(0, 128) == []


@given(st.integers(1, 400), st.integers(SHORTEST_PIECE, 60))
def test_windows_hold_every_token_in_order_but_a_short_last_piece(n_tokens, context_length):
    windows = cut(n_tokens, context_length)
    held = [token for window in windows for token in window[1:]]
    assert held == list(range(10, 10 + len(held)))
    assert all(window[0] == 1 and len(window) <= context_length for window in windows)
    assert all(len(window) == context_length for window in windows[:-1])
    assert 0 <= n_tokens - len(held) < SHORTEST_PIECE
