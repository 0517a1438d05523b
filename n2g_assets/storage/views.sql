-- Views and macros of n2g.duckdb: the common questions about units, rules, layers and tokens, asked once.
-- warehouse.py runs this file when it publishes, and views_evaluation.sql (controls, rule tests, failures) after it.
-- Tables and their columns are described in tables.py; every view and macro here says what it answers in its COMMENT.
-- Positions are stored from 0, a DuckDB list counts from 1: list[position + 1] is the value at a position.

-- ------------------------------------------------------------------------------------------------ units
CREATE OR REPLACE MACRO stage_number(name) AS
    list_position(['activation_cache', 'top_examples', 'pruned_examples', 'augmented_examples', 'neuron_graphs', 'rule_tests', 'evaluation'], name);
COMMENT ON MACRO stage_number IS 'Place of a per-layer stage in the pipeline, from 1.';

CREATE OR REPLACE MACRO control_study(study) AS study || '_reinitialised';
COMMENT ON MACRO control_study IS 'The companion of a study: the same model with its weights drawn anew, whose graphs are the control graph_reinitialised.';

CREATE OR REPLACE MACRO token_text(bytes) AS coalesce(try(decode(bytes)), CAST(bytes AS VARCHAR));
COMMENT ON MACRO token_text IS 'A token (BLOB) as text; bytes that are not UTF-8 appear as \xNN.';

CREATE OR REPLACE VIEW unit_status AS
SELECT
    study,
    layer,
    unit,
    sign,
    coalesce(arg_min(status, stage_number(stage)) FILTER (WHERE status <> 'ok'), 'ok') AS status,
    coalesce(arg_min(stage, stage_number(stage)) FILTER (WHERE status <> 'ok'), arg_max(stage, stage_number(stage))) AS stage,
    coalesce(arg_min(reason, stage_number(stage)) FILTER (WHERE status <> 'ok'), '') AS reason
FROM ledger
GROUP BY study, layer, unit, sign;
COMMENT ON VIEW unit_status IS 'What became of each unit: ok, or how, where and why it ended.';
COMMENT ON COLUMN unit_status.study IS 'name of the study';
COMMENT ON COLUMN unit_status.layer IS 'layer of the unit, from 0';
COMMENT ON COLUMN unit_status.unit IS 'index of the unit (its neuron) in the layer, from 0';
COMMENT ON COLUMN unit_status.sign IS '+1 reads the activation, -1 the negated activation';
COMMENT ON COLUMN unit_status.status IS 'ok, dead, too_few_contexts or failed';
COMMENT ON COLUMN unit_status.stage IS 'the stage that ended the unit; for ok units the last stage so far';
COMMENT ON COLUMN unit_status.reason IS 'why it ended; empty where ok';

CREATE OR REPLACE VIEW problem_units AS
SELECT study, layer, unit, sign, stage, status, reason
FROM unit_status
WHERE status <> 'ok'
ORDER BY study, layer, unit, sign DESC;
COMMENT ON VIEW problem_units IS 'Every unit that is not ok, with the stage that ended it and why.';
COMMENT ON COLUMN problem_units.study IS 'name of the study';
COMMENT ON COLUMN problem_units.layer IS 'layer of the unit, from 0';
COMMENT ON COLUMN problem_units.unit IS 'index of the unit (its neuron) in the layer, from 0';
COMMENT ON COLUMN problem_units.sign IS '+1 reads the activation, -1 the negated activation';
COMMENT ON COLUMN problem_units.stage IS 'the first stage in which the unit was not ok';
COMMENT ON COLUMN problem_units.status IS 'dead, too_few_contexts or failed';
COMMENT ON COLUMN problem_units.reason IS 'why, in one sentence';

CREATE OR REPLACE VIEW unit_rules AS
SELECT r.study, r.layer, r.unit, r.sign, r.rule_id, r.pattern, r.activation, r.activation * s.max AS raw_activation, r.count
FROM rules AS r
LEFT JOIN neuron_stats AS s
    ON s.study = r.study AND s.layer = r.layer AND s.unit = r.unit AND s.sign = r.sign
