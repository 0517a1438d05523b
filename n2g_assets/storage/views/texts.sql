-- Contexts, nodes and rules as readable text, with the exact bytes of their tokens beside it.

CREATE VIEW top_context_text AS
WITH contexts_of_units AS (
    SELECT t.study, t.layer, t.unit, t.sign, t.rank, t.context_id, c.document_id, t.peak, t.activation, t.activations,
        c.token_ids, s.max AS a_max
    FROM top_contexts AS t
    JOIN contexts AS c USING (study, context_id)
    LEFT JOIN neuron_stats AS s USING (study, layer, unit, sign)
), positions AS (
    SELECT * EXCLUDE (activations, token_ids), unnest(token_ids[2:]) AS token_id,
        unnest(activations[2:]) AS actual, generate_subscripts(token_ids[2:], 1) AS position
    FROM contexts_of_units
)
SELECT
    p.study,
    p.layer,
    p.unit,
    p.sign,
    p.rank,
    p.context_id,
    p.document_id,
    p.peak,
    p.activation,
    string_agg(CASE WHEN p.position = p.peak THEN '[' || v.text || ']' ELSE replace(v.text, '␣', ' ') END, '' ORDER BY p.position)
        AS text,
    list(v.text ORDER BY p.position) AS words,
    list(CAST(p.actual / p.a_max AS REAL) ORDER BY p.position) AS activations,
    list(v.token ORDER BY p.position) AS tokens
FROM positions AS p
JOIN vocabulary AS v USING (study, token_id)
GROUP BY ALL
ORDER BY study, layer, unit, sign DESC, rank;
COMMENT ON VIEW top_context_text IS 'The strongest contexts of each unit as text, the peak in square brackets; element k of words, activations and tokens is position k, the first after BOS being 1.';
COMMENT ON COLUMN top_context_text.text IS 'the context for reading, BOS left out';
COMMENT ON COLUMN top_context_text.words IS 'its tokens for reading';
COMMENT ON COLUMN top_context_text.activations IS 'normalised activation at each; NULL where an older version kept none';
COMMENT ON COLUMN top_context_text.tokens IS 'exact bytes of each';

CREATE VIEW graph_node_text AS
WITH members AS (
    SELECT c.study, c.layer, c.unit, c.sign, c.node_id, c.token_id,
        row_number() OVER (
            PARTITION BY c.study, c.layer, c.unit, c.sign, c.node_id
            ORDER BY c.count * CAST(c.mean - p.activation AS DOUBLE) ** 2 DESC, c.token_id
        ) AS place,
        count(*) OVER (PARTITION BY c.study, c.layer, c.unit, c.sign, c.node_id) AS n_tokens
    FROM token_classes AS c
    JOIN graph_nodes AS g USING (study, layer, unit, sign, node_id)
    JOIN graph_nodes AS p
        ON p.study = g.study AND p.layer = g.layer AND p.unit = g.unit AND p.sign = g.sign AND p.node_id = g.parent_id
), classes AS (
    SELECT
        m.study,
        m.layer,
        m.unit,
        m.sign,
        m.node_id,
        m.n_tokens,
        list(v.text ORDER BY m.place) AS words,
        list(v.token ORDER BY m.place) AS tokens
    FROM members AS m
    JOIN vocabulary AS v USING (study, token_id)
    WHERE m.place <= 10
    GROUP BY ALL
)
SELECT
    g.study,
    g.layer,
    g.unit,
    g.sign,
    g.node_id,
    g.parent_id,
    g.kind,
    g."offset",
    CASE
        WHEN g.token IS NOT NULL THEN token_text(g.token)
        WHEN c.n_tokens IS NULL THEN '*'
        ELSE '{' || CASE WHEN g.all_but THEN 'not ' ELSE '' END || array_to_string(c.words, '|')
            || CASE WHEN c.n_tokens > 10 THEN '|+' || (c.n_tokens - 10) ELSE '' END || '}'
    END AS text,
    coalesce(c.n_tokens, CASE WHEN g.token IS NULL THEN 0 ELSE 1 END) AS n_tokens,
    coalesce(c.tokens, CASE WHEN g.token IS NULL THEN [] ELSE [g.token] END) AS tokens,
    g.activation,
    g.importance,
    g.rank,
    g.until,
    g.end_count
FROM graph_nodes AS g
LEFT JOIN classes AS c
    ON c.study = g.study AND c.layer = g.layer AND c.unit = g.unit AND c.sign = g.sign
    AND c.node_id = g.node_id - CASE WHEN g.all_but THEN 1 ELSE 0 END
ORDER BY g.study, g.layer, g.unit, g.sign DESC, g.node_id;
COMMENT ON VIEW graph_node_text IS 'The nodes of each unit''s graph for reading: a token, a class {a|b|+7} of which the ten tokens that matter most are shown, all tokens but these {not a|b}, or any token (*).';
COMMENT ON COLUMN graph_node_text.text IS 'what it takes, for reading';
COMMENT ON COLUMN graph_node_text.n_tokens IS 'tokens of its class or, where it takes all but a class, of that';
COMMENT ON COLUMN graph_node_text.tokens IS 'exact bytes of the tokens that are shown';

CREATE VIEW rule_text AS
SELECT
    r.study,
    r.layer,
    r.unit,
    r.sign,
    r.rule_id,
    r.pattern,
    r.activation,
    r.count,
    r.firings / nullif(r.count, 0) AS firing_share,
    r.rank,
    r.until,
    g."offset",
    g.text AS ends_with,
    g.tokens
FROM rules AS r
LEFT JOIN graph_node_text AS g
    ON g.study = r.study AND g.layer = r.layer AND g.unit = r.unit AND g.sign = r.sign AND g.node_id = r.end_node_id
ORDER BY r.study, r.layer, r.unit, r.sign DESC, r.rule_id;
COMMENT ON VIEW rule_text IS 'The rules of each unit''s graphs of all sizes for reading, with what the last step of each takes.';
COMMENT ON COLUMN rule_text.firing_share IS 'firings as a share of count; NULL in the paper''s graphs';
COMMENT ON COLUMN rule_text.ends_with IS 'what its last step takes, at offset: as graph_node_text.text';
