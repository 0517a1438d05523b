"""The report: what it says, where its numbers come from, and that it keeps to itself."""

import base64
import re
from datetime import datetime

import polars as pl
import pytest

from n2g_assets.core.errors import StorageError
from n2g_assets.evaluation.failures import FAILURE_RULES
from n2g_assets.report.page import render_report
from n2g_assets.report.plots import F1, PEARSON_R
from n2g_assets.report.text import share
from n2g_assets_tests.report.class_graphs import TOKENS, example
from n2g_assets_tests.report.parsed import Page, tables, text_of
from n2g_assets_tests.report.published import HOSTILE, LAYERS, UNITS, database, page, scores, study
from n2g_assets_tests.storage.helpers import rows

SECTIONS = [
    "Verdict", "What it rests on", "Where graphs win and where they fail", "Protocol", "Results", "Reach", "Controls",
    "Rule tests", "Failures", "Counterexamples", "Units and denominators", "Reproduce",
]  # fmt: skip


@pytest.fixture(scope="module")
def html() -> str:
    return page({"toy": study()}, commands=["dg launch --job toy"], pictures=True)


@pytest.fixture(scope="module")
def paper() -> str:
    return page({"toy": study(preset="paper")})


# ------------------------------------------------------------------------------------------ the page
def test_every_section_is_there_in_order_and_the_contents_point_at_them(html):
    found = Page(html)
    assert [title.strip() for title in found.words["h2"]] == SECTIONS
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    inside = [link["href"][1:] for link in found.attributes("a") if link["href"].startswith("#")]
    assert set(inside) == set(ids)
    first, contents = html.index('class="verdict"'), html.index("<nav")
    assert first < html.index('id="rests-on"') < contents < html.index('id="where-graphs-fail"')
    assert found.open == []


