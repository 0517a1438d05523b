-- Where graphs are wrong: tokens, units, rules and kinds of failure.

CREATE VIEW counterexample_text AS
SELECT
    study,
    layer,
    unit,
    sign,
    text,
    kind,
    rank,
    context_id,
    position,
    predicted,
    actual,
    cause,
    pattern,
    marked_text(study, token_ids) AS window_text
FROM counterexamples
LEFT JOIN (SELECT study, layer, unit, sign, rule_id, pattern FROM rules) USING (study, layer, unit, sign, rule_id)
ORDER BY study, layer, unit, sign DESC, text, kind, rank;
COMMENT ON VIEW counterexample_text IS 'The tokens on which a unit''s graph is most confidently wrong, with the window as readable text.';
COMMENT ON COLUMN counterexample_text.pattern IS 'the rule that gave the prediction; NULL where none did';
COMMENT ON COLUMN counterexample_text.window_text IS 'the window up to the token in question, which stands in square brackets';

CREATE VIEW worst_units AS
WITH scores AS (
    FROM (
        SELECT
            study,
            layer,
            unit,
            sign,
            predictor,
            CASE WHEN text = 'top' THEN f1 END AS f1,
            CASE WHEN text = 'random' THEN pearson_r END AS pearson_r
        FROM evaluation
    )
    PIVOT (
        max(f1) AS f1, max(pearson_r) AS random_pearson_r
        FOR predictor IN ('graph', $baselines)
        GROUP BY study, layer, unit, sign
    )
), gains AS (
    SELECT
        study,
        layer,
        unit,
        sign,
        CASE WHEN count(*) FILTER (WHERE text = 'top') = 2
            THEN sum(side * coalesce(f1, 0)) FILTER (WHERE text = 'top') END AS f1_gain,
        CASE WHEN count(*) FILTER (WHERE text = 'random') = 2
            THEN sum(side * coalesce(pearson_r, 0)) FILTER (WHERE text = 'random') END AS random_pearson_r_gain,
        max(precision) FILTER (WHERE text = 'top' AND predictor = 'graph') AS precision,
        max(recall) FILTER (WHERE text = 'top' AND predictor = 'graph') AS recall
    FROM (SELECT *, CASE predictor WHEN 'graph' THEN 1 ELSE -1 END AS side FROM evaluation)
    WHERE predictor IN ('graph', 'token_lookup')
    GROUP BY ALL
), worst AS (
    SELECT
        study,
        layer,
        unit,
        sign,
        arg_max(
            {'kind': kind, 'text': text, 'predicted': predicted, 'actual': actual, 'token_ids': token_ids},
            (abs(predicted - actual), text = 'random', kind = 'false_alarm', -rank)
        ) AS it
    FROM counterexamples
    GROUP BY ALL
)
SELECT
    study,
    layer,
    unit,
    sign,
    status,
    f1_gain,
    random_pearson_r_gain,
    s.* EXCLUDE (study, layer, unit, sign),
    precision,
    recall,
    random_f1,
    random_explained_variance,
    n_rules,
    failures,
    format(
        '{}, {} (predicted {:.2f}, actual {:.2f}): {}{}',
        it.kind,
        it.text,
        it.predicted,
        it.actual,
        CASE WHEN len(it.token_ids) > 16 THEN '…' ELSE '' END,
        marked_text(study, it.token_ids[-16:])
    ) AS counterexample,
    top_pattern
FROM fidelity_card
LEFT JOIN scores AS s USING (study, layer, unit, sign)
LEFT JOIN gains USING (study, layer, unit, sign)
LEFT JOIN worst USING (study, layer, unit, sign)
ORDER BY f1_gain NULLS LAST, study, layer, unit, sign DESC;
COMMENT ON VIEW worst_units IS 'Every unit asked for, those first whose graph falls furthest short of a token lookup on their own test contexts; units that were not evaluated last.';
COMMENT ON COLUMN worst_units.f1_gain IS 'graph_f1 less token_lookup_f1, undefined counted 0; NULL where one of them was not evaluated';
COMMENT ON COLUMN worst_units.random_pearson_r_gain IS 'on held-out text, pearson_r of the graph less that of token_lookup, undefined counted 0; NULL where one of them was not evaluated';
COMMENT ON COLUMN worst_units.precision IS 'precision of firing of the graph on its own test contexts';
COMMENT ON COLUMN worst_units.recall IS 'recall of firing of the graph there';
COMMENT ON COLUMN worst_units.counterexample IS 'the token of held-out text on which prediction and activation differ most, in square brackets after up to 15 tokens before it; NULL where none was kept';

