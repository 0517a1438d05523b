"""Tokens, graphs and tables as text."""

import unicodedata

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from n2g_assets.method.tokens import clean_text, display_text
from n2g_assets.report.text import bar, class_graph_text, graph_text, shorten, table_text, text_width


def rules(*rows: tuple[str, float, int]) -> pl.DataFrame:
    return pl.DataFrame(
        [{"rule_id": i, "pattern": p, "activation": a, "count": c} for i, (p, a, c) in enumerate(rows)],
        schema={"rule_id": pl.Int32, "pattern": pl.String, "activation": pl.Float32, "count": pl.Int32},
    )


def test_white_space_and_broken_bytes_are_made_visible():
    cases = {
        b" except": "␣except",
        b"\n\t\r": "↵⇥␍",
        b"\xe2\x82": "\\xe2\\x82",
        b"a\x00\x1b[31m": "a\\x00\\x1b[31m",
        "\u202ea".encode(): "\\u{202e}a",
        "日本".encode(): "日本",
        "\u0301".encode(): "◌\u0301",
        b"": "(empty)",
    }
    assert {token: display_text(token) for token in cases} == cases


@given(st.binary(max_size=20))
def test_no_token_can_move_a_cursor_or_reverse_a_line(token):
    text = display_text(token)
    assert text
    assert not {unicodedata.category(character) for character in text} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert clean_text(text) == text


@given(st.text(max_size=20), st.integers(1, 20))
def test_a_shortened_text_fits_and_starts_like_the_whole(text, width):
    text = clean_text(text)
    short = shorten(text, width)
    assert text_width(short) <= width
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))


def test_bars_count_in_eighths_and_keep_their_width():
    assert [bar(share, 2) for share in (0, 0.5, 1, 1 / 16, 2, -1)] == ["  ", "█ ", "██", "▏ ", "██", "  "]


def test_a_graph_as_text_lists_the_strongest_rules_first_and_counts_the_rest():
    text = graph_text(
        rules(("[the]", 0.5, 1), ("all * [except]", 0.93, 4), ("日本 [x]", 0.5, 2)), title="Layer 3, neuron 7", limit=2
    )
    assert text.splitlines() == [
        "Layer 3, neuron 7",
        "  0.93 ███████▌  all * [except]   (4 prompts)",
        "  0.50 ████      日本 [x]         (2 prompts)",
        "  … and 1 more rule",
    ]


def test_a_graph_of_token_classes_as_text_has_what_lowers_last_and_what_expects_next_to_nothing_in_one_line():
    rows = [("[{a|b}]", 0.62, 100, 0.4), ("{c} [{d}]", 0.4, 50, 0.9), ("[{1|2}]", -0.41, 741, 0.0)]
    rows += [("[{x}]", 0.02, 1000, 0.0), ("[{not y}]", -0.02, 8109, 0.0)]
    columns = ("pattern", "activation", "count", "firing_share")
    frame = pl.DataFrame(rows, schema=columns, orient="row").with_row_index("rule_id")
    assert class_graph_text(frame, title="Layer 3, neuron 7", threshold=0.5).splitlines() == [
        "Layer 3, neuron 7",
        "   .62 * █████     [{a|b}]     (fires at 40\xa0% of 100)",
        "   .40 * ███▎      {c} [{d}]   (fires at 90\xa0% of 50)",
        "  −.41   ███▎      [{1|2}]     (fires at 0\xa0% of 741)",
        "  −.02   everything else: 2 rules, 91\xa0% of the text",
    ]


def test_an_empty_graph_as_text_says_what_that_means():
    assert "no rules" in graph_text(rules(), title="Layer 3, neuron 7")


def test_a_table_is_aligned_and_undefined_is_a_dash():
    frame = pl.DataFrame({"layer": [0, 15], "model": ["a", "bc"], "units": [1536, 2], "f1": [None, 0.5]})
    assert table_text(frame).splitlines() == [
        "layer  model  units    f1",
        "─────  ─────  ─────  ────",
        "    0  a      1,536     –",
        "   15  bc         2  0.50",
    ]
    assert table_text(pl.DataFrame()) == ""