ORDER BY r.study, r.layer, r.unit, r.sign DESC, r.rule_id;
COMMENT ON VIEW unit_rules IS 'The rules of each unit as readable patterns, strongest first.';
COMMENT ON COLUMN unit_rules.study IS 'name of the study';
COMMENT ON COLUMN unit_rules.layer IS 'layer of the unit, from 0';
COMMENT ON COLUMN unit_rules.unit IS 'index of the unit (its neuron) in the layer, from 0';
COMMENT ON COLUMN unit_rules.sign IS '+1 reads the activation, -1 the negated activation';
COMMENT ON COLUMN unit_rules.rule_id IS 'number of the rule in its unit: the strongest is 0';
COMMENT ON COLUMN unit_rules.pattern IS 'the rule in the order of the text; * is any token, the last token is the one that activates';
COMMENT ON COLUMN unit_rules.activation IS 'normalised activation that the rule predicts (share of a_max)';
COMMENT ON COLUMN unit_rules.raw_activation IS 'the same in the unit''s own scale';
COMMENT ON COLUMN unit_rules.count IS 'prompts behind the rule';

CREATE OR REPLACE VIEW unit_summary AS
WITH nodes AS (
    SELECT study, layer, unit, sign, count(*) AS n_nodes
    FROM graph_nodes
    GROUP BY study, layer, unit, sign
), patterns AS (
    SELECT study, layer, unit, sign, count(*) AS n_rules, arg_min(pattern, rule_id) AS top_pattern
    FROM rules
    GROUP BY study, layer, unit, sign
), scores AS (
    SELECT
        study,
        layer,
        unit,
        sign,
        max(f1) FILTER (WHERE predictor = 'graph') AS graph_f1,
        max(f1) FILTER (WHERE predictor = 'token_lookup') AS token_lookup_f1,
        max(f1) FILTER (WHERE predictor = 'ngram') AS ngram_f1,
        max(n_firings) FILTER (WHERE predictor <> 'graph_reinitialised') AS n_firings
    FROM evaluation
    WHERE text = 'top'
    GROUP BY study, layer, unit, sign
)
SELECT
    u.study,
    u.layer,
    u.unit,
    u.sign,
    u.status,
    s.max AS a_max,
    s.share_positive,
    coalesce(p.n_rules, 0) AS n_rules,
    coalesce(n.n_nodes, 0) AS n_nodes,
    e.n_firings,
    e.graph_f1,
    e.token_lookup_f1,
    e.ngram_f1,
    p.top_pattern
FROM unit_status AS u
LEFT JOIN neuron_stats AS s ON s.study = u.study AND s.layer = u.layer AND s.unit = u.unit AND s.sign = u.sign
LEFT JOIN nodes AS n ON n.study = u.study AND n.layer = u.layer AND n.unit = u.unit AND n.sign = u.sign
LEFT JOIN patterns AS p ON p.study = u.study AND p.layer = u.layer AND p.unit = u.unit AND p.sign = u.sign
LEFT JOIN scores AS e ON e.study = u.study AND e.layer = u.layer AND e.unit = u.unit AND e.sign = u.sign
ORDER BY u.study, u.layer, u.unit, u.sign DESC;
COMMENT ON VIEW unit_summary IS 'Every unit asked for on one line: its activation, its graph and how well the graph predicts.';
COMMENT ON COLUMN unit_summary.study IS 'name of the study';
COMMENT ON COLUMN unit_summary.layer IS 'layer of the unit, from 0';
COMMENT ON COLUMN unit_summary.unit IS 'index of the unit (its neuron) in the layer, from 0';
COMMENT ON COLUMN unit_summary.sign IS '+1 reads the activation, -1 the negated activation';
COMMENT ON COLUMN unit_summary.status IS 'ok, dead, too_few_contexts or failed';
COMMENT ON COLUMN unit_summary.a_max IS 'largest activation over the harvest';
COMMENT ON COLUMN unit_summary.share_positive IS 'share of harvested tokens with a positive activation';
COMMENT ON COLUMN unit_summary.n_rules IS 'rules of its graph';
COMMENT ON COLUMN unit_summary.n_nodes IS 'nodes of its graph';
COMMENT ON COLUMN unit_summary.n_firings IS 'firing tokens of its own test contexts';
COMMENT ON COLUMN unit_summary.graph_f1 IS 'F1 of firing of the graph on its own test contexts; NULL where undefined';
COMMENT ON COLUMN unit_summary.token_lookup_f1 IS 'the same of the token lookup baseline';
COMMENT ON COLUMN unit_summary.ngram_f1 IS 'the same of the n-gram baseline';
COMMENT ON COLUMN unit_summary.top_pattern IS 'its strongest rule; NULL where it has none';

