"""What the report and the summary say of graphs of token classes: scores by size, the paper's graphs, rule tests."""

from __future__ import annotations

import re
from unittest.mock import patch

import polars as pl
import pytest

from n2g_assets.core.home import Home
from n2g_assets.report.size_plots import r_by_rules
from n2g_assets.report.summary import study_summary
from n2g_assets_tests.report.parsed import Page, tables, text_of
from n2g_assets_tests.report.published import LAYERS, NO_PLOTS, UNITS, Frames, database, page, study
from n2g_assets_tests.report.test_plots import HOSTILE, assert_sound, group, lines, marks, words
from n2g_assets_tests.storage.helpers import rows

KEYS = [{"layer": layer, "unit": unit} for layer in LAYERS for unit in UNITS]
R = {3: 0.25, 10: 0.5, 30: 0.75}
"""By number of rules the r of every unit of layer 0; it halves at layer 7 and again at layer 15."""


def r_of(layer: int, n_rules: int) -> float:
    return R[n_rules] / 2 ** LAYERS.index(layer)


def of_classes(**changes: pl.DataFrame) -> Frames:
    """A study of the method evidence: sizes, and rules of which two of three held."""
    curve = [
        key | {"text": text, "n_rules": n, "pearson_r": r_of(key["layer"], n), "f1": 1.0}
        for key in KEYS
        for text in ("top", "random")
        for n in R
    ]
    tested = {
        "n_matches": 4, "n_near_misses": 2, "near_miss_activations": [0.1, 0.2], "near_miss_expected": [0.1, 0.1],
        "near_miss_changes": ["exchanged"] * 2, "near_miss_tokens": ["activating", "context"], "predicted": 0.5,
        "match_mean": 0.4,
    }  # fmt: skip
    tests = [key | tested | {"held": key["unit"] != UNITS[0]} for key in KEYS]
    made = {"size_curve": rows("size_curve", *curve), "rule_tests": rows("rule_tests", *tests)}
    return study(method="evidence", **(made | changes))


@pytest.fixture(scope="module")
def html() -> str:
    with patch.dict(NO_PLOTS):
        del NO_PLOTS["r_by_rules"]  # the one plot that is drawn
        return page({"toy": of_classes(), "toy_paper": study(method="paper")})


# ------------------------------------------------------------------------------------------ the report
def test_the_report_has_scores_by_number_of_rules_for_ordinary_text_and_own_contexts(html):
    found = tables(html)
    head = ["0", "3"]
    assert found["Mean scores by number of rules on held-out text."][0] == [
        *head, ".25", ".50", ".75", *["–"] * 6, *["1.00"] * 3,
    ]  # fmt: skip
    assert found["Mean scores by number of rules on the units' own test contexts."][1][:5] == [
        "7", "3", ".12", ".25", ".38",
    ]  # fmt: skip
    captions = "".join(Page(html).words["figcaption"])
    assert "Mean r by number of rules on held-out text, a line a layer: means over 3 units a layer." in captions
    (verdict,) = re.findall(r'<p class="verdict">(.*?)</p>', html)
    assert "graphs of 10 rules predict how strongly only 9 of 12 units" in verdict
    assert ".50 at layer 0, .25 at layer 7 and .12 at layer 15 (only 3 units a layer); the strongest" in verdict
    assert "and even with up to 30 rules the graphs are worse than it at layer 15" in verdict


def test_the_papers_graphs_stand_beside_those_of_classes_on_the_units_of_both(html):
    found = tables(html)["The graphs of toy, and beside them those of toy_paper."]
    assert found[0][:5] == ["Own test contexts", "0", "4", *[".80 [.76,\N{NO-BREAK SPACE}.84]"] * 2]
    assert len(found) == 4 * len(LAYERS)
    alone = page({"toy": of_classes()})
    assert "Beside the paper's graphs" not in text_of(alone)


def test_rules_of_classes_are_judged_by_whether_they_held(html):
    text = text_of(html)
    assert "Tested on the model, 6 of 9 rules held (67 %): with a token exchanged" in text
    assert "stay silent on" not in text
    # the near misses fall by .3 and .2 where .4 was expected
    assert tables(html)["Rules tested on the model."][0] == ["0", "3", "3", "2 67\xa0%", "12", "3", ".75", "3", ".50"]