def test_the_page_asks_for_nothing_outside_itself(html, paper):
    for one in (html, paper):
        found = Page(one)
        policies = [m["content"] for m in found.attributes("meta") if m.get("http-equiv") == "Content-Security-Policy"]
        assert policies[0].startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
        assert not {tag for tag, _ in found.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"}
        assert all(picture["src"].startswith("data:image/svg+xml;base64,") for picture in found.attributes("img"))
        for tag, attributes in found.tags:
            assert not any(name.startswith("on") for name in attributes)
            outside = [name for name, value in attributes.items() if re.match(r"\s*(https?:|//)", value or "")]
            assert outside == [] or (tag, outside) == ("a", ["href"])
        assert not re.search(r"url\(|@import", "".join(found.words["style"]))


def test_hostile_text_is_shown_as_text_wherever_it_comes_from():
    model = rows("subject_models", {"model": HOSTILE, "n_layers": 30})
    html = page({HOSTILE: study((7,), subject_models=model)}, HOSTILE, commands=[HOSTILE])
    assert "<script" not in html
    assert "<img src=http" not in html
    assert text_of(html).count(HOSTILE) >= 12
    assert "<img src=http://example.org/x>" in text_of(html)


def test_the_same_database_gives_the_same_page_with_the_given_date(html):
    again = page({"toy": study()}, commands=["dg launch --job toy"], pictures=True)
    assert again == html
    assert "3 November 2026, 09:05 UTC" in html


def test_undefined_numbers_stand_as_a_dash_and_never_as_nan(html):
    assert "–" in [text.strip() for text in Page(html).words["td"]]
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", text_of(html))


def test_the_preset_paper_prints_its_table_and_no_section_of_what_was_not_done(paper):
    assert [title.strip() for title in Page(paper).words["h2"]] == [
        "Verdict", "What it rests on", "Where graphs win and where they fail", "Protocol", "Results",
        "Units and denominators", "Reproduce",
    ]  # fmt: skip
    assert "As published for SoLU-6L" in text_of(paper)
    assert "Held-out text" not in text_of(paper)


# ------------------------------------------------------------------------------------------ what is missing
def test_a_study_that_is_not_published_or_not_evaluated_is_refused_with_what_to_do():
    bare = {name: frame for name, frame in study().items() if name not in ("evaluation", "layer_scores")}
    with database(toy=bare) as connection:
        with pytest.raises(StorageError, match="'other' is not in the database: materialize its warehouse"):
            render_report(connection, "other", made_at=datetime(2026, 1, 1))
        with pytest.raises(StorageError, match="No layer of study 'toy' is evaluated yet"):
            render_report(connection, "toy", made_at=datetime(2026, 1, 1))


def test_layers_that_are_not_evaluated_yet_are_named_and_nothing_else_breaks():
    some = scores((0,), (3,), ["graph"], ["top"])
    checks = dict.fromkeys(("rule_tests", "reach", "failures", "counterexamples"))
    frames = study((0, 1, 2, 3, 7), **some, **{name: rows(name) for name in checks})
    text = text_of(page({"toy": frames}))
    assert "Not evaluated yet: layers 1–3 and 7. Nothing here speaks of them." in text
    for words in (
        "No rule was tested.",
        "Reach was not measured.",
        "No unit meets the rule of any kind",
        "No control was scored.",
        "None were kept",
    ):
        assert words in text
    assert "Out-of-domain" not in text


def test_a_layer_whose_means_outlive_the_scores_of_its_units_is_named():
    frames = study((0, 7))
    frames["evaluation"] = frames["evaluation"].filter(pl.col("layer") != 7)
    text = text_of(page({"toy": frames}))
    assert "The scores of the units of layer 7 are not there any more, though their means are:" in text
    assert "not there any more" not in text_of(page({"toy": study((0, 7))}))


def test_a_unit_with_a_graph_of_token_classes_is_shown_by_its_graph_of_few_rules():
    classes = {
        name: pl.concat([frame.with_columns(unit=pl.lit(UNITS[0]), layer=pl.lit(layer)) for layer in LAYERS])
        for name, frame in example().items()
    }
    words = rows("vocabulary", *({"token_id": i, "token": token} for i, token in enumerate(TOKENS)))
    html = page({"toy": study(**classes, vocabulary=words)})
    caption = "Rules of layer 0, neuron 3; * is any token, {a|b} one of a class, the last token is the unit's own."
    assert tables(html)[caption][0] == ["0", "{:} [{␣except|try}]", ".90", "90\N{NO-BREAK SPACE}%", "30", "4"]
    pictures = [address for tag in Page(html).attributes("img") if (address := tag["src"] or "")]
    assert sum("everything else: 1 rule" in base64.b64decode(each.split(",")[1]).decode() for each in pictures) == 3


# ------------------------------------------------------------------------------------------ sentences
def test_the_page_opens_with_its_verdict_and_what_it_rests_on(html):
    (said,) = re.findall(r'<p class="verdict">(.*?)</p>', html)
    assert said.startswith("On held-out text, graphs predict how strongly only 9 of 12 units of tiny-llama activate")
    assert "the strongest baseline (skip-bigrams) reaches .43 at layer 0, .30 at layer 7 and .20 at layer 15" in said
    text = text_of(html)
    (first,) = tables(html)["Mean r on held-out text, with 95 % intervals, and how many units stand behind it."][:1]
    assert first == ["0", "3", ".400 [.360,\xa0.440]", ".430 [.390,\xa0.470]", share((5 / 32) ** 0.1)]
    assert "Out-of-domain text. The graphs' mean r is .32 [.28, .36] at layer 0, .22" in text
    assert "Of 12 units asked for, 9 went through every stage and 3 are dead; all stay in the denominator" in text
    assert "units fire on 83 % of 36 texts made to match a rule" in text
    assert "stay silent on 50 % of 18 texts with one context token changed" in text
    assert "9 of 18 rules (50 %) rest on one prompt" in text
    assert all(rule in text for rule in FAILURE_RULES.values())
    points = [point.split(".")[0] for point in Page(html).words["li"] if "." in point]
    assert len(points) == len(set(points))


def test_a_table_says_by_text_score_and_rival_where_graphs_win_and_where_they_fail(html):
    lines = tables(html)["The whole graphs against each rival, by layer."]
    assert lines[0] == [
        "Own test contexts", "F1", "token lookup", "layers 0 (.10 [.07,\xa0.13]) and 7 (.07 [.04,\xa0.10])", "–",
        "layer 15 (−.07 [−.10,\xa0−.04])",
    ]  # fmt: skip
    at = [i for i, line in enumerate(lines) if len(line) == 6]
    held_out = next(lines[i:] for i in at if lines[i][0] == "Held-out text")
    assert held_out[0][1:] == ["r", "token lookup", "–", "layers 0 and 7", "layer 15"]
    assert held_out[1] == ["r", "back-off n-gram", "–", "layers 0 and 7", "layer 15"]
    text = text_of(html)
    assert (
        "Against the back-off n-gram the two intervals must lie apart. By r and AP they must always lie apart." in text
    )
    assert "suffix evidence" not in text
    assert "A token graph is built from half of a unit's strongest contexts" in text
    evidence = text_of(page({"toy": study((7,), method="evidence")}))
    assert (
        "Against suffix evidence the two intervals must lie apart. By r and AP they must always lie apart." in evidence
    )
    assert "A token graph is grown on all of the harvest but" in evidence
    assert "back-off n-gram" not in evidence


def test_one_unit_one_layer_and_one_rule_are_spoken_of_as_one():
    frames = study((7,), (3,), dead=())
    frames["evaluation"] = frames["evaluation"].with_columns(n_firings=pl.lit(0, pl.Int64), f1=None)
    frames["rules"] = frames["rules"].filter(rule_id=1)
    text = text_of(page({"toy": frames}))
    assert "how strongly only one unit of tiny-llama activates with a mean r of .28 [.24, .32] at layer 7; the" in text
    assert "the graphs' mean F1 of firing is .000 [.239, .319] at layer 7 (one unit only);" in text
    assert "The unit asked for went through every stage." in text
    assert "1 of 1 rule (100 %) rests on one prompt" in text
    assert "on held-out text: means over 1 unit a layer." in text
    assert not re.search(r"\b1 (units|layers|rules|texts)\b|1 of \d+ (units|rules) rest\b", text)
    assert "0 are dead" not in text


def test_units_that_never_fire_bound_what_firing_can_reach(html):
    def silenced(*units: int) -> list[str]:
        frames = study((7,))
        silent = pl.col("unit").is_in(units)
        firings = pl.when(silent).then(0).otherwise("n_firings")
        frames["evaluation"] = frames["evaluation"].with_columns(n_firings=firings)
        (found,) = (
            lines for caption, lines in tables(page({"toy": frames})).items() if caption.startswith("F1 of firing of")
        )
        return found[2]

    ends = [".210 [.239,\xa0.319]"] * 2
    assert silenced(3)[:6] == ["Held-out text", "3", "1", *ends, ".500"]
    assert silenced(3, 5)[:6] == ["Held-out text", "3", "2", *ends, ".250"]
    assert silenced()[:6] == ["Held-out text", "3", "0", *ends, ".750"]


def test_a_graph_that_is_constant_on_ordinary_text_is_said_to_have_no_r():
    frames = study((7,))
    frames["layer_scores"] = frames["layer_scores"].with_columns(
        pearson_r=None, pearson_r_low=None, pearson_r_high=None
    )
    frames["evaluation"] = frames["evaluation"].with_columns(pearson_r=None)
    text = text_of(page({"toy": frames}, pictures=True))
    assert "On held-out text, the graphs' predictions for only 3 of 4 units of tiny-llama are constant: no r is" in text
    assert "Out-of-domain text. The graphs' predictions are constant: no r is defined." in text


def test_a_study_of_which_nothing_could_be_scored_says_so():
    frames = study((0,))
    frames["evaluation"] = frames["evaluation"].clear()
    frames["layer_scores"] = frames["layer_scores"].with_columns(
        *(pl.lit(None, frames["layer_scores"][name].dtype).alias(name) for name in ("pearson_r", "f1")),
        evaluated=pl.lit(0, pl.Int32),
    )
    text = text_of(page({"toy": frames}))
    assert "None of the 4 units asked for could be scored on held-out text: nothing can be said yet of tiny" in text
    assert "Out-of-domain text. No unit has a score there." in text


def test_a_graph_that_beats_its_baselines_everywhere_is_said_to():
    some = scores((0,), (3,), ["graph", "token_lookup"], ["top"])
    html = page({"toy": study((0,), **some)})
    assert "the strongest baseline (token lookup) reaches .17 at layer 0, and the graphs beat it." in text_of(html)
    lines = tables(html)["The whole graphs against each rival, by layer."]
    assert [line[-3:] for line in lines] == [["layer 0 (.10 [.07,\xa0.13])", "–", "–"], ["layer 0", "–", "–"]]


def test_the_control_study_is_reported_with_its_units_where_it_is_published_and_its_lack_is_said(html):
    assert "No control study of toy is in the database" in text_of(html)
    control = study((7,), (3,), dead=())
    control["studies"] = control["studies"].with_columns(control_of=pl.lit("toy"))
    both = {"toy": study((7,)), "drawn_anew": control}
    beside = page(both)
    sentence = (
        "Graphs of the same model with its weights drawn anew (drawn_anew) reach a mean r of .28 [.24, .32] at layer 7 "
        "(one unit only), where those of toy reach .28 at layer 7 (one unit only), on the units that both studies ask "
        "for. By F1 of firing they reach at most .56 [.52, .60] at layer 7 (one unit only) on the units' own test "
        "contexts, where those of toy reach .56."
    )
    assert sentence in text_of(beside)
    with database(**both) as connection:
        view = connection.sql("FROM controls WHERE control_study = 'drawn_anew' AND text = 'top'").pl()
    shown = tables(beside)["F1 of firing, mean over the units named: toy and its control study drawn_anew."][0]
    graph, drawn = (share(view[name][0]) for name in ("graph_f1_all", "control_f1_all"))
    assert [cell.split(" ")[0] for cell in shown] == ["Own", "7", "1", graph, "1", drawn]
    caption = "Pearson's r of the activation, mean over the units named: toy and its control study drawn_anew."
    assert [line[:3] for line in tables(beside)[caption]] == [
        ["Held-out text", "7", "1"],
        ["Out-of-domain text", "7", "1"],
    ]
    (first,) = tables(beside)["Mean r on held-out text, with 95 % intervals, and how many units stand behind it."]
    assert first[4:6] == [".279 [.239,\xa0.319]", "1"]
    assert "This study is the control of the study toy" in text_of(page(both, "drawn_anew"))


def test_a_mean_r_of_a_control_counts_only_the_units_where_it_is_defined():
    control = study((7,), (3, 5, 8), dead=())
    control["studies"] = control["studies"].with_columns(control_of=pl.lit("toy"))
    defined = pl.when(pl.col("unit") == 3).then("pearson_r")
    control["evaluation"] = control["evaluation"].with_columns(pearson_r=defined)
    html = page({"toy": study((7,)), "drawn_anew": control})
    assert "(drawn_anew) reach a mean r of .28 [.24, .32] at layer 7 (one unit only), where those" in text_of(html)
    caption = "Pearson's r of the activation, mean over the units named: toy and its control study drawn_anew."
    assert [line[-2] for line in tables(html)[caption]] == ["1", "1"]


def test_every_unit_that_is_named_leads_to_its_page_in_the_explorer(monkeypatch):
    monkeypatch.setenv("N2G_EXPLORER", "https://example.org/n2g/")
    negative = {
        name: frame.with_columns(sign=pl.lit(-1, pl.Int8)) if "sign" in frame.columns else frame
        for name, frame in study((7,)).items()
    }
    named = re.compile(r"layer (\d+), neuron (\d+)(, negative)?")
    for frames, minus in ((study((7,)), ""), (negative, "-")):
        html = page({"toy": frames})
        outside = {link["href"] for link in Page(html).attributes("a") if not link["href"].startswith("#")}
        root = "https://example.org/n2g/study/toy"
        cells = [named.fullmatch(text.strip()) for text in Page(html).words["a"]]
        assert outside == {
            "https://arxiv.org/abs/2305.19911", root, *(f"{root}/7/{unit}{minus}" for unit in (3, 5, 8)),
        }  # fmt: skip
        assert {bool(found[3]) for found in cells if found} == {bool(minus)}
        rows_ = re.findall(r"<th[^>]*>(.*?)</th>", html, re.DOTALL)
        assert all("<a href" in cell for cell in rows_ if named.search(cell))


def test_it_is_said_how_the_shown_examples_were_chosen(html):
    text = text_of(html)
    assert "of the first, a middle and the last layer evaluated, the unit whose graph has the best F1 of firing" in text
    assert "among the graphs of at most 40 nodes" in text
    assert "the 5 of the largest difference, for each kind and text. They are the worst ones, not typical ones." in text


def test_weights_of_four_bits_are_said_to_be_so(html):
    model = rows("subject_models", {"model": "tiny", "n_layers": 30, "quantisation": "Q4_1"})
    assert "The weights are 4-bit (Q4_1), dequantised" in text_of(page({"toy": study((7,), subject_models=model)}))
    assert "dequantised" not in text_of(html)


# ------------------------------------------------------------------------------------------ numbers
def test_the_numbers_of_the_page_are_those_of_the_views(html):
    with database(toy=study()) as connection:
        summary = connection.sql("FROM layer_summary WHERE text = 'random' ORDER BY layer").pl()
    found = tables(html)
    over = {"pearson_r": PEARSON_R.means, "f1_all": F1.means}
    for name, means in over.items():
        overview = found[f"{means[0].upper()}{means[1:]}, on held-out text."]
        assert len(overview) == 3
        for line in overview:
            here = summary.filter(layer=int(line[0]))
            graph = here.filter(predictor="graph").row(0, named=True)
            ends = f"[{share(graph[f'{name}_low'])},\xa0{share(graph[f'{name}_high'])}]"
            assert line[1:3] == ["3", f"{share(graph[name])} {ends}"]
    details = found["All scores on held-out text. Units: with a score, of those asked for."]
    assert len(details) == len(summary)
    graph = summary.filter(predictor="graph", layer=0).row(0, named=True)
    scored = ("precision", "recall", "auroc", "coverage_firings", "coverage_mass")
    assert {share(graph[name]) for name in scored} <= set(details[0])
    assert [cell.split(" ")[0] for cell in details[0][3:5]] == [
        share(graph["pearson_r"]),
        share(graph["explained_variance"]),
    ]
    assert details[0][:3] == ["0", "graph", "3/4"]


def test_rule_tests_stand_apart_by_the_token_that_was_changed(html):
    assert tables(html)["Rules tested on the model."] == [
        ["0", "3", "3", "12", "1.000", "6", ".500", "3", "1.000"],
        ["7", "3", "3", "12", ".750", "6", ".500", "3", "1.000"],
        ["15", "3", "3", "12", ".750", "6", ".500", "3", "1.000"],
    ]


def test_the_papers_table_counts_by_both_conventions():
    evaluation = rows(
        "evaluation",
        {"unit": 3, "true_positives": 1, "false_positives": 1, "false_negatives": 1, "true_negatives": 7,
         "precision": 0.5, "recall": 0.5, "f1": 0.5, "n_firings": 2},
        {"unit": 5, "false_negatives": 2, "true_negatives": 8, "recall": 0.0, "f1": 0.0, "n_firings": 2},
        predictor="graph", text="top",
    ).with_columns(
        calibration_tokens=pl.lit([0] * 11, pl.List(pl.Int64)),
        calibration_predicted=pl.lit([0.0] * 11), calibration_actual=pl.lit([0.0] * 11),
    )  # fmt: skip
    found = tables(page({"toy": study((0,), preset="paper", evaluation=evaluation)}))
    silent = [(7 / 8 + 8 / 10) / 2, (7 / 8 + 1) / 2, (14 / 16 + 16 / 18) / 2]
    left_out = found["Graph: means over units; units whose value is undefined are left out."]
    zero = found["Graph: means over units; a unit whose value is undefined, or that has none, counts 0."]
    assert left_out == [["0", ".500", ".250", ".250", *map(share, silent)]]
    assert zero == [["0", ".125", ".125", ".125", *map(share, [value / 2 for value in silent])]]


def test_a_layer_without_a_unit_that_ever_fires_stands_among_the_others():
    """Nothing is evaluated there, so its sums are NULL."""
    frames = study((0, 7))
    frames["evaluation"] = frames["evaluation"].filter(layer=0)
    frames["layer_scores"] = frames["layer_scores"].with_columns(
        pl.when(layer=0).then(pl.col(name)) if name != "evaluated" else pl.col(name) * (pl.col("layer") == 0)
        for name in ("evaluated", "f1", "pearson_r", "explained_variance", "average_precision")
    )
    text = text_of(page({"toy": frames}))
    assert "only 3 of 8 units of tiny-llama activate with a mean r of .40 [.36, .44] at layer 0; the strongest" in text
    assert "the graphs' mean F1 of firing is .30 [.36, .44] at layer 0 (only 3 units) and .000" in text
    assert "at layer 7 (of no unit)" in text