-- ------------------------------------------------------------------------------------------------ layers
CREATE OR REPLACE VIEW layer_summary AS
WITH asked AS (
    SELECT
        study,
        layer,
        count(*) AS units,
        count(*) FILTER (WHERE status = 'ok') AS ok,
        count(*) FILTER (WHERE status = 'dead') AS dead,
        count(*) FILTER (WHERE status = 'too_few_contexts') AS too_few_contexts,
        count(*) FILTER (WHERE status = 'failed') AS failed
    FROM unit_status
    GROUP BY study, layer
), unit_scores AS (
    SELECT
        study,
        layer,
        predictor,
        text,
        true_positives AS tp,
        false_positives AS fp,
        false_negatives AS fn,
        true_negatives AS tn,
        precision,
        recall,
        f1,
        auroc,
        average_precision,
        pearson_r,
        explained_variance,
        coverage_firings,
        coverage_mass,
        n_firings,
        tn / nullif(tn + fn, 0) AS non_firing_precision,
        tn / nullif(tn + fp, 0) AS non_firing_recall,
        2 * tn / nullif(2 * tn + fn + fp, 0) AS non_firing_f1
    FROM evaluation
), scores AS (
    SELECT
        study,
        layer,
        predictor,
        text,
        count(*) AS evaluated,
        count(*) FILTER (WHERE n_firings = 0) AS without_firing,
        avg(precision) AS precision,
        avg(recall) AS recall,
        avg(f1) AS f1,
        coalesce(sum(precision), 0) AS precision_sum,
        coalesce(sum(recall), 0) AS recall_sum,
        coalesce(sum(f1), 0) AS f1_sum,
        avg(auroc) AS auroc,
        avg(average_precision) AS average_precision,
        avg(pearson_r) AS pearson_r,
        avg(explained_variance) AS explained_variance,
        avg(coverage_firings) AS coverage_firings,
        avg(coverage_mass) AS coverage_mass,
        avg(non_firing_precision) AS non_firing_precision,
        avg(non_firing_recall) AS non_firing_recall,
        avg(non_firing_f1) AS non_firing_f1,
        coalesce(sum(non_firing_precision), 0) AS non_firing_precision_sum,
        coalesce(sum(non_firing_recall), 0) AS non_firing_recall_sum,
        coalesce(sum(non_firing_f1), 0) AS non_firing_f1_sum,
        CAST(sum(tp) AS BIGINT) AS tp,
        CAST(sum(fp) AS BIGINT) AS fp,
        CAST(sum(fn) AS BIGINT) AS fn,
        CAST(sum(tn) AS BIGINT) AS tn
    FROM unit_scores
    GROUP BY study, layer, predictor, text
), scored AS (
    SELECT
        study,
        layer,
        predictor,
        text,
        predictor = 'graph_reinitialised' AS other_model,
        s.* EXCLUDE (study, layer, predictor, text, evaluated, without_firing, f1, average_precision),
        l.units,
        coalesce(CASE WHEN other_model THEN l.evaluated END, s.evaluated, l.evaluated) AS evaluated,
        coalesce(CASE WHEN other_model THEN l.without_firing END, s.without_firing, l.without_firing) AS without_firing,
        coalesce(CASE WHEN other_model THEN l.f1 END, s.f1, l.f1) AS f1,
        CASE WHEN other_model THEN l.f1_all END AS f1_all,
        l.f1_low,
        l.f1_high,
        l.f1_all_low,
        l.f1_all_high,
        coalesce(l.average_precision, s.average_precision) AS average_precision,
        l.average_precision_low,
        l.average_precision_high,
        l.f1_gain,
        l.f1_gain_low,
        l.f1_gain_high
    FROM scores AS s
    FULL JOIN layer_scores AS l USING (study, layer, predictor, text)
), counted AS (
    -- the units of graph_reinitialised are another model's: so are their number and what became of them
    SELECT
        a.study,
        a.layer,
        CASE WHEN other_model THEN s.units ELSE a.units END AS units,
        CASE WHEN other_model THEN c.ok ELSE a.ok END AS ok,
        CASE WHEN other_model THEN c.dead ELSE a.dead END AS dead,
        CASE WHEN other_model THEN c.too_few_contexts ELSE a.too_few_contexts END AS too_few_contexts,
        CASE WHEN other_model THEN c.failed ELSE a.failed END AS failed,
        s.* EXCLUDE (study, layer, units),
        CASE WHEN other_model THEN s.units WHEN predictor IS NOT NULL THEN a.units END AS divisor
    FROM asked AS a
    LEFT JOIN scored AS s ON s.study = a.study AND s.layer = a.layer
    LEFT JOIN asked AS c ON c.study = control_study(a.study) AND c.layer = a.layer
)
SELECT
    study,
    layer,
    predictor,
    text,
    units,
    ok,
    dead,
    too_few_contexts,
    failed,
    coalesce(evaluated, 0) AS evaluated,
    coalesce(without_firing, 0) AS without_firing,
    precision,
    recall,
    f1,
    coalesce(precision_sum, 0) / divisor AS precision_all,
    coalesce(recall_sum, 0) / divisor AS recall_all,
    coalesce(f1_all, coalesce(f1_sum, 0) / divisor) AS f1_all,
    non_firing_precision,
    non_firing_recall,
    non_firing_f1,
    coalesce(non_firing_precision_sum, 0) / divisor AS non_firing_precision_all,
    coalesce(non_firing_recall_sum, 0) / divisor AS non_firing_recall_all,
    coalesce(non_firing_f1_sum, 0) / divisor AS non_firing_f1_all,
    tp AS true_positives,
    fp AS false_positives,
    fn AS false_negatives,
    tn AS true_negatives,
    tp / nullif(tp + fp, 0) AS micro_precision,
    tp / nullif(tp + fn, 0) AS micro_recall,
    2 * tp / nullif(2 * tp + fp + fn, 0) AS micro_f1,
    f1_low,
    f1_high,
    f1_all_low,
    f1_all_high,
    f1_gain,
    f1_gain_low,
    f1_gain_high,
    average_precision,
    average_precision_low,
    average_precision_high,
    auroc,
    coverage_firings,
    coverage_mass,
    pearson_r,
    explained_variance
