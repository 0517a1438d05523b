"""What the graphs of token classes of a study are made of: kinds of rules by layer, sizes and names of classes.

Read is the graph of ``SHOWN_RULES`` rules of each unit, or of some units spread evenly where a study has many.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from n2g_assets.core.registry import SHOWN_RULES
from n2g_assets.method.class_rows import TokenClass, classes_of, graph_of_rows
from n2g_assets.method.tokens import display_text
from n2g_assets.report.class_names import FEWEST, PROPERTIES, class_name, token_properties

MOST_UNITS = 96
"""Units whose graphs are read at most."""
_EXAMPLE_TOKENS = 4

Frame = Callable[..., pl.DataFrame]
"""Rows of a query on the database, with the values of its parameters."""


@dataclass
class LayerUse:
    """Rules and classes of the graphs of one layer."""

    layer: int
    units: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    """By kind: ``token``, one token alone; ``class``, a class of tokens, of the token itself; ``context``, a class of
    an earlier token, with or without one of the token itself; ``rest``, what the other rules leave."""
    sizes: defaultdict[bool, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Tokens of each class: of the token itself (True), and of earlier ones."""

    def median(self, own: bool) -> int | None:
        """The median number of tokens of a class."""
        return int(np.median(self.sizes[own])) if self.sizes[own] else None

    def single(self, own: bool) -> int:
        """Classes of one token."""
        return self.sizes[own].count(1)


@dataclass
class Name:
    """A name of classes, and where classes have it."""

    name: str
    classes: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    """Classes of the token itself (True), and of earlier ones."""
    example: str = ""
    """Tokens of the first of them."""
    key: tuple[int, int, int] | None = None
    """Layer, number and sign of the unit that has that one."""


@dataclass
class ClassUse:
    """What the graphs of a study are made of."""

    units: int
    """Units with a graph."""
    read: int
    """Those whose graphs were read."""
    layers: list[LayerUse]
    names: list[Name]


def class_use(frame: Frame, vocabulary: Sequence[bytes]) -> ClassUse:
    """Counts over the graphs of a study.

    Args:
        frame: asks the database, where ``$study`` is the study's name.
        vocabulary: exact bytes of every token id.
    """
    keys = frame(
        "SELECT DISTINCT layer, unit, sign FROM graph_nodes WHERE study = $study AND rank IS NOT NULL ORDER BY ALL"
    )
    chosen = (
        keys[np.unique(np.linspace(0, len(keys) - 1, MOST_UNITS).round().astype(int)).tolist()] if len(keys) else keys
    )
    properties = token_properties(tuple(vocabulary))
    layers = {layer: LayerUse(layer) for layer in chosen["layer"].unique().sort()}
    names = {name: Name(name) for name in (*PROPERTIES, _unnamed(FEWEST - 1), _unnamed(FEWEST))}
    for (layer, number, sign), nodes, members in _graphs(frame, chosen):
        graph, use, seen = graph_of_rows(nodes, members, bos_id=-1), layers[layer], set()
        use.units += 1
        for end in graph.rules_of(SHOWN_RULES).tolist():
            taken = [found for found in classes_of(graph, end) if not found.all_but]
            use.rules[_kind(taken)] += 1
            for found in taken:
                key, own = (found.offset, found.tokens.tobytes()), found.offset == 0
                if key in seen:
                    continue
                seen.add(key)
                use.sizes[own].append(len(found.tokens))
                name = names[class_name(found.tokens, found.weights, properties) or _unnamed(len(found.tokens))]
                name.classes[own] += 1
                if name.key is None:
                    name.key, name.example = (layer, number, sign), _example(found, vocabulary)
    return ClassUse(len(keys), len(chosen), list(layers.values()), [name for name in names.values() if name.key])


def _unnamed(size: int) -> str:
    return "one or two tokens" if size < FEWEST else "no simple property"


def _kind(taken: Sequence[TokenClass]) -> str:
    if not taken:
        return "rest"
    if any(found.offset < 0 for found in taken):
        return "context"
    return "token" if len(taken[0].tokens) == 1 else "class"


def _example(found: TokenClass, vocabulary: Sequence[bytes]) -> str:
    more = len(found.tokens) - _EXAMPLE_TOKENS
    shown = [display_text(vocabulary[token]) for token in found.tokens[:_EXAMPLE_TOKENS].tolist()]
    return "  ".join([*shown, f"+{more:,}"] if more > 0 else shown)


def _graphs(frame: Frame, keys: pl.DataFrame) -> Iterator[tuple[tuple[int, int, int], pl.DataFrame, pl.DataFrame]]:
    """The nodes of each unit's graph of ``SHOWN_RULES`` rules, and the tokens of their classes."""
    of = ["layer", "unit", "sign"]
    values: Mapping[str, Any] = {f"{name}s": keys[name].to_list() for name in of} | {"n_rules": SHOWN_RULES}
    asked = "(SELECT unnest($layers) AS layer, unnest($units) AS unit, unnest($signs) AS sign)"
    nodes = f"""
        SELECT * FROM graph_nodes SEMI JOIN {asked} USING (layer, unit, sign)
        WHERE study = $study AND rank <= $n_rules"""
    members = f"SELECT t.* FROM token_classes AS t SEMI JOIN ({nodes}) USING (study, layer, unit, sign, node_id)"
    by_unit = frame(members, **values).partition_by(of, as_dict=True)
    none = frame("FROM token_classes WHERE study = $study LIMIT 0")
    for key, rows in frame(nodes, **values).partition_by(of, as_dict=True, maintain_order=True).items():
        yield key, rows, by_unit.get(key, none)