def test_a_study_of_the_paper_has_no_section_on_size(html):
    text = text_of(page({"toy": study(method="paper")}))
    assert "by number of rules" not in text
    assert "A token graph is built from half of a unit's strongest contexts (train)." in text
    assert "A token graph is grown on all of the harvest but the documents of the unit's own test contexts" in text_of(
        html
    )


def test_the_card_of_a_unit_says_what_few_rules_everything_and_the_last_tokens_reach(tmp_path):
    connection = database(toy=of_classes())
    with patch("n2g_assets.report.summary.open_database", return_value=connection):
        text = study_summary(Home(tmp_path), "toy")
    assert (
        "Layer 0, neuron 3: F1 0.80; r: 30 rules reach .75; counting everything .44; the last 5 tokens allow .83"
        in text
    )


# ------------------------------------------------------------------------------------------ the summary
def test_the_summary_leads_with_r_by_number_of_rules_beside_other_predictors(tmp_path):
    connection = database(toy=of_classes())
    with patch("n2g_assets.report.summary.open_database", return_value=connection):
        text = study_summary(Home(tmp_path), "toy")
    assert text.startswith("Pearson's r of the activation in study 'toy', means over units by number of rules.")
    head, _, *body = text.split("\n\n")[1].splitlines()
    assert [cell.strip() for cell in head.split("  ") if cell] == [
        "layer", "text", "units", "3 rules", "10 rules", "30 rules", "all evidence", "token lookup",
        "suffix evidence", "skip-bigrams", "shuffled graph",
    ]  # fmt: skip
    assert body[1].split() == ["7", "random", "4", "0.12", "0.25", "0.38", "0.31", "0.24", "0.29", "0.30", "0.00"]
    assert "F1 of firing in study 'toy', means over units with 95 % intervals." in text


# ------------------------------------------------------------------------------------------ the plot
def sized(rows_: list[tuple]) -> pl.DataFrame:
    schema = {"layer": pl.Int32, "n_rules": pl.Int32, "pearson_r": pl.Float64}
    return pl.DataFrame(rows_, schema=schema, orient="row")


def beside(rows_: list[tuple]) -> pl.DataFrame:
    schema = {"layer": pl.Int32, "predictor": pl.String, "pearson_r": pl.Float64}
    return pl.DataFrame(rows_, schema=schema, orient="row")


def test_r_is_drawn_to_scale_by_doublings_of_the_rules_with_a_dash_for_each_predictor_beside():
    curve = [(layer, n, end * n / 4) for layer, end in ((0, 1.0), (7, 0.5), (15, 0.45)) for n in (1, 2, 4)]
    others = [(0, "suffixes", 0.75), (0, "combined", 1.0), (0, "graph", 0.5), (7, "combined", None)]
    svg = r_by_rules(sized(curve), beside(others), title="toy")
    top, middle, _ = (marks(svg, f"layer {layer}") for layer in (0, 7, 15))
    (x1, y1), (x2, _), (x4, y4) = top
    assert x4 - x2 == pytest.approx(x2 - x1, abs=0.1)
    zero = y4 + (y1 - y4) * 4 / 3
    assert [(zero - y) / (zero - y4) for _, y in middle] == pytest.approx([0.125, 0.25, 0.5], abs=0.002)
    for name, r in (("suffixes", 0.75), ("combined", 1.0)):
        ((left, right),) = lines(svg, f"{name}, layer 0")
        assert left[0] > x4
        assert (zero - right[1]) / (zero - y4) == pytest.approx(r, abs=0.002)
    assert lines(svg, "combined, layer 7") == []
    assert group(svg, "graph, layer 0") == []
    assert {"suffix evidence", "all evidence", "layer 0", "layer 7"} <= set(words(svg))
    assert "layer 15" not in words(svg)  # would cover that of layer 7


def test_nothing_measured_and_hostile_titles_give_sound_pictures():
    others = beside([(0, "combined", 0.5), (3, "suffixes", -1.0)])
    assert "nothing measured yet" in words(r_by_rules(sized([]), others, title="toy"))
    for curve in ([], [(0, 1, None)], [(0, 1, -0.5)], [(0, 3, float("nan")), (3, 3, 0.5), (3, 100, 1.0)]):
        assert_sound(r_by_rules(sized(curve), others, title=HOSTILE))
