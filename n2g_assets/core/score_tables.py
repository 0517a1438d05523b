"""The tables of what the evaluation finds: of rules, units and layers. All other tables stand in ``tables.py``."""

from functools import partial

import polars as pl

from n2g_assets.core import registry
from n2g_assets.core.table import STUDY, Column, Table, any_of, unit_table

_c = Column
_n = partial(Column, nullable=True)
_INTS, _REALS, _DOUBLES = pl.List(pl.Int32), pl.List(pl.Float32), pl.List(pl.Float64)
_COUNTS, _TEXTS = pl.List(pl.Int64), pl.List(pl.List(pl.Int32))
_INTERVAL = "of its 95 % interval (bootstrap over documents)"
_FAILURE = "context_beyond_window, token_classes_too_narrow, over_general_rule, weak_peak or polysemantic"
_SCORE = "the prediction as score (rounded down to thousandths)"
_PEARSON_R = "Pearson's r of predicted and actual activation (signed)"
_EXPLAINED = "1 - Var(actual - predicted) / Var(actual) of the activation (signed)"
_COVERED = "for which the predictor has a rule (predicts more than 0)"
_KINDS = "; ".join(
    f"{kind}: for text {', '.join(text.name for text in registry.TEXTS if text.threshold == kind)}"
    for kind in registry.THRESHOLDS
)
_LEFT_OUT = "on the left-out harvested documents that it was chosen on; NULL where it was not chosen on any"

