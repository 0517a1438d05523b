-- Methods: two studies that explain units of the same model on the same corpus in different ways.

CREATE VIEW method_comparison AS
WITH asked AS (
    SELECT
        study,
        file_sha256,
        hook,
        -- what decides on what a unit is, on texts, on a_max and on what fires
        [settings ->> path FOR path IN [
            '$$.units', '$$.corpus', '$$.harvest', '$$.method.firing_threshold', '$$.evaluation.random_tokens',
            '$$.evaluation.out_of_domain_tokens', '$$.evaluation.seed'
        ]] AS corpus,
        settings ->> '$$.method.preset' AS method
    FROM studies
    JOIN subject_models USING (study)
), common AS (
    -- the units that both studies of a pair ask for
    SELECT s.study, o.study AS other_study, s.method, o.method AS other_method, u.layer, u.unit, u.sign
    FROM asked AS s
    JOIN asked AS o USING (file_sha256, hook, corpus)
    JOIN unit_status AS u ON u.study = s.study
    SEMI JOIN unit_status AS v ON v.study = o.study AND v.layer = u.layer AND v.unit = u.unit AND v.sign = u.sign
    WHERE s.method <> o.method
), graphs AS (
    SELECT *
    FROM layer_summary
    WHERE predictor = 'graph'
), graph_scores AS (
    SELECT study, layer, unit, sign, text, pearson_r, explained_variance, average_precision, f1
    FROM evaluation
    WHERE predictor = 'graph'
), means AS (
    SELECT
        c.study,
        c.other_study,
        c.method,
        c.other_method,
        c.layer,
        g.text,
        count(*) AS units,
        avg(e.pearson_r) AS pearson_r,
        avg(o.pearson_r) AS other_pearson_r,
        avg(e.explained_variance) AS explained_variance,
        avg(o.explained_variance) AS other_explained_variance,
        avg(e.average_precision) AS average_precision,
        avg(o.average_precision) AS other_average_precision,
        coalesce(sum(e.f1), 0) / count(*) AS f1_all,
        coalesce(sum(o.f1), 0) / count(*) AS other_f1_all
    FROM common AS c
    JOIN graphs AS g ON g.study = c.study AND g.layer = c.layer
    LEFT JOIN graph_scores AS e
        ON e.study = c.study AND e.layer = c.layer AND e.unit = c.unit AND e.sign = c.sign AND e.text = g.text
    LEFT JOIN graph_scores AS o
        ON o.study = c.other_study AND o.layer = c.layer AND o.unit = c.unit AND o.sign = c.sign AND o.text = g.text
    GROUP BY ALL
)
-- an interval is known where these are all units of the layer
SELECT
    m.study,
    m.other_study,
    m.method,
    m.other_method,
    m.layer,
    m.text,
    m.units,
    m.pearson_r,
    CASE WHEN m.units = g.units THEN g.pearson_r_low END AS pearson_r_low,
    CASE WHEN m.units = g.units THEN g.pearson_r_high END AS pearson_r_high,
    m.other_pearson_r,
    CASE WHEN m.units = o.units THEN o.pearson_r_low END AS other_pearson_r_low,
    CASE WHEN m.units = o.units THEN o.pearson_r_high END AS other_pearson_r_high,
    m.explained_variance,
    CASE WHEN m.units = g.units THEN g.explained_variance_low END AS explained_variance_low,
    CASE WHEN m.units = g.units THEN g.explained_variance_high END AS explained_variance_high,
    m.other_explained_variance,
    CASE WHEN m.units = o.units THEN o.explained_variance_low END AS other_explained_variance_low,
    CASE WHEN m.units = o.units THEN o.explained_variance_high END AS other_explained_variance_high,
    m.average_precision,
    CASE WHEN m.units = g.units THEN g.average_precision_low END AS average_precision_low,
    CASE WHEN m.units = g.units THEN g.average_precision_high END AS average_precision_high,
    m.other_average_precision,
    CASE WHEN m.units = o.units THEN o.average_precision_low END AS other_average_precision_low,
    CASE WHEN m.units = o.units THEN o.average_precision_high END AS other_average_precision_high,
    m.f1_all,
    CASE WHEN m.units = g.units THEN g.f1_all_low END AS f1_all_low,
    CASE WHEN m.units = g.units THEN g.f1_all_high END AS f1_all_high,
    m.other_f1_all,
    CASE WHEN m.units = o.units THEN o.f1_all_low END AS other_f1_all_low,
    CASE WHEN m.units = o.units THEN o.f1_all_high END AS other_f1_all_high
