-- Views on how far the graphs can be trusted: each unit on one line, controls, rule tests, failures, counterexamples.
-- warehouse.py runs this file after views.sql. A unit that was asked for stays in, with NULL where it has no value.

-- ------------------------------------------------------------------------------------------------ units
CREATE OR REPLACE MACRO rival_number(name) AS
    list_position(['token_lookup', 'ngram', 'ngram_backoff', 'skip_bigram'], name);
COMMENT ON MACRO rival_number IS 'Place of a predictor among the rivals of the graph, the simplest first; NULL for the graph itself and for controls.';

CREATE OR REPLACE VIEW fidelity_card AS
WITH scores AS (
    SELECT
        study,
        layer,
        unit,
        sign,
        max(f1) FILTER (WHERE text = 'top' AND predictor = 'graph') AS top_f1,
        max(f1_low) FILTER (WHERE text = 'top' AND predictor = 'graph') AS top_f1_low,
        max(f1_high) FILTER (WHERE text = 'top' AND predictor = 'graph') AS top_f1_high,
        max(average_precision) FILTER (WHERE text = 'top' AND predictor = 'graph') AS top_average_precision,
        max(n_firings) FILTER (WHERE text = 'top' AND predictor <> 'graph_reinitialised') AS top_n_firings,
        max(f1) FILTER (WHERE text = 'quantiles' AND predictor = 'graph') AS quantiles_f1,
        max(f1_low) FILTER (WHERE text = 'quantiles' AND predictor = 'graph') AS quantiles_f1_low,
        max(f1_high) FILTER (WHERE text = 'quantiles' AND predictor = 'graph') AS quantiles_f1_high,
        max(average_precision) FILTER (WHERE text = 'quantiles' AND predictor = 'graph') AS quantiles_average_precision,
        max(n_firings) FILTER (WHERE text = 'quantiles' AND predictor <> 'graph_reinitialised') AS quantiles_n_firings,
        max(f1) FILTER (WHERE text = 'random' AND predictor = 'graph') AS random_f1,
        max(f1_low) FILTER (WHERE text = 'random' AND predictor = 'graph') AS random_f1_low,
        max(f1_high) FILTER (WHERE text = 'random' AND predictor = 'graph') AS random_f1_high,
        max(average_precision) FILTER (WHERE text = 'random' AND predictor = 'graph') AS random_average_precision,
        max(n_firings) FILTER (WHERE text = 'random' AND predictor <> 'graph_reinitialised') AS random_n_firings,
        max(f1) FILTER (WHERE text = 'out_of_domain' AND predictor = 'graph') AS out_of_domain_f1,
        max(f1_low) FILTER (WHERE text = 'out_of_domain' AND predictor = 'graph') AS out_of_domain_f1_low,
        max(f1_high) FILTER (WHERE text = 'out_of_domain' AND predictor = 'graph') AS out_of_domain_f1_high,
        max(average_precision) FILTER (WHERE text = 'out_of_domain' AND predictor = 'graph') AS out_of_domain_average_precision,
        max(n_firings) FILTER (WHERE text = 'out_of_domain' AND predictor <> 'graph_reinitialised') AS out_of_domain_n_firings,
        first(predictor ORDER BY f1 DESC, rival_number(predictor)) FILTER (WHERE text = 'top' AND f1 IS NOT NULL AND rival_number(predictor) IS NOT NULL) AS top_best_other,
        max(f1) FILTER (WHERE text = 'top' AND f1 IS NOT NULL AND rival_number(predictor) IS NOT NULL) AS top_best_other_f1,
        first(predictor ORDER BY f1 DESC, rival_number(predictor)) FILTER (WHERE text = 'random' AND f1 IS NOT NULL AND rival_number(predictor) IS NOT NULL) AS random_best_other,
        max(f1) FILTER (WHERE text = 'random' AND f1 IS NOT NULL AND rival_number(predictor) IS NOT NULL) AS random_best_other_f1,
        max(coverage_firings) FILTER (WHERE text = 'random' AND predictor = 'graph') AS random_coverage_firings
    FROM evaluation
    GROUP BY study, layer, unit, sign
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
        sum(context_silent) / nullif(sum(n_context_near_misses), 0) AS context_silent_share
    FROM rule_tests
    GROUP BY study, layer, unit, sign
), kinds AS (
    SELECT study, layer, unit, sign, string_agg(kind, ', ' ORDER BY kind) AS failures
    FROM failures
    GROUP BY study, layer, unit, sign
)
SELECT
    u.study,
    u.layer,
    u.unit,
    u.sign,
    u.status,
    u.a_max,
    u.n_rules,
    u.n_nodes,
    e.top_f1,
    e.top_f1_low,
    e.top_f1_high,
    e.top_average_precision,
    e.top_n_firings,
    e.quantiles_f1,
    e.quantiles_f1_low,
    e.quantiles_f1_high,
    e.quantiles_average_precision,
    e.quantiles_n_firings,
    e.random_f1,
    e.random_f1_low,
    e.random_f1_high,
    e.random_average_precision,
    e.random_n_firings,
    e.out_of_domain_f1,
    e.out_of_domain_f1_low,
    e.out_of_domain_f1_high,
    e.out_of_domain_average_precision,
    e.out_of_domain_n_firings,
    e.top_best_other,
    e.top_best_other_f1,
    e.random_best_other,
    e.random_best_other_f1,
    e.random_coverage_firings,
    coalesce(t.rules_tested, 0) AS rules_tested,
    t.n_matches,
    t.fired_share,
    t.n_near_misses,
    t.silent_share,
    t.n_context_near_misses,
    t.context_silent_share,
    k.failures,
    u.top_pattern
