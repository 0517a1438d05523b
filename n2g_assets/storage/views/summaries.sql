-- What a study was scored on and what came out of it, in the tables that its report prints.

CREATE VIEW corpus_summary AS
SELECT
    study,
    split,
    source,
    kind,
    count(*) AS documents,
    CAST(sum(n_tokens) AS BIGINT) AS tokens,
    sha256(string_agg(sha256, '' ORDER BY document_id)) AS sha256
FROM documents
GROUP BY study, split, source, kind
ORDER BY study, split, source, kind;
COMMENT ON VIEW corpus_summary IS 'The corpus of each study by split and source.';
COMMENT ON COLUMN corpus_summary.documents IS 'number of documents';
COMMENT ON COLUMN corpus_summary.tokens IS 'number of tokens, BOS not counted';
COMMENT ON COLUMN corpus_summary.sha256 IS 'sha256 of the sha256 of its documents (hex), joined in order of document_id: equal where the texts are';

CREATE VIEW text_summary AS
SELECT
    study,
    text,
    count(*) AS units,
    min(n_tokens) AS min_tokens,
    max(n_tokens) AS max_tokens,
    min(n_documents) AS min_documents,
    max(n_documents) AS max_documents,
    CAST(sum(n_firings) AS BIGINT) AS firings,
    count(*) FILTER (WHERE n_firings = 0) AS without_firing
FROM evaluation
WHERE predictor = 'graph'
GROUP BY study, text
ORDER BY study, text;
COMMENT ON VIEW text_summary IS 'How much was scored on each text, over the layers that are evaluated.';
COMMENT ON COLUMN text_summary.text IS 'as in evaluation';
COMMENT ON COLUMN text_summary.units IS 'units whose graph has a score on this text';
COMMENT ON COLUMN text_summary.min_tokens IS 'tokens of the unit with the fewest, BOS not counted';
COMMENT ON COLUMN text_summary.max_tokens IS 'tokens of the unit with the most';
COMMENT ON COLUMN text_summary.min_documents IS 'documents of the unit with the fewest';
COMMENT ON COLUMN text_summary.max_documents IS 'documents of the unit with the most';
COMMENT ON COLUMN text_summary.firings IS 'firing tokens, summed over units';
COMMENT ON COLUMN text_summary.without_firing IS 'of the units, those with no firing token in this text';

CREATE VIEW graph_comparison AS
WITH means AS (
    SELECT study, layer, text, predictor, 'f1_all' AS score, f1_all AS mean, f1_all_low AS low, f1_all_high AS high,
        f1_gain, f1_gain_low, f1_gain_high
    FROM layer_scores
    UNION ALL
    SELECT study, layer, text, predictor, 'average_precision', average_precision, average_precision_low,
        average_precision_high, NULL, NULL, NULL
    FROM layer_scores
    UNION ALL
    SELECT study, layer, text, predictor, 'pearson_r', pearson_r, pearson_r_low, pearson_r_high, NULL, NULL, NULL
    FROM layer_scores
), pairs AS (
    SELECT
        study,
        layer,
        text,
        score,
        o.predictor AS baseline,
        g.mean AS graph,
        o.mean AS other,
        g.mean - o.mean AS difference,
        o.predictor = 'token_lookup' AND g.f1_gain_low IS NOT NULL AND g.f1_gain_high IS NOT NULL AS paired,
        CASE WHEN paired THEN g.f1_gain_low ELSE g.low - o.high END AS difference_low,
        CASE WHEN paired THEN g.f1_gain_high ELSE g.high - o.low END AS difference_high
    FROM means AS g
    JOIN means AS o USING (study, layer, text, score)
    WHERE g.predictor = 'graph' AND o.predictor IN ($baselines)
)
SELECT
    *,
    CASE WHEN difference_low > 0 THEN 'better' WHEN difference_high < 0 THEN 'worse' ELSE 'not told apart' END AS verdict
