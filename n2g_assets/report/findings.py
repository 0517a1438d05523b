"""The report's sentences: what was found, said plainly, and what the words mean.

1. By text, between which layers the graphs' F1 lies, and what their alarms are worth.
2. Where graphs fail: every layer and text at which they do not beat a token lookup or the back-off n-gram, by F1 at the
   threshold and by average precision. Against the token lookup the interval of the paired difference of F1 decides;
   elsewhere, where no paired difference is kept, the two intervals must not touch.
3. What texts, predictors and scores are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from n2g_assets.report.blocks import interval, layers_listed, listed, percent, plain_share, share

TEXTS = {
    "top": (
        "Own test contexts",
        "the units' own test contexts",
        "The paper's protocol: the half of a unit's strongest contexts that its graph was not built from. It flatters "
        "every predictor: each of these contexts was chosen because the unit is strong in it.",
    ),
    "quantiles": (
        "Every strength",
        "contexts of every strength",
        "Contexts of held-out documents, drawn where the unit's activation lies in each tenth of its positive ones; "
        "all of their tokens are scored. Most tenths are far below firing, so that few tokens fire here.",
    ),
    "random": (
        "Held-out text",
        "held-out text",
        "All tokens of whole documents that no graph was built from, as they come: here false alarms show.",
    ),
    "out_of_domain": (
        "Out-of-domain text",
        "out-of-domain text",
        "All tokens of documents of another kind than the harvest.",
    ),
}
"""Of each text: its heading, its name in a sentence, and what it is."""

PREDICTORS = {
    "graph": "The unit's token graph, the explanation that is being judged.",
    "token_lookup": "Mean activation of each token over the same train contexts; it knows no context.",
    "ngram": "Mean activation of each run of n tokens over the same train contexts, n chosen on train.",
    "ngram_backoff": "A strong rival: an interpolated, shrunk back-off n-gram from train contexts and the harvest. "
    "Of most harvested tokens it only knows that they are not among the unit's strongest, and counts them 0: good for "
    "firing, low for graded activations.",
    "skip_bigram": "A strong rival: what a token does beside an earlier one, from train contexts and the harvest, "
    "known as far as for the back-off n-gram.",
    "always_zero": "Predicts silence everywhere.",
    "graph_unaugmented": "Control: the graph without the paths of substituted tokens; what that stage brings.",
    "graph_shuffled": "Control: the graph of another unit of the layer; what any graph would reach.",
    "graph_reinitialised": "Control: graphs built in the same way for the same model with random weights, scored on "
    "that model's own activations; what the method finds where nothing was learnt. A few units, a smaller harvest and "
    "smaller texts than the study's.",
}

SCORES = {
    "Activation": "Normalised: divided by the unit's largest activation over the harvest.",
    "Firing": "A token fires where the normalised activation is at least {threshold}, and is predicted to fire where "
    "the prediction is. Position 0 (BOS) never counts.",
    "F1, all": "Mean F1 of firing over all units asked for; a unit without a score (dead, failed, too few contexts, or "
    "F1 undefined) counts 0. This is the number that the summary uses.",
    "F1, defined": "The same mean with undefined values left out: F1 is undefined where nothing fires and nothing is "
    "predicted to.",
    "P, R": "Mean precision (undefined where nothing is predicted to fire) and recall (undefined where nothing fires) "
    "over the units where each is defined.",
    "AP, AUROC": "Average precision and area under the ROC curve with the prediction as score: they ask for the order "
    "of tokens, not for the threshold.",
    "r": "Mean correlation of predicted and actual activation.",
    "Coverage": "Share of the firing tokens, and of the sum of positive activations, for which the predictor says "
    "anything above 0.",
    "Intervals": "In brackets, 95\u00a0%: a bootstrap over documents{draws}, the same draws for every unit of a layer. "
    "They hold for these units and say how much hangs on the choice of documents; where every document says the same "
    "they have no width.",
    "–": "Not defined, or not measured: never counted as 0 unless a column says so.",
}


@dataclass(frozen=True)
class Comparison:
    """Layers at which the graph is above a rival, not told apart from it, and below it."""

    above: list[int]
    level: list[int]
    below: list[int]


def text_name(text: str, place: int = 1) -> str:
    """A text's heading (place 0) or its name in a sentence (place 1)."""
    return TEXTS[text][place] if text in TEXTS else text.replace("_", " ")