FROM unit_summary AS u
LEFT JOIN scores AS e ON e.study = u.study AND e.layer = u.layer AND e.unit = u.unit AND e.sign = u.sign
LEFT JOIN tests AS t ON t.study = u.study AND t.layer = u.layer AND t.unit = u.unit AND t.sign = u.sign
LEFT JOIN kinds AS k ON k.study = u.study AND k.layer = u.layer AND k.unit = u.unit AND k.sign = u.sign
ORDER BY u.study, u.layer, u.unit, u.sign DESC;
COMMENT ON VIEW fidelity_card IS 'Every unit asked for on one line: how far its graph can be trusted, on which text, and why not.';
COMMENT ON COLUMN fidelity_card.study IS 'name of the study';
COMMENT ON COLUMN fidelity_card.layer IS 'layer of the unit, from 0';
COMMENT ON COLUMN fidelity_card.unit IS 'index of the unit (its neuron) in the layer, from 0';
COMMENT ON COLUMN fidelity_card.sign IS '+1 reads the activation, -1 the negated activation';
COMMENT ON COLUMN fidelity_card.status IS 'ok, dead, too_few_contexts or failed';
COMMENT ON COLUMN fidelity_card.a_max IS 'largest activation over the harvest';
COMMENT ON COLUMN fidelity_card.n_rules IS 'rules of its graph';
COMMENT ON COLUMN fidelity_card.n_nodes IS 'nodes of its graph';
COMMENT ON COLUMN fidelity_card.top_f1 IS 'F1 of firing of the graph on its own test contexts; NULL where undefined';
COMMENT ON COLUMN fidelity_card.top_f1_low IS 'lower end of its 95 % interval';
COMMENT ON COLUMN fidelity_card.top_f1_high IS 'upper end of its 95 % interval';
COMMENT ON COLUMN fidelity_card.top_average_precision IS 'average precision of the graph on its own test contexts; NULL where undefined';
COMMENT ON COLUMN fidelity_card.top_n_firings IS 'firing tokens of its own test contexts';
COMMENT ON COLUMN fidelity_card.quantiles_f1 IS 'F1 of firing of the graph on contexts from each tenth of its activations; NULL where undefined';
COMMENT ON COLUMN fidelity_card.quantiles_f1_low IS 'lower end of its 95 % interval';
COMMENT ON COLUMN fidelity_card.quantiles_f1_high IS 'upper end of its 95 % interval';
COMMENT ON COLUMN fidelity_card.quantiles_average_precision IS 'average precision of the graph on contexts from each tenth of its activations; NULL where undefined';
COMMENT ON COLUMN fidelity_card.quantiles_n_firings IS 'firing tokens of contexts from each tenth of its activations';
COMMENT ON COLUMN fidelity_card.random_f1 IS 'F1 of firing of the graph on held-out text; NULL where undefined';
COMMENT ON COLUMN fidelity_card.random_f1_low IS 'lower end of its 95 % interval';
COMMENT ON COLUMN fidelity_card.random_f1_high IS 'upper end of its 95 % interval';
COMMENT ON COLUMN fidelity_card.random_average_precision IS 'average precision of the graph on held-out text; NULL where undefined';
COMMENT ON COLUMN fidelity_card.random_n_firings IS 'firing tokens of held-out text';
COMMENT ON COLUMN fidelity_card.out_of_domain_f1 IS 'F1 of firing of the graph on text of another kind; NULL where undefined';
COMMENT ON COLUMN fidelity_card.out_of_domain_f1_low IS 'lower end of its 95 % interval';
COMMENT ON COLUMN fidelity_card.out_of_domain_f1_high IS 'upper end of its 95 % interval';
COMMENT ON COLUMN fidelity_card.out_of_domain_average_precision IS 'average precision of the graph on text of another kind; NULL where undefined';
COMMENT ON COLUMN fidelity_card.out_of_domain_n_firings IS 'firing tokens of text of another kind';
COMMENT ON COLUMN fidelity_card.top_best_other IS 'the rival with the best F1 on its own test contexts, the simpler one of equals; controls do not count';
COMMENT ON COLUMN fidelity_card.top_best_other_f1 IS 'its F1';
COMMENT ON COLUMN fidelity_card.random_best_other IS 'the rival with the best F1 on held-out text, the simpler one of equals; controls do not count';
COMMENT ON COLUMN fidelity_card.random_best_other_f1 IS 'its F1';
COMMENT ON COLUMN fidelity_card.random_coverage_firings IS 'share of the firing tokens of held-out text that some rule explains';
COMMENT ON COLUMN fidelity_card.rules_tested IS 'rules that were tested on the model';
COMMENT ON COLUMN fidelity_card.n_matches IS 'texts tried that match one of them';
COMMENT ON COLUMN fidelity_card.fired_share IS 'of those, the share on which the unit fires';
COMMENT ON COLUMN fidelity_card.n_near_misses IS 'texts tried that nearly match one of them';
COMMENT ON COLUMN fidelity_card.silent_share IS 'of those, the share on which the unit stays silent';
COMMENT ON COLUMN fidelity_card.n_context_near_misses IS 'those of n_near_misses in which a context token was changed';
COMMENT ON COLUMN fidelity_card.context_silent_share IS 'of those, the share on which the unit stays silent';
COMMENT ON COLUMN fidelity_card.failures IS 'kinds of failure, by name; NULL where none was found';
COMMENT ON COLUMN fidelity_card.top_pattern IS 'its strongest rule; NULL where it has none';

