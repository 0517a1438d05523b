"""The first sentence of a report, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from n2g_assets.core.registry import PREDICTORS, TEXTS, named
from n2g_assets.report.plots import F1, PEARSON_R
from n2g_assets.report.verdict import Leading, verdict

TEXT, SUFFIXES = named(TEXTS)["random"], named(PREDICTORS)["suffixes"]


def means(name: str, *values: float | None, units: int = 16) -> list[dict]:
    return [{"layer": 7 * i, name: value, "units": units} for i, value in enumerate(values)]


GOOD = Leading(
    score=PEARSON_R, text=TEXT, rules=10, graphs=means("pearson_r", 0.97, 0.54), most_rules=100, rival=SUFFIXES,
    rivals=means("pearson_r", 0.93, 0.59), verdicts={0: "better", 7: "better"},
)  # fmt: skip


def said(leading: Leading, *, asked: int = 32, scored: int = 32) -> str:
    return verdict(leading, model="tiny", asked=asked, scored=scored)


def test_it_says_what_graphs_reach_against_what_and_on_which_text():
    assert said(GOOD) == (
        "On held-out text, graphs of 10 rules predict how strongly 32 units of tiny activate with a mean r of .97 at "
        "layer 0 and .54 at layer 7; the strongest baseline (suffix evidence) reaches .93 at layer 0 and .59 at layer "
        "7, and with up to 100 rules the graphs beat it at every layer."
    )


@pytest.mark.parametrize(
    ("verdicts", "end"),
    [
        (
            ["not told apart"] * 2,
            "and even with up to 100 rules the graphs cannot be told apart from it at any layer: the intervals of the "
            "differences hold 0.",
        ),
        (["worse"] * 2, "and even with up to 100 rules the graphs are worse than it at every layer."),
        (
            ["better", "worse"],
            "and with up to 100 rules the graphs beat it at layer 0 and are worse than it at layer 7.",
        ),
        (
            ["worse", "not told apart"],
            "and even with up to 100 rules the graphs are worse than it at layer 0 and cannot be told apart from it at "
            "layer 7.",
        ),
        (["worse"], "and even with up to 100 rules the graphs are worse than it."),
        (["not told apart"], "the graphs cannot be told apart from it: the intervals of the differences hold 0."),
        ([], "reaches .93 at layer 0 and .59 at layer 7."),
    ],
)
def test_whether_graphs_win_is_what_intervals_say(verdicts, end):
    assert said(replace(GOOD, verdicts=dict(zip((0, 7), verdicts, strict=False)))).endswith(end)


def test_few_units_and_units_without_a_score_are_said():
    one = replace(GOOD, graphs=means("pearson_r", 0.84, units=1), verdicts={0: "better"})
    assert "how strongly only one unit of tiny activates with a mean r of .84 at layer 0; the" in said(
        one, asked=1, scored=1
    )
    few = replace(GOOD, graphs=means("pearson_r", 0.97, 0.54, units=3))
    assert "how strongly only 6 of 32 units of tiny activate" in said(few, scored=6)
    assert ".54 at layer 7 (only 3 units a layer); the" in said(few, scored=6)
    firing = replace(
        GOOD, score=F1, rules=None, most_rules=None, graphs=means("f1_all", 0.5), rivals=means("f1_all", 0.4)
    )
    assert said(firing, scored=30) == (
        "On held-out text, graphs predict where 30 of 32 units of tiny fire with a mean F1 over all 32 of .50 at layer "
        "0; the strongest baseline (suffix evidence) reaches .40 at layer 0, and the graphs beat it at every layer."
    )


def test_what_is_not_defined_or_not_scored_is_said():
    constant = replace(GOOD, graphs=means("pearson_r", None, None))
    assert said(constant) == (
        "On held-out text, the graphs' predictions for 32 units of tiny are constant: no r is defined, and nothing of "
        "the activation is explained, where the strongest baseline (suffix evidence) reaches .93 at layer 0 and .59 at "
        "layer 7."
    )
    assert said(replace(constant, rival=None)).endswith("nothing of the activation is explained.")
    nothing = ": nothing can be said yet of tiny."
    assert said(GOOD, scored=0) == "None of the 32 units asked for could be scored on held-out text" + nothing
    assert said(GOOD, asked=1, scored=0) == "The unit asked for could not be scored on held-out text" + nothing


def test_of_many_layers_the_ends_are_told():
    many = replace(GOOD, graphs=means("pearson_r", 0.9, 0.5, 0.3, 0.4), rivals=means("pearson_r", 0.9, 0.6, 0.5, 0.45))
    assert "with a mean r between .90 at layer 0 and .30 at layer 14; the strongest" in said(many)
    assert "reaches between .90 at layer 0 and .45 at layer 21, and" in said(many)
