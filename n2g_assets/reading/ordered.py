"""Units with a rule that wants several tokens in order, as SQL.

1. ``uses``: where graphs of token classes want one of the tokens, at a place that is asked for.
2. ``on_paths``: a path for each of these that is its lowest: itself, and uses of the other tokens in classes above it,
   where no class on the path takes all but them. What is expected is what is expected at the lowest, with its token.
   A rule of the paper's graphs is a path too.
3. A path that has one use of each token, each further from the activating one than the one before it, is found.
"""

from collections.abc import Sequence
from string import Template
from typing import Literal, NamedTuple

from n2g_assets.storage.schema import literal

How = Literal["caseless", "exact", "prefix", "regex"]
"""How tokens are compared, as in the macro ``tokens_like``."""


_ANY = 10**6
"""More places than a context has."""


class Before(NamedTuple):
    """A token that stands before others."""

    token: str
    nearest: int = 1
    """Fewest places that it stands before the activating token."""
    furthest: int | None = None
    """Most places; None: any."""


_QUERY = Template("""
    WITH meant AS MATERIALIZED (
        $meant
    ), uses AS MATERIALIZED (
        SELECT u.*, m.asked, m.text AS form
        FROM meant AS m
        JOIN token_uses AS u USING (study, token_id)
        WHERE u.shut IS NOT NULL AND u."offset" <= -m.nearest AND u."offset" >= -m.furthest
    ), steps AS (
        SELECT study, layer, unit, sign, rule_id, rowid AS rule_row, activation, count,
            unnest(tokens) AS bytes, 1 - generate_subscripts(tokens, 1) AS "offset"
        FROM rules
        WHERE rank IS NULL
    ), on_paths AS MATERIALIZED (
        SELECT l.study, l.layer, l.unit, l.sign, [l.node_id, l.token_id, l.asked] AS path, l.activation, l.count,
            l.rule_id, l.rule_row, u.asked, u."offset", u.form
        FROM uses AS l
        JOIN uses AS u USING (study, layer, unit, sign)
        WHERE CASE
            WHEN u.asked = l.asked THEN u.node_id = l.node_id AND u.token_id = l.token_id
            ELSE list_contains(l.above, u.node_id) AND NOT list_has_any(l.above, u.shut)
        END
        UNION ALL
        SELECT s.study, s.layer, s.unit, s.sign, [s.rule_id], s.activation, s.count, s.rule_id, s.rule_row, m.asked,
            s."offset", token_text(s.bytes)
        FROM steps AS s
        JOIN meant AS m ON m.study = s.study AND m.normalised = s.bytes
        WHERE s."offset" <= -m.nearest AND s."offset" >= -m.furthest
    ), found AS (
        SELECT study, layer, unit, sign, a0.activation, a0.count, a0.rule_id, a0.rule_row,
            [$forms] AS forms, [$offsets] AS offsets
        FROM $joined
        WHERE $ordered
    )
    SELECT study, layer, unit, sign, arg_max(forms, (activation, offsets)) AS forms,
        arg_max(offsets, (activation, offsets)) AS offsets, max(activation) AS activation,
        arg_max(count, (activation, offsets)) AS count, count(DISTINCT rule_id) AS n_rules,
        arg_min(rule_row, rule_id) AS rule_row
    FROM found
    GROUP BY ALL
    """)


def in_order(tokens: Sequence[Before], how: How, study: str = "") -> str:
    """The query of the units with a rule that wants all of some tokens; what ``found_with_context`` answers.

    In the place of ``form`` and ``offset`` there are lists, of each token in the order that was asked.

    Args:
        tokens: two or more, each before the one that is named before it; the activating token stands 0 places before.
        how: how they are compared.
        study: whose units; empty for all but controls.
    """
    numbers = range(len(tokens))
    whose = f"study = {literal(study)}" if study else "study NOT IN (FROM left_out(false))"
    meant = [
        f"SELECT {number} AS asked, {each.nearest} AS nearest, {_ANY if each.furthest is None else each.furthest} AS "
        "furthest, study, token_id, text, normalised\n        "
        f"FROM tokens_like({literal(each.token)}, how := {literal(how)}) WHERE {whose}"
        for number, each in enumerate(tokens)
    ]
    on_one_path = [f"JOIN on_paths AS a{number} USING (study, layer, unit, sign, path)" for number in numbers[1:]]
    ordered = [f"a{number}.asked = {number}" for number in numbers]
    ordered += [f'a{number}."offset" < a{number - 1}."offset"' for number in numbers[1:]]
    return _QUERY.substitute(
        meant="\n        UNION ALL\n        ".join(meant),
        joined="\n        ".join(["on_paths AS a0", *on_one_path]),
        ordered=" AND ".join(ordered),
        forms=", ".join(f"a{number}.form" for number in numbers),
        offsets=", ".join(f'a{number}."offset"' for number in numbers),
    )  # fmt: skip