CREATE OR REPLACE MACRO marked_text(of_study, ids) AS (
    SELECT string_agg(CASE WHEN t.place = t.n THEN '[' || t.word || ']' ELSE t.word END, '' ORDER BY t.place)
    FROM (
        SELECT i.place, i.n, coalesce(v.text, '<' || i.token_id || '>') AS word
        FROM (
            SELECT of_study AS study, unnest(ids) AS token_id, generate_subscripts(ids, 1) AS place, len(ids) AS n
        ) AS i
        LEFT JOIN vocabulary AS v ON v.study = i.study AND v.token_id = i.token_id
    ) AS t
);
COMMENT ON MACRO marked_text IS 'Token ids of a study as readable text, the last one in square brackets; an id that the vocabulary lacks appears as <id>.';

CREATE OR REPLACE VIEW counterexample_text AS
SELECT
    c.study,
    c.layer,
    c.unit,
    c.sign,
    c.text,
    c.kind,
    c.rank,
    c.context_id,
    c.position,
    c.predicted,
    c.actual,
    c.cause,
    r.pattern,
    marked_text(c.study, c.token_ids) AS window_text
FROM counterexamples AS c
LEFT JOIN rules AS r
    ON r.study = c.study AND r.layer = c.layer AND r.unit = c.unit AND r.sign = c.sign AND r.rule_id = c.rule_id
