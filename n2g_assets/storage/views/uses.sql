-- What graphs make of tokens: an index by token, and each unit's heaviest tokens.

CREATE VIEW token_uses AS
WITH RECURSIVE of_classes AS MATERIALIZED (
    SELECT
        g.study,
        c.token_id,
        g."offset",
        g.layer,
        g.unit,
        g.sign,
        g.node_id,
        r.rule_id,
        r.rowid AS rule_row,
        CAST(g.end_activation + c.deviation AS REAL) AS activation,
        CAST(g.end_activation + c.deviation - p.activation AS REAL) AS raised,
        c.count,
        CAST(1 AS BIGINT) AS n_rules
    FROM token_classes AS c
    JOIN graph_nodes AS g USING (study, layer, unit, sign, node_id)
    JOIN graph_nodes AS p
        ON p.study = g.study AND p.layer = g.layer AND p.unit = g.unit AND p.sign = g.sign AND p.node_id = g.parent_id
    LEFT JOIN rules AS r
        ON r.study = g.study AND r.layer = g.layer AND r.unit = g.unit AND r.sign = g.sign AND r.end_node_id = g.node_id
    WHERE g.end_activation + c.deviation >= $used_from AND g.end_activation + c.deviation > p.activation
), shut AS (
    SELECT c.study, c.layer, c.unit, c.sign, g."offset", c.token_id, list(c.node_id + 1 ORDER BY c.node_id) AS shut
    FROM token_classes AS c
    JOIN graph_nodes AS g USING (study, layer, unit, sign, node_id)
    SEMI JOIN of_classes AS o
        ON o.study = c.study AND o.layer = c.layer AND o.unit = c.unit AND o.sign = c.sign
        AND o."offset" = g."offset" AND o.token_id = c.token_id
    GROUP BY ALL
), walks AS (
    SELECT DISTINCT study, layer, unit, sign, node_id, node_id AS place FROM of_classes
    UNION ALL
    SELECT w.study, w.layer, w.unit, w.sign, w.node_id, g.parent_id
    FROM walks AS w
    JOIN graph_nodes AS g
        ON g.study = w.study AND g.layer = w.layer AND g.unit = w.unit AND g.sign = w.sign AND g.node_id = w.place
    WHERE g.parent_id IS NOT NULL
), paths AS (
    SELECT study, layer, unit, sign, node_id, list(place ORDER BY place) AS above
    FROM walks
    WHERE place < node_id
    GROUP BY ALL
), steps AS (
    SELECT study, layer, unit, sign, rule_id, rowid AS rule_row, end_node_id, activation, count,
        unnest(tokens) AS form, 1 - generate_subscripts(tokens, 1) AS "offset"
    FROM rules
    WHERE rank IS NULL
    UNION ALL
    SELECT study, layer, unit, sign, NULL, NULL, node_id, activation, 0, token, 0
    FROM graph_nodes
    WHERE rank IS NULL AND kind = 'activating'
), of_forms AS (
    SELECT
        study,
        form,
        CAST("offset" AS INTEGER) AS "offset",
        layer,
        unit,
        sign,
        arg_min(end_node_id, coalesce(rule_id, 2147483647)) AS node_id,
        min(rule_id) AS rule_id,
        arg_min(rule_row, rule_id) AS rule_row,
        max(activation) AS activation,
        CAST(sum(count) AS INTEGER) AS count,
        count(rule_id) AS n_rules
    FROM steps
    WHERE form IS NOT NULL
    GROUP BY ALL
)
SELECT study, token_id, "offset", layer, unit, sign, node_id, rule_id, rule_row, activation, raised, count, n_rules,
    above, shut
FROM of_classes
JOIN shut USING (study, layer, unit, sign, "offset", token_id)
JOIN paths USING (study, layer, unit, sign, node_id)
UNION ALL
SELECT f.study, v.token_id, f."offset", f.layer, f.unit, f.sign, f.node_id, f.rule_id, f.rule_row, f.activation,
    f.activation, f.count, f.n_rules, NULL, NULL
FROM of_forms AS f
JOIN vocabulary AS v ON v.study = f.study AND v.normalised = f.form;
COMMENT ON VIEW token_uses IS 'Which units'' graphs want which token at which place, sorted by token: of graphs of token classes one row a class and token that raises the unit, to $used_from of a_max or more, of the paper''s one a unit, place and token.';
COMMENT ON COLUMN token_uses.token_id IS 'token id, as in vocabulary; of the paper''s graphs all that have the form which is matched';
COMMENT ON COLUMN token_uses."offset" IS 'place of the token: 0 is the activating token, -1 the one before it';
COMMENT ON COLUMN token_uses.node_id IS 'the class; of the paper''s graphs the node at which the strongest of the rules ends';
COMMENT ON COLUMN token_uses.rule_id IS 'the rule that ends with the class; of the paper''s graphs the strongest that wants the token there';
COMMENT ON COLUMN token_uses.activation IS 'normalised activation that is expected with the token there; of the paper''s graphs the largest of the rules';
COMMENT ON COLUMN token_uses.raised IS 'what that is above what is expected of the texts that the class divides; of the paper''s graphs, which expect 0 elsewhere, the same';
COMMENT ON COLUMN token_uses.count IS 'harvested positions behind it, 0 where only the scan has the token; of the paper''s graphs prompts';
COMMENT ON COLUMN token_uses.rule_row IS 'rowid of that rule in rules, where its pattern is found fastest';
COMMENT ON COLUMN token_uses.above IS 'nodes above the class; NULL for the paper''s graphs';
COMMENT ON COLUMN token_uses.shut IS 'nodes, each taking all but a class, that no text with the token there passes; NULL for the paper''s graphs';
COMMENT ON COLUMN token_uses.n_rules IS 'rules that want the token there; 1 for a class';

CREATE VIEW unit_vectors AS
WITH weighed AS (
    SELECT study, layer, unit, sign, "offset", token_id, max(count * CAST(activation AS DOUBLE)) AS weight
    FROM token_uses
    WHERE count > 0 AND activation > 0
    GROUP BY study, layer, unit, sign, "offset", token_id
    QUALIFY row_number() OVER (PARTITION BY study, layer, unit, sign ORDER BY weight DESC, "offset" DESC, token_id) <= 50
)
SELECT
    study,
    layer,
    unit,
    sign,
    "offset",
    v.token,
    v.text,
    CAST(weight / sqrt(sum(weight * weight) OVER (PARTITION BY study, layer, unit, sign)) AS REAL) AS weight
FROM weighed
JOIN vocabulary AS v USING (study, token_id);
COMMENT ON VIEW unit_vectors IS 'The 50 heaviest tokens of each unit''s graph with their places, as a vector of length 1: what the rules of two units are compared by, also across models.';
COMMENT ON COLUMN unit_vectors."offset" IS 'place of the token: 0 is the activating token';
COMMENT ON COLUMN unit_vectors.weight IS 'activation times count, as in token_uses, of the class where that is largest; divided by the length of the vector';
