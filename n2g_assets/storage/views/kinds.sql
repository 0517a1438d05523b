-- Kinds of units: neurons, latents, directions and attention heads of the same model, explained on the same text.

CREATE VIEW unit_kinds AS
WITH read AS (
    SELECT study, bit_xor(hash(context_id, split)) AS contexts
    FROM contexts
    GROUP BY study
), asked AS (
    SELECT
        s.study,
        s.control_of IS NOT NULL AS control,
        (s.settings ->> '$$.units') IS NOT NULL AS encoded,
        m.hook,
        m.d_mlp,
        -- what decides on the model, on texts, on a_max, on what fires and on how graphs are made
        md5(concat_ws(
            chr(10), coalesce(whole.file_sha256, m.file_sha256), m.bos_id, contexts,
            json_merge_patch(s.settings -> '$$.method', '{"units_per_block": null}'),
            json_merge_patch(s.settings -> '$$.harvest', '{"batch_tokens": null, "shard_tokens": null, "device": null}'),
            [s.settings ->> path FOR path IN [
                '$$.evaluation.seed', '$$.evaluation.random_tokens', '$$.evaluation.out_of_domain_tokens'
            ]]
        )) AS comparable
    FROM studies AS s
    JOIN subject_models AS m USING (study)
    LEFT JOIN subject_models AS whole ON whole.study = s.control_of
    LEFT JOIN read ON read.study = s.study
), kinds AS (
    SELECT
        a.study,
        u.layer,
        a.comparable,
        CASE
            WHEN e.architecture = 'heads' THEN 'head'
            WHEN e.architecture = 'directions' THEN 'direction'
            WHEN ends_with(e.architecture, 'transcoder') THEN 'transcoder latent'
            WHEN e.study IS NOT NULL THEN 'autoencoder latent'
            WHEN a.encoded THEN 'latent'
            WHEN a.hook = 'mlp.hook_post' THEN 'neuron'
            ELSE a.hook
        END AS kind,
        a.control,
        a.hook,
        coalesce(e.n_latents, CASE WHEN NOT a.encoded THEN a.d_mlp END) AS of_layer,
        e.active,
        e.unexplained,
        count(*) AS units,
        count(*) FILTER (WHERE status = 'dead') AS dead,
        count(*) FILTER (WHERE status = 'too_few_contexts') AS too_few_contexts,
        count(*) FILTER (WHERE status = 'failed') AS failed,
        avg(share_positive) AS share_positive
    FROM asked AS a
    JOIN unit_status AS u ON u.study = a.study
    LEFT JOIN neuron_stats AS n ON n.study = u.study AND n.layer = u.layer AND n.unit = u.unit AND n.sign = u.sign
    LEFT JOIN encoders AS e ON e.study = u.study AND e.layer = u.layer
    GROUP BY ALL
), texts_of AS (
    -- also those on which no unit could be scored
    SELECT study, layer, text
    FROM layer_scores
    WHERE predictor = 'graph'
    UNION
    SELECT study, layer, text
    FROM evaluation
    WHERE predictor = 'graph'
), sizes AS (
    SELECT
        study,
        layer,
        text,
        avg(pearson_r) FILTER (WHERE n_rules = 5) AS pearson_r_5,
        avg(pearson_r) FILTER (WHERE n_rules = 30) AS pearson_r_30
    FROM size_curve
    GROUP BY ALL
), lookups AS (
    SELECT study, layer, text, avg(pearson_r) AS token_lookup_pearson_r
    FROM evaluation
    WHERE predictor = 'token_lookup'
    GROUP BY ALL
), scores AS (
    SELECT
        study,
        layer,
        text,
        count(*) AS scored,
        count(*) FILTER (WHERE n_firings = 0) AS silent,
        count(*) FILTER (WHERE n_firings > 0 AND n_firing_documents < 5) AS rare,
        avg(n_firings / nullif(n_tokens, 0)) AS firing_share,
        avg(pearson_r) AS pearson_r,
        1.96 * stddev_samp(pearson_r) / sqrt(count(pearson_r)) AS pearson_r_margin,
        avg(explained_variance) AS explained_variance,
        1.96 * stddev_samp(explained_variance) / sqrt(count(explained_variance)) AS explained_variance_margin,
        avg(average_precision) AS average_precision,
        1.96 * stddev_samp(average_precision) / sqrt(count(average_precision)) AS average_precision_margin,
        avg(f1) AS f1,
        1.96 * stddev_samp(f1) / sqrt(count(f1)) AS f1_margin
    FROM evaluation
    WHERE predictor = 'graph'
    GROUP BY ALL
)
SELECT
    study,
    layer,
    text,
    comparable,
    kind,
    control,
    hook,
    of_layer,
    units,
    dead,
    too_few_contexts,
    failed,
    coalesce(scored, 0) AS scored,
    coalesce(silent, 0) AS silent,
    coalesce(rare, 0) AS rare,
    share_positive,
    firing_share,
    pearson_r,
    pearson_r - pearson_r_margin AS pearson_r_low,
    pearson_r + pearson_r_margin AS pearson_r_high,
    explained_variance,
    explained_variance - explained_variance_margin AS explained_variance_low,
    explained_variance + explained_variance_margin AS explained_variance_high,
    average_precision,
    average_precision - average_precision_margin AS average_precision_low,
    average_precision + average_precision_margin AS average_precision_high,
    f1,
    f1 - f1_margin AS f1_low,
    f1 + f1_margin AS f1_high,
    token_lookup_pearson_r,
    pearson_r_5,
    pearson_r_30,
    reach_5,
    active,
    unexplained