ORDER BY c.study, c.layer, c.unit, c.sign DESC, c.text, c.kind, c.rank;
COMMENT ON VIEW counterexample_text IS 'The tokens on which a unit''s graph is most confidently wrong, with the window as readable text.';
COMMENT ON COLUMN counterexample_text.study IS 'name of the study';
COMMENT ON COLUMN counterexample_text.layer IS 'layer of the unit, from 0';
COMMENT ON COLUMN counterexample_text.unit IS 'index of the unit (its neuron) in the layer, from 0';
COMMENT ON COLUMN counterexample_text.sign IS '+1 reads the activation, -1 the negated activation';
COMMENT ON COLUMN counterexample_text.text IS 'random or out_of_domain';
COMMENT ON COLUMN counterexample_text.kind IS 'false_alarm: predicted to fire and silent; miss: fires and predicted silent';
COMMENT ON COLUMN counterexample_text.rank IS '0 is the most confident one of its text and kind';
COMMENT ON COLUMN counterexample_text.context_id IS 'context';
COMMENT ON COLUMN counterexample_text.position IS 'position in the context, from 0';
COMMENT ON COLUMN counterexample_text.predicted IS 'predicted normalised activation';
COMMENT ON COLUMN counterexample_text.actual IS 'actual normalised activation';
COMMENT ON COLUMN counterexample_text.cause IS 'rule fired wrongly, token unknown or context unmatched';
COMMENT ON COLUMN counterexample_text.pattern IS 'the rule that gave the prediction; NULL where none did';
COMMENT ON COLUMN counterexample_text.window_text IS 'the window up to the token in question, which stands in square brackets';

CREATE OR REPLACE VIEW worst_units AS
WITH scores AS (
    SELECT
        study,
        layer,
        unit,
        sign,
        max(f1) FILTER (WHERE predictor = 'graph') AS graph_f1,
        max(f1) FILTER (WHERE predictor = 'token_lookup') AS token_lookup_f1,
        max(f1) FILTER (WHERE predictor = 'ngram') AS ngram_f1,
        max(f1) FILTER (WHERE predictor = 'ngram_backoff') AS ngram_backoff_f1,
        max(f1) FILTER (WHERE predictor = 'skip_bigram') AS skip_bigram_f1,
        max(precision) FILTER (WHERE predictor = 'graph') AS precision,
        max(recall) FILTER (WHERE predictor = 'graph') AS recall,
        CASE WHEN bool_or(predictor = 'graph') AND bool_or(predictor = 'token_lookup')
            THEN coalesce(graph_f1, 0) - coalesce(token_lookup_f1, 0) END AS f1_gain
    FROM evaluation
    WHERE text = 'top'
    GROUP BY study, layer, unit, sign
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
    GROUP BY study, layer, unit, sign
)
SELECT
    u.study,
    u.layer,
    u.unit,
    u.sign,
    u.status,
    e.f1_gain,
    e.graph_f1,
    e.token_lookup_f1,
    e.ngram_f1,
    e.ngram_backoff_f1,
    e.skip_bigram_f1,
    e.precision,
    e.recall,
    u.random_f1,
    u.n_rules,
    u.failures,
    format(
        '{}, {} (predicted {:.2f}, actual {:.2f}): {}{}',
        w.it.kind,
        w.it.text,
        w.it.predicted,
        w.it.actual,
        CASE WHEN len(w.it.token_ids) > 16 THEN '…' ELSE '' END,
        marked_text(u.study, w.it.token_ids[-16:])
    ) AS counterexample,
    u.top_pattern
