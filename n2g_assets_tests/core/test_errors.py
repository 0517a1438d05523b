"""What other libraries say becomes a part of one sentence."""

import pytest

from n2g_assets.core.errors import short_reason

WORDS = " ".join(["word"] * 100)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("it is\n  damaged. ", "it is damaged"),
        ("", "ValueError"),
        (" \n", "ValueError"),
        (f"It is damaged. It says {WORDS}.", "It is damaged"),
        (WORDS, " ".join(["word"] * 60) + " ..."),
        ("x" * 400, "x" * 300 + " ..."),
    ],
)
def test_a_reason_is_one_line_of_whole_sentences_else_words(said, expected):
    assert short_reason(ValueError(said)) == expected