SCORE_TABLES = (
    unit_table("rule_tests", "rule, tested on the model: texts that match it and texts that nearly do", ("rule_id",),
        _c("rule_id", pl.Int32, "the rule, as in rules"),
        _c("n_matches", pl.Int32, "texts tried that match the rule: its tokens in a fresh context"),
        _c("fired", pl.Int32, "of those, texts on which the unit fires"),
        _c("n_near_misses", pl.Int32, "texts tried in which one required token is exchanged, moved or removed"),
        _c("silent", pl.Int32, "of those, texts on which the unit stays silent"),
        _c("match_ids", _TEXTS, "token ids of each matching text, BOS included; the activating token is the last"),
        _c("match_activations", _REALS, "normalised activation at the end of each matching text"),
        _c("near_miss_ids", _TEXTS, "token ids of each near miss, BOS included; its last token is read"),
        _c("near_miss_activations", _REALS, "normalised activation at the end of each near miss"),
        _c("near_miss_changes", pl.List(pl.String), "what was done to each near miss: exchanged, moved or removed"),
        _c("near_miss_tokens", pl.List(pl.String), "to which token of the rule: context or activating"),
        _c("n_context_near_misses", pl.Int32, "near misses in which a context token was changed"),
        _c("context_silent", pl.Int32, "of those, texts on which the unit stays silent"),
        _c("near_miss_expected", _REALS, "what the graph expects at the end of each near miss; empty in the paper's"),
        _c("predicted", pl.Float32, "normalised activation that is predicted; evidence: mean over the matches"),
        _n("otherwise", pl.Float32, "mean of near_miss_expected; NULL without any"),
        _n("match_mean", pl.Float32, "mean of match_activations; NULL without any"),
        _n("near_miss_mean", pl.Float32, "mean of near_miss_activations; NULL without any"),
        _n(
            "held", pl.Boolean,
            "whether match_mean less near_miss_mean has the sign of predicted less otherwise, and at least half of its "
            "size; NULL where one of them is, and where nothing is claimed",
        ),
    ),
    unit_table(
        "reach",
        "unit, text and number of last tokens: the activation of the model that is shown them alone, as a prediction",
        ("text", "last_tokens"),
        _c("text", pl.String, "random or out_of_domain"),
        _c("last_tokens", pl.Int32, "tokens that the model is shown behind BOS; the whole prefix where it is shorter"),
        _c("n_positions", pl.Int64, "positions that were drawn from the text"),
        _c("n_firings", pl.Int64, "of those, positions at which the unit fires in the full text"),
        _n("pearson_r", pl.Float64, "correlation with the activation in the full text; NULL where one is constant"),
        _n("explained_variance", pl.Float64, "1 - Var(actual - predicted) / Var(actual); NULL where that is constant"),
        _n("average_precision", pl.Float64, f"average precision of firing, {_SCORE}; NULL where nothing fires"),
        _n("f1", pl.Float64, "F1 of firing; NULL where nothing fires and nothing was predicted to"),
    ),
    unit_table("evaluation", "unit, predictor and text", ("predictor", "text"),
        _c("predictor", pl.String, any_of("predictors", registry.named(registry.PREDICTORS))),
        _c("text", pl.String, any_of("texts", registry.named(registry.TEXTS))),
        _c("threshold", pl.Float64, "prediction from which a token is predicted to fire; see table thresholds"),
        _c("n_tokens", pl.Int64, "tokens of the text, BOS not counted"),
        _c("n_documents", pl.Int32, "documents of the text"),
        _c("n_firings", pl.Int64, "firing tokens of the text"),
        _c("n_firing_documents", pl.Int32, "documents that hold them"),
        _c("true_positives", pl.Int64, "firing tokens that were predicted to fire"),
        _c("false_positives", pl.Int64, "silent tokens that were predicted to fire"),
        _c("false_negatives", pl.Int64, "firing tokens that were predicted silent"),
        _c("true_negatives", pl.Int64, "silent tokens that were predicted silent"),
        _n("precision", pl.Float64, "precision of firing; NULL where nothing was predicted to fire"),
        _n("recall", pl.Float64, "recall of firing; NULL where nothing fires"),
        _n("f1", pl.Float64, "F1 of firing; NULL where nothing fires and nothing was predicted to"),
        _n("f1_low", pl.Float64, f"lower end {_INTERVAL}; NULL as f1, or under 5 firing documents"),
        _n("f1_high", pl.Float64, f"upper end {_INTERVAL}; NULL as f1_low"),
        _n("auroc", pl.Float64, f"area under the ROC curve of firing, {_SCORE}; NULL where all tokens or none fire"),
        _n("average_precision", pl.Float64, f"average precision of firing, {_SCORE}; NULL where nothing fires"),
        _n("average_precision_low", pl.Float64, f"lower end {_INTERVAL}; NULL as f1_low"),
        _n("average_precision_high", pl.Float64, f"upper end {_INTERVAL}; NULL as its lower end"),
        _n("pearson_r", pl.Float64, f"{_PEARSON_R}; NULL where one is constant"),
        _n("pearson_r_low", pl.Float64, f"lower end {_INTERVAL}; NULL as pearson_r, or under 5 documents"),
        _n("pearson_r_high", pl.Float64, f"upper end {_INTERVAL}; NULL as its lower end"),
        _n("explained_variance", pl.Float64, f"{_EXPLAINED}; NULL where the actual is constant"),
        _n("explained_variance_low", pl.Float64, f"lower end {_INTERVAL}; NULL as it, or under 5 documents"),
        _n("explained_variance_high", pl.Float64, f"upper end {_INTERVAL}; NULL as its lower end"),
        _n("coverage_firings", pl.Float64, f"share of the firing tokens {_COVERED}; NULL where nothing fires"),
        _n("coverage_mass", pl.Float64, f"share of the sum of positive activations {_COVERED}; NULL where it is 0"),
        _c("calibration_tokens", _COUNTS, "tokens predicted 0, in (0, .1), in [.1, .2) and so on, in [.9, and more"),
        _c("calibration_predicted", _DOUBLES, "sum of the predicted activations in each of these bins"),
        _c("calibration_actual", _DOUBLES, "sum of the actual activations in each of these bins"),
        _n("ngram_n", pl.Int32, "the n that ngram chose; NULL for the others"),
    ),
    unit_table("size_curve", "unit, text and number of rules: the best graph (evidence)", ("text", "n_rules"),
        _c("text", pl.String, "as in evaluation"),
        _c("n_rules", pl.Int32, "rules of the graph, where it has as many"),
        _c("threshold", pl.Float64, "prediction from which a token is predicted to fire"),
        *(
            _n(f"{score}{end}", pl.Float64, f"{said}, as in evaluation")
            for score, name in (
                ("pearson_r", "Pearson's r"), ("explained_variance", "explained variance"),
                ("average_precision", "average precision"), ("f1", "F1"),
            )
            for end, said in (("", name), ("_low", f"lower end of {name}"), ("_high", f"upper end of {name}"))
        ),
    ),
    unit_table("thresholds", "unit, predictor and kind of text", ("predictor", "kind"),
        _c("predictor", pl.String, "as in evaluation"),
        _c("kind", pl.String, _KINDS),
        _c("threshold", pl.Float64, "prediction from which a token is predicted to fire (normalised activation)"),
        _n("f1", pl.Float64, f"F1 of firing {_LEFT_OUT}; NULL where nothing fires and nothing was predicted to"),
        _n("n_firings", pl.Int64, f"firing tokens {_LEFT_OUT}"),
    ),
    unit_table(
        "document_scores",
        "unit, predictor, text and document: what intervals and layer means are made of",
        ("predictor", "text", "document_id"),
        _c("predictor", pl.String, "as in evaluation"),
        _c("text", pl.String, "as in evaluation"),
        _c("document_id", pl.String, "document; one without a token in the text has no row"),
        _c("n_tokens", pl.Int32, "tokens of the document in the text, BOS not counted"),
        _c("true_positives", pl.Int32, "firing tokens that were predicted to fire"),
        _c("false_positives", pl.Int32, "silent tokens that were predicted to fire"),
        _c("false_negatives", pl.Int32, "firing tokens that were predicted silent"),
        _c("levels", _INTS, "predictions of its tokens, rounded down to thousandths of a_max: 0 to 1000, ascending"),
        _c("firing", _INTS, "firing tokens at each of these levels"),
        _c("silent", _INTS, "silent tokens at each of these levels"),
        _c("actual_sum", pl.Float64, "sum of the actual normalised activation (signed) of its tokens"),
        _c("predicted_sum", pl.Float64, "sum of the predicted one"),
        _c("actual_square_sum", pl.Float64, "sum of the squares of the actual one"),
        _c("predicted_square_sum", pl.Float64, "sum of the squares of the predicted one"),
        _c("product_sum", pl.Float64, "sum of actual times predicted"),
        published=False,
    ),
    unit_table(
        "strength_examples",
        "unit and tenth of its positive activations on held-out text: a context that was drawn from it", ("tenth",),
        _c("tenth", pl.Int32, "tenth that its position was drawn from; 0 is the weakest"),
        _c("context_id", pl.String, "context"),
        _c("position", pl.Int32, "position that was drawn, from 0"),
        _c("activation", pl.Float32, "activation there"),
        _c("activations", _REALS, "activation at every position of the context"),
    ),
    unit_table(
        "counterexamples",
        "token on which a unit's graph is wrong: the most confident false alarms and misses on held-out text",
        ("text", "kind", "rank"),
        _c("text", pl.String, "random or out_of_domain"),
        _c("kind", pl.String, "false_alarm: predicted to fire and silent; miss: fires and predicted silent"),
        _c("rank", pl.Int32, "0 is the most confident one"),
        _c("context_id", pl.String, "context"),
        _c("position", pl.Int32, "position in the context, from 0"),
        _c("predicted", pl.Float32, "predicted normalised activation"),
        _c("actual", pl.Float32, "actual normalised activation"),
        _c("token_ids", _INTS, "the window up to the position, BOS included; the last one is the token in question"),
        _c("cause", pl.String, "rule fired wrongly, token unknown, context unmatched or value too low"),
        _n("rule_id", pl.Int32, "the rule that gave the prediction; NULL where none did"),
    ),
    unit_table("failures", "unit and kind of failure, named by a rule that the report states", ("kind",),
        _c("kind", pl.String, _FAILURE),
        _c("share", pl.Float64, "the measured share that the kind goes by"),
        _c("reason", pl.String, "the measurement in one sentence"),
    ),
    Table("layer_scores", "layer, predictor and text: means over units with intervals", "layer", (
        STUDY,
        _c("layer", pl.Int32, "layer, from 0"),
        _c("predictor", pl.String, any_of("predictors", registry.named(registry.PREDICTORS))),
        _c("text", pl.String, any_of("texts", registry.named(registry.TEXTS))),
        _c("units", pl.Int32, "units asked for"),
        _c("evaluated", pl.Int32, "of those, units with a score on this text"),
        _c("without_firing", pl.Int32, "of the evaluated, units with no firing token in this text"),
        _n("f1", pl.Float64, "mean F1 of firing, undefined left out; NULL where nowhere defined"),
        _n("f1_low", pl.Float64, f"lower end {_INTERVAL}"),
        _n("f1_high", pl.Float64, f"upper end {_INTERVAL}"),
        _c("f1_all", pl.Float64, "mean F1 of firing over all units asked for, undefined and missing counted 0"),
        _c("f1_all_low", pl.Float64, f"lower end {_INTERVAL}"),
        _c("f1_all_high", pl.Float64, f"upper end {_INTERVAL}"),
        _n("average_precision", pl.Float64, "mean average precision, undefined left out"),
        _n("average_precision_low", pl.Float64, f"lower end {_INTERVAL}"),
        _n("average_precision_high", pl.Float64, f"upper end {_INTERVAL}"),
        _n("pearson_r", pl.Float64, f"mean {_PEARSON_R}, undefined left out"),
        _n("pearson_r_low", pl.Float64, f"lower end {_INTERVAL}"),
        _n("pearson_r_high", pl.Float64, f"upper end {_INTERVAL}"),
        _n("explained_variance", pl.Float64, f"mean {_EXPLAINED}, undefined left out"),
        _n("explained_variance_low", pl.Float64, f"lower end {_INTERVAL}"),
        _n("explained_variance_high", pl.Float64, f"upper end {_INTERVAL}"),
        _n("f1_gain", pl.Float64, "f1_all less that of token_lookup"),
        _n("f1_gain_low", pl.Float64, f"lower end {_INTERVAL}, in pairs"),
        _n("f1_gain_high", pl.Float64, f"upper end {_INTERVAL}, in pairs"),
        _c("levels_firing", _COUNTS, "firing tokens of all units by their prediction in hundredths, 0 to 100"),
        _c("levels_silent", _COUNTS, "silent tokens of all units by their prediction in hundredths, 0 to 100"),
    ), ("study", "layer", "predictor", "text")),
)  # fmt: skip
"""In the order of the pipeline."""