FROM fidelity_card AS u
LEFT JOIN scores AS e ON e.study = u.study AND e.layer = u.layer AND e.unit = u.unit AND e.sign = u.sign
LEFT JOIN worst AS w ON w.study = u.study AND w.layer = u.layer AND w.unit = u.unit AND w.sign = u.sign
ORDER BY e.f1_gain NULLS LAST, u.study, u.layer, u.unit, u.sign DESC;
COMMENT ON VIEW worst_units IS 'Every unit asked for, those first whose graph falls furthest short of a token lookup on their own test contexts; units that were not evaluated last.';
COMMENT ON COLUMN worst_units.study IS 'name of the study';
COMMENT ON COLUMN worst_units.layer IS 'layer of the unit, from 0';
COMMENT ON COLUMN worst_units.unit IS 'index of the unit (its neuron) in the layer, from 0';
COMMENT ON COLUMN worst_units.sign IS '+1 reads the activation, -1 the negated activation';
COMMENT ON COLUMN worst_units.status IS 'ok, dead, too_few_contexts or failed';
COMMENT ON COLUMN worst_units.f1_gain IS 'graph_f1 less token_lookup_f1, undefined counted 0; NULL where one of them was not evaluated';
COMMENT ON COLUMN worst_units.graph_f1 IS 'F1 of firing of the graph on its own test contexts; NULL where undefined';
COMMENT ON COLUMN worst_units.token_lookup_f1 IS 'the same of the token lookup';
COMMENT ON COLUMN worst_units.ngram_f1 IS 'the same of the n-gram';
COMMENT ON COLUMN worst_units.ngram_backoff_f1 IS 'the same of the back-off n-gram';
COMMENT ON COLUMN worst_units.skip_bigram_f1 IS 'the same of the skip-bigrams';
COMMENT ON COLUMN worst_units.precision IS 'precision of firing of the graph there';
COMMENT ON COLUMN worst_units.recall IS 'recall of firing of the graph there';
COMMENT ON COLUMN worst_units.random_f1 IS 'F1 of firing of the graph on held-out text';
COMMENT ON COLUMN worst_units.n_rules IS 'rules of its graph';
COMMENT ON COLUMN worst_units.failures IS 'kinds of failure, by name; NULL where none was found';
COMMENT ON COLUMN worst_units.counterexample IS 'the token of held-out text on which prediction and activation differ most, in square brackets after up to 15 tokens before it; NULL where none was kept';
COMMENT ON COLUMN worst_units.top_pattern IS 'its strongest rule; NULL where it has none';

-- ------------------------------------------------------------------------------------------------ layers
CREATE OR REPLACE VIEW controls AS
WITH control_units AS (
    SELECT s.study, u.layer, u.unit, u.sign
    FROM (SELECT DISTINCT study FROM layer_summary WHERE predictor = 'graph_reinitialised') AS s
    JOIN unit_status AS u ON u.study = control_study(s.study)
    UNION
    SELECT study, layer, unit, sign FROM evaluation WHERE predictor = 'graph_reinitialised'
), same_units AS (
    SELECT
        s.study,
        s.layer,
        s.text,
        CASE WHEN count(g.unit) > 0 THEN count(*) END AS units,
        coalesce(sum(g.f1), 0) / CASE WHEN count(g.unit) > 0 THEN count(*) END AS f1_all,
        avg(g.average_precision) AS average_precision
    FROM layer_summary AS s
    JOIN control_units AS u ON u.study = s.study AND u.layer = s.layer
    LEFT JOIN evaluation AS g
        ON g.study = u.study AND g.layer = u.layer AND g.unit = u.unit AND g.sign = u.sign AND g.text = s.text
        AND g.predictor = 'graph'
    WHERE s.predictor = 'graph_reinitialised'
    GROUP BY s.study, s.layer, s.text
), graphs AS (
    SELECT
        study,
        layer,
        text,
        false AS same_units_alone,
        units,
        f1_all,
        f1_all_low,
        f1_all_high,
        average_precision,
        average_precision_low,
        average_precision_high
    FROM layer_summary
    WHERE predictor = 'graph'
    UNION ALL
    SELECT study, layer, text, true, units, f1_all, NULL, NULL, average_precision, NULL, NULL
    FROM same_units
)
SELECT
    c.study,
    c.layer,
    c.text,
    c.predictor AS control,
    g.units AS graph_units,
    g.f1_all AS graph_f1_all,
    g.f1_all_low AS graph_f1_all_low,
    g.f1_all_high AS graph_f1_all_high,
    g.average_precision AS graph_average_precision,
    g.average_precision_low AS graph_average_precision_low,
    g.average_precision_high AS graph_average_precision_high,
    c.units AS control_units,
    c.f1_all AS control_f1_all,
    c.f1_all_low AS control_f1_all_low,
    c.f1_all_high AS control_f1_all_high,
    c.average_precision AS control_average_precision,
    c.average_precision_low AS control_average_precision_low,
    c.average_precision_high AS control_average_precision_high,
    g.f1_all - c.f1_all AS f1_all_difference,
    g.average_precision - c.average_precision AS average_precision_difference