FROM kinds
JOIN texts_of USING (study, layer)
LEFT JOIN scores USING (study, layer, text)
LEFT JOIN sizes USING (study, layer, text)
LEFT JOIN lookups USING (study, layer, text)
LEFT JOIN (SELECT study, layer, text, pearson_r AS reach_5 FROM reach_summary WHERE last_tokens = 5) USING (study, layer, text)
ORDER BY layer, text, comparable, control, kind, study;
COMMENT ON VIEW unit_kinds IS 'One row a study, layer and text: what kind of units it explains and how well its graphs do. Rows of one layer and text with the same value of comparable can be set beside each other: neurons, latents of autoencoders and transcoders, directions, attention heads, and their controls. Means are over units; their intervals are over units drawn anew, since units are mostly a sample of those of the layer.';
COMMENT ON COLUMN unit_kinds.comparable IS 'the same in studies, and their controls, of the same model and contexts, which are harvested, learnt from and scored alike';
COMMENT ON COLUMN unit_kinds.kind IS 'neuron, autoencoder latent, transcoder latent, direction, head, or the hook whose values the units are; latent where the encoder is not known';
COMMENT ON COLUMN unit_kinds.control IS 'whether it is a control, whose model has random weights';
COMMENT ON COLUMN unit_kinds.of_layer IS 'units that the layer has, asked for or not; NULL where its encoder is not known';
COMMENT ON COLUMN unit_kinds.silent IS 'of those, units with no firing token in this text';
COMMENT ON COLUMN unit_kinds.rare IS 'of those, units that fire in fewer than five documents of it: their F1 and average precision are uncertain';
COMMENT ON COLUMN unit_kinds.units IS 'units asked for';
COMMENT ON COLUMN unit_kinds.share_positive IS 'mean share of harvested tokens with a positive activation';
COMMENT ON COLUMN unit_kinds.firing_share IS 'mean share of the tokens of this text on which a unit fires';
COMMENT ON COLUMN unit_kinds.dead IS 'of those, never with a positive activation';
COMMENT ON COLUMN unit_kinds.too_few_contexts IS 'of those, with too few train or test contexts';
COMMENT ON COLUMN unit_kinds.failed IS 'of those, failed in some stage: see problem_units';
COMMENT ON COLUMN unit_kinds.scored IS 'units whose graph has a score on this text';
COMMENT ON COLUMN unit_kinds.pearson_r IS 'mean Pearson''s r of the graph''s prediction and the activation (signed); undefined left out';
COMMENT ON COLUMN unit_kinds.explained_variance IS 'mean explained variance of the activation (signed); undefined left out';
COMMENT ON COLUMN unit_kinds.average_precision IS 'mean average precision of firing; units without firing tokens left out';
COMMENT ON COLUMN unit_kinds.f1 IS 'mean F1 of firing; units that neither fire nor are predicted to left out';
COMMENT ON COLUMN unit_kinds.pearson_r_low IS 'lower end of its 95 % interval over units: 1.96 standard errors from the mean';
COMMENT ON COLUMN unit_kinds.pearson_r_high IS 'upper end of its 95 % interval over units: 1.96 standard errors from the mean';
COMMENT ON COLUMN unit_kinds.explained_variance_low IS 'lower end of its 95 % interval over units: 1.96 standard errors from the mean';
COMMENT ON COLUMN unit_kinds.explained_variance_high IS 'upper end of its 95 % interval over units: 1.96 standard errors from the mean';
COMMENT ON COLUMN unit_kinds.average_precision_low IS 'lower end of its 95 % interval over units: 1.96 standard errors from the mean';
COMMENT ON COLUMN unit_kinds.average_precision_high IS 'upper end of its 95 % interval over units: 1.96 standard errors from the mean';
COMMENT ON COLUMN unit_kinds.f1_low IS 'lower end of its 95 % interval over units: 1.96 standard errors from the mean';
COMMENT ON COLUMN unit_kinds.f1_high IS 'upper end of its 95 % interval over units: 1.96 standard errors from the mean';
COMMENT ON COLUMN unit_kinds.token_lookup_pearson_r IS 'mean Pearson''s r of the token lookup';
COMMENT ON COLUMN unit_kinds.pearson_r_5 IS 'the same of the best graphs of 5 rules; NULL for the paper''s graphs';
COMMENT ON COLUMN unit_kinds.pearson_r_30 IS 'the same of 30 rules';
COMMENT ON COLUMN unit_kinds.reach_5 IS 'the same of the model itself, shown BOS and only the last 5 tokens; NULL where not measured';
COMMENT ON COLUMN unit_kinds.active IS 'latents of the encoder, or heads, above 0 at a position, on the mean; NULL for others';
COMMENT ON COLUMN unit_kinds.unexplained IS 'share of the variance that the encoder leaves; NULL without a decoder';

