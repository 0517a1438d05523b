-- Which units are like each other, and which fall apart: by their rules, and by the positions where they are strongest.

CREATE VIEW strong_lengths AS
SELECT study, layer, unit, sign, sqrt(sum(CAST(activation AS DOUBLE) * activation)) AS length
FROM activations
GROUP BY ALL;
COMMENT ON VIEW strong_lengths IS 'The length of the vector of each unit''s activations at its strongest positions (activations).';
COMMENT ON COLUMN strong_lengths.length IS 'square root of the sum of their squares';

CREATE MACRO similar_units(of_study, of_layer, of_unit, of_sign := 1, controls := false) AS TABLE
WITH own_rules AS (
    SELECT "offset", token, weight
    FROM unit_vectors
    WHERE study = of_study AND layer = of_layer AND unit = of_unit AND sign = of_sign
), by_rules AS (
    SELECT v.study, v.layer, v.unit, v.sign, sum(v.weight * CAST(o.weight AS DOUBLE)) AS rule_cosine
    FROM unit_vectors AS v
    JOIN own_rules AS o USING ("offset", token)
    GROUP BY ALL
), own_positions AS (
    SELECT context_id, position, CAST(activation AS DOUBLE) AS activation
    FROM activations
    WHERE study = of_study AND layer = of_layer AND unit = of_unit AND sign = of_sign
), same_contexts AS (
    SELECT DISTINCT o.study, o.context_id
    FROM contexts AS c
    JOIN contexts AS o USING (context_id, token_ids)
    WHERE c.study = of_study
), met AS MATERIALIZED (
    SELECT a.study, a.layer, a.unit, a.sign, context_id, a.activation * o.activation AS product
    FROM activations AS a
    JOIN own_positions AS o USING (context_id, position)
), shared AS MATERIALIZED (
    SELECT study, layer, unit, sign, count(*) AS shared_positions, sum(product) AS product
    FROM met
    SEMI JOIN same_contexts USING (study, context_id)
    GROUP BY ALL
), by_positions AS (
    SELECT study, layer, unit, sign, shared_positions,
        product / nullif(length * (SELECT sqrt(sum(activation * activation)) FROM own_positions), 0) AS position_cosine
    FROM shared
    JOIN strong_lengths USING (study, layer, unit, sign)
)
SELECT study, layer, unit, sign, coalesce(rule_cosine, 0) AS rule_cosine,
    coalesce(position_cosine, 0) AS position_cosine, coalesce(shared_positions, 0) AS shared_positions, top_pattern
FROM by_rules
FULL JOIN by_positions USING (study, layer, unit, sign)
LEFT JOIN unit_summary USING (study, layer, unit, sign)
ANTI JOIN left_out(controls) USING (study)
WHERE NOT (study = of_study AND layer = of_layer AND unit = of_unit AND sign = of_sign)
ORDER BY greatest(rule_cosine, position_cosine) DESC, study, layer, unit, sign DESC;
COMMENT ON MACRO TABLE similar_units IS 'Units that are like one unit, in any layer and study. rule_cosine compares what their rules want (unit_vectors), also across models; position_cosine their activations at their strongest harvested positions, those at which only one of the two is among its strongest counting as 0, on the same contexts cut into the same tokens. Controls are left out unless controls is true.';

CREATE MACRO similar_pairs(least := 0.5, controls := false) AS TABLE
WITH numbered AS MATERIALIZED (
    SELECT study, layer, unit, sign, row_number() OVER (ORDER BY study, layer, unit, sign) AS id
    FROM (SELECT DISTINCT study, layer, unit, sign FROM unit_vectors)
    ANTI JOIN left_out(controls) USING (study)
), entries AS MATERIALIZED (
    SELECT n.id, hash(v."offset", v.token) AS place, CAST(v.weight AS DOUBLE) AS weight
    FROM unit_vectors AS v
    JOIN numbered AS n USING (study, layer, unit, sign)
), common AS (
    SELECT place, count(*) AS units FROM entries GROUP BY ALL
), telling AS MATERIALIZED (  -- pairs that share only the others, the most common ones, are less alike than least
    SELECT id, place
    FROM entries
    JOIN common USING (place)
    QUALIFY sum(weight * weight) OVER (PARTITION BY id ORDER BY units DESC, place ROWS UNBOUNDED PRECEDING)
        > least * least - 1e-6
), candidates AS (
    SELECT DISTINCT a.id AS first, b.id AS second
    FROM telling AS a
    JOIN telling AS b ON b.place = a.place AND b.id > a.id
), measured AS (
    SELECT c.first, c.second, sum(a.weight * b.weight) AS rule_cosine
    FROM candidates AS c
    JOIN entries AS a ON a.id = c.first
    JOIN entries AS b ON b.id = c.second AND b.place = a.place
    GROUP BY ALL
    HAVING rule_cosine >= least
)
SELECT a.study, a.layer, a.unit, a.sign, b.study AS other_study, b.layer AS other_layer, b.unit AS other_unit,
    b.sign AS other_sign, m.rule_cosine