FROM layer_summary AS c
LEFT JOIN graphs AS g
    ON g.study = c.study AND g.layer = c.layer AND g.text = c.text
    AND g.same_units_alone = (c.predictor = 'graph_reinitialised')
WHERE c.predictor IN ('graph_shuffled', 'graph_reinitialised', 'graph_unaugmented', 'always_zero')
ORDER BY c.study, c.layer, c.text, c.predictor;
COMMENT ON VIEW controls IS 'Each control beside the graph, by layer and text. Beside graph_reinitialised, whose units are few, stands the graph on the same units; such a mean has no interval.';
COMMENT ON COLUMN controls.study IS 'name of the study';
COMMENT ON COLUMN controls.layer IS 'layer, from 0';
COMMENT ON COLUMN controls.text IS 'as in evaluation';
COMMENT ON COLUMN controls.control IS 'graph_shuffled: the graph of another unit; graph_reinitialised: graphs of the model with random weights; graph_unaugmented: the graph without its augmented paths; always_zero';
COMMENT ON COLUMN controls.graph_units IS 'units behind the means of the graph';
COMMENT ON COLUMN controls.graph_f1_all IS 'mean F1 of firing of the graph, undefined and missing counted 0';
COMMENT ON COLUMN controls.graph_f1_all_low IS 'lower end of its 95 % interval';
COMMENT ON COLUMN controls.graph_f1_all_high IS 'upper end of its 95 % interval';
COMMENT ON COLUMN controls.graph_average_precision IS 'mean average precision of the graph, undefined left out';
COMMENT ON COLUMN controls.graph_average_precision_low IS 'lower end of its 95 % interval';
COMMENT ON COLUMN controls.graph_average_precision_high IS 'upper end of its 95 % interval';
COMMENT ON COLUMN controls.control_units IS 'units behind the means of the control';
COMMENT ON COLUMN controls.control_f1_all IS 'mean F1 of firing of the control, undefined and missing counted 0';
COMMENT ON COLUMN controls.control_f1_all_low IS 'lower end of its 95 % interval';
COMMENT ON COLUMN controls.control_f1_all_high IS 'upper end of its 95 % interval';
COMMENT ON COLUMN controls.control_average_precision IS 'mean average precision of the control, undefined left out';
COMMENT ON COLUMN controls.control_average_precision_low IS 'lower end of its 95 % interval';
COMMENT ON COLUMN controls.control_average_precision_high IS 'upper end of its 95 % interval';
COMMENT ON COLUMN controls.f1_all_difference IS 'graph_f1_all less control_f1_all';
COMMENT ON COLUMN controls.average_precision_difference IS 'graph_average_precision less control_average_precision';

CREATE OR REPLACE VIEW rule_test_summary AS
WITH asked AS (
    SELECT study, layer, count(*) AS units
    FROM unit_status
    GROUP BY study, layer
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
        sum(context_silent) / nullif(sum(n_context_near_misses), 0) AS context_silent_share
    FROM rule_tests
    GROUP BY study, layer
)
SELECT
    a.study,
    a.layer,
    a.units,
    coalesce(t.units_tested, 0) AS units_tested,
    coalesce(t.rules_tested, 0) AS rules_tested,
    coalesce(t.n_matches, 0) AS n_matches,
    coalesce(t.fired, 0) AS fired,
    t.fired / nullif(t.n_matches, 0) AS fired_share,
    coalesce(t.n_near_misses, 0) AS n_near_misses,
    coalesce(t.silent, 0) AS silent,
    t.silent / nullif(t.n_near_misses, 0) AS silent_share,
    coalesce(t.n_context_near_misses, 0) AS n_context_near_misses,
    t.context_silent_share
