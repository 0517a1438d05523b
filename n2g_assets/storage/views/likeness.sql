-- Which units are like each other, and which fall apart: by their rules, by what they do on the same tokens, and by the
-- positions where they are strongest.

CREATE VIEW shared_samples AS
WITH places AS (
    SELECT sample, place, context_id, position, arg_min(token_ids, study) AS token_ids
    FROM sampled_positions
    JOIN contexts USING (study, context_id)
    GROUP BY ALL
)
SELECT
    a.sample,
    b.sample AS other_sample,
    CAST(count(*) AS INTEGER) AS n_tokens,
    CASE WHEN a.sample <> b.sample THEN list(a.place ORDER BY a.place) END AS places,
    CASE WHEN a.sample <> b.sample THEN list(b.place ORDER BY a.place) END AS other_places
FROM places AS a
JOIN places AS b USING (context_id, position, token_ids)
GROUP BY a.sample, b.sample;
COMMENT ON VIEW shared_samples IS 'The tokens that two samples of harvested positions (sampled_positions) have in common: the same positions of the same contexts cut into the same tokens. Studies of one corpus have one sample, those that share documents the positions of these that are in both.';
COMMENT ON COLUMN shared_samples.other_sample IS 'name of the other sample, which may be the same one';
COMMENT ON COLUMN shared_samples.n_tokens IS 'tokens that both have';
COMMENT ON COLUMN shared_samples.places IS 'their places in the one, ascending; NULL where the two are the same';
COMMENT ON COLUMN shared_samples.other_places IS 'their places in the other, in the same order; NULL where the two are the same';

CREATE MACRO correlation_of(x, y) AS
    CASE WHEN list_min(x) < list_max(x) AND list_min(y) < list_max(y)
        THEN (list_inner_product(x, y) - list_sum(x) * list_sum(y) / len(x))
            / sqrt(list_inner_product(x, x) - list_sum(x) ** 2 / len(x))
            / sqrt(list_inner_product(y, y) - list_sum(y) ** 2 / len(y))
    END;
COMMENT ON MACRO correlation_of IS 'Pearson''s r of two lists of equal length; NULL where one of them is constant.';

CREATE MACRO correlations_with(of_study, of_layer, of_unit, of_sign) AS TABLE
WITH own AS MATERIALIZED (
    SELECT s.other_sample AS sample, s.n_tokens, s.other_places,
        CASE WHEN s.places IS NULL THEN a.deviations ELSE list_select(a.deviations, s.places) END AS deviations
    FROM sampled_activations AS a
    JOIN shared_samples AS s USING (sample)
    WHERE study = of_study AND layer = of_layer AND unit = of_unit AND sign = of_sign AND s.n_tokens >= $least_shared
)
SELECT a.study, a.layer, a.unit, a.sign, o.n_tokens,
    CASE WHEN o.other_places IS NULL THEN list_inner_product(a.deviations, o.deviations)
        ELSE correlation_of(o.deviations, list_select(a.deviations, o.other_places)) END AS correlation
FROM sampled_activations AS a
JOIN own AS o USING (sample);
COMMENT ON MACRO TABLE correlations_with IS 'Pearson''s r of the activations of one unit and of every unit on the sampled tokens that both have (shared_samples), in no order; NULL where one is constant there. Units without $least_shared such tokens are left out.';

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
), found AS (
    SELECT study, layer, unit, sign, correlation, n_tokens, coalesce(rule_cosine, 0) AS rule_cosine
    FROM correlations_with(of_study, of_layer, of_unit, of_sign)
    FULL JOIN by_rules USING (study, layer, unit, sign)
    ANTI JOIN left_out(controls) USING (study)
    WHERE NOT (study = of_study AND layer = of_layer AND unit = of_unit AND sign = of_sign)
)
SELECT f.*, u.top_pattern
FROM found AS f
LEFT JOIN unit_summary AS u USING (study, layer, unit, sign)
ORDER BY greatest(rule_cosine, correlation) DESC, study, layer, unit, sign DESC;
COMMENT ON MACRO TABLE similar_units IS 'Units that are like one unit, in any layer and study. correlation is Pearson''s r of their activations on n_tokens harvested tokens, the same random ones for all units; NULL where one is constant there, and where two studies share fewer than $least_shared of these tokens. It compares all that a unit does, most of which is weak: the random tokens hold few firings of a unit that fires rarely, and none of many; for what rare units fire on see subset_pairs. rule_cosine compares what their rules want (unit_vectors), also across models. Controls are left out unless controls is true.';

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
    b.sign AS other_sign, m.rule_cosine,
    CASE WHEN s.n_tokens < $least_shared THEN NULL
        WHEN s.places IS NULL THEN list_inner_product(x.deviations, y.deviations)
        ELSE correlation_of(list_select(x.deviations, s.places), list_select(y.deviations, s.other_places))
    END AS correlation
