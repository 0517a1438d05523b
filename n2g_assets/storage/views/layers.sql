-- Layers: the paper's table, each control beside the graph, and how local units are.

CREATE VIEW layer_summary AS
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
    GROUP BY ALL
), unit_scores AS (
    SELECT
        *,
        true_negatives / nullif(true_negatives + false_negatives, 0) AS silent_precision,
        true_negatives / nullif(true_negatives + false_positives, 0) AS silent_recall,
        2 * true_negatives / nullif(2 * true_negatives + false_negatives + false_positives, 0) AS silent_f1
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
        avg(silent_precision) AS non_firing_precision,
        avg(silent_recall) AS non_firing_recall,
        avg(silent_f1) AS non_firing_f1,
        sum(precision) AS precision_sum,
        sum(recall) AS recall_sum,
        sum(f1) AS f1_sum,
        sum(silent_precision) AS silent_precision_sum,
        sum(silent_recall) AS silent_recall_sum,
        sum(silent_f1) AS silent_f1_sum,
        CAST(sum(true_positives) AS BIGINT) AS true_positives,
        CAST(sum(false_positives) AS BIGINT) AS false_positives,
        CAST(sum(false_negatives) AS BIGINT) AS false_negatives,
        CAST(sum(true_negatives) AS BIGINT) AS true_negatives,
        avg(average_precision) AS average_precision,
        avg(auroc) AS auroc,
        avg(coverage_firings) AS coverage_firings,
        avg(coverage_mass) AS coverage_mass,
        avg(pearson_r) AS pearson_r,
        avg(explained_variance) AS explained_variance
    FROM unit_scores
    GROUP BY ALL
), predicted AS (
    SELECT
        * EXCLUDE (evaluated, without_firing, f1, average_precision, pearson_r, explained_variance),
        coalesce(s.evaluated, l.evaluated) AS evaluated,
        coalesce(s.without_firing, l.without_firing) AS without_firing,
        coalesce(s.f1, l.f1) AS f1,
        coalesce(l.average_precision, s.average_precision) AS average_precision,
        coalesce(l.pearson_r, s.pearson_r) AS pearson_r,
        coalesce(l.explained_variance, s.explained_variance) AS explained_variance
    FROM scores AS s
    FULL JOIN (SELECT * EXCLUDE (units, f1_all) FROM layer_scores) AS l USING (study, layer, predictor, text)
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
    CASE WHEN predictor IS NOT NULL THEN coalesce(precision_sum, 0) / units END AS precision_all,
    CASE WHEN predictor IS NOT NULL THEN coalesce(recall_sum, 0) / units END AS recall_all,
    CASE WHEN predictor IS NOT NULL THEN coalesce(f1_sum, 0) / units END AS f1_all,
    non_firing_precision,
    non_firing_recall,
    non_firing_f1,
    CASE WHEN predictor IS NOT NULL THEN coalesce(silent_precision_sum, 0) / units END AS non_firing_precision_all,
    CASE WHEN predictor IS NOT NULL THEN coalesce(silent_recall_sum, 0) / units END AS non_firing_recall_all,
    CASE WHEN predictor IS NOT NULL THEN coalesce(silent_f1_sum, 0) / units END AS non_firing_f1_all,
    true_positives,
    false_positives,
    false_negatives,
    true_negatives,
    true_positives / nullif(true_positives + false_positives, 0) AS micro_precision,
    true_positives / nullif(true_positives + false_negatives, 0) AS micro_recall,
    2 * true_positives / nullif(2 * true_positives + false_positives + false_negatives, 0) AS micro_f1,
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
    pearson_r,
    pearson_r_low,
    pearson_r_high,
    explained_variance,
    explained_variance_low,
    explained_variance_high,
    auroc,
    coverage_firings,
    coverage_mass
FROM asked
LEFT JOIN predicted USING (study, layer)
ORDER BY study, layer, text, predictor;
COMMENT ON VIEW layer_summary IS 'The paper''s table: for each layer, predictor and text, what became of the units and how well firing and the graded activation are predicted. Means are over units: precision, recall, f1 leave out units where the value is undefined; those with _all are over all units asked for, where a unit without a value counts 0. Intervals are 95 % by bootstrap over documents.';
COMMENT ON COLUMN layer_summary.predictor IS 'as in evaluation; NULL where the layer is not evaluated yet';
COMMENT ON COLUMN layer_summary.text IS 'as in evaluation; NULL where the layer is not evaluated yet';
COMMENT ON COLUMN layer_summary.ok IS 'of those, ok in every stage so far';
COMMENT ON COLUMN layer_summary.dead IS 'of those, never with a positive activation';
COMMENT ON COLUMN layer_summary.too_few_contexts IS 'of those, with too few train or test contexts';
COMMENT ON COLUMN layer_summary.failed IS 'of those, failed in some stage: see problem_units';
COMMENT ON COLUMN layer_summary.evaluated IS 'units with a score of this predictor on this text';
COMMENT ON COLUMN layer_summary.precision IS 'mean precision of firing; units that are never predicted to fire left out';
COMMENT ON COLUMN layer_summary.recall IS 'mean recall of firing; units without firing tokens left out';
COMMENT ON COLUMN layer_summary.f1 IS 'mean F1 of firing; units that neither fire nor are predicted to left out';
COMMENT ON COLUMN layer_summary.precision_all IS 'mean precision of firing over all units asked for, undefined and missing counted 0';
COMMENT ON COLUMN layer_summary.recall_all IS 'mean recall of firing over all units asked for, undefined and missing counted 0';
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
COMMENT ON COLUMN layer_summary.f1_low IS 'lower end of the interval of f1; NULL where layer_scores has none, as for the next three';
COMMENT ON COLUMN layer_summary.f1_high IS 'upper end of the interval of f1';
COMMENT ON COLUMN layer_summary.f1_all_low IS 'lower end of the interval of f1_all';
COMMENT ON COLUMN layer_summary.f1_all_high IS 'upper end of the interval of f1_all';
COMMENT ON COLUMN layer_summary.average_precision_low IS 'lower end of the interval of average_precision; NULL where layer_scores has none';
COMMENT ON COLUMN layer_summary.average_precision_high IS 'upper end of the interval of average_precision';
COMMENT ON COLUMN layer_summary.average_precision IS 'mean average precision of firing; units without firing tokens left out';
COMMENT ON COLUMN layer_summary.pearson_r IS 'mean Pearson''s r of predicted and actual activation (signed); undefined left out';
COMMENT ON COLUMN layer_summary.pearson_r_low IS 'lower end of the interval of pearson_r; NULL where layer_scores has none';
COMMENT ON COLUMN layer_summary.pearson_r_high IS 'upper end of the interval of pearson_r';
COMMENT ON COLUMN layer_summary.explained_variance IS 'mean explained variance of the activation (signed); undefined left out';
COMMENT ON COLUMN layer_summary.explained_variance_low IS 'lower end of the interval of explained_variance; NULL where layer_scores has none';
COMMENT ON COLUMN layer_summary.explained_variance_high IS 'upper end of the interval of explained_variance';
COMMENT ON COLUMN layer_summary.auroc IS 'mean area under the ROC curve of firing; undefined left out';
COMMENT ON COLUMN layer_summary.coverage_firings IS 'mean share of the firing tokens that some rule explains; units without firing tokens left out';
COMMENT ON COLUMN layer_summary.coverage_mass IS 'mean share of the positive activation that some rule explains; undefined left out';

CREATE VIEW controls AS
WITH graphs AS (
    SELECT study, layer, text, units, f1_all, f1_all_low, f1_all_high,
        average_precision, average_precision_low, average_precision_high,
        pearson_r, pearson_r_low, pearson_r_high,
        explained_variance, explained_variance_low, explained_variance_high
    FROM layer_summary
    WHERE predictor = 'graph'
), same_units AS (
    -- the graphs of a study on those of its units that a control study asks for too
    SELECT
        c.control_of AS study,
        c.study AS control_study,
        u.layer,
        g.text,
        count(*) AS units,
        coalesce(sum(e.f1), 0) / count(*) AS f1_all,
        avg(e.average_precision) AS average_precision,
        avg(e.pearson_r) AS pearson_r,
        avg(e.explained_variance) AS explained_variance
    FROM studies AS c
    JOIN unit_status AS u ON u.study = c.control_of
    SEMI JOIN unit_status AS o ON o.study = c.study AND o.layer = u.layer AND o.unit = u.unit AND o.sign = u.sign
    JOIN graphs AS g ON g.study = u.study AND g.layer = u.layer
    LEFT JOIN evaluation AS e
        ON e.study = u.study AND e.layer = u.layer AND e.unit = u.unit AND e.sign = u.sign AND e.text = g.text
        AND e.predictor = 'graph'
    GROUP BY ALL
), graph_sides AS (
    SELECT *, NULL AS control_study
    FROM graphs
    UNION ALL BY NAME
    -- an interval is known where these are all units of the layer
    SELECT
        s.*,
        CASE WHEN s.units = g.units THEN g.f1_all_low END AS f1_all_low,
        CASE WHEN s.units = g.units THEN g.f1_all_high END AS f1_all_high,
        CASE WHEN s.units = g.units THEN g.average_precision_low END AS average_precision_low,
        CASE WHEN s.units = g.units THEN g.average_precision_high END AS average_precision_high,
        CASE WHEN s.units = g.units THEN g.pearson_r_low END AS pearson_r_low,
        CASE WHEN s.units = g.units THEN g.pearson_r_high END AS pearson_r_high,
        CASE WHEN s.units = g.units THEN g.explained_variance_low END AS explained_variance_low,
        CASE WHEN s.units = g.units THEN g.explained_variance_high END AS explained_variance_high
    FROM same_units AS s
    JOIN graphs AS g USING (study, layer, text)
), control_sides AS (
    SELECT l.*, NULL AS control_study, predictor AS control
    FROM layer_summary AS l
    SEMI JOIN predictors AS p ON p.predictor = l.predictor AND p.role = 'control'
    UNION ALL BY NAME
    SELECT g.* REPLACE (c.control_of AS study), g.study AS control_study, 'reinitialised' AS control
    FROM graphs AS g
    JOIN studies AS c ON c.study = g.study AND c.control_of IS NOT NULL
)
SELECT
    c.study,
    c.layer,
    c.text,
    c.control,
    c.control_study,
    g.units AS graph_units,
    g.f1_all AS graph_f1_all,
    g.f1_all_low AS graph_f1_all_low,
    g.f1_all_high AS graph_f1_all_high,
    g.average_precision AS graph_average_precision,
    g.average_precision_low AS graph_average_precision_low,
    g.average_precision_high AS graph_average_precision_high,
    g.pearson_r AS graph_pearson_r,
    g.pearson_r_low AS graph_pearson_r_low,
    g.pearson_r_high AS graph_pearson_r_high,
    g.explained_variance AS graph_explained_variance,
    g.explained_variance_low AS graph_explained_variance_low,
    g.explained_variance_high AS graph_explained_variance_high,
    c.units AS control_units,
    c.f1_all AS control_f1_all,
    c.f1_all_low AS control_f1_all_low,
    c.f1_all_high AS control_f1_all_high,
    c.average_precision AS control_average_precision,
    c.average_precision_low AS control_average_precision_low,
    c.average_precision_high AS control_average_precision_high,
    c.pearson_r AS control_pearson_r,
    c.pearson_r_low AS control_pearson_r_low,
    c.pearson_r_high AS control_pearson_r_high,
    c.explained_variance AS control_explained_variance,
    c.explained_variance_low AS control_explained_variance_low,
    c.explained_variance_high AS control_explained_variance_high,
    g.f1_all - c.f1_all AS f1_all_difference,
    g.average_precision - c.average_precision AS average_precision_difference,
    g.pearson_r - c.pearson_r AS pearson_r_difference,
    g.explained_variance - c.explained_variance AS explained_variance_difference
FROM control_sides AS c
LEFT JOIN graph_sides AS g
    ON g.study = c.study AND g.layer = c.layer AND g.text = c.text
    AND g.control_study IS NOT DISTINCT FROM c.control_study
ORDER BY c.study, c.layer, c.text, c.control, c.control_study;
COMMENT ON VIEW controls IS 'Each control beside the graph, by layer and text, with the number of units on both sides. Beside the graphs of a control study stands the graph on the same units of the study; such a mean has an interval only where these are all units of the layer.';
COMMENT ON COLUMN controls.control IS 'a predictor whose role is control, or reinitialised: the graphs of a study that names this one in studies.control_of';
COMMENT ON COLUMN controls.control_study IS 'the study whose graphs are the control reinitialised; NULL for predictors of the study itself';
COMMENT ON COLUMN controls.graph_units IS 'units behind the means of the graph';
COMMENT ON COLUMN controls.graph_f1_all IS 'mean F1 of firing of the graph, undefined and missing counted 0';
COMMENT ON COLUMN controls.graph_f1_all_low IS 'lower end of its 95 % interval';
COMMENT ON COLUMN controls.graph_f1_all_high IS 'upper end of its 95 % interval';
COMMENT ON COLUMN controls.graph_average_precision IS 'mean average precision of the graph, undefined left out';
COMMENT ON COLUMN controls.graph_average_precision_low IS 'lower end of its 95 % interval';
COMMENT ON COLUMN controls.graph_average_precision_high IS 'upper end of its 95 % interval';
COMMENT ON COLUMN controls.graph_pearson_r IS 'mean Pearson''s r of predicted and actual activation (signed) of the graph, undefined left out';
COMMENT ON COLUMN controls.graph_pearson_r_low IS 'lower end of its 95 % interval';
COMMENT ON COLUMN controls.graph_pearson_r_high IS 'upper end of its 95 % interval';
COMMENT ON COLUMN controls.graph_explained_variance IS 'mean explained variance of the activation (signed) of the graph, undefined left out';
COMMENT ON COLUMN controls.graph_explained_variance_low IS 'lower end of its 95 % interval';
COMMENT ON COLUMN controls.graph_explained_variance_high IS 'upper end of its 95 % interval';
COMMENT ON COLUMN controls.control_units IS 'units behind the means of the control';
COMMENT ON COLUMN controls.control_f1_all IS 'mean F1 of firing of the control, undefined and missing counted 0';
COMMENT ON COLUMN controls.control_f1_all_low IS 'lower end of its 95 % interval';
COMMENT ON COLUMN controls.control_f1_all_high IS 'upper end of its 95 % interval';
COMMENT ON COLUMN controls.control_average_precision IS 'mean average precision of the control, undefined left out';
COMMENT ON COLUMN controls.control_average_precision_low IS 'lower end of its 95 % interval';
COMMENT ON COLUMN controls.control_average_precision_high IS 'upper end of its 95 % interval';
COMMENT ON COLUMN controls.control_pearson_r IS 'mean Pearson''s r of predicted and actual activation (signed) of the control, undefined left out';
COMMENT ON COLUMN controls.control_pearson_r_low IS 'lower end of its 95 % interval';
COMMENT ON COLUMN controls.control_pearson_r_high IS 'upper end of its 95 % interval';
COMMENT ON COLUMN controls.control_explained_variance IS 'mean explained variance of the activation (signed) of the control, undefined left out';
COMMENT ON COLUMN controls.control_explained_variance_low IS 'lower end of its 95 % interval';
COMMENT ON COLUMN controls.control_explained_variance_high IS 'upper end of its 95 % interval';
COMMENT ON COLUMN controls.f1_all_difference IS 'graph_f1_all less control_f1_all';
COMMENT ON COLUMN controls.average_precision_difference IS 'graph_average_precision less control_average_precision';
COMMENT ON COLUMN controls.pearson_r_difference IS 'graph_pearson_r less control_pearson_r';
COMMENT ON COLUMN controls.explained_variance_difference IS 'graph_explained_variance less control_explained_variance';

CREATE VIEW reach_summary AS
SELECT
    study,
    layer,
    text,
    last_tokens,
    count(*) AS units,
    avg(pearson_r) AS pearson_r,
    avg(explained_variance) AS explained_variance,
    avg(average_precision) AS average_precision,
    avg(f1) AS f1
FROM reach
GROUP BY study, layer, text, last_tokens
ORDER BY study, layer, text, last_tokens;
COMMENT ON VIEW reach_summary IS 'How local the units of each layer are: how well the model itself, shown BOS and only the last tokens, gives their activations on the full text. Means are over units; undefined values are left out.';
COMMENT ON COLUMN reach_summary.units IS 'units that were measured: all but dead and failed ones';
COMMENT ON COLUMN reach_summary.pearson_r IS 'mean correlation of the activation shown these tokens alone with that in the full text';
COMMENT ON COLUMN reach_summary.explained_variance IS 'mean explained variance; far below 0 where a unit that hardly varies is far off without its context';
COMMENT ON COLUMN reach_summary.average_precision IS 'mean average precision of firing; units that do not fire left out';
COMMENT ON COLUMN reach_summary.f1 IS 'mean F1 of firing; units that fire in neither left out';

CREATE VIEW size_summary AS
SELECT
    study,
    layer,
    text,
    n_rules,
    count(*) AS units,
    avg(pearson_r) AS pearson_r,
    stddev_samp(pearson_r) / sqrt(count(pearson_r)) AS pearson_r_error,
    avg(explained_variance) AS explained_variance,
    avg(average_precision) AS average_precision,
    avg(f1) AS f1
FROM size_curve
GROUP BY study, layer, text, n_rules
ORDER BY study, layer, text, n_rules;
COMMENT ON VIEW size_summary IS 'How good the best graph of so many rules is, by layer and text: means over units, undefined values left out.';
COMMENT ON COLUMN size_summary.units IS 'units with a graph';
COMMENT ON COLUMN size_summary.pearson_r IS 'mean correlation of predicted and actual activation (signed)';
COMMENT ON COLUMN size_summary.pearson_r_error IS 'its standard error over units; NULL for a single unit';
COMMENT ON COLUMN size_summary.explained_variance IS 'mean explained variance';
COMMENT ON COLUMN size_summary.average_precision IS 'mean average precision of firing; units that do not fire left out';
COMMENT ON COLUMN size_summary.f1 IS 'mean F1 of firing; units that neither fire nor are predicted to left out';
