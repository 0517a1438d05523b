-- Units: what became of each, its rules, and how well its graph predicts.

CREATE MACRO token_text(bytes) AS coalesce(try(decode(bytes)), CAST(bytes AS VARCHAR));
COMMENT ON MACRO token_text IS 'A token (BLOB) as text; bytes that are not UTF-8 appear as \xNN.';

CREATE VIEW unit_status AS
SELECT
    study,
    layer,
    unit,
    sign,
    coalesce(arg_min(status, place) FILTER (WHERE status <> 'ok'), 'ok') AS status,
    coalesce(arg_min(stage, place) FILTER (WHERE status <> 'ok'), arg_max(stage, place)) AS stage,
    coalesce(arg_min(reason, place) FILTER (WHERE status <> 'ok'), '') AS reason
FROM ledger
LEFT JOIN stages USING (stage)
GROUP BY ALL;
COMMENT ON VIEW unit_status IS 'What became of each unit: ok, or how, where and why it ended.';
COMMENT ON COLUMN unit_status.stage IS 'the stage that ended the unit; for ok units the last stage so far';

CREATE VIEW problem_units AS
SELECT study, layer, unit, sign, stage, status, reason
FROM unit_status
WHERE status <> 'ok'
ORDER BY study, layer, unit, sign DESC;
COMMENT ON VIEW problem_units IS 'Every unit that is not ok, with the stage that ended it and why.';
COMMENT ON COLUMN problem_units.stage IS 'the first stage in which the unit was not ok';
COMMENT ON COLUMN problem_units.status IS 'dead, too_few_contexts or failed';

CREATE VIEW unit_rules AS
SELECT
    study,
    layer,
    unit,
    sign,
    rule_id,
    pattern,
    activation,
    activation * s.max AS raw_activation,
    count,
    rank,
    documents,
    firings,
    firings / nullif(count, 0) AS firing_share
FROM rules
LEFT JOIN neuron_stats AS s USING (study, layer, unit, sign)
WHERE until IS NULL
ORDER BY study, layer, unit, sign DESC, rule_id;
COMMENT ON VIEW unit_rules IS 'The rules of each unit''s graph, of its largest one, as readable patterns, strongest first.';
COMMENT ON COLUMN unit_rules.raw_activation IS 'the same in the unit''s own scale';
COMMENT ON COLUMN unit_rules.firing_share IS 'firings as a share of count; NULL in the paper''s graphs';

CREATE MACRO graph_rules(of_study, of_layer, of_unit, of_sign, n_rules) AS TABLE
SELECT
    r.rule_id,
    r.pattern,
    r.activation,
    r.activation * s.max AS raw_activation,
    r.count,
    r.rank,
    r.documents,
    r.firings,
    r.firings / nullif(r.count, 0) AS firing_share,
    r.end_node_id
FROM rules AS r
LEFT JOIN neuron_stats AS s USING (study, layer, unit, sign)
WHERE r.study = of_study AND r.layer = of_layer AND r.unit = of_unit AND r.sign = of_sign
    AND coalesce(r.rank <= n_rules, true) AND coalesce(r.until >= n_rules, true)
ORDER BY r.rule_id;
COMMENT ON MACRO TABLE graph_rules IS 'The rules of the best graph of n_rules rules of one unit, as in unit_rules, strongest first. A unit with a graph of the paper has only one: all its rules.';

CREATE VIEW unit_summary AS
WITH nodes AS (
    SELECT study, layer, unit, sign, count(*) AS n_nodes
    FROM graph_nodes
    GROUP BY ALL
), patterns AS (
    SELECT
        study,
        layer,
        unit,
        sign,
        count(*) FILTER (WHERE until IS NULL) AS n_rules,
        arg_min(pattern, rule_id) FILTER (
            WHERE coalesce(rank <= $shown_rules, true) AND coalesce(until >= $shown_rules, true)
        ) AS top_pattern
    FROM rules
    GROUP BY ALL
), scores AS (
    SELECT
        study,
        layer,
        unit,
        sign,
        max(n_firings) AS n_firings,
        max(f1) FILTER (WHERE predictor = 'graph') AS graph_f1,
        max(f1) FILTER (WHERE predictor = 'token_lookup') AS token_lookup_f1,
        max(f1) FILTER (WHERE predictor = 'ngram') AS ngram_f1
    FROM evaluation
    WHERE text = 'top'
    GROUP BY ALL
), graded AS (
    SELECT
        study,
        layer,
        unit,
        sign,
        max(pearson_r) FILTER (WHERE text = 'random') AS random_pearson_r,
        max(explained_variance) FILTER (WHERE text = 'random') AS random_explained_variance,
        max(pearson_r) FILTER (WHERE text = 'out_of_domain') AS out_of_domain_pearson_r,
        max(explained_variance) FILTER (WHERE text = 'out_of_domain') AS out_of_domain_explained_variance
    FROM evaluation
    WHERE predictor = 'graph'
    GROUP BY ALL
)
SELECT
    study,
    layer,
    unit,
    sign,
    u.status,
    s.max AS a_max,
    s.share_positive,
    coalesce(n_rules, 0) AS n_rules,
    coalesce(n_nodes, 0) AS n_nodes,
    random_pearson_r,
    random_explained_variance,
    out_of_domain_pearson_r,
    out_of_domain_explained_variance,
    n_firings,
    graph_f1,
    token_lookup_f1,
    ngram_f1,
    top_pattern