FROM asked AS a
LEFT JOIN tests AS t ON t.study = a.study AND t.layer = a.layer
ORDER BY a.study, a.layer;
COMMENT ON VIEW rule_test_summary IS 'The rules of each layer, tested on the model: on how many texts that match the unit fires, and on how many near misses it stays silent.';
COMMENT ON COLUMN rule_test_summary.study IS 'name of the study';
COMMENT ON COLUMN rule_test_summary.layer IS 'layer, from 0';
COMMENT ON COLUMN rule_test_summary.units IS 'units asked for';
COMMENT ON COLUMN rule_test_summary.units_tested IS 'of those, units with a tested rule';
COMMENT ON COLUMN rule_test_summary.rules_tested IS 'rules tested';
COMMENT ON COLUMN rule_test_summary.n_matches IS 'texts tried that match their rule';
COMMENT ON COLUMN rule_test_summary.fired IS 'of those, texts on which the unit fires';
COMMENT ON COLUMN rule_test_summary.fired_share IS 'fired as a share of n_matches; NULL where none was tried';
COMMENT ON COLUMN rule_test_summary.n_near_misses IS 'texts tried that nearly match their rule';
COMMENT ON COLUMN rule_test_summary.silent IS 'of those, texts on which the unit stays silent';
COMMENT ON COLUMN rule_test_summary.silent_share IS 'silent as a share of n_near_misses; NULL where none was tried';
COMMENT ON COLUMN rule_test_summary.n_context_near_misses IS 'those of n_near_misses in which a context token was changed';
COMMENT ON COLUMN rule_test_summary.context_silent_share IS 'of those, the share on which the unit stays silent; NULL where none was tried';

CREATE OR REPLACE VIEW failure_summary AS
WITH asked AS (
    SELECT study, layer, count(*) AS units_asked
    FROM unit_status
    GROUP BY study, layer
), scored AS (
    SELECT study, layer, count(DISTINCT (unit, sign)) AS evaluated
    FROM evaluation
    WHERE predictor = 'graph'
    GROUP BY study, layer
), kinds AS (
    SELECT study, layer, kind, count(*) AS units, avg(share) AS mean_measure
    FROM failures
    GROUP BY study, layer, kind
)
SELECT
    k.study,
    k.layer,
    k.kind,
    a.units_asked,
    coalesce(s.evaluated, 0) AS evaluated,
    k.units,
    k.units / nullif(a.units_asked, 0) AS share,
    k.mean_measure
FROM kinds AS k
LEFT JOIN asked AS a ON a.study = k.study AND a.layer = k.layer
LEFT JOIN scored AS s ON s.study = k.study AND s.layer = k.layer
ORDER BY k.study, k.layer, k.units DESC, k.kind;
COMMENT ON VIEW failure_summary IS 'Why graphs are wrong: for each layer and kind of failure, the units that show it. A unit may show several; a kind that no unit shows has no row.';
COMMENT ON COLUMN failure_summary.study IS 'name of the study';
COMMENT ON COLUMN failure_summary.layer IS 'layer, from 0';
COMMENT ON COLUMN failure_summary.kind IS 'kind of failure, as in failures';
COMMENT ON COLUMN failure_summary.units_asked IS 'units asked for';
COMMENT ON COLUMN failure_summary.evaluated IS 'of those, units whose graph was evaluated';
COMMENT ON COLUMN failure_summary.units IS 'of those, units that show this kind';
COMMENT ON COLUMN failure_summary.share IS 'units as a share of units_asked';
COMMENT ON COLUMN failure_summary.mean_measure IS 'mean over these units of the share that the kind goes by';