FROM measured AS m
JOIN numbered AS a ON a.id = m.first
JOIN numbered AS b ON b.id = m.second
ORDER BY rule_cosine DESC, study, layer, unit, sign, other_study, other_layer, other_unit, other_sign;
COMMENT ON MACRO TABLE similar_pairs IS 'All pairs of units, across layers, studies and models, whose rule_cosine (similar_units) is least or more; each pair once. Controls are left out unless controls is true.';

CREATE MACRO families(least := 0.5, controls := false) AS TABLE
WITH RECURSIVE pairs AS MATERIALIZED (
    FROM similar_pairs(least := least, controls := controls)
), members AS MATERIALIZED (
    SELECT study, layer, unit, sign, row_number() OVER (ORDER BY study, layer, unit, sign) AS id
    FROM (
        SELECT study, layer, unit, sign FROM pairs
        UNION
        SELECT other_study, other_layer, other_unit, other_sign FROM pairs
    )
), links AS MATERIALIZED (
    SELECT a.id AS here, b.id AS there
    FROM pairs AS p
    JOIN members AS a USING (study, layer, unit, sign)
    JOIN members AS b ON b.study = p.other_study AND b.layer = p.other_layer AND b.unit = p.other_unit AND b.sign = p.other_sign
), both_ways AS MATERIALIZED (
    SELECT here, there FROM links UNION ALL SELECT there, here FROM links UNION ALL SELECT id, id FROM members
), rounds AS (
    SELECT 0 AS round, id, id AS family FROM members
    UNION ALL
    SELECT r.round + 1, l.here, min(r.family)
    FROM rounds AS r
    JOIN both_ways AS l ON l.there = r.id
    WHERE r.round < 30
    GROUP BY r.round, l.here
), found AS (
    SELECT id, family, count(*) OVER (PARTITION BY family) AS n_units FROM rounds WHERE round = 30
)
SELECT dense_rank() OVER (ORDER BY n_units DESC, family) AS family, n_units, study, layer, unit, sign, top_pattern
FROM found
JOIN members USING (id)
LEFT JOIN unit_summary USING (study, layer, unit, sign)
ORDER BY family, study, layer, unit, sign DESC;
COMMENT ON MACRO TABLE families IS 'Units that pairs of similar units (similar_pairs) join to families, across layers and studies, the largest first; a unit that is like no other is in none. A chain of more than 30 steps may fall apart. Controls are left out unless controls is true.';

CREATE MACRO subset_pairs(threshold := 0.9, least := 5, controls := false) AS TABLE
WITH firings AS MATERIALIZED (
    SELECT a.study, a.layer, a.unit, a.sign, hash(a.context_id, a.position, c.token_ids) AS place
    FROM activations AS a
    ANTI JOIN left_out(controls) USING (study)
    JOIN neuron_stats AS n USING (study, layer, unit, sign)
    JOIN studies USING (study)
    JOIN contexts AS c USING (study, context_id)
    WHERE a.activation >= n.max * CAST(settings ->> '$$.method.firing_threshold' AS DOUBLE)
), numbered AS MATERIALIZED (
    SELECT *, row_number() OVER (ORDER BY study, layer, unit, sign) AS id
    FROM (SELECT study, layer, unit, sign, count(*) AS n FROM firings GROUP BY ALL)
    WHERE n >= least
), entries AS MATERIALIZED (
    SELECT n.id, n.n, f.place FROM firings AS f JOIN numbered AS n USING (study, layer, unit, sign)
), common AS (
    SELECT place, count(*) AS units FROM entries GROUP BY ALL
), telling AS (  -- a unit that has threshold of the positions has at least one of these, the least common ones
    SELECT id, n, place
    FROM entries
    JOIN common USING (place)
    QUALIFY row_number() OVER (PARTITION BY id ORDER BY units, place) <= n - ceil(threshold * n - 1e-9) + 1
), candidates AS (
    SELECT DISTINCT a.id AS inner_id, b.id AS outer_id
    FROM telling AS a
    JOIN entries AS b ON b.place = a.place AND b.id <> a.id AND b.n >= threshold * a.n
), measured AS (
    SELECT c.inner_id, c.outer_id, count(*) AS shared_positions
    FROM candidates AS c
    JOIN entries AS a ON a.id = c.inner_id
    JOIN entries AS b ON b.id = c.outer_id AND b.place = a.place
    GROUP BY ALL
)
SELECT a.study, a.layer, a.unit, a.sign, b.study AS other_study, b.layer AS other_layer, b.unit AS other_unit,
    b.sign AS other_sign, a.n AS positions, b.n AS other_positions, m.shared_positions / a.n AS share
FROM measured AS m
JOIN numbered AS a ON a.id = m.inner_id
JOIN numbered AS b ON b.id = m.outer_id
WHERE share >= threshold
ORDER BY share DESC, positions DESC, study, layer, unit, sign, other_study, other_layer, other_unit, other_sign;
COMMENT ON MACRO TABLE subset_pairs IS 'Pairs of units of which the first fires where the other does too: at threshold or more (share) of its firing positions, of which it has least or more, among the strongest harvested positions that are kept of either (activations), on the same contexts cut into the same tokens. Units with equal positions stand there both ways. Controls are left out unless controls is true.';