def compare(scores: pl.DataFrame, rival: str, score: str = "f1_all") -> Comparison | None:
    """The graph against a rival on one text; None where no layer has both.

    Args:
        scores: rows of table ``layer_scores`` of one text.
        rival: a predictor; by F1 ``token_lookup`` is compared by ``f1_gain`` where the graph has one.
        score: ``f1_all`` or ``average_precision``.
    """
    rivals = {row["layer"]: row for row in scores.filter(predictor=rival).iter_rows(named=True)}
    found = Comparison([], [], [])
    for row in scores.filter(predictor="graph").sort("layer").iter_rows(named=True):
        other = rivals.get(row["layer"])
        if other is None:
            continue
        if (
            score == "f1_all"
            and rival == "token_lookup"
            and row["f1_gain_low"] is not None
            and row["f1_gain_high"] is not None
        ):
            low, high = row["f1_gain_low"], row["f1_gain_high"]
        elif None in (row[f"{score}_low"], other[f"{score}_low"]):
            continue
        else:
            low = row[f"{score}_low"] - other[f"{score}_high"]
            high = row[f"{score}_high"] - other[f"{score}_low"]
        (found.above if low > 0 else found.below if high < 0 else found.level).append(row["layer"])
    return found if found.above or found.level or found.below else None


def text_findings(scores: pl.DataFrame, texts: Sequence[str], threshold: float) -> list[str]:
    """A sentence or two a text: the graphs' F1 from the best to the worst layer, and what their alarms are worth."""
    sentences = []
    for text in texts:
        graph = scores.filter(text=text, predictor="graph").sort("f1_all", "layer", descending=[True, False])
        if graph.is_empty():
            continue
        rows = list(graph.iter_rows(named=True))
        ends = f"{_at(rows[0])}" if len(rows) == 1 else f"between {_at(rows[0])} and {_at(rows[-1])}"
        sentence = f"On {text_name(text)}, the graphs' mean F1 of firing is {ends}."
        silent, scored = (sum(row[name] for row in rows) for name in ("without_firing", "evaluated"))
        if silent:
            sentence += (
                f" There {silent:,} of {scored:,} units never fire, and count 0 however rightly they are predicted "
                f"silent: no predictor could reach more than {share((scored - silent) / scored)}."
            )
        hits, alarms, firings = _alarms(rows, threshold)
        if alarms and firings:
            sentence += (
                f" Over all layers and units, {percent(hits / alarms)} of the tokens that graphs call firing do fire, "
                f"and graphs find {percent(hits / firings)} of the firing tokens."
            )
        sentences.append(sentence)
    return sentences


def shortfalls(scores: pl.DataFrame, texts: Sequence[str]) -> list[str]:
    """Where graphs fail, a sentence a text and rival; where they do not, that is said as well."""
    sentences = []
    for text in texts:
        here = scores.filter(text=text)
        place = text_name(text)[0].upper() + text_name(text)[1:]
        lookup, rival = compare(here, "token_lookup"), compare(here, "ngram_backoff")
        if lookup and (lookup.level or lookup.below):
            sentences.append(f"{place}: {_against('a token lookup', lookup, _gains(here))}.")
        if rival and (rival.level or rival.below):
            sentences.append(f"{place}: {_against('the back-off n-gram, which never runs the model,', rival, {})}.")
        ranked = compare(here, "ngram_backoff", "average_precision")
        if ranked and ranked.below:
            sentences.append(
                f"{place}: in order of strength (average precision) the back-off n-gram puts the firing tokens higher "
                f"at {layers_listed(ranked.below)}."
            )
        compared = [name for name, found in (("a token lookup", lookup), ("the back-off n-gram", rival)) if found]
        if compared and not any(found and (found.level or found.below) for found in (lookup, rival)):
            sentences.append(f"{place}: the graph beats {' and '.join(compared)} at every layer evaluated.")
        weak = here.filter((pl.col("predictor") == "graph") & (pl.col("f1_all") < 0.1))["layer"].to_list()
        if weak:
            sentences.append(f"{place}: the graphs' mean F1 is below .1 at {layers_listed(weak)}.")
    return sentences


