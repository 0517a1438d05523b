"""What the report says of other kinds of units of a study's model."""

from __future__ import annotations

from unittest.mock import patch

import polars as pl
import pytest

from n2g_assets.report.kinds import r_by_kind
from n2g_assets.report.text import kind_name
from n2g_assets_tests.report.parsed import tables, text_of
from n2g_assets_tests.report.published import NO_PLOTS, Frames, page, study
from n2g_assets_tests.report.test_plots import HOSTILE, assert_sound, group, lines, words
from n2g_assets_tests.storage.helpers import rows

ENCODER = {"architecture": "topk", "n_latents": 4608, "unexplained": 0.25}


def published(**changes: pl.DataFrame) -> Frames:
    made = study(method="evidence", **changes)
    return made | {"subject_models": made["subject_models"].with_columns(hook=pl.lit("mlp.hook_post"))}


@pytest.fixture(scope="module")
def studies() -> dict[str, Frames]:
    curve = [{"layer": 7, "text": "random", "unit": 3, "n_rules": n, "pearson_r": n / 128} for n in (3, 5, 30, 100)]
    latents = published(encoders=rows("encoders", ENCODER, layer=7), size_curve=rows("size_curve", *curve))
    better = latents["evaluation"].with_columns(pearson_r=pl.when(predictor="graph").then(pl.col("pearson_r") + 0.25))
    control = published()
    control["studies"] = control["studies"].with_columns(control_of=pl.lit("toy"))
    return {"toy": published(), "latents": latents | {"evaluation": better}, "toy_random": control}


def test_the_report_sets_them_beside_the_study(studies):
    with patch.dict(NO_PLOTS):
        html = page(studies)
    found = tables(html)
    compared = found["Kinds of units at layer 7; differences are from toy."]
    assert [line[:2] for line in compared] == [
        ["toy", "neurons"], ["latents", "autoencoder latents"], ["toy_random", "neurons (control)"],
    ]  # fmt: skip
    assert compared[0][3] == "–"
    assert [line[3][:3] for line in compared[1:]] == [".25", ".00"]
    (became,) = (found[caption] for caption in found if caption.startswith("What became of these units at layer 7"))
    assert became[1][:4] == ["latents", "4,608", "4", "1"]
    assert became[1][-1] == "25\xa0%"


def test_a_study_alone_has_no_such_section(studies):
    assert "Kinds of units" not in text_of(page({"toy": studies["toy"]}))


def row(study: str, kind: str = "neuron", **values) -> dict:
    empty = dict.fromkeys(("pearson_r_5", "token_lookup_pearson_r", "reach_5"))
    return {"study": study, "kind": kind, "control": False, "scored": 64} | empty | values


def sizes(**r: list[float | None]) -> pl.DataFrame:
    found = [
        {"study": name, "n_rules": n, "pearson_r": value, "pearson_r_error": 0.05}
        for name, values in r.items()
        for n, value in zip((3, 10, 30), values, strict=True)
    ]
    schema = {"study": pl.String, "n_rules": pl.Int32, "pearson_r": pl.Float64, "pearson_r_error": pl.Float64}
    return pl.DataFrame(found, schema=schema)


def test_the_picture_has_a_line_a_study_with_intervals_and_marks_beside_it():
    shown = [row("a", reach_5=0.5), row("b", "transcoder latent", control=True, token_lookup_pearson_r=0.25)]
    svg = r_by_kind(shown, sizes(a=[0.2, 0.4, 0.6], b=[0.1, 0.2, None]), title="kinds")
    assert_sound(svg)
    assert {"a: 64 neurons", "b: 64 transcoder latents (control)", "token lookup", "last 5 tokens"} <= {*words(svg)}
    (a,), (b,) = lines(svg, "line a"), lines(svg, "line b")
    assert len(a) == 3
    assert len(b) == 2
    assert a[0][1] > a[1][1] > a[2][1]  # up is down in SVG
    assert len(lines(svg, "intervals a")) == 3
    assert group(svg, "beside a")
    assert group(svg, "beside b")


def test_it_is_sound_without_any_score_and_with_hostile_names():
    assert_sound(r_by_kind([row(HOSTILE)], sizes(), title=HOSTILE))
    assert_sound(r_by_kind([row("a", HOSTILE), row("b")], sizes(a=[None] * 3), title=""))


def test_units_without_a_name_of_their_own_are_called_by_their_hook():
    assert kind_name(row("a", "mlp.hook_pre")) == "values of mlp.hook_pre"
    assert kind_name(row("a", "head", control=True)) == "heads (control)"
