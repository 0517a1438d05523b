"""Numbers, lists and windows for reading."""

from n2g_assets.report.text import (
    compared_layers,
    counted,
    layers_listed,
    percent,
    plain_share,
    reached,
    share,
    spread,
    window,
)


def test_numbers_and_lists_read_well():
    assert [share(None), share(float("nan")), share(0.5), share(1.0), share(-0.02, 2)] == [
        "–", "–", ".500", "1.000", "−.02",
    ]  # fmt: skip
    assert [share(0.87, trim=True), share(1.0, 1), share(1.0, trim=True), share(0.0, trim=True)] == [
        ".87",
        "1.0",
        "1",
        "0",
    ]
    assert [plain_share(0.53), plain_share(0.0123), share(-0.0001)] == [".53", ".012", ".000"]
    assert [percent(0.532), percent(0.0123), percent(0), percent(None)] == ["53\xa0%", "1.2\xa0%", "0\xa0%", "–"]
    assert [counted(0, "unit"), counted(1, "unit"), counted(2048, "unit")] == ["0 units", "1 unit", "2,048 units"]
    assert [spread(7, 7), spread(7, 1035)] == ["7", "7–1,035"]
    assert [layers_listed([7]), layers_listed([0, 1, 3, 4, 5, 9])] == ["layer 7", "layers 0, 1, 3–5 and 9"]


def test_what_a_graph_reaches_leaves_out_what_is_not_known():
    card = {"random_r_30": 0.59, "random_r_all": 0.7, "reach_5": 0.066}
    assert reached(card) == "30 rules reach .59; counting everything .70; the last 5 tokens allow .066"
    assert reached(card | {"random_r_30": None, "reach_5": None}) == "counting everything .70"
    assert reached(dict.fromkeys(card)) == ""


def test_layers_carry_their_paired_difference_where_they_are_few():
    rows = [
        {"layer": layer, "paired": True, "difference": -0.01, "difference_low": -0.04, "difference_high": 0.0}
        for layer in range(7)
    ]
    assert compared_layers(rows[:1]) == "layer 0 (−.01 [−.04,\xa0.00])"
    assert compared_layers(rows) == "layers 0–6"
    assert compared_layers([rows[0] | {"paired": False}]) == "layer 0"


def test_a_window_shows_its_end_joins_bytes_of_one_character_and_sets_the_token_apart():
    assert window([b"caf", b"\xc3", b"\xa9", b"\n", b" au lait"]) == ("café↵", " au lait")
    before, last = window([b"caf"] * 500 + [b" au lait"])
    assert before == "…" + "caf" * 23
    assert last == " au lait"
    before, _ = window([b"x" * 500, b"END", b"!"])
    assert before.startswith("…")
    assert before.endswith("END")