CREATE MACRO margin(one, other) AS sqrt(one * one + other * other);
COMMENT ON MACRO margin IS 'Half the width of the interval of a difference of two independent means, from half the widths of theirs.';

CREATE MACRO kinds_beside(of_study) AS TABLE
SELECT
    k.*,
    k.pearson_r - o.pearson_r AS pearson_r_more,
    pearson_r_more - margin(k.pearson_r - k.pearson_r_low, o.pearson_r - o.pearson_r_low) AS pearson_r_more_low,
    pearson_r_more + margin(k.pearson_r - k.pearson_r_low, o.pearson_r - o.pearson_r_low) AS pearson_r_more_high,
    k.average_precision - o.average_precision AS average_precision_more,
    average_precision_more
        - margin(k.average_precision - k.average_precision_low, o.average_precision - o.average_precision_low)
        AS average_precision_more_low,
    average_precision_more
        + margin(k.average_precision - k.average_precision_low, o.average_precision - o.average_precision_low)
        AS average_precision_more_high,
    k.f1 - o.f1 AS f1_more,
    f1_more - margin(k.f1 - k.f1_low, o.f1 - o.f1_low) AS f1_more_low,
    f1_more + margin(k.f1 - k.f1_low, o.f1 - o.f1_low) AS f1_more_high
FROM unit_kinds AS k
JOIN unit_kinds AS o USING (layer, text, comparable)
WHERE o.study = of_study AND k.study <> of_study
ORDER BY layer, text, k.control, k.kind, k.study;
COMMENT ON MACRO TABLE kinds_beside IS 'The rows of unit_kinds that can be set beside those of a study, with how much more than its means theirs are, and the 95 % interval of each difference: are latents easier to explain than its neurons, and by how much?';
