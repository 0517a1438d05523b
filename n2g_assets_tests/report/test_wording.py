"""Numbers, lists and windows for reading."""

from n2g_assets.report.text import (
    by_layer,
    compared_layers,
    counted,
    few,
    layers_listed,
    percent,
    plain_share,
    reached,
    share,
    spread,
    units_a_layer,
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


def test_a_mean_of_few_units_is_said_to_be_one():
    assert [few(n) for n in (0, 1, 3, 9, 10)] == [
        " (of no unit)", " (one unit only)", " (only 3 units)", " (only 9 units)", "",
    ]  # fmt: skip
    assert [few(n, "a layer") for n in (1, 3, 16)] == [" (one unit a layer)", " (only 3 units a layer)", ""]
    assert [units_a_layer(counts) for counts in ([1, 1], [16], [3, 16, 4])] == [
        "1 unit a layer", "16 units a layer", "3–16 units a layer",
    ]  # fmt: skip


def test_means_of_layers_are_told_one_by_one_or_by_their_ends_with_their_units():
    def rows(*found: tuple[int, float | None, int]) -> list[dict]:
        return [{"layer": layer, "r": value, "units": units} for layer, value, units in found]

    assert by_layer(rows((7, 0.5, 16)), "r", "units") == ".50 at layer 7"
    assert by_layer(rows((7, 0.5, 1)), "r", "units") == ".50 at layer 7 (one unit only)"
    assert (
        by_layer(rows((7, 0.2, 1), (0, 0.5, 1)), "r", "units") == ".50 at layer 0 and .20 at layer 7 (one unit a layer)"
    )
    assert (
        by_layer(rows((0, 0.5, 16), (7, 0.2, 1)), "r", "units") == ".50 at layer 0 and .20 at layer 7 (one unit only)"
    )
    assert by_layer(rows((0, None, 16), (7, 0.2, 16)), "r", "units") == ".20 at layer 7"
    many = rows((0, 0.3, 16), (1, 0.6, 4), (2, None, 0), (3, -0.1, 16), (4, 0.5, 16))
    assert by_layer(many, "r", "units") == "between .60 at layer 1 (only 4 units) and −.10 at layer 3"
    assert by_layer(rows(*((i, 0.1 * i, 3) for i in range(5))), "r", "units") == (
        "between .40 at layer 4 and .000 at layer 0 (only 3 units a layer)"
    )


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