FROM means AS m
JOIN graphs AS g ON g.study = m.study AND g.layer = m.layer AND g.text = m.text
JOIN graphs AS o ON o.study = m.other_study AND o.layer = m.layer AND o.text = m.text
ORDER BY m.study, m.other_study, m.layer, m.text;
COMMENT ON VIEW method_comparison IS 'The graphs of a study beside those of another one that explains the same model (by its file_sha256, hook and encoder) on the same corpus by another method, by layer and text: means over the units that both ask for. A mean has an interval only where these are all units of its study in the layer.';
COMMENT ON COLUMN method_comparison.other_study IS 'the study that is set beside it';
COMMENT ON COLUMN method_comparison.method IS 'how the graphs of the study are made: method.preset of its settings';
COMMENT ON COLUMN method_comparison.other_method IS 'the same of the other study';
COMMENT ON COLUMN method_comparison.text IS 'as in evaluation; texts that both studies score';
COMMENT ON COLUMN method_comparison.units IS 'units that both studies ask for';
COMMENT ON COLUMN method_comparison.pearson_r IS 'mean Pearson''s r of predicted and actual activation (signed), undefined left out';
COMMENT ON COLUMN method_comparison.explained_variance IS 'mean explained variance of the activation (signed), undefined left out';
COMMENT ON COLUMN method_comparison.average_precision IS 'mean average precision of firing, undefined left out';
COMMENT ON COLUMN method_comparison.f1_all IS 'mean F1 of firing, undefined and missing counted 0';
COMMENT ON COLUMN method_comparison.pearson_r_low IS 'lower end of the 95 % interval of pearson_r';
COMMENT ON COLUMN method_comparison.pearson_r_high IS 'upper end of the 95 % interval of pearson_r';
COMMENT ON COLUMN method_comparison.explained_variance_low IS 'lower end of the 95 % interval of explained_variance';
COMMENT ON COLUMN method_comparison.explained_variance_high IS 'upper end of the 95 % interval of explained_variance';
COMMENT ON COLUMN method_comparison.average_precision_low IS 'lower end of the 95 % interval of average_precision';
COMMENT ON COLUMN method_comparison.average_precision_high IS 'upper end of the 95 % interval of average_precision';
COMMENT ON COLUMN method_comparison.f1_all_low IS 'lower end of the 95 % interval of f1_all';
COMMENT ON COLUMN method_comparison.f1_all_high IS 'upper end of the 95 % interval of f1_all';
COMMENT ON COLUMN method_comparison.other_pearson_r IS 'pearson_r of the other study';
COMMENT ON COLUMN method_comparison.other_pearson_r_low IS 'pearson_r_low of the other study';
COMMENT ON COLUMN method_comparison.other_pearson_r_high IS 'pearson_r_high of the other study';
COMMENT ON COLUMN method_comparison.other_explained_variance IS 'explained_variance of the other study';
COMMENT ON COLUMN method_comparison.other_explained_variance_low IS 'explained_variance_low of the other study';
COMMENT ON COLUMN method_comparison.other_explained_variance_high IS 'explained_variance_high of the other study';
COMMENT ON COLUMN method_comparison.other_average_precision IS 'average_precision of the other study';
COMMENT ON COLUMN method_comparison.other_average_precision_low IS 'average_precision_low of the other study';
COMMENT ON COLUMN method_comparison.other_average_precision_high IS 'average_precision_high of the other study';
COMMENT ON COLUMN method_comparison.other_f1_all IS 'f1_all of the other study';
COMMENT ON COLUMN method_comparison.other_f1_all_low IS 'f1_all_low of the other study';
COMMENT ON COLUMN method_comparison.other_f1_all_high IS 'f1_all_high of the other study';
