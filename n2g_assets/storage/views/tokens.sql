-- Tokens: which tokens a text may mean, and which units react to them.

CREATE MACRO token_forms(token) AS TABLE
SELECT DISTINCT v.study, v.normalised AS form, token_text(v.normalised) AS form_text
FROM vocabulary AS v
WHERE v.token = encode(token)
   OR v.normalised = encode(token)
   OR v.text = token
   OR (v.token = encode(' ' || token) AND v.normalised <> v.token);
COMMENT ON MACRO TABLE token_forms IS 'The forms (BLOB) under which graphs of each study match a token given as text: with or without its leading space where the study normalises tokens, or as vocabulary.text shows it.';

CREATE MACRO bare_text(of_text) AS coalesce(nullif(trim(lower(of_text)), ''), of_text);
COMMENT ON MACRO bare_text IS 'A token''s text in lower case without the spaces around it, if there is more to it.';

CREATE VIEW token_texts AS
SELECT study, token_id, plain, bare_text(plain) AS bare
FROM (SELECT study, token_id, token_text(token) AS plain FROM vocabulary);
COMMENT ON VIEW token_texts IS 'The tokens of each study as text, as searches compare them.';
COMMENT ON COLUMN token_texts.plain IS 'the token as text; bytes that are not UTF-8 appear as \xNN';
COMMENT ON COLUMN token_texts.bare IS 'the same in lower case without the spaces around it, if there is more to it';

CREATE MACRO tokens_like(pattern, how := 'form') AS TABLE
SELECT v.study, v.token_id, v.text, v.token, v.normalised
FROM vocabulary AS v
JOIN token_texts AS t USING (study, token_id)
WHERE CASE how
    WHEN 'form' THEN (v.study, v.normalised) IN (SELECT (f.study, f.form) FROM token_forms(pattern) AS f)
    WHEN 'exact' THEN v.token = encode(pattern) OR v.text = pattern
    WHEN 'caseless' THEN t.bare = bare_text(pattern) OR v.text = pattern
    WHEN 'prefix' THEN starts_with(t.bare, bare_text(pattern))
    WHEN 'regex' THEN regexp_matches(t.plain, CASE WHEN how = 'regex' THEN pattern ELSE '' END)
    ELSE error('how is form, exact, caseless, prefix or regex, not ''' || how || '''.')
END;
COMMENT ON MACRO TABLE tokens_like IS 'The tokens of each study that a text means. how: form, in any spelling that the study''s graphs match alike (token_forms); exact; caseless, in any case and with or without spaces around it; prefix, those that begin like this, in any case; regex, those in which a regular expression is found.';

CREATE MACRO token_known(pattern, how := 'form') AS EXISTS (FROM tokens_like(pattern, how := how));
COMMENT ON MACRO token_known IS 'Whether the vocabulary of any study has a token, as tokens_like finds it.';

CREATE MACRO left_out(with_controls) AS TABLE
SELECT study FROM studies WHERE control_of IS NOT NULL AND NOT with_controls;
COMMENT ON MACRO TABLE left_out IS 'The studies that macros leave out: controls, unless they are asked for.';

CREATE MACRO class_nodes_of(token) AS TABLE
SELECT g.study, g.layer, g.unit, g.sign, f.form_text AS form, g.node_id, g."offset", g.activation
FROM token_forms(token) AS f
JOIN vocabulary AS v ON v.study = f.study AND v.normalised = f.form
JOIN token_classes AS c ON c.study = v.study AND c.token_id = v.token_id
JOIN graph_nodes AS g
    ON g.study = c.study AND g.layer = c.layer AND g.unit = c.unit AND g.sign = c.sign AND g.node_id = c.node_id
GROUP BY ALL;
COMMENT ON MACRO TABLE class_nodes_of IS 'The classes, in graphs of token classes of any size, that hold a token given as text, with the offset at which they want it and the normalised activation that is expected there.';

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