CREATE MACRO polysemantic(min_components := 2, controls := false) AS TABLE
WITH RECURSIVE strong AS MATERIALIZED (
    SELECT study, layer, unit, sign, rule_id, end_node_id, pattern, tokens, rank, coalesce(firings, count) AS weight
    FROM rules
    ANTI JOIN left_out(controls) USING (study)
    WHERE rank IS NULL OR (count > 0 AND rank <= $shown_rules AND coalesce(until >= $shown_rules, true))
    QUALIFY rank IS NULL
        OR activation >= $strong_share * max(activation) OVER (PARTITION BY study, layer, unit, sign)
), nodes AS MATERIALIZED (
    SELECT study, layer, unit, sign, node_id, parent_id, parent_id IS NOT NULL AND "offset" = 0 AND NOT all_but AS here
    FROM graph_nodes
    SEMI JOIN strong USING (study, layer, unit, sign)
    WHERE rank <= $shown_rules
), walks AS (
    SELECT study, layer, unit, sign, rule_id, end_node_id AS node_id FROM strong WHERE rank IS NOT NULL
    UNION ALL
    SELECT study, layer, unit, sign, w.rule_id, n.parent_id
    FROM walks AS w
    JOIN nodes AS n USING (study, layer, unit, sign, node_id)
    WHERE NOT n.here AND n.parent_id IS NOT NULL
), groups AS MATERIALIZED (
    SELECT study, layer, unit, sign, rule_id, CASE WHEN rank IS NULL THEN rule_id ELSE n.node_id END AS part, weight,
        pattern
    FROM strong
    LEFT JOIN (SELECT w.* FROM walks AS w JOIN nodes AS n USING (study, layer, unit, sign, node_id) WHERE n.here) AS n
        USING (study, layer, unit, sign, rule_id)
), forms AS MATERIALIZED (
    SELECT DISTINCT g.study, g.layer, g.unit, g.sign, g.part, v.bare AS form
    FROM (SELECT DISTINCT study, layer, unit, sign, part FROM groups) AS g
    JOIN token_classes AS c
        ON c.study = g.study AND c.layer = g.layer AND c.unit = g.unit AND c.sign = g.sign AND c.node_id = g.part
    JOIN token_texts AS v ON v.study = c.study AND v.token_id = c.token_id
    WHERE c.count > 0
    UNION ALL
    SELECT DISTINCT study, layer, unit, sign, rule_id, token_text(form)
    FROM (SELECT study, layer, unit, sign, rule_id, unnest(tokens) AS form FROM strong WHERE rank IS NULL)
    WHERE form IS NOT NULL
), links AS MATERIALIZED (
    SELECT DISTINCT study, layer, unit, sign, a.part AS here, b.part AS there
    FROM forms AS a
    JOIN forms AS b USING (study, layer, unit, sign, form)
    UNION
    SELECT DISTINCT study, layer, unit, sign, part, part FROM groups WHERE part IS NOT NULL
), rounds AS (
    SELECT 0 AS round, study, layer, unit, sign, here AS part, here AS root FROM links WHERE here = there
    UNION ALL
    SELECT r.round + 1, r.study, r.layer, r.unit, r.sign, l.here, min(r.root)
    FROM rounds AS r
    JOIN links AS l
        ON l.study = r.study AND l.layer = r.layer AND l.unit = r.unit AND l.sign = r.sign AND l.there = r.part
    WHERE r.round < 30
    GROUP BY ALL
), components AS (
    SELECT study, layer, unit, sign, root, sum(weight) AS weight, arg_min(pattern, rule_id) AS pattern
    FROM groups
    JOIN (FROM rounds WHERE round = 30) AS r USING (study, layer, unit, sign, part)
    ANTI JOIN (FROM groups WHERE part IS NULL) AS any_token USING (study, layer, unit, sign)
    GROUP BY ALL
), held AS (
    SELECT *, weight / nullif(sum(weight) OVER (PARTITION BY study, layer, unit, sign), 0) AS share FROM components
)
SELECT
    study,
    layer,
    unit,
    sign,
    count(*) AS n_components,
    list(share ORDER BY share DESC, root) AS shares,
    list(pattern ORDER BY share DESC, root) AS patterns
FROM held
WHERE share >= $component_share
GROUP BY ALL
HAVING n_components >= min_components
ORDER BY n_components DESC, shares[2] DESC, study, layer, unit, sign DESC;
COMMENT ON MACRO TABLE polysemantic IS 'The units whose strong rules fall apart into min_components or more components that share no token and each hold a fifth or more of the firings (of the paper''s graphs, prompts): shares, and the strongest rule of each. Strong rules are those of the best graph of $shown_rules rules that expect at least half of what the strongest does, compared by their activating tokens in any case; of the paper''s graphs all rules, by all their tokens. Controls are left out unless controls is true.';