def control_findings(scores: pl.DataFrame, texts: Sequence[str]) -> list[str]:
    """The largest mean F1 of the shuffled and reinitialised controls, and what augmentation brings."""
    sentences = []
    for control, name in (
        ("graph_shuffled", "The graph of another unit reaches"),
        ("graph_reinitialised", "The graphs of a model with random weights reach"),
    ):
        rows = scores.filter(predictor=control).sort("f1_all", "text", "layer", descending=[True, False, False])
        if len(rows):
            row = rows.row(0, named=True)
            sentences.append(f"{name} a mean F1 of at most {_at(row)} ({text_name(row['text'])}).")
    keys = ["layer", "text"]
    bare = scores.filter(predictor="graph_unaugmented")
    both = scores.filter(predictor="graph").join(bare, on=keys, suffix="_bare")
    gains = {
        text: (rows["f1_all"] - rows["f1_all_bare"]).to_list() for text in texts if len(rows := both.filter(text=text))
    }
    if gains:
        parts = [f"{plain_share(sum(gain) / len(gain))} on {text_name(text)}" for text, gain in gains.items()]
        sentences.append(f"Augmentation changes the mean F1 by {listed(parts)} (mean of the layers).")
    return sentences


def rule_findings(rule_tests: pl.DataFrame) -> str:
    """How often rules hold when they are tested on the model, in one sentence; empty where none was tested."""
    matches, fired, misses, silent = (
        int(rule_tests[name].sum()) for name in ("n_matches", "fired", "n_context_near_misses", "context_silent")
    )
    if not matches + misses:
        return ""
    parts = [f"units fire on {percent(fired / matches)} of {matches:,} texts made to match a rule"] if matches else []
    if misses:
        parts.append(f"stay silent on {percent(silent / misses)} of {misses:,} texts with one context token changed")
    return f"Tested on the model, {' and '.join(parts)}."


def unit_findings(units: pl.DataFrame) -> str:
    """What became of the units, in one sentence."""
    totals = {name: int(units[name].sum()) for name in ("asked", "ok", "dead", "too_few_contexts", "failed")}
    return (
        f"Of {totals['asked']:,} units asked for, {totals['ok']:,} went through every stage, {totals['dead']:,} are "
        f"dead, {totals['too_few_contexts']:,} have too few contexts and {totals['failed']:,} failed; all stay in the "
        "denominator of every mean over all units."
    )


def _alarms(rows: Sequence[dict[str, Any]], threshold: float) -> tuple[int, int, int]:
    """Right alarms, alarms and firing tokens over layers, from counts by prediction in hundredths."""
    firing, silent = (
        np.array([row[f"levels_{name}"] for row in rows], np.int64).sum(axis=0) for name in ("firing", "silent")
    )
    start = int(np.ceil(threshold * 100 - 1e-9))
    return int(firing[start:].sum()), int((firing + silent)[start:].sum()), int(firing.sum())


def _at(row: dict[str, Any]) -> str:
    digits = 2 if row["f1_all"] >= 0.095 else 3
    ends = interval(row["f1_all_low"], row["f1_all_high"], digits)
    return f"{plain_share(row['f1_all'])}{' ' + ends if ends else ''} at layer {row['layer']}"


def _against(rival: str, found: Comparison, gains: Mapping[int, str]) -> str:
    parts = [f"does not beat {rival} at {_where(found.level, gains)}"] if found.level else []
    if found.below:
        parts.append(f"is worse than {'it' if parts else rival} at {_where(found.below, gains)}")
    if found.above:
        parts.append(f"is better at {layers_listed(found.above)}")
    return "the graph " + ", ".join(parts)


def _where(layers: Sequence[int], gains: Mapping[int, str]) -> str:
    """Layers, each with the difference there where they are few."""
    if len(layers) > 6 or not all(layer in gains for layer in layers):
        return layers_listed(layers)
    return f"layer{'' if len(layers) == 1 else 's'} {listed(f'{layer} ({gains[layer]})' for layer in layers)}"


def _gains(scores: pl.DataFrame) -> dict[int, str]:
    """By layer, the graph's paired difference from the token lookup with its interval."""
    return {
        row["layer"]: f"{share(row['f1_gain'], 2)} {interval(row['f1_gain_low'], row['f1_gain_high'], 2)}".strip()
        for row in scores.filter(predictor="graph").iter_rows(named=True)
        if row["f1_gain"] is not None
    }