CREATE VIEW rule_test_summary AS
WITH asked AS (
    SELECT study, layer, count(*) AS units
    FROM unit_status
    GROUP BY ALL
), tests AS (
    SELECT
        study,
        layer,
        count(DISTINCT (unit, sign)) AS units_tested,
        count(*) AS rules_tested,
        CAST(sum(n_matches) AS BIGINT) AS n_matches,
        CAST(sum(fired) AS BIGINT) AS fired,
        CAST(sum(n_near_misses) AS BIGINT) AS n_near_misses,
        CAST(sum(silent) AS BIGINT) AS silent,
        CAST(sum(n_context_near_misses) AS BIGINT) AS n_context_near_misses,
        sum(context_silent) / nullif(sum(n_context_near_misses), 0) AS context_silent_share,
        count(held) AS rules_graded,
        count(*) FILTER (WHERE held) AS rules_held
    FROM rule_tests
    GROUP BY ALL
)
SELECT
    study,
    layer,
    units,
    coalesce(t.units_tested, 0) AS units_tested,
    coalesce(t.rules_tested, 0) AS rules_tested,
    coalesce(t.n_matches, 0) AS n_matches,
    coalesce(t.fired, 0) AS fired,
    t.fired / nullif(t.n_matches, 0) AS fired_share,
    coalesce(t.n_near_misses, 0) AS n_near_misses,
    coalesce(t.silent, 0) AS silent,
    t.silent / nullif(t.n_near_misses, 0) AS silent_share,
    coalesce(t.n_context_near_misses, 0) AS n_context_near_misses,
    t.context_silent_share,
    coalesce(t.rules_graded, 0) AS rules_graded,
    coalesce(t.rules_held, 0) AS rules_held,
    t.rules_held / nullif(t.rules_graded, 0) AS held_share
FROM asked
LEFT JOIN tests AS t USING (study, layer)
ORDER BY study, layer;
COMMENT ON VIEW rule_test_summary IS 'The rules of each layer, tested on the model: on how many texts that match the unit fires, on how many near misses it stays silent, and how many rules of classes held.';
COMMENT ON COLUMN rule_test_summary.units IS 'units asked for';
COMMENT ON COLUMN rule_test_summary.units_tested IS 'of those, units with a tested rule';
COMMENT ON COLUMN rule_test_summary.rules_tested IS 'rules tested';
COMMENT ON COLUMN rule_test_summary.n_matches IS 'texts tried that match their rule';
COMMENT ON COLUMN rule_test_summary.fired_share IS 'fired as a share of n_matches; NULL where none was tried';
COMMENT ON COLUMN rule_test_summary.n_near_misses IS 'texts tried that nearly match their rule';
COMMENT ON COLUMN rule_test_summary.silent_share IS 'silent as a share of n_near_misses; NULL where none was tried';
COMMENT ON COLUMN rule_test_summary.n_context_near_misses IS 'those of n_near_misses in which a context token was changed';
COMMENT ON COLUMN rule_test_summary.context_silent_share IS 'of those, the share on which the unit stays silent; NULL where none was tried';
COMMENT ON COLUMN rule_test_summary.rules_graded IS 'those of rules_tested that were graded (rule_tests.held is not NULL); 0 for the paper''s graphs';
COMMENT ON COLUMN rule_test_summary.rules_held IS 'of those, rules that held: the activation changes as they say when one token is exchanged';
COMMENT ON COLUMN rule_test_summary.held_share IS 'rules_held as a share of rules_graded; NULL where none was graded';

CREATE VIEW rule_support AS
SELECT
    study,
    layer,
    count(*) AS rules,
    count(*) FILTER (WHERE rank IS NULL AND count = 1) AS rules_on_one_prompt,
    rules_on_one_prompt / count(*) AS share,
    CASE WHEN count(rank) > 0 THEN count(*) FILTER (WHERE documents = 1) END AS rules_on_one_document
FROM rules
WHERE until IS NULL
GROUP BY study, layer
ORDER BY study, layer;
COMMENT ON VIEW rule_support IS 'How many rules of each layer rest on a single prompt (one train context, or one variant of it) or, those of token classes, on a single document.';
COMMENT ON COLUMN rule_support.rules IS 'rules of all graphs, of each unit''s largest one';
COMMENT ON COLUMN rule_support.rules_on_one_prompt IS 'of those, rules of the paper''s graphs with one prompt behind them (rules.count is 1)';
COMMENT ON COLUMN rule_support.share IS 'rules_on_one_prompt as a share of rules';
COMMENT ON COLUMN rule_support.rules_on_one_document IS 'of those, rules of token classes whose positions stand in one document; NULL where there are none of token classes';

CREATE VIEW failure_summary AS
WITH asked AS (
    SELECT study, layer, count(*) AS units_asked
    FROM unit_status
    GROUP BY ALL
), scored AS (
    SELECT study, layer, count(DISTINCT (unit, sign)) AS evaluated
    FROM evaluation
    WHERE predictor = 'graph'
    GROUP BY ALL
), kinds AS (
    SELECT study, layer, kind, count(*) AS units, avg(share) AS mean_measure
    FROM failures
    GROUP BY ALL
)
SELECT
    study,
    layer,
    kind,
    units_asked,
    coalesce(evaluated, 0) AS evaluated,
    units,
    units / nullif(units_asked, 0) AS share,
    mean_measure
FROM kinds
LEFT JOIN asked USING (study, layer)
LEFT JOIN scored USING (study, layer)
ORDER BY study, layer, units DESC, kind;
COMMENT ON VIEW failure_summary IS 'Why graphs are wrong: for each layer and kind of failure, the units that show it. A unit may show several; a kind that no unit shows has no row.';
COMMENT ON COLUMN failure_summary.units_asked IS 'units asked for';
COMMENT ON COLUMN failure_summary.evaluated IS 'of those, units whose graph was evaluated';
COMMENT ON COLUMN failure_summary.units IS 'of those, units that show this kind';
COMMENT ON COLUMN failure_summary.share IS 'units as a share of units_asked';
COMMENT ON COLUMN failure_summary.mean_measure IS 'mean over these units of the share that the kind goes by';
