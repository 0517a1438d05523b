"""Names of token classes."""

import numpy as np
import pytest

from n2g_assets.report.class_names import FEWEST, PROPERTIES, class_name, token_properties

WORDS = [b" house", b" old", b" stood", b" quiet", b" tree", b" river", b" green", b" walk", b" seven", b" cold"]
PIECES = [b"ing", b"ation", b"er", b"est", b"ly", b"ness"]
KINDS = {
    "line ends": [b"\n", b"\n\n", b"\n   ", b"\r\n"],
    "spaces": [b" ", b"  ", b"\t", b"        "],
    "numbers": [b"1", b" 2", b"1999", "٣".encode()],
    "code keywords": [b"def", b" return", b"import", b" lambda"],
    "punctuation": [b".", b"):", b" ==", "“".encode()],
    "all capitals": [b"HTTP", b" NASA", b"GE", "ÄÖ".encode()],
    "capitals": [b" The", b"Paris", " Émile".encode(), b"X"],
    "parts of words": PIECES,
}
VOCABULARY = [*WORDS, *PIECES, *(token for tokens in KINDS.values() for token in tokens), b"\xff", b""]


def name(tokens: list[bytes], weights: list[float] | None = None, vocabulary: list[bytes] = VOCABULARY) -> str | None:
    ids = np.array([vocabulary.index(token) for token in tokens], np.int32)
    return class_name(ids, np.array(weights or [1.0] * len(ids)), token_properties(tuple(vocabulary)))


@pytest.mark.parametrize("expected", KINDS)
def test_a_class_of_one_kind_has_its_name(expected):
    assert name(KINDS[expected]) == expected


def test_the_table_is_from_the_most_special_kind_to_the_most_common():
    assert list(PROPERTIES)[:2] == ["line ends", "spaces"]
    assert name([b"GE", b"HTTP", b" NASA", b"Paris"]) == "capitals"
    assert name([*KINDS["punctuation"], *KINDS["numbers"]]) is None


def test_what_most_tokens_outside_have_too_is_no_name():
    many = [*WORDS, *(b" w%d" % i for i in range(100))]
    assert name(WORDS[:4], vocabulary=many) is None
    assert name(WORDS, vocabulary=[*WORDS, *PIECES, *KINDS["punctuation"]]) == "after a space"


def test_neither_one_strong_token_nor_many_weak_ones_give_a_name():
    mixed = [b"1", b" 2", b"1999", b" house"]
    assert name(mixed, [1000.0, 1.0, 1.0, 1.0]) is None  # by number 3 of 4
    assert name([*KINDS["numbers"], b" house", *KINDS["punctuation"]]) is None
    digits = [*(b"%d" % i for i in range(10)), b" house"]
    assert name(digits, vocabulary=[*digits, *WORDS, *PIECES]) == "numbers"
    assert name(digits, [1.0] * 10 + [5.0], vocabulary=[*digits, *WORDS, *PIECES]) is None  # by weight 10 of 15


def test_a_class_of_few_tokens_or_without_weight_has_no_name():
    assert name(KINDS["numbers"][: FEWEST - 1]) is None
    assert name(KINDS["numbers"], [0.0] * 4) is None
