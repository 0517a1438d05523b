-- Which units react to a token, to a token before another, and to the same token again.

CREATE MACRO use_pairs(context, activating, how, same) AS TABLE
WITH context_tokens AS (
    SELECT study, token_id, text, normalised FROM tokens_like(context, how := how) WHERE NOT same
    UNION ALL
    SELECT study, token_id, text, normalised FROM vocabulary WHERE same
), activating_tokens AS (
    SELECT study, token_id, text, normalised FROM tokens_like(activating, how := how) WHERE NOT same
    UNION ALL
    SELECT study, token_id, text, normalised FROM vocabulary WHERE same
), contexts AS (
    SELECT u.*, t.text
    FROM token_uses AS u
    JOIN context_tokens AS t USING (study, token_id)
    WHERE u."offset" < 0 AND u.shut IS NOT NULL
), activatings AS (
    SELECT u.*, t.text
    FROM token_uses AS u
    JOIN activating_tokens AS t USING (study, token_id)
    WHERE u."offset" = 0 AND u.shut IS NOT NULL
), of_classes AS (
    SELECT
        c.study,
        c.layer,
        c.unit,
        c.sign,
        c."offset",
        c.text AS form,
        a.text AS activating_form,
        CASE WHEN c.node_id > a.node_id THEN c.activation ELSE a.activation END AS activation,
        CASE WHEN c.node_id > a.node_id THEN c.count ELSE a.count END AS count,
        CASE WHEN c.node_id > a.node_id THEN c.rule_id ELSE a.rule_id END AS rule_id,
        CASE WHEN c.node_id > a.node_id THEN c.rule_row ELSE a.rule_row END AS rule_row
    FROM contexts AS c
    JOIN activatings AS a USING (study, layer, unit, sign)
    WHERE (NOT same OR c.token_id = a.token_id)
        AND CASE
            WHEN c.node_id > a.node_id THEN list_contains(c.above, a.node_id) AND NOT list_has_any(c.above, a.shut)
            ELSE list_contains(a.above, c.node_id) AND NOT list_has_any(a.above, c.shut)
        END
), steps AS (
    SELECT study, layer, unit, sign, rule_id, rowid AS rule_row, activation, count, tokens[1] AS activating_bytes,
        unnest(tokens[2:]) AS context_bytes, -generate_subscripts(tokens[2:], 1) AS "offset"
    FROM rules
    WHERE rank IS NULL
), of_forms AS (
    SELECT s.study, s.layer, s.unit, s.sign, s."offset", token_text(s.context_bytes), token_text(s.activating_bytes),
        s.activation, s.count, s.rule_id, s.rule_row
    FROM steps AS s
    SEMI JOIN context_tokens AS c ON c.study = s.study AND c.normalised = s.context_bytes
    SEMI JOIN activating_tokens AS a ON a.study = s.study AND a.normalised = s.activating_bytes
    WHERE NOT same OR s.context_bytes = s.activating_bytes
)
FROM of_classes
UNION ALL
FROM of_forms;
COMMENT ON MACRO TABLE use_pairs IS 'The rules that want one token before another, both given as text (tokens_like); with same, every rule that wants its activating token before it again. Of graphs of token classes both stand in classes on one path, and activation is what is expected at the lower one with its token.';

