-- Tokens: which units react to a token, and token ids as readable text.

CREATE MACRO token_forms(token) AS TABLE
SELECT DISTINCT v.study, v.normalised AS form, token_text(v.normalised) AS form_text
FROM vocabulary AS v
WHERE v.token = encode(token)
   OR v.normalised = encode(token)
   OR v.text = token
   OR (v.token = encode(' ' || token) AND v.normalised <> v.token);
COMMENT ON MACRO TABLE token_forms IS 'The forms (BLOB) under which graphs of each study match a token given as text: with or without its leading space where the study normalises tokens, or as vocabulary.text shows it.';

CREATE MACRO class_nodes_of(token) AS TABLE
SELECT g.study, g.layer, g.unit, g.sign, f.form_text AS form, g.node_id, g."offset", g.activation
FROM token_forms(token) AS f
JOIN vocabulary AS v ON v.study = f.study AND v.normalised = f.form
JOIN token_classes AS c ON c.study = v.study AND c.token_id = v.token_id
JOIN graph_nodes AS g
    ON g.study = c.study AND g.layer = c.layer AND g.unit = c.unit AND g.sign = c.sign AND g.node_id = c.node_id
GROUP BY ALL;
COMMENT ON MACRO TABLE class_nodes_of IS 'The classes, in graphs of token classes of any size, that hold a token given as text, with the offset at which they want it and the normalised activation that is expected there.';

CREATE MACRO units_on(token) AS TABLE
WITH found AS (
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
    UNION ALL
    SELECT c.study, c.layer, c.unit, c.sign, c.form, max(c.activation), count(*), arg_min(r.pattern, r.rule_id)
    FROM class_nodes_of(token) AS c
    JOIN rules AS r
        ON r.study = c.study AND r.layer = c.layer AND r.unit = c.unit AND r.sign = c.sign AND r.end_node_id = c.node_id
    WHERE c."offset" = 0 AND c.activation > 0
    GROUP BY ALL
)
FROM found
ORDER BY activation DESC, study, layer, unit, sign DESC;
COMMENT ON MACRO TABLE units_on IS 'The units whose graph has an activating node for a token given as text, strongest (largest normalised activation) first, with the number of their rules on it and the strongest of those. Of graphs of token classes, of any size, those rules count whose last step is a class with the token at offset 0 and which expect more than 0.';

CREATE MACRO units_with_context(token) AS TABLE
WITH found AS (
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
    UNION ALL
    SELECT c.study, c.layer, c.unit, c.sign, c.form, max(c.activation), count(*), arg_min(r.pattern, r.rule_id)
    FROM class_nodes_of(token) AS c
    JOIN rules AS r
        ON r.study = c.study AND r.layer = c.layer AND r.unit = c.unit AND r.sign = c.sign AND r.end_node_id = c.node_id
    WHERE c."offset" < 0 AND c.activation > 0
    GROUP BY ALL
)
FROM found
ORDER BY activation DESC, study, layer, unit, sign DESC;
COMMENT ON MACRO TABLE units_with_context IS 'The units with a rule that needs a token, given as text, before the activating one; strongest rule first, with the number of such rules. Of graphs of token classes, of any size, those rules count whose last step is a class with the token there and which expect more than 0.';

CREATE MACRO marked_text(of_study, ids) AS (
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
