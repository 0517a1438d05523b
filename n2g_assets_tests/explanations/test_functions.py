"""A function that predicts gives a finite number for each token, or is told so in one sentence."""

from __future__ import annotations

import numpy as np
import pytest

from n2g_assets.core.errors import SourceError
from n2g_assets.corpus.user_code import UserFunction
from n2g_assets.explanations.predicting import ExplainedUnit, FunctionPredictions
from n2g_assets.method.text import EncodedText

TOKENS = [b"<bos>", b" a", b"\xff", b"bcd"]
IDS = np.array([0, 1, 2, 0, 3], np.int32)
TEXT = EncodedText.from_forms(IDS, np.array([0, 1, 2, 0, 1], np.int32), 4)


def predicted(folder, body):
    (folder / "guess.py").write_text(f"def predict(unit, tokens):\n    {body}\n")
    user = UserFunction("explanation function", "guess:predict", folder)
    with user.imported() as function:
        return FunctionPredictions(user, function, ExplainedUnit(4, 7, -1, []), TOKENS, 2.0).predict(TEXT).tolist()


def test_it_is_asked_about_the_tokens_of_each_context_without_its_beginning(tmp_path):
    assert predicted(tmp_path, "return [len(token) for token in tokens]") == [0, 1, 0.5, 0, 1.5]
    assert predicted(tmp_path, "return [unit.layer * (token == '\\ufffd') for token in tokens]") == [0, 0, 2, 0, 0]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 1 / 0", r"fails with ZeroDivisionError: division by zero \(.*guess\.py:2\): repair it or its 'arg"),
        ("return [1.0]", r"gives \[1\.0\] \(list\) for 2 tokens: let it give a number for each of them\."),
        ("return 'ab'", r"gives 'ab' \(str\) for 2 tokens"),
        ("return None", r"gives None \(NoneType\) for 2 tokens"),
        ("return [0.0, float('nan')]", r"gives nan for token 1 \(counted from 0\): let it give finite numbers\."),
    ],
)
def test_what_it_may_not_give_is_one_sentence(tmp_path, body, said):
    what = "The explanation function 'guess:predict', asked about unit 7 of sign -1 of layer 4, "
    with pytest.raises(SourceError, match=what + said):
        predicted(tmp_path, body)
