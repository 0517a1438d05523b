"""The report of a study: one self-contained HTML page, made of facts alone.

1. ``ReportFacts`` holds everything that is said: frames of the study's tables and plain values.
2. Each section is a function from facts to blocks (``report_blocks``); a section of what was not done is left out.
3. ``report.html`` turns blocks into HTML with autoescape, so that model text can never be markup. The page's policy
   forbids scripts and everything outside it; pictures stand inside as data.

The same facts give the same page: its only date is ``made_at``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources

import polars as pl

from n2g_assets.evaluation.failures import FAILURE_RULES
from n2g_assets.report import tables
from n2g_assets.report.blocks import (
    Block,
    Code,
    Figure,
    Heading,
    Points,
    Section,
    Terms,
    Words,
    layers_listed,
    plain_share,
)
from n2g_assets.report.facts import ExampleGraph, ReportFacts
from n2g_assets.report.findings import (
    SCORES,
    TEXTS,
    control_findings,
    rule_findings,
    shortfalls,
    text_findings,
    text_name,
    unit_findings,
)
from n2g_assets.report.plots import PUBLISHED_F1, calibration, f1_by_layer, precision_recall
from n2g_assets.report.tables import styles

__all__ = ["PUBLISHED_F1", "ExampleGraph", "ReportFacts", "render_report"]

COUNTEREXAMPLES_SHOWN = 5
"""Counterexamples of each kind and text in the report; the table ``counterexamples`` holds all."""


def render_report(facts: ReportFacts) -> str:
    """The report as one self-contained HTML document.

    Args:
        facts: what is reported; with the preset ``paper`` the page prints the paper's table in the place of the
            results and leaves out what was not done.

    Returns:
        The page as text: no scripts, no requests, pictures as data.
    """
    from jinja2 import Environment, StrictUndefined

    source = resources.files("n2g_assets.report").joinpath("report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    sections = [section for section in _sections(facts) if section.blocks]
    made_at = f"{facts.made_at:%d %B %Y, %H:%M} UTC".lstrip("0")
    return environment.from_string(source).render(facts=facts, sections=sections, made_at=made_at)


def _sections(facts: ReportFacts) -> Iterator[Section]:
    yield Section("summary", "Summary", tuple(_summary(facts)))
    yield Section("protocol", "Protocol", tuple(_protocol(facts)))
    if facts.is_paper:
        yield Section("results", "Results", tuple(_paper_results(facts)))
    else:
        yield Section("results", "Results", tuple(_results(facts)))
        yield Section("controls", "Controls", tuple(_controls(facts)))
        yield Section("rule-tests", "Rule tests", tuple(_rule_tests(facts)))
        yield Section("failures", "Failures", tuple(_failures(facts)))
        yield Section("counterexamples", "Counterexamples", tuple(_counterexamples(facts)))
    yield Section("units", "Units and denominators", tuple(_units(facts)))
    yield Section("reproduce", "Reproduce", tuple(_reproduce(facts)))


def _summary(facts: ReportFacts) -> Iterator[Block]:
    asked = int(facts.units["asked"].sum())
    yield Words(
        f"The study {facts.study} explains {asked:,} units of {layers_listed(facts.layers)} of "
        f"{facts.model.get('model', 'its subject model')} by token graphs, and asks how well those graphs predict on "
        "text that they were not built from where a unit fires. Brackets hold 95\u00a0% intervals."
    )
    if facts.missing_layers:
        yield Words(f"Not evaluated yet: {layers_listed(facts.missing_layers)}. Nothing below speaks of them.")
    if facts.layer_scores.is_empty():
        yield Words("No layer is evaluated yet.")
        return
    findings = text_findings(facts.layer_scores, facts.texts, facts.threshold)
    rules = rule_findings(facts.rule_tests)
    controls = [] if facts.is_paper else control_findings(facts.layer_scores, facts.texts)
    yield Points((*findings, *controls, *([rules] if rules else []), unit_findings(facts.units)))
    fails = shortfalls(facts.layer_scores, facts.texts)
    if fails:
        yield Heading("Where graphs fail", "where-graphs-fail")
        rule = " Against the n-gram the two intervals must lie apart."
        yield Words(
            "After a layer stands the difference of the mean F1 from the token lookup's, taken in pairs; the graph "
            "beats it where the interval lies above 0."
            + (rule if "ngram_backoff" in facts.layer_scores["predictor"] else "")
        )
        yield Points(tuple(fails))


def _protocol(facts: ReportFacts) -> Iterator[Block]:
    predictors = facts.layer_scores["predictor"].unique().to_list()
    draws = facts.settings.get("evaluation", {}).get("bootstrap_draws")
    fill = {"threshold": f"{facts.threshold:g}", "draws": f" ({draws:,} draws)" if draws else ""}
    yield Words(
        "A token graph is built from half of a unit's strongest contexts (train). Every predictor sees the same tokens "
        "and says a normalised activation for each; what is compared is that prediction with the activation measured."
    )
    yield Heading("Texts", "texts")
    yield Terms(tuple((text_name(text, 0), TEXTS[text][2] if text in TEXTS else "") for text in facts.texts))
    if len(facts.evaluation):
        yield tables.text_sizes(facts.evaluation, facts.texts)
    yield Heading("Predictors", "predictors")
    yield Terms(tables.predictors_of(predictors))
    yield Heading("Scores and conventions", "scores")
    unused = ("AP, AUROC", "r", "Coverage") if facts.is_paper else ()
    yield Terms(tuple((name, words.format(**fill)) for name, words in SCORES.items() if name not in unused))


def _results(facts: ReportFacts) -> Iterator[Block]:
    if facts.layer_scores.is_empty():
        yield Words("No layer is evaluated yet.")
    for text in facts.texts:
        yield Heading(text_name(text, 0), f"results-{text}")
        yield tables.overview(facts.layer_scores, text)
        yield from _figures(facts, text)
        yield tables.details(facts.layer_scores, facts.evaluation, text)
    yield from _examples(facts)


def _figures(facts: ReportFacts, text: str) -> Iterator[Figure]:
    yield _f1_figure(facts, text)
    curves = facts.layer_scores.filter(pl.col("text") == text, pl.col("predictor") != "always_zero")
    title = "Precision and recall of firing"
    yield Figure(
        precision_recall(curves, title=title, threshold=facts.threshold),
        f"Precision and recall on {text_name(text)}, tokens of all units and layers pooled.",
        beside=True,
    )
    yield Figure(
        calibration(facts.evaluation.filter(text=text), title="Calibration"),
        f"What a predicted activation is worth on {text_name(text)}, all units and layers pooled.",
        beside=True,
    )


def _f1_figure(facts: ReportFacts, text: str) -> Figure:
    published = PUBLISHED_F1 if text == "top" else None
    svg = f1_by_layer(
        facts.layer_scores.filter(text=text),
        title=f"{facts.study}: F1 of firing on {text_name(text)}",
        published=published,
        n_layers=facts.model.get("n_layers"),
    )
    line = " The dashed line is the paper's, of another model." if published else ""
    return Figure(svg, f"F1 of firing by layer on {text_name(text)}: means over all units asked for.{line}")


def _paper_results(facts: ReportFacts) -> Iterator[Block]:
    evaluated = facts.evaluation.filter(text="top")
    if evaluated.is_empty():
        yield Words("No layer is evaluated yet.")
        return
    yield Words(
        "The paper's table: on each unit's own test contexts, means over units of precision, recall and F1 of firing "
        "and of non-firing tokens. Where nothing is predicted to fire, precision is undefined; whether such units "
        "are left out or count 0 changes the means, so both conventions stand here."
    )
    method, harvest = facts.settings.get("method", {}), facts.settings.get("harvest", {})
    yield Words(
        f"What differs from the paper: contexts of {harvest.get('context_length', '?')} tokens (the authors' have "
        f"1,024), at most {method.get('contexts_per_document', '?')} of a unit from one document, none from its test "
        "documents or their near-duplicates, part of the documents never harvested, and substitutes proposed by "
        f"{'the subject model itself' if method.get('proposer') == 'infill' else 'a masked language model'}."
    )
    for name, style in styles(evaluated["predictor"].unique()).items():
        if not style.control:
            yield Heading(style.name[0].upper() + style.name[1:], f"results-{name}")
            for missing_is_zero in (False, True):
                yield tables.paper_table(evaluated, facts.units, name, missing_is_zero=missing_is_zero)
    yield Heading("As published", "published")
    yield tables.published_table()
    if not facts.layer_scores.filter(text="top").is_empty():
        yield _f1_figure(facts, "top")
    yield from _examples(facts)


def _examples(facts: ReportFacts) -> Iterator[Block]:
    if facts.examples:
        yield Heading("Example graphs", "example-graphs")
    for example in facts.examples:
        name = tables.unit_name(vars(example))
        yield Figure(example.svg, f"The token graph of {name}.")
        if len(example.rules):
            listed = example.rules.sort("rule_id").select("rule_id", "pattern", "activation", "count")
            rows = listed.rename({"rule_id": "rule", "activation": "predicts", "count": "prompts"})
            rows = rows.with_columns(
                pl.Series("predicts", [plain_share(value) for value in rows["predicts"]], pl.String)
            )
            yield tables.plain(rows, f"Rules of {name}; * is any token, the last token is the one that activates.")


def _controls(facts: ReportFacts) -> Iterator[Block]:
    table = tables.controls(facts.layer_scores, facts.texts)
    if table is None:
        yield Words("No control was scored.")
        return
    yield Words(
        "A shuffled graph near 0 says that the scores are the unit's own and not those of any graph. A reinitialised "
        "model's graphs say how much of the score a model without learning gives as well; beside them stands the "
        "study's own graph on the same units, though on its own model's larger harvest and texts."
    )
    yield table


def _rule_tests(facts: ReportFacts) -> Iterator[Block]:
    if facts.rule_tests.is_empty():
        yield Words("No rule was tested.")
        return
    yield Words(
        "A rule claims to be a cause. For each tested rule, texts were made that match it (its tokens in fresh "
        "contexts), and near misses in which one required token is exchanged, moved or removed; the model was run on "
        "all of them. A good rule's matches fire, and it stays silent where a context token was changed. Activations "
        "are as measured, in units of the largest over the harvest: a rule comes from a prompt that may itself have "
        "kept only half of its context's activation, and so be short of firing. That another "
        "activating token is silent says little, as most tokens are: such near misses stand apart, for rules without "
        "context or whose context the graph itself does not need."
    )
    yield tables.rule_tests(facts.rule_tests)
    changes = tables.near_miss_changes(facts.rule_tests, facts.threshold)
    if changes:
        yield changes


def _failures(facts: ReportFacts) -> Iterator[Block]:
    if facts.failures.is_empty():
        yield Words("No unit meets the rule of any kind of failure.")
    else:
        yield tables.failures(facts.failures, facts.units, list(FAILURE_RULES))
    yield Words("Kinds are named by rule, not by eye:")
    yield Terms(tuple((kind.replace("_", " "), rule) for kind, rule in FAILURE_RULES.items()))


def _counterexamples(facts: ReportFacts) -> Iterator[Block]:
    if facts.counterexamples.is_empty():
        yield Words("None were kept.")
        return
    yield Words(
        "The tokens of held-out text on which graphs are most confidently wrong, at most one a unit. The token in "
        "question is the marked one, the last of its window."
    )
    kinds = [(kind, text) for text in facts.texts for kind in ("false_alarm", "miss")]
    for kind, text in kinds:
        table = tables.counterexamples(facts.counterexamples, facts.tokens, kind, text, COUNTEREXAMPLES_SHOWN)
        if table:
            yield table


def _units(facts: ReportFacts) -> Iterator[Block]:
    yield Words(
        "No unit is dropped silently: one that is dead, has too few contexts or fails stays in the denominator of "
        "every mean over all units."
    )
    yield tables.unit_counts(facts.units)
    if facts.texts:
        yield tables.denominators(facts.layer_scores, facts.texts)


def _reproduce(facts: ReportFacts) -> Iterator[Block]:
    if facts.commands:
        yield Code("\n".join(facts.commands))
    yield Heading("Model", "model")
    yield tables.pairs({name: value for name, value in facts.model.items() if name != "study"}, "The subject model.")
    yield Heading("Corpus", "corpus")
    yield tables.plain(facts.documents, "Documents and tokens (BOS not counted).")
    yield tables.pairs(facts.text_hashes, "Content hashes.")
    yield Heading("Settings", "settings")
    yield Code(json.dumps(dict(facts.settings), indent=2, ensure_ascii=False, default=str))
    yield Heading("Versions", "versions")
    yield tables.pairs(facts.versions, "Packages.")
    if len(facts.slices):
        yield Heading("Slices", "slices")
        yield tables.plain(
            facts.slices.select("table_name", "layer", "rows", "input_hash", "content_hash"),
            "Every slice behind this report; the first 16 digits of its hashes, whole in the table slices.",
            shorter=("input_hash", "content_hash"),
        )