FROM measured AS m
JOIN numbered AS a ON a.id = m.first
JOIN numbered AS b ON b.id = m.second
LEFT JOIN sampled_activations AS x
    ON x.study = a.study AND x.layer = a.layer AND x.unit = a.unit AND x.sign = a.sign
LEFT JOIN sampled_activations AS y
    ON y.study = b.study AND y.layer = b.layer AND y.unit = b.unit AND y.sign = b.sign
LEFT JOIN shared_samples AS s ON s.sample = x.sample AND s.other_sample = y.sample
ORDER BY rule_cosine DESC, study, layer, unit, sign, other_study, other_layer, other_unit, other_sign;
COMMENT ON MACRO TABLE similar_pairs IS 'All pairs of units, across layers, studies and models, whose rule_cosine (similar_units) is least or more; each pair once. They want the same tokens, and need not do the same: correlation, as in similar_units, tells. Controls are left out unless controls is true.';

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
WITH units AS MATERIALIZED (
    SELECT study, layer, unit, sign, max * CAST(settings ->> '$$.method.firing_threshold' AS DOUBLE) AS fires_from,
        row_number() OVER (ORDER BY study, layer, unit, sign) AS id
    FROM neuron_stats
    JOIN studies USING (study)
    ANTI JOIN left_out(controls) USING (study)
), texts AS MATERIALIZED (
    SELECT study, context_id, hash(context_id, token_ids) AS text FROM contexts
), firings AS (
    SELECT CAST(u.id AS INTEGER) AS id, hash(t.text, a.position) AS place
    FROM activations AS a
    JOIN units AS u USING (study, layer, unit, sign)
    JOIN texts AS t USING (study, context_id)
    WHERE a.activation >= u.fires_from
), numbered AS MATERIALIZED (
    SELECT place, CAST(row_number() OVER (ORDER BY count(*), place) AS INTEGER) AS number FROM firings GROUP BY place
), sets AS MATERIALIZED (  -- the rarest place comes first
    SELECT *, row_number() OVER (ORDER BY unit_id) AS id, (1 - threshold) * n + 1e-9 AS may_lack
    FROM (
        SELECT id AS unit_id, list_sort(list(number)) AS places, count(*) AS n,
            bitstring_agg(number % 1024, 0, 1023) AS bits
        FROM firings
        JOIN numbered USING (place)
        GROUP BY id
    )
    WHERE n >= least
), whose AS (
    SELECT place, list(id) AS ids FROM (SELECT id, unnest(places) AS place FROM sets) GROUP BY place
), telling AS (  -- a unit that lacks no more than it may has one of these
    SELECT id, bits, may_lack, unnest(places[:CAST(floor(may_lack) AS BIGINT) + 1]) AS place FROM sets
), met AS (
    SELECT t.id AS inner_id, bits, may_lack, unnest(w.ids) AS outer_id FROM telling AS t JOIN whose AS w USING (place)
), candidates AS MATERIALIZED (  -- nor does it lack more of the bits; they are looked up, since a join would keep all pairs
    SELECT DISTINCT inner_id, outer_id
    FROM met
    CROSS JOIN (SELECT list(bits ORDER BY id) AS bits_of FROM sets)
    WHERE inner_id <> outer_id AND bit_count(bits) - bit_count(bits & bits_of[outer_id]) <= may_lack
), measured AS (
    SELECT a.unit_id AS inner_id, b.unit_id AS outer_id, a.n AS positions, b.n AS other_positions,
        len(list_intersect(a.places, b.places)) / a.n AS share
    FROM candidates
    JOIN sets AS a ON a.id = inner_id
    JOIN sets AS b ON b.id = outer_id
)
SELECT a.study, a.layer, a.unit, a.sign, b.study AS other_study, b.layer AS other_layer, b.unit AS other_unit,
    b.sign AS other_sign, m.positions, m.other_positions, m.share
FROM measured AS m
JOIN units AS a ON a.id = m.inner_id
JOIN units AS b ON b.id = m.outer_id
WHERE m.share >= threshold
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