FROM unit_status AS u
LEFT JOIN neuron_stats AS s USING (study, layer, unit, sign)
LEFT JOIN nodes USING (study, layer, unit, sign)
LEFT JOIN patterns USING (study, layer, unit, sign)
LEFT JOIN scores USING (study, layer, unit, sign)
LEFT JOIN graded USING (study, layer, unit, sign)
ORDER BY study, layer, unit, sign DESC;
COMMENT ON VIEW unit_summary IS 'Every unit asked for on one line: its activation, its graph, how well the graph predicts the graded activation on ordinary text, and firing on its own test contexts.';
COMMENT ON COLUMN unit_summary.a_max IS 'largest activation over the harvest';
COMMENT ON COLUMN unit_summary.n_rules IS 'rules of its graph, of its largest one';
COMMENT ON COLUMN unit_summary.n_nodes IS 'nodes of its graph, of its largest one';
COMMENT ON COLUMN unit_summary.n_firings IS 'firing tokens of its own test contexts';
COMMENT ON COLUMN unit_summary.top_pattern IS 'its strongest rule, of a graph of token classes that of the best graph of $shown_rules rules; NULL where it has none';

CREATE VIEW fidelity_card AS
WITH graphs AS (
    SELECT study, layer, unit, sign, text, pearson_r, pearson_r_low, pearson_r_high, explained_variance,
        explained_variance_low, explained_variance_high, f1, f1_low, f1_high, average_precision, n_firings,
        coverage_firings
    FROM evaluation
    WHERE predictor = 'graph'
), by_text AS (
    PIVOT graphs ON text IN ($texts)
    USING
        first(pearson_r) AS pearson_r,
        first(pearson_r_low) AS pearson_r_low,
        first(pearson_r_high) AS pearson_r_high,
        first(explained_variance) AS explained_variance,
        first(explained_variance_low) AS explained_variance_low,
        first(explained_variance_high) AS explained_variance_high,
        first(f1) AS f1,
        first(f1_low) AS f1_low,
        first(f1_high) AS f1_high,
        first(average_precision) AS average_precision,
        first(n_firings) AS n_firings,
        first(coverage_firings) AS coverage_firings
    GROUP BY study, layer, unit, sign
), best AS (
    SELECT
        study,
        layer,
        unit,
        sign,
        arg_max(predictor, (f1, -place)) FILTER (WHERE text = 'top' AND f1 IS NOT NULL) AS top_best_other,
        max(f1) FILTER (WHERE text = 'top') AS top_best_other_f1,
        arg_max(predictor, (f1, -place)) FILTER (WHERE text = 'random' AND f1 IS NOT NULL) AS random_best_other,
        max(f1) FILTER (WHERE text = 'random') AS random_best_other_f1,
        arg_max(predictor, (pearson_r, -place)) FILTER (WHERE text = 'random' AND pearson_r IS NOT NULL)
            AS random_best_other_by_r,
        max(pearson_r) FILTER (WHERE text = 'random') AS random_best_other_pearson_r
    FROM evaluation
    JOIN predictors USING (predictor)
    WHERE role = 'baseline'
    GROUP BY ALL
), tests AS (
    SELECT
        study,
        layer,
        unit,
        sign,
        count(*) AS rules_tested,
        CAST(sum(n_matches) AS BIGINT) AS n_matches,
        sum(fired) / nullif(sum(n_matches), 0) AS fired_share,
        CAST(sum(n_near_misses) AS BIGINT) AS n_near_misses,
        sum(silent) / nullif(sum(n_near_misses), 0) AS silent_share,
        CAST(sum(n_context_near_misses) AS BIGINT) AS n_context_near_misses,
        sum(context_silent) / nullif(sum(n_context_near_misses), 0) AS context_silent_share,
        count(*) FILTER (WHERE held) / nullif(count(held), 0) AS held_share
    FROM rule_tests
    GROUP BY ALL
), kinds AS (
    SELECT study, layer, unit, sign, string_agg(kind, ', ' ORDER BY kind) AS failures
    FROM failures
    GROUP BY ALL
), sizes AS (
    SELECT
        study,
        layer,
        unit,
        sign,
        max(pearson_r) FILTER (WHERE n_rules = 5) AS random_r_5,
        max(pearson_r) FILTER (WHERE n_rules = 30) AS random_r_30
    FROM size_curve
    WHERE text = 'random'
    GROUP BY ALL
), everything AS (
    SELECT
        study,
        layer,
        unit,
        sign,
        coalesce(
            max(pearson_r) FILTER (WHERE predictor = 'combined'), max(pearson_r) FILTER (WHERE predictor = 'suffixes')
        ) AS random_r_all
    FROM evaluation
    WHERE text = 'random'
    GROUP BY ALL
), local AS (
    SELECT study, layer, unit, sign, max(pearson_r) AS reach_5
    FROM reach
    WHERE text = 'random' AND last_tokens = 5
    GROUP BY ALL
)
SELECT
    study,
    layer,
    unit,
    sign,
    status,
    a_max,
    n_rules,
    n_nodes,
    t.* EXCLUDE (study, layer, unit, sign),
    top_best_other,
    top_best_other_f1,
    random_best_other,
    random_best_other_f1,
    random_best_other_by_r,
    random_best_other_pearson_r,
    random_r_5,
    random_r_30,
    random_r_all,
    reach_5,
    coalesce(rules_tested, 0) AS rules_tested,
    n_matches,
    fired_share,
    n_near_misses,
    silent_share,
    n_context_near_misses,
    context_silent_share,
    held_share,
    failures,
    top_pattern