CREATE MACRO no_such_token(of_token, activating, how) AS TABLE
SELECT CASE
    WHEN unknown IS NOT NULL AND EXISTS (FROM vocabulary)
        THEN error('No vocabulary of a published study has the token ''' || unknown || ''': FROM tokens_like(..., how := ''caseless'') or ''prefix'' finds what is near.')
END AS study
FROM (
    SELECT CASE
        WHEN NOT token_known(of_token, how := how) THEN of_token
        WHEN NOT token_known(activating, how := how) THEN activating
    END AS unknown
);
COMMENT ON MACRO TABLE no_such_token IS 'Ends a query with a sentence where no published vocabulary has a token; one row of NULL where one has.';

CREATE MACRO matched_form(shut, text, normalised) AS CASE WHEN shut IS NULL THEN token_text(normalised) ELSE text END;
COMMENT ON MACRO matched_form IS 'A token as its graph matches it: of the paper''s graphs (shut is NULL in token_uses) its form, of classes the token itself.';

CREATE MACRO found_on(of_token, how, controls) AS TABLE
WITH uses AS (
    SELECT
        u.study,
        u.layer,
        u.unit,
        u.sign,
        u.node_id,
        arg_max(matched_form(u.shut, t.text, t.normalised), (u.activation, -u.token_id)) AS form,
        max(u.activation) AS activation,
        arg_max(u.count, (u.activation, -u.token_id)) AS count,
        max(u.n_rules) AS n_rules,
        min(u.rule_id) AS rule_id,
        arg_min(u.rule_row, u.rule_id) AS rule_row
    FROM token_uses AS u
    JOIN tokens_like(of_token, how := how) AS t USING (study, token_id)
    WHERE u."offset" = 0
    GROUP BY ALL
)
SELECT
    study,
    layer,
    unit,
    sign,
    arg_max(form, (activation, -node_id)) AS form,
    max(activation) AS activation,
    arg_max(count, (activation, -node_id)) AS count,
    CAST(sum(n_rules) AS BIGINT) AS n_rules,
    arg_min(rule_row, rule_id) AS rule_row
FROM uses
ANTI JOIN left_out(controls) USING (study)
GROUP BY ALL;
COMMENT ON MACRO TABLE found_on IS 'What units_on finds, with rule_row in the place of the pattern, in no order.';

CREATE MACRO units_on(of_token, how := 'form', controls := false) AS TABLE
SELECT f.* EXCLUDE (rule_row), r.pattern AS top_pattern
FROM found_on(of_token, how, controls) AS f
LEFT JOIN rules AS r ON r.rowid = f.rule_row
UNION ALL BY NAME
SELECT study FROM no_such_token(of_token, NULL, how) WHERE study IS NOT NULL
ORDER BY activation DESC, study, layer, unit, sign DESC;
COMMENT ON MACRO TABLE units_on IS 'The units whose graph has rules for an activating token given as text (how as in tokens_like), the largest expected normalised activation first: form is the token with which that is expected, count the harvested positions (of the paper''s graphs prompts) behind it, n_rules the rules whose last step is a class with the token at offset 0 (of the paper''s graphs, that begin with it), top_pattern the strongest of them. Of graphs of token classes those rules count that expect $used_from or more and more than without the class (token_uses). Controls are left out unless controls is true. A token that no vocabulary has ends in a sentence, one that no rule wants in no rows.';

CREATE MACRO found_with_context(of_token, activating, how, nearest, furthest, controls) AS TABLE
WITH uses AS (
    SELECT u.study, u.layer, u.unit, u.sign, u."offset", matched_form(u.shut, t.text, t.normalised) AS form,
        NULL AS activating_form, u.activation, u.count, u.rule_id, u.rule_row, u.node_id, u.n_rules
    FROM token_uses AS u
    JOIN tokens_like(of_token, how := how) AS t USING (study, token_id)
    WHERE u."offset" < 0 AND activating IS NULL
    UNION ALL
    SELECT study, layer, unit, sign, "offset", form, activating_form, activation, count, rule_id, rule_row, rule_id, 1
    FROM use_pairs(of_token, coalesce(activating, ''), how, false)
    WHERE activating IS NOT NULL
), apart AS (
    SELECT
        study,
        layer,
        unit,
        sign,
        "offset",
        node_id,
        arg_max(form, (activation, form)) AS form,
        arg_max(activating_form, (activation, form)) AS activating_form,
        max(activation) AS activation,
        arg_max(count, (activation, form)) AS count,
        max(n_rules) AS n_rules,
        min(rule_id) AS rule_id,
        arg_min(rule_row, rule_id) AS rule_row
    FROM uses
    WHERE "offset" <= -nearest AND (furthest IS NULL OR "offset" >= -furthest)
    GROUP BY ALL
)
SELECT
    study,
    layer,
    unit,
    sign,
    arg_max(form, (activation, "offset", -node_id)) AS form,
    arg_max(activating_form, (activation, "offset", -node_id)) AS activating_form,
    arg_max("offset", (activation, "offset", -node_id)) AS "offset",
    max(activation) AS activation,
    arg_max(count, (activation, "offset", -node_id)) AS count,
    CAST(sum(n_rules) AS BIGINT) AS n_rules,
    arg_min(rule_row, rule_id) AS rule_row
FROM apart
ANTI JOIN left_out(controls) USING (study)
GROUP BY ALL;
COMMENT ON MACRO TABLE found_with_context IS 'What units_with_context finds, with rule_row in the place of the pattern, in no order.';

CREATE MACRO units_with_context(of_token, activating := NULL, how := 'form', nearest := 1, furthest := NULL, controls := false) AS TABLE
SELECT f.* EXCLUDE (rule_row), r.pattern AS top_pattern
FROM found_with_context(of_token, activating, how, nearest, furthest, controls) AS f
LEFT JOIN rules AS r ON r.rowid = f.rule_row
UNION ALL BY NAME
SELECT study FROM no_such_token(of_token, activating, how) WHERE study IS NOT NULL
ORDER BY activation DESC, study, layer, unit, sign DESC;
COMMENT ON MACRO TABLE units_with_context IS 'The units with a rule that wants a token, given as text, before the activating one, nearest to furthest tokens before it (NULL: any), and with activating only where the rule wants that one too; otherwise as units_on. offset is the place of the strongest.';

CREATE MACRO repeats(controls := false) AS TABLE
WITH pairs AS (
    FROM use_pairs('', '', 'exact', true) ANTI JOIN left_out(controls) USING (study)
), found AS (
    SELECT
        study,
        layer,
        unit,
        sign,
        count(DISTINCT form) AS n_tokens,
        arg_max(form, (activation, form)) AS form,
        arg_max("offset", (activation, "offset")) AS "offset",
        max(activation) AS activation,
        count(DISTINCT rule_id) AS n_rules,
        arg_min(rule_row, rule_id) AS rule_row
    FROM pairs
    GROUP BY ALL
), tokens AS (
    SELECT study, layer, unit, sign, count(DISTINCT token_id) AS n_activating
    FROM token_uses
    SEMI JOIN found USING (study, layer, unit, sign)
    WHERE "offset" = 0
    GROUP BY ALL
)
SELECT f.* EXCLUDE (rule_row), f.n_tokens / t.n_activating AS share, r.pattern AS top_pattern
FROM found AS f
JOIN tokens AS t USING (study, layer, unit, sign)
LEFT JOIN rules AS r ON r.rowid = f.rule_row
ORDER BY share DESC, activation DESC, study, layer, unit, sign DESC;
COMMENT ON MACRO TABLE repeats IS 'The units with rules that want the activating token before it again (in-context repetition), those first in which most activating tokens (share) are repeated: n_tokens of them, such as form at offset. In a graph of token classes both classes hold the token, which says that it may be the same, not that it must. Controls are left out unless controls is true.';

CREATE MACRO reach_of(of_study, of_layer, of_unit, of_sign := 1) AS TABLE
SELECT
    r.text,
    r.last_tokens,
    r.pearson_r,
    r.average_precision,
    r.f1,
    e.pearson_r AS graph_pearson_r,
    e.average_precision AS graph_average_precision,
    e.f1 AS graph_f1
FROM reach AS r
LEFT JOIN evaluation AS e
    ON e.study = r.study AND e.layer = r.layer AND e.unit = r.unit AND e.sign = r.sign AND e.text = r.text
    AND e.predictor = 'graph'
WHERE r.study = of_study AND r.layer = of_layer AND r.unit = of_unit AND r.sign = of_sign
ORDER BY r.text, r.last_tokens;
COMMENT ON MACRO TABLE reach_of IS 'How well the model itself, shown only BOS and the last tokens, reproduces one unit, and beside it how well the unit''s graph does.';
