"""The report: what it says, that it keeps to itself, and how a browser shows it."""

import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pytest

from n2g_assets.core.tables import TABLES
from n2g_assets.evaluation.failures import FAILURE_RULES
from n2g_assets.report.blocks import layers_listed, plain_share, share
from n2g_assets.report.findings import compare, rule_findings
from n2g_assets.report.render import render_report
from n2g_assets.report.tables import paper_table, rule_tests, window
from n2g_assets_tests.browser import BROWSER, needs_browser
from n2g_assets_tests.evaluation import report_facts
from n2g_assets_tests.report.report_facts import HOSTILE, evaluation_row, layer_row

SECTIONS = [
    "Summary", "Protocol", "Results", "Controls", "Rule tests", "Failures", "Counterexamples",
    "Units and denominators", "Reproduce",
]  # fmt: skip


class Page(HTMLParser):
    """Tags with their attributes, the words of every element by its tag, and all words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
            self.words.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        for tag in set(self.open):
            self.words[tag][-1] += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def text_of(html: str) -> str:
    return " ".join("".join(Page(html).words["main"]).replace("\xa0", " ").split())


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(report_facts.facts())


@pytest.fixture(scope="module")
def paper() -> str:
    return render_report(report_facts.paper_facts())


def test_every_section_is_there_in_order_and_the_contents_point_at_them(html):
    page = Page(html)
    assert [title.strip() for title in page.words["h2"]] == SECTIONS
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    inside = [link["href"][1:] for link in page.attributes("a") if link["href"].startswith("#")]
    assert set(inside) == set(ids)
    assert page.open == []


def test_the_page_asks_for_nothing_outside_itself(html, paper):
    for one in (html, paper):
        page = Page(one)
        policy = next(m["content"] for m in page.attributes("meta") if m.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
        assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"}
        assert all(picture["src"].startswith("data:image/svg+xml;base64,") for picture in page.attributes("img"))
        for tag, attributes in page.tags:
            assert not any(name.startswith("on") for name in attributes)
            outside = [name for name, value in attributes.items() if re.match(r"\s*(https?:|//)", value or "")]
            assert outside == [] or (tag, outside) == ("a", ["href"])
        assert not re.search(r"url\(|@import", "".join(page.words["style"]))


def test_hostile_text_is_shown_as_text_wherever_it_comes_from():
    facts = report_facts.facts(
        layers=(7,),
        study=HOSTILE,
        settings={"preset": "full", "note": HOSTILE},
        versions={HOSTILE: HOSTILE},
        model={"model": HOSTILE, "n_layers": 30},
        commands=(HOSTILE,),
        documents=report_facts.facts().documents.with_columns(source=pl.lit(HOSTILE)),
    )
    html = render_report(facts)
    assert "<script" not in html
    assert "<img src=http" not in html
    assert text_of(html).count(HOSTILE) >= 8
    assert "<img src=http://example.org/x>" in text_of(html)


def test_the_same_facts_give_the_same_page_with_the_given_date():
    assert render_report(report_facts.facts()) == render_report(report_facts.facts())
    assert "3 November 2026, 09:05 UTC" in render_report(report_facts.facts())


def test_the_summary_says_where_graphs_fail_and_what_became_of_the_units(html):
    text = text_of(html)
    assert "On the units' own test contexts, the graphs' mean F1 of firing is between .80 [.76, .84] at layer 0" in text
    assert re.search(r"The units' own test contexts: the graph is worse than a token lookup at layer 15 \(−\.07", text)
    assert "is better at layers 0 and 7." in text
    assert "Of 12 units asked for, 9 went through every stage, 3 are dead" in text
    assert re.search(r"fire on 83 % of 36 texts", text)
    assert re.search(r"silent on 50 % of 18 texts with one context token changed", text)
    assert all(rule in text for rule in FAILURE_RULES.values())


def test_a_graph_that_beats_its_rivals_everywhere_is_said_to():
    rows = [layer_row(0, "graph", "top", 0.9), layer_row(0, "token_lookup", "top", 0.5)]
    rows.append(layer_row(0, "ngram_backoff", "top", 0.6))
    scores = TABLES["layer_scores"].conform(pl.DataFrame(rows))
    text = text_of(render_report(report_facts.facts(layers=(0,), layer_scores=scores)))
    assert "the graph beats a token lookup and the back-off n-gram at every layer evaluated" in text


def test_against_the_token_lookup_the_paired_interval_decides_and_against_others_intervals_must_lie_apart():
    rows = [layer_row(layer, "token_lookup", "top", 0.5) for layer in range(3)]
    rows += [layer_row(layer, "ngram_backoff", "top", 0.5, 0.05) for layer in range(3)]
    for layer, f1, low, high in ((0, 0.52, 0.01, 0.03), (1, 0.70, -0.01, 0.4), (2, 0.39, -0.2, -0.02)):
        rows.append(layer_row(layer, "graph", "top", f1, 0.05, f1_gain_low=low, f1_gain_high=high))
    scores = TABLES["layer_scores"].conform(pl.DataFrame(rows))
    lookup, rival = compare(scores, "token_lookup"), compare(scores, "ngram_backoff")
    assert (lookup.above, lookup.level, lookup.below) == ([0], [1], [2])
    assert (rival.above, rival.level, rival.below) == ([1], [0], [2])
    assert compare(scores, "skip_bigram") is None


def test_layers_that_are_not_evaluated_yet_are_named_and_nothing_else_breaks():
    scores = report_facts.layer_scores((0,), texts=("top",))
    facts = report_facts.facts(
        layers=(0, 1, 2, 3, 7),
        layer_scores=scores,
        evaluation=report_facts.evaluation((0,), texts=("top",)),
        rule_tests=TABLES["rule_tests"].empty(),
        failures=TABLES["failures"].empty(),
        counterexamples=TABLES["counterexamples"].empty(),
        examples=(),
        commands=(),
    )
    text = text_of(render_report(facts))
    assert "Not evaluated yet: layers 1–3 and 7." in text
    assert "No rule was tested." in text
    assert "No unit meets the rule of any kind of failure." in text
    assert "Out-of-domain" not in text


def test_a_study_without_any_evaluation_still_has_a_report():
    empty = {name: TABLES[name].empty() for name in ("layer_scores", "evaluation", "rule_tests", "failures")}
    facts = report_facts.facts(**empty, counterexamples=TABLES["counterexamples"].empty())
    assert "No layer is evaluated yet." in text_of(render_report(facts))
    paper = replace(facts, settings={"preset": "paper"})
    assert "No layer is evaluated yet." in text_of(render_report(paper))


def test_the_preset_paper_prints_its_table_and_no_section_of_what_was_not_done(paper):
    page = Page(paper)
    assert [title.strip() for title in page.words["h2"]] == [
        "Summary", "Protocol", "Results", "Units and denominators", "Reproduce",
    ]  # fmt: skip
    assert "As published for SoLU-6L" in text_of(paper)
    assert "Held-out text" not in text_of(paper)


def test_rule_tests_stand_apart_by_the_token_that_was_changed():
    tests = report_facts.rule_tests((0, 7))
    [rows] = rule_tests(tests).groups
    numbers = [[cell.text for cell in row] for row in rows]
    assert numbers == [
        ["0", "3", "3", "12", "1.000", "6", ".500", "3", "1.000"],
        ["7", "3", "3", "12", ".750", "6", ".500", "3", "1.000"],
    ]
    no_context = tests.with_columns(n_context_near_misses=pl.lit(0, pl.Int32), context_silent=pl.lit(0, pl.Int32))
    assert "silent" not in rule_findings(no_context)
    assert "of 24 texts" in rule_findings(no_context)
    assert rule_findings(tests.clear()) == ""


def test_the_papers_table_counts_by_both_conventions():
    rows = [
        evaluation_row(0, 1, "graph", "top", 0.5, true_positives=1, false_positives=1, false_negatives=1,
                       true_negatives=7, precision=0.5, recall=0.5),
        evaluation_row(0, 2, "graph", "top", 0.0, true_positives=0, false_positives=0, false_negatives=2,
                       true_negatives=8, precision=None, recall=0.0),
    ]  # fmt: skip
    frame = TABLES["evaluation"].conform(pl.DataFrame(rows, infer_schema_length=None))
    units = pl.DataFrame({"layer": [0], "asked": [4]})
    cells = {
        zero: [cell.text for cell in paper_table(frame, units, "graph", missing_is_zero=zero).groups[0][0]]
        for zero in (False, True)
    }
    silent = [(7 / 8 + 8 / 10) / 2, (7 / 8 + 1) / 2, (14 / 16 + 16 / 18) / 2]
    assert cells[False] == ["0", ".500", ".250", ".250", *map(share, silent)]
    assert cells[True] == ["0", ".125", ".125", ".125", *map(share, [value / 2 for value in silent])]


def test_a_window_shows_its_end_joins_bytes_of_one_character_and_sets_the_token_apart():
    tokens = {1: b"caf", 2: b"\xc3", 3: b"\xa9", 4: b"\n", 5: b" au lait"}
    assert window([1, 2, 3, 4, 5], tokens) == ("café↵", " au lait")
    assert window([1, 9], {1: b"a"}) == ("a", "⟨9⟩")
    before, last = window([1] * 500 + [5], tokens)
    assert before.startswith("…")
    assert before.endswith("caf")
    assert last == " au lait"
    assert window([1, 2, 5], {1: b"x" * 500, 2: b"END", 5: b"!"})[0].endswith("END")


def test_numbers_and_lists_read_well():
    assert [share(None), share(float("nan")), share(0.5), share(1.0), share(-0.02, 2)] == [
        "–",
        "–",
        ".500",
        "1.000",
        "−.02",
    ]
    assert [plain_share(0.53), plain_share(0.0123), share(-0.0001)] == [".53", ".012", ".000"]
    assert layers_listed([7]) == "layer 7"
    assert layers_listed([0, 1, 3, 4, 5, 9]) == "layers 0, 1, 3–5 and 9"


def test_undefined_numbers_stand_as_a_dash_and_never_as_nan(html):
    assert "–" in Page(html).words["td"]
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", text_of(html))


# ------------------------------------------------------------------------------------------ in a browser
def browse(tmp_path, html: str, *flags: str) -> str:
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
        "--no-first-run", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}", *flags, (tmp_path / "report.html").as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout


@needs_browser
def test_a_browser_shows_every_section_and_every_picture(tmp_path, html):
    """The page's own policy forbids scripts: a copy with one that measures the pictures shows that they load."""
    measure = (
        "<script>addEventListener('load', () => { document.title = [...document.images].map(picture => "
        "[picture.naturalWidth, picture.clientWidth, picture.clientHeight].join('x')).join(' ') })</script>"
    )
    copy = html.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';", 1)
    page = Page(
        browse(tmp_path, copy.replace("</head>", measure + "</head>", 1), "--dump-dom", "--window-size=1100,900")
    )
    assert [title.strip() for title in page.words["h2"]] == SECTIONS
    sizes = [[int(number) for number in size.split("x")] for size in page.words["title"][0].split()]
    assert len(sizes) == html.count("<figure>") == 4 * 3 + 1
    assert all(natural > 300 and width > 300 and height > 200 for natural, width, height in sizes)


@needs_browser
def test_the_pages_policy_lets_no_script_run(tmp_path, html):
    scripted = html.replace("</head>", "<script>document.title = 'ran'</script></head>", 1)
    page = Page(browse(tmp_path, scripted, "--dump-dom"))
    assert page.words["title"][0] == "toy: report on token graphs"
    assert HOSTILE in page.words["mark"][0] or any(HOSTILE in cell for cell in page.words["td"])


@needs_browser
def test_the_page_can_be_printed(tmp_path, paper):
    browse(tmp_path, paper, f"--print-to-pdf={tmp_path / 'report.pdf'}", "--no-pdf-header-footer")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