FROM unit_summary
LEFT JOIN by_text AS t USING (study, layer, unit, sign)
LEFT JOIN best USING (study, layer, unit, sign)
LEFT JOIN tests USING (study, layer, unit, sign)
LEFT JOIN kinds USING (study, layer, unit, sign)
LEFT JOIN sizes USING (study, layer, unit, sign)
LEFT JOIN everything USING (study, layer, unit, sign)
LEFT JOIN local USING (study, layer, unit, sign)
ORDER BY study, layer, unit, sign DESC;
COMMENT ON VIEW fidelity_card IS 'Every unit asked for on one line: how far its graph can be trusted, on which text, and why not.';
COMMENT ON COLUMN fidelity_card.n_rules IS 'rules of its graph, of its largest one';
COMMENT ON COLUMN fidelity_card.top_best_other IS 'the baseline with the best F1 on the unit''s own test contexts, the simpler one of equals';
COMMENT ON COLUMN fidelity_card.top_best_other_f1 IS 'its F1';
COMMENT ON COLUMN fidelity_card.random_best_other IS 'the baseline with the best F1 on held-out text, the simpler one of equals';
COMMENT ON COLUMN fidelity_card.random_best_other_f1 IS 'its F1';
COMMENT ON COLUMN fidelity_card.random_best_other_by_r IS 'the baseline with the best pearson_r on held-out text, the simpler one of equals';
COMMENT ON COLUMN fidelity_card.random_best_other_pearson_r IS 'its pearson_r';
COMMENT ON COLUMN fidelity_card.random_r_5 IS 'r on held-out text of its best graph of 5 rules (size_curve); NULL for the paper''s graphs';
COMMENT ON COLUMN fidelity_card.random_r_30 IS 'the same of 30 rules';
COMMENT ON COLUMN fidelity_card.random_r_all IS 'r there of all that was counted: of combined, or else of suffixes; NULL where neither was scored';
COMMENT ON COLUMN fidelity_card.reach_5 IS 'r there of the model itself, shown BOS and only the last 5 tokens (reach); NULL where not measured';
COMMENT ON COLUMN fidelity_card.rules_tested IS 'rules that were tested on the model';
COMMENT ON COLUMN fidelity_card.n_matches IS 'texts tried that match one of them';
COMMENT ON COLUMN fidelity_card.fired_share IS 'of those, the share on which the unit fires';
COMMENT ON COLUMN fidelity_card.n_near_misses IS 'texts tried that nearly match one of them';
COMMENT ON COLUMN fidelity_card.silent_share IS 'of those, the share on which the unit stays silent';
COMMENT ON COLUMN fidelity_card.n_context_near_misses IS 'those of n_near_misses in which a context token was changed';
COMMENT ON COLUMN fidelity_card.context_silent_share IS 'of those, the share on which the unit stays silent';
COMMENT ON COLUMN fidelity_card.held_share IS 'share of the graded rules that held (rule_tests.held); NULL where none was graded';
COMMENT ON COLUMN fidelity_card.failures IS 'kinds of failure, by name; NULL where none was found';