FROM counted
ORDER BY study, layer, text, predictor;
COMMENT ON VIEW layer_summary IS 'The paper''s table: for each layer, predictor and text, what became of the units and how well firing is predicted. Means are over units: precision, recall, f1 leave out units where the value is undefined; those with _all are over all units asked for, where a unit without a value counts 0. Intervals are 95 % by bootstrap over documents.';
COMMENT ON COLUMN layer_summary.study IS 'name of the study';
COMMENT ON COLUMN layer_summary.layer IS 'layer, from 0';
COMMENT ON COLUMN layer_summary.predictor IS 'as in evaluation; NULL where the layer is not evaluated yet';
COMMENT ON COLUMN layer_summary.text IS 'text it was evaluated on, as in evaluation; top: the units'' own test contexts';
COMMENT ON COLUMN layer_summary.units IS 'units asked for; for graph_reinitialised those of the control, NULL where layer_scores does not name them';
COMMENT ON COLUMN layer_summary.ok IS 'of those, ok in every stage so far; for graph_reinitialised this and the next three are of the companion study, NULL where it is not published';
COMMENT ON COLUMN layer_summary.dead IS 'of those, never with a positive activation';
COMMENT ON COLUMN layer_summary.too_few_contexts IS 'of those, with too few train or test contexts';
COMMENT ON COLUMN layer_summary.failed IS 'of those, failed in some stage: see problem_units';
COMMENT ON COLUMN layer_summary.evaluated IS 'units with a score of this predictor on this text';
COMMENT ON COLUMN layer_summary.without_firing IS 'of the evaluated, units with no firing token in this text';
COMMENT ON COLUMN layer_summary.precision IS 'mean precision of firing; units that are never predicted to fire left out';
COMMENT ON COLUMN layer_summary.recall IS 'mean recall of firing; units without firing tokens left out';
COMMENT ON COLUMN layer_summary.f1 IS 'mean F1 of firing; units that neither fire nor are predicted to left out';
COMMENT ON COLUMN layer_summary.precision_all IS 'mean precision of firing over all units asked for, undefined and missing counted 0';
COMMENT ON COLUMN layer_summary.recall_all IS 'mean recall of firing over all units asked for, undefined and missing counted 0';
COMMENT ON COLUMN layer_summary.f1_all IS 'mean F1 of firing over all units asked for, undefined and missing counted 0';
COMMENT ON COLUMN layer_summary.non_firing_precision IS 'mean precision of non-firing; undefined left out';
COMMENT ON COLUMN layer_summary.non_firing_recall IS 'mean recall of non-firing; undefined left out';
COMMENT ON COLUMN layer_summary.non_firing_f1 IS 'mean F1 of non-firing; undefined left out';
COMMENT ON COLUMN layer_summary.non_firing_precision_all IS 'mean precision of non-firing over all units asked for, undefined and missing counted 0';
COMMENT ON COLUMN layer_summary.non_firing_recall_all IS 'mean recall of non-firing over all units asked for, undefined and missing counted 0';
COMMENT ON COLUMN layer_summary.non_firing_f1_all IS 'mean F1 of non-firing over all units asked for, undefined and missing counted 0';
COMMENT ON COLUMN layer_summary.true_positives IS 'firing tokens predicted to fire, summed over units';
COMMENT ON COLUMN layer_summary.false_positives IS 'silent tokens predicted to fire, summed over units';
COMMENT ON COLUMN layer_summary.false_negatives IS 'firing tokens predicted silent, summed over units';
COMMENT ON COLUMN layer_summary.true_negatives IS 'silent tokens predicted silent, summed over units';
COMMENT ON COLUMN layer_summary.micro_precision IS 'precision of firing of the summed counts';
COMMENT ON COLUMN layer_summary.micro_recall IS 'recall of firing of the summed counts';
COMMENT ON COLUMN layer_summary.micro_f1 IS 'F1 of firing of the summed counts';
COMMENT ON COLUMN layer_summary.f1_low IS 'lower end of the interval of f1';
COMMENT ON COLUMN layer_summary.f1_high IS 'upper end of the interval of f1';
COMMENT ON COLUMN layer_summary.f1_all_low IS 'lower end of the interval of f1_all';
COMMENT ON COLUMN layer_summary.f1_all_high IS 'upper end of the interval of f1_all';
COMMENT ON COLUMN layer_summary.f1_gain IS 'f1_all less that of token_lookup';
COMMENT ON COLUMN layer_summary.f1_gain_low IS 'lower end of its interval, in pairs';
COMMENT ON COLUMN layer_summary.f1_gain_high IS 'upper end of its interval, in pairs';
COMMENT ON COLUMN layer_summary.average_precision IS 'mean average precision of firing; units without firing tokens left out';
COMMENT ON COLUMN layer_summary.average_precision_low IS 'lower end of its interval';
COMMENT ON COLUMN layer_summary.average_precision_high IS 'upper end of its interval';
COMMENT ON COLUMN layer_summary.auroc IS 'mean area under the ROC curve of firing; undefined left out';
COMMENT ON COLUMN layer_summary.coverage_firings IS 'mean share of the firing tokens that some rule explains; units without firing tokens left out';
COMMENT ON COLUMN layer_summary.coverage_mass IS 'mean share of the positive activation that some rule explains; undefined left out';
COMMENT ON COLUMN layer_summary.pearson_r IS 'mean correlation of predicted and actual activation; undefined left out';
COMMENT ON COLUMN layer_summary.explained_variance IS 'mean explained variance of the activation; undefined left out';