FROM pairs
WHERE difference_low IS NOT NULL AND difference_high IS NOT NULL
ORDER BY study, layer, text, score, baseline;
COMMENT ON VIEW graph_comparison IS 'The graph against each baseline, by layer, text and score, and whether the two can be told apart.';
COMMENT ON COLUMN graph_comparison.text IS 'as in evaluation';
COMMENT ON COLUMN graph_comparison.score IS 'f1_all, average_precision or pearson_r, as in layer_scores';
COMMENT ON COLUMN graph_comparison.baseline IS 'predictor that the graph is compared with';
COMMENT ON COLUMN graph_comparison.graph IS 'mean score of the graph';
COMMENT ON COLUMN graph_comparison.other IS 'mean score of the baseline';
COMMENT ON COLUMN graph_comparison.difference IS 'graph less other';
COMMENT ON COLUMN graph_comparison.paired IS 'whether the ends of the difference are those of its 95 % interval, taken in pairs (F1 against token_lookup)';
COMMENT ON COLUMN graph_comparison.difference_low IS 'lower end of the difference; where not paired, the lower end of the graph less the upper end of the baseline';
COMMENT ON COLUMN graph_comparison.difference_high IS 'upper end of the difference; where not paired, the upper end of the graph less the lower end of the baseline';
COMMENT ON COLUMN graph_comparison.verdict IS 'better or worse where difference_low and difference_high lie on one side of 0, else not told apart';

CREATE VIEW near_miss_summary AS
WITH texts AS (
    SELECT
        study,
        layer,
        unnest(near_miss_changes) AS change,
        unnest(near_miss_tokens) AS token,
        unnest(near_miss_activations) AS activation,
        unnest(near_miss_expected) AS expected,
        predicted,
        match_mean
    FROM rule_tests
)
SELECT
    study,
    layer,
    token,
    change,
    count(*) AS texts,
    count(*) FILTER (WHERE activation < CAST(settings ->> '$$.method.firing_threshold' AS REAL)) AS silent,
    silent / count(*) AS silent_share,
    sum((match_mean - activation) * sign(predicted - expected)) / nullif(sum(abs(predicted - expected)), 0)
        AS changed_share
FROM texts
JOIN studies USING (study)
GROUP BY study, layer, token, change
ORDER BY study, layer, token, change;
COMMENT ON VIEW near_miss_summary IS 'On how many texts that nearly match a rule the unit stays silent, by layer and by what was changed; of graphs of classes also for rules that predict no firing.';
COMMENT ON COLUMN near_miss_summary.token IS 'token of the rule that was changed: context or activating';
COMMENT ON COLUMN near_miss_summary.change IS 'exchanged, moved or removed';
COMMENT ON COLUMN near_miss_summary.texts IS 'texts tried';
COMMENT ON COLUMN near_miss_summary.silent IS 'of those, texts on which the unit stays silent';
COMMENT ON COLUMN near_miss_summary.silent_share IS 'silent as a share of texts';
COMMENT ON COLUMN near_miss_summary.changed_share IS 'how far the activation changed from the mean of the matches, as a share of the change that the graph expects, summed over texts; NULL for the paper''s graphs';

CREATE VIEW top_counterexamples AS
WITH strongest_of_unit AS (
    SELECT *, abs(predicted - actual) AS gap
    FROM counterexamples
    QUALIFY row_number() OVER (PARTITION BY study, layer, unit, sign, text, kind ORDER BY gap DESC, rank) = 1
), ranked AS (
    SELECT
        * EXCLUDE (rank),
        row_number() OVER (PARTITION BY study, text, kind ORDER BY gap DESC, layer, unit, sign) AS place
    FROM strongest_of_unit
    QUALIFY place <= 20
), tokens AS (
    SELECT study, text, kind, place, unnest(token_ids) AS token_id, generate_subscripts(token_ids, 1) AS i
    FROM ranked
), windows AS (
    SELECT
        t.study,
        t.text,
        t.kind,
        t.place,
        list(coalesce(v.token, encode('<' || t.token_id || '>')) ORDER BY t.i) AS tokens
    FROM tokens AS t
    LEFT JOIN vocabulary AS v ON v.study = t.study AND v.token_id = t.token_id
    GROUP BY t.study, t.text, t.kind, t.place
)
SELECT r.study, r.text, r.kind, r.place AS rank, r.layer, r.unit, r.sign, r.predicted, r.actual, r.cause, r.rule_id, w.tokens
FROM ranked AS r
JOIN windows AS w USING (study, text, kind, place)
ORDER BY r.study, r.text, r.kind, r.place;
COMMENT ON VIEW top_counterexamples IS 'The 20 tokens of each text and kind on which graphs of a study are most confidently wrong, at most one a unit.';
COMMENT ON COLUMN top_counterexamples.rank IS '1 is the one where prediction and activation differ most';
COMMENT ON COLUMN top_counterexamples.tokens IS 'exact bytes of the tokens of the window; the last one is the token in question';
