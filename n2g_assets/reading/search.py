"""Searches of a published database: whose rules want a token, or a token before another; ``lighting`` is by a text.

1. A ``Search`` is what somebody asks. Its ``sql`` answers it with literal values, so that it can be shown and copied:
   it is the very text that is run.
2. Where nothing is found, ``find`` says whether no vocabulary has the token or no rule wants it, and what is near.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import polars as pl

from n2g_assets.core.errors import MissingError, QueryError
from n2g_assets.method.tokens import display_text
from n2g_assets.reading.database import Snapshot
from n2g_assets.reading.layers import check_layer
from n2g_assets.reading.lighting import light_up, read_tokens
from n2g_assets.reading.ordered import Before, How, in_order
from n2g_assets.storage.schema import literal

if TYPE_CHECKING:
    from n2g_assets.reading.study import Study

MOST_HITS = 200
"""Units that a search finds at the most."""
MOST_USES = 200_000
"""Rows of ``token_uses`` that the tokens of a prefix or a regular expression may have, as many as a token has on the
mean: a second or two of reading."""
NEAR = 8
"""Near forms of a token that are named."""

_KEY = ["layer", "unit", "sign"]


@dataclass(frozen=True)
class Search:
    """Units whose rules want one token, or one before another, or several in order."""

    activating: str = ""
    """Token on which the unit fires; empty: any."""
    context: str = ""
    """Token before it; empty: none is asked for."""
    how: How = "caseless"
    nearest: int = 1
    """Fewest places that the context token stands before the activating one."""
    furthest: int | None = None
    """Most places; None: any."""
    earlier: tuple[Before, ...] = ()
    """More tokens, each of which stands before the one that is named before it."""
    study: str = ""
    """Empty: all but controls."""
    layer: int | None = None
    least_r: float | None = None
    """Least Pearson's r of the unit's graph on held-out text."""

    def __post_init__(self) -> None:
        for _, text in self.tokens:
            if "\0" in text:
                raise QueryError("A token that is searched cannot hold the character of code 0: leave it out.")
        if self.how not in get_args(How):
            raise QueryError(f"Tokens cannot be compared {self.how!r:.40}: choose one of {', '.join(get_args(How))}.")
        for each in (Before(self.context, self.nearest, self.furthest), *self.earlier):
            if each.nearest < 1 or (each.furthest is not None and each.furthest < each.nearest):
                raise QueryError(
                    f"No token stands at least {each.nearest} and at most {each.furthest} places before another: make "
                    "the first number at least 1 and the smaller one."
                )

    @property
    def befores(self) -> list[Before]:
        """The tokens before the activating one, the nearest first."""
        first = [Before(self.context, self.nearest, self.furthest)] if self.context else []
        return [*first, *self.earlier]

    @property
    def tokens(self) -> list[tuple[str, str]]:
        """What each token is asked for as, activating or context, and the token."""
        named = [("activating", self.activating), *(("context", each.token) for each in self.befores)]
        return [(field, token) for field, token in named if token]

    @property
    def sql(self) -> str:
        """The query that finds the units, the strongest first."""
        how, controls = literal(self.how), "true" if self.study else "false"
        if len(self.befores) > 1:
            whole = [Before(self.activating, 0, 0)] if self.activating else []
            source = f"({in_order([*whole, *self.befores], self.how, self.study)})"
        elif self.befores:
            [before] = self.befores
            activating = literal(self.activating) if self.activating else "NULL"
            places = f"{before.nearest}, {'NULL' if before.furthest is None else before.furthest}"
            source = f"found_with_context({literal(before.token)}, {activating}, {how}, {places}, {controls})"
        else:
            source = f"found_on({literal(self.activating)}, {how}, {controls})"
        wanted = [f"study = {literal(self.study)}"] if self.study else []
        wanted += [] if self.layer is None else [f"layer = {self.layer}"]
        wanted += [] if self.least_r is None else [f"random_pearson_r >= {self.least_r}"]
        where = f"    WHERE {' AND '.join(wanted)}\n" if wanted else ""
        order = "ORDER BY activation DESC, study, layer, unit, sign DESC"
        return (
            "SELECT h.* EXCLUDE (rule_row), r.pattern AS top_pattern\nFROM (\n"
            f"    SELECT f.*, c.random_pearson_r\n    FROM {source} AS f\n"
            f"    LEFT JOIN fidelity_card AS c USING (study, layer, unit, sign)\n{where}"
            f"    {order}\n    LIMIT {MOST_HITS}\n) AS h\nLEFT JOIN rules AS r ON r.rowid = h.rule_row\n{order}"
        )


class Known(NamedTuple):
    """What a token that is searched means."""

    field: str
    """activating or context."""
    given: str
    tokens: list[dict[str, Any]]
    """The tokens of the vocabularies that it means: ``text`` for reading, ``plain``, and whether a rule uses it."""
    near: list[dict[str, Any]]
    """Tokens that are like it, where it means none or none that is used."""


class Found(NamedTuple):
    """What a search finds."""

    sql: str
    hits: list[dict[str, Any]]
    """Units, the strongest first."""
    known: list[Known]
    """What each token means that is searched, the activating one first."""
    why_nothing: str
    """Why nothing is found, in one sentence; empty where something is."""


def find(database: Snapshot, search: Search) -> Found:
    """The units that a search finds.

    Raises:
        MissingError: no study that is asked about has such a layer.
        QueryError: a regular expression cannot be read, or a token means too many.
        LimitError: it takes too long.
    """
    check_layer(database, search.study, search.layer)
    for _, pattern in search.tokens if search.how in ("regex", "prefix") else ():
        if search.how == "regex":
            _check_pattern(database, pattern)
        _check_breadth(database, search, pattern)
    known = [_known(database, search, field, token) for field, token in search.tokens]
    unknown = [each.given for each in known if not each.tokens]
    hits = [] if unknown or not known else database.rows(search.sql)
    return Found(search.sql, hits, known, "" if hits or not known else _why(search, known, unknown))


def _why(search: Search, known: Sequence[Known], unknown: Sequence[str]) -> str:
    where = f"the vocabulary of {search.study}" if search.study else "any published vocabulary"
    if unknown:
        token = f"“{display_text(unknown[0].encode())}”"
        wanted = {"regex": f"in which {token} is found", "prefix": f"that begins with {token}"}.get(search.how, token)
        return f"There is no token {wanted} in {where}."
    tokens = " and ".join(f"“{display_text(each.given.encode())}”" for each in known)
    there = "there" if search.befores else "as its activating token"
    wanted = {1: "it", 2: "both"}.get(len(known), "them in this order")
    return f"The vocabulary has {tokens}, but no rule of the units asked for wants {wanted} {there}."


def _known(database: Snapshot, search: Search, field: str, given: str) -> Known:
    tokens = _tokens(database, search.study, given, search.how)
    near: list[dict[str, Any]] = []
    if not any(token["used"] for token in tokens) and search.how != "regex":
        there = {token["plain"] for token in tokens}
        for how, part in (("caseless", given), ("prefix", given), ("prefix", given.strip()[: len(given.strip()) // 2])):
            if part and len(near) < NEAR:
                found = _tokens(database, search.study, part, how)
                near += [each for each in found if each["plain"] not in there]
                there |= {each["plain"] for each in near}
    return Known(field, given, tokens, near[:NEAR])


def _tokens(database: Snapshot, study: str, given: str, how: str) -> list[dict[str, Any]]:
    """The tokens that a text means, those that rules use first, each once."""
    return database.rows(
        f"""
        WITH meant AS (
            SELECT study, token_id, text, plain FROM tokens_like({literal(given)}, how := {literal(how)})
            JOIN token_texts USING (study, token_id) WHERE $study = '' OR study = $study
        ), uses AS (
            SELECT study, token_id, true AS used FROM token_uses JOIN meant USING (study, token_id) GROUP BY ALL
        )
        SELECT text, plain, min(token_id) AS token_id, coalesce(bool_or(used), false) AS used
        FROM meant LEFT JOIN uses USING (study, token_id)
        GROUP BY text, plain ORDER BY used DESC, len(plain), token_id LIMIT 50""",
        study=study,
    )


def _check_pattern(database: Snapshot, pattern: str) -> None:
    if said := database.refusal("SELECT regexp_matches('', $pattern)", pattern=pattern):
        raise QueryError(
            f"The regular expression {pattern!r:.80} cannot be read ({said:.80}): write a backslash before a sign that "
            "stands for itself, such as \\( or \\*."
        )


def _check_breadth(database: Snapshot, search: Search, pattern: str) -> None:
    [row] = database.rows(
        f"""SELECT count(*) FILTER ($study = '' OR study = $study) AS meant,
            (SELECT count(*) FROM token_uses) / (SELECT count(*) FROM vocabulary) AS uses
        FROM tokens_like({literal(pattern)}, how := {literal(search.how)})""",
        study=search.study,
    )
    most = int(MOST_USES / row["uses"]) if row["uses"] else row["meant"]
    if row["meant"] > most:
        named = "regular expression" if search.how == "regex" else "beginning"
        raise QueryError(
            f"The {named} {pattern!r:.80} means {row['meant']:,} tokens, and among the units that are published "
            f"here at most {most:,} can be searched at once: make it narrower."
        )


# -------------------------------------------------------------------------------------------- as a frame
def search_study(study: "Study", search: Search, text: str) -> pl.DataFrame:
    """What ``Study.search`` gives: a row a unit, the strongest first.

    Raises:
        MissingError: the vocabulary has no such token, or the study no such layer.
        QueryError: nothing is asked, tokens as well as a text, or something mistaken.
        LimitError: it takes too long.
    """
    by_tokens = bool(search.tokens)
    if by_tokens == bool(text.strip()):
        raise QueryError("Search either by tokens (activating, context) or by a text: give one of the two.")
    if not by_tokens:
        return _lit_frame(study, search, text)
    found = find(study.database, search)
    if any(not each.tokens for each in found.known):
        raise MissingError(found.why_nothing)
    return study.database.frame(found.sql).drop("study")


def _lit_frame(study: "Study", search: Search, text: str) -> pl.DataFrame:
    token_ids, _ = read_tokens(study, text)
    lit = light_up(study, token_ids, layer=search.layer)
    rows = [
        (
            each.layer, each.unit, each.sign, each.position,
            display_text(study.vocabulary.tokens[token_ids[each.position]]),
            float(each.prediction.values[each.position]),
        )
        for each in lit.units
    ]  # fmt: skip
    schema = dict.fromkeys(_KEY, pl.Int32) | {
        "sign": pl.Int8, "position": pl.Int32, "token": pl.String, "predicted": pl.Float32,
    }  # fmt: skip
    known = study.units().select(*_KEY, "random_pearson_r", "top_pattern")
    found = pl.DataFrame(rows, schema=schema, orient="row").join(known, on=_KEY, how="left", maintain_order="left")
    return found if search.least_r is None else found.filter(pl.col("random_pearson_r") >= search.least_r)