-- ------------------------------------------------------------------------------------------------ tokens
CREATE OR REPLACE MACRO token_forms(token) AS TABLE
SELECT DISTINCT v.study, v.normalised AS form, token_text(v.normalised) AS form_text
FROM vocabulary AS v
WHERE v.token = encode(token)
   OR v.normalised = encode(token)
   OR v.text = token
   OR (v.token = encode(' ' || token) AND v.normalised <> v.token);
COMMENT ON MACRO TABLE token_forms IS 'The forms (BLOB) under which graphs of each study match a token given as text: with or without its leading space where the study normalises tokens, or as vocabulary.text shows it.';

CREATE OR REPLACE MACRO units_on(token) AS TABLE
SELECT
    g.study,
    g.layer,
    g.unit,
    g.sign,
    f.form_text AS form,
    g.activation,
    count(r.rule_id) AS n_rules,
    arg_min(r.pattern, r.rule_id) AS top_pattern
FROM token_forms(token) AS f
JOIN graph_nodes AS g ON g.study = f.study AND g.kind = 'activating' AND g.token = f.form
LEFT JOIN rules AS r
    ON r.study = g.study AND r.layer = g.layer AND r.unit = g.unit AND r.sign = g.sign AND r.tokens[1] = g.token
GROUP BY g.study, g.layer, g.unit, g.sign, f.form_text, g.node_id, g.activation
ORDER BY g.activation DESC, g.study, g.layer, g.unit, g.sign DESC;
COMMENT ON MACRO TABLE units_on IS 'The units whose graph has an activating node for a token given as text, strongest (largest normalised activation) first, with the number of their rules on it and the strongest of those.';

CREATE OR REPLACE MACRO units_with_context(token) AS TABLE
SELECT
    r.study,
    r.layer,
    r.unit,
    r.sign,
    f.form_text AS form,
    max(r.activation) AS activation,
    count(*) AS n_rules,
    arg_min(r.pattern, r.rule_id) AS top_pattern
FROM token_forms(token) AS f
JOIN rules AS r ON r.study = f.study AND list_contains(r.tokens[2:], f.form)
GROUP BY r.study, r.layer, r.unit, r.sign, f.form_text
ORDER BY activation DESC, r.study, r.layer, r.unit, r.sign DESC;
COMMENT ON MACRO TABLE units_with_context IS 'The units with a rule that needs a token, given as text, before the activating one; strongest rule first, with the number of such rules.';
