"""Whom a text lights up: the units of a study whose graphs expect something of it.

``light_up`` predicts the text with the graphs of all units where there are few, and otherwise of those whose rules want
its tokens, the most promising first, until its time is over.
"""

import re
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int32

from n2g_assets.core.errors import MissingError
from n2g_assets.reading.graph import Prediction, graph_of
from n2g_assets.reading.layers import check_layer
from n2g_assets.storage.schema import literal

if TYPE_CHECKING:
    from n2g_assets.reading.study import Study

MOST_TOKENS = 512
"""Tokens of a text that are read."""
FEW_UNITS = 500
"""Where no more units are asked about, the graphs of all of them are tried on a text."""
MOST_UNITS = 300
"""Where there are more, as many are tried that fire on a token of the text, and as many that want one as context."""
LEAST_EXPECTED = 0.05
"""Units whose graphs expect less of a text everywhere are not lit up."""
SECONDS = 4.0
"""Time for that."""

_KEY = ["layer", "unit", "sign"]
_WORDS = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?[^\s\w]+| ?_+|\s+(?!\S)|\s+")


class Lit(NamedTuple):
    """A unit whose graph expects something of a text."""

    layer: int
    unit: int
    sign: int
    position: int
    """Where it expects most."""
    prediction: Prediction


class LitUp(NamedTuple):
    """Whom a text lights up."""

    sql: str
    """The query that finds whose graphs are tried, the most promising first."""
    token_ids: Int32[np.ndarray, " length"]
    units: list[Lit]
    """Units whose graphs expect ``LEAST_EXPECTED`` or more somewhere, most first."""
    tried: int
    promising: int
    """Units that were tried before the time was over, and that ``sql`` finds."""
    there: int
    """Units that have a graph; those that were not tried may light up as well."""


def longest_tokens(study: "Study", text: str) -> Int32[np.ndarray, " length"]:
    """A text cut into the longest tokens of the vocabulary, word by word, BOS first, at the most ``MOST_TOKENS``.

    For a word that is a token this is the model's own cut; others may fall apart differently there.
    """
    number = study.database.remembered(("numbers", study.name), lambda: _numbers(study))
    longest = study.database.remembered(("longest", study.name), lambda: max(map(len, number), default=1))
    found = [study.vocabulary.bos_id]
    for word in _WORDS.findall(text):
        rest = word.encode("utf-8", "replace")
        while rest and len(found) < MOST_TOKENS:
            size = next((n for n in range(min(longest, len(rest)), 0, -1) if rest[:n] in number), 0)
            if size:
                found.append(number[rest[:size]])
            rest = rest[size or 1 :]
    return np.array(found, np.int32)


def read_tokens(study: "Study", text: str) -> tuple[Int32[np.ndarray, " length"], bool]:
    """A text's first ``MOST_TOKENS`` tokens, BOS first, and whether they are the model's own cut.

    They are not where its tokenizer is on another machine (``longest_tokens``).
    """
    try:
        return study.encode(text)[: 1 + MOST_TOKENS], True
    except MissingError:
        return longest_tokens(study, text), False


def _numbers(study: "Study") -> dict[bytes, int]:
    tokens = list(enumerate(study.vocabulary.tokens))
    return {token: token_id for token_id, token in reversed(tokens) if token}


def light_up(
    study: "Study", token_ids: Int32[np.ndarray, " length"], *, layer: int | None = None, seconds: float = SECONDS
) -> LitUp:
    """The units of a study whose graphs expect most of a text.

    Of more than ``FEW_UNITS`` only those are tried whose rules raise the activation by a token of the text: others may
    light up as well, such as by a later rule for any token but some.

    Args:
        study: whose units and graphs.
        token_ids: the text, BOS at position 0.
        layer: only units of this layer; None for all.
        seconds: time for predicting; at least one unit is tried.

    Raises:
        MissingError: the study has no such layer.
    """
    check_layer(study.database, study.name, layer)
    ids = sorted(set(token_ids[1:].tolist()))
    listed = ", ".join(map(str, ids)) or "NULL"
    where = f"study = {literal(study.name)}" + ("" if layer is None else f" AND layer = {layer}")
    [[there]] = study.database.frame(f"SELECT count(*) FROM unit_status WHERE {where} AND status = 'ok'").rows()
    kept = (
        f"RIGHT JOIN (FROM unit_status WHERE {where} AND status = 'ok') USING (layer, unit, sign)\n"
        if there <= FEW_UNITS
        else f"QUALIFY row_number() OVER (PARTITION BY activation IS NULL ORDER BY any_place DESC) <= {MOST_UNITS}\n"
    )
    sql = (
        "SELECT layer, unit, sign, activation, any_place\nFROM (\n"
        '    SELECT layer, unit, sign, max(activation) FILTER ("offset" = 0) AS activation,\n'
        "        max(activation) AS any_place\n"
        f"    FROM token_uses WHERE {where} AND token_id IN ({listed})\n    GROUP BY layer, unit, sign\n)\n{kept}"
        "ORDER BY activation DESC NULLS LAST, any_place DESC NULLS LAST, layer, unit, sign DESC"
    )
    promising = study.database.frame(sql)
    nodes, classes = _graph_rows(study, promising, [int(token_ids[0]), *ids])
    found, tried, end = [], 0, 0.0
    for layer_, unit, sign in promising.select(_KEY).iter_rows():
        if tried == 1:  # the first one may have had to wait until the code was compiled
            end = time.monotonic() + seconds
        if tried and time.monotonic() >= end:
            break
        of_unit = {"layer": layer_, "unit": unit, "sign": sign}
        tried += 1
        graph = graph_of(nodes.filter(**of_unit), classes.filter(**of_unit), study.vocabulary)
        prediction = graph.predict_ids(token_ids)
        position = int(np.argmax(prediction.values))
        if prediction.values[position] >= LEAST_EXPECTED:
            found.append(Lit(layer_, unit, sign, position, prediction))
    found.sort(key=lambda lit: (-float(lit.prediction.values[lit.position]), lit.layer, lit.unit, -lit.sign))
    return LitUp(sql, token_ids, found, tried, promising.height, there)


def _graph_rows(study: "Study", units: pl.DataFrame, token_ids: list[int]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The nodes of the units' graphs, and of their classes the tokens of the text alone."""
    layers, numbers = (", ".join(map(str, units[name].unique().to_list())) or "NULL" for name in ("layer", "unit"))
    where = f"WHERE study = $study AND layer IN ({layers}) AND unit IN ({numbers})"
    nodes = study.frame(f"FROM graph_nodes {where} ORDER BY layer, unit, sign, node_id")
    classes = study.frame(
        f"FROM token_classes {where} AND token_id IN ({', '.join(map(str, token_ids))}) "
        "ORDER BY layer, unit, sign, node_id, token_id"
    )
    return nodes, classes
