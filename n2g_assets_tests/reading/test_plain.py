"""Rows as CSV: exact for programs, harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io

import polars as pl
import pytest

from n2g_assets.reading.plain import csv_text

TEXTS = ["=1+1", "+1", "-", "@SUM(A1)", "\t=1", "\r=1", "import", " =", "'"]


@pytest.mark.parametrize("encoded", [False, True])
def test_no_text_is_a_formula_in_a_spreadsheet_and_numbers_stay_numbers(encoded) -> None:
    texts = [text.encode() for text in TEXTS] if encoded else TEXTS
    frame = pl.DataFrame({"token": texts, "effect": [-0.5] * len(TEXTS), "all": [["="]] * len(TEXTS)})
    exact, guarded = (
        list(csv.reader(io.StringIO(csv_text(frame, for_spreadsheets=how), newline="")))[1:] for how in (False, True)
    )
    assert [row[0] for row in exact] == TEXTS
    assert [row[0] for row in guarded] == [f"'{text}" for text in TEXTS[:6]] + TEXTS[6:]
    assert {tuple(row[1:]) for row in exact + guarded} == {("-0.5", '["="]')}
